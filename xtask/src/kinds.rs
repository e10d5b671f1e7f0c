//! `cargo xtask kinds`: the table of built-in kinds and what each still lacks.

use anyhow::Result;

use crate::shell::run;

/// Runs the example that has the API server's registry at hand.
pub fn kinds() -> Result<()> {
    run("cargo", &["run", "--quiet", "--package", "skiff-apiserver", "--example", "kinds"])
}
