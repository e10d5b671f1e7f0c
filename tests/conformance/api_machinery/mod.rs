//! Rows of the area api-machinery.

mod server;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [server::tests()].into_iter().flatten().collect()
}
