//! containerd's own client program, for what CRI has no call for.

use std::{path::PathBuf, process::Command};

use skiff_host::process;

/// How to call it.
#[derive(Clone, Debug)]
pub struct Ctr {
    pub program: PathBuf,
    /// Of containerd.
    pub socket: PathBuf,
    /// The one that images are unpacked with; containerd's own choice when absent.
    pub snapshotter: Option<String>,
}

impl Ctr {
    /// A call that works where Kubernetes' images and containers are. Whoever starts it waits for it on the same
    /// thread: it ends with us, because it would wait for ever for a containerd that has gone.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io"]);
        process::end_with_us(&mut command);
        command
    }
}
