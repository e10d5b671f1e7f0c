//! Network namespaces: opening, entering on a thread of one's own, creating.
//!
//! A namespace is a property of a thread. Nothing here ever changes the
//! namespace of a caller's thread: work in another namespace runs on a fresh
//! thread that ends with it, so that no runtime worker can be left behind in a
//! pod's network.

use std::{fs::File, io, path::Path, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Opens a namespace file such as `/var/run/netns/cni-...` or `/proc/<pid>/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Netns> {
        File::open(path).map(Netns)
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Netns> {
        Netns::open("/proc/thread-self/ns/net")
    }

    /// A new, unnamed namespace that vanishes with its last user.
    pub fn create() -> io::Result<Netns> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Netns::current()
        })
    }

    /// Runs `work` on a new thread inside this namespace and returns its result.
    /// Sockets opened and processes started there stay in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }

    /// The open file, to hand the namespace to the kernel (`IFLA_NET_NS_FD`).
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// The number that identifies the namespace on this boot.
    pub fn inode(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.0.metadata()?.ino())
    }

    /// A path by which this process and its children can open the namespace again.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let before = Netns::current().unwrap().inode().unwrap();
        let netns = Netns::create().unwrap();
        let inside = netns.run(|| Netns::current().unwrap().inode().unwrap()).unwrap();
        assert_eq!(inside, netns.inode().unwrap());
        assert_ne!(inside, before);
        assert_eq!(Netns::current().unwrap().inode().unwrap(), before);
    }
}
