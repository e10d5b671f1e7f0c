//! Rows of the area storage.

mod downward;
mod empty_dir;
mod objects;
mod source;
mod subpath;
mod volumes;

use crate::Test;

pub fn tests() -> Vec<Test> {
    [volumes::tests(), downward::tests(), empty_dir::tests(), subpath::tests(), objects::tests()]
        .into_iter()
        .flatten()
        .collect()
}
