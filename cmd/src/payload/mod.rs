//! The payload: containerd, runc and the few host tools a node needs, carried
//! behind the binary and unpacked on first start.
//!
//! Format: the executable, then one zstd-compressed tar archive, then a trailer
//! of fixed size. The archive is unpacked to `<data-dir>/data/<sha256 prefix>`
//! beside and renamed, so a half-unpacked payload is never used; `data/current`
//! points to the one in use. Programs that are dynamically linked bring their
//! loader and libraries; a wrapper script starts them through that loader, so
//! the host's C library does not matter.

mod assemble;
mod trailer;
mod unpack;

pub use assemble::assemble;
pub use trailer::Trailer;
pub use unpack::{Binaries, prepare};
