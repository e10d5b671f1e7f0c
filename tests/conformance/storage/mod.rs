//! Rows of the area storage.

mod downward;
mod empty_dir;
mod objects;
pub mod source;
mod subpath;
mod volumes;

pub use source::Source;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [volumes::tests(), downward::tests(), empty_dir::tests(), subpath::tests(), objects::tests()]
        .into_iter()
        .flatten()
        .collect()
}
