//! How the release binary is linked: small. Functions that were compiled to the
//! same code by several crates are folded into one, and relative relocations
//! are packed. Both want the linker that Rust brings for this target; others
//! link as they do by default, to a larger binary.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|have| have == value);
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") {
        for argument in ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
