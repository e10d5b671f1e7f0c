//! Rows of the area node.

mod environment;
mod expansion;
mod hooks;
mod image_volume;
mod init;
mod kubelet;
mod objects;
mod pods;
mod probes;
mod resize;
mod runtime;
mod security;
mod websockets;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [
        environment::tests(),
        expansion::tests(),
        hooks::tests(),
        image_volume::tests(),
        init::tests(),
        kubelet::tests(),
        objects::tests(),
        pods::tests(),
        probes::tests(),
        resize::tests(),
        runtime::tests(),
        security::tests(),
        websockets::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
