//! nftables through the `nft` program: one script is one atomic transaction.
//!
//! The program may come from the host or from Skiff's payload. A script is
//! applied wholly or not at all, so callers build the complete change as text
//! and hand it over once.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How much of the program's complaint is kept.
const STDERR_BYTES_MAX: usize = 2048;

/// A transaction that was not applied.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("nft refused the transaction: {stderr}")]
    Refused { stderr: String },
}

/// The `nft` program.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Default for Nft {
    /// `nft` from the search path.
    fn default() -> Self {
        Nft::new("nft")
    }
}

impl Nft {
    pub fn new(program: impl Into<PathBuf>) -> Nft {
        Nft { program: program.into(), environment: Vec::new() }
    }

    /// Adds a variable for the program, for example its library path.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Nft {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Applies a script in the network namespace of the calling thread. Blocks for a few milliseconds.
    pub fn apply(&self, script: &str) -> Result<(), NftError> {
        self.run(&["-f", "-"], script).map(drop)
    }

    /// Runs `nft` with arguments (such as `-j list tables`) and returns its output.
    pub fn output(&self, arguments: &[&str]) -> Result<String, NftError> {
        self.run(arguments, "")
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, NftError> {
        let failed = |source| NftError::Run { program: self.program.display().to_string(), source };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        // nft reads all of its input before it writes anything, so this cannot deadlock.
        let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            let mut stderr = output.stderr;
            stderr.truncate(STDERR_BYTES_MAX);
            return Err(NftError::Refused { stderr: String::from_utf8_lossy(&stderr).trim().to_owned() });
        }
        written.map_err(failed)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;

    #[test]
    fn a_refused_script_changes_nothing_and_says_why() {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let nft = Nft::default();
                let error = nft.apply("add table inet a\nadd rule inet b c accept\n").unwrap_err();
                assert!(error.to_string().contains("No such file"), "{error}");
                assert_eq!(nft.output(&["list", "tables"]).unwrap(), "");
                nft.apply("add table inet a\n").unwrap();
                assert_eq!(nft.output(&["list", "tables"]).unwrap(), "table inet a\n");
            })
            .unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Nft::new("/nonexistent/nft").apply("").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/nft"));
    }
}
