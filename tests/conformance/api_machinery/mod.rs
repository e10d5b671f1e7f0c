//! Rows of the area api-machinery.

mod aggregator;
mod collector;
mod custom;
mod kinds;
mod namespaces;
mod policies;
mod quota;
mod server;
mod validation;
mod watchers;
mod webhook_server;
mod webhooks;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [
        aggregator::tests(),
        collector::tests(),
        kinds::tests(),
        namespaces::tests(),
        policies::tests(),
        quota::tests(),
        server::tests(),
        custom::tests(),
        validation::tests(),
        watchers::tests(),
        webhooks::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
