//! Images: pulled on demand, imported from archives, removed when space is short.

mod credentials;
mod ctr;
mod gc;
mod import;
mod mount;
mod puller;

pub use ctr::Ctr;
pub use gc::{ImageGc, ImageGcSettings};
pub use import::{ImageImporter, ImportReport};
pub use mount::ImageMounter;
pub use puller::{FoundImage, PullError, Puller};
