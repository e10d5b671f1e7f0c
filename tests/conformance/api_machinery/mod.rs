//! Rows of the area api-machinery.

mod collector;
mod kinds;
mod namespaces;
mod quota;
mod server;
mod validation;
mod watchers;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [
        collector::tests(),
        kinds::tests(),
        namespaces::tests(),
        quota::tests(),
        server::tests(),
        validation::tests(),
        watchers::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
