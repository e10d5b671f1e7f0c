//! Rows of the area node.

mod environment;
mod expansion;
mod hooks;
mod init;
mod kubelet;
mod objects;
mod pods;
mod probes;
mod runtime;
mod security;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [
        environment::tests(),
        expansion::tests(),
        hooks::tests(),
        init::tests(),
        kubelet::tests(),
        objects::tests(),
        pods::tests(),
        probes::tests(),
        runtime::tests(),
        security::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
