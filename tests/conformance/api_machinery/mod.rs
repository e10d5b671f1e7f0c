//! Rows of the area api-machinery.

mod aggregator;
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
        aggregator::tests(),
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
