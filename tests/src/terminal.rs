//! Stock kubectl in a real terminal: `script` of util-linux makes one, and a
//! second `stty` on its device changes its size as a window would.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::{Background, Kubectl};

/// What a terminal sends for Ctrl-C.
pub const INTERRUPT: &str = "\x03";

/// A size in characters.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// A command that has a terminal for input, output and errors.
pub struct Terminal {
    session: Background,
    /// The terminal's device.
    device: String,
}

impl Terminal {
    /// Starts kubectl in a terminal of this size.
    pub fn start(kubectl: &Kubectl, size: Size, arguments: &[&str]) -> Result<Terminal> {
        let inner = kubectl.command(arguments);
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let line: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
        let Size { rows, columns } = size;
        let script = format!("stty rows {rows} cols {columns}; tty; exec {}", line.join(" "));
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &script, "/dev/null"]).env("SHELL", "/bin/sh");
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let session = Background::start(command)?;
        session.wait_for("/dev/pts/")?;
        session.wait_for("\r\n")?;
        let output = session.output();
        let device = output.lines().find(|line| line.starts_with("/dev/pts/")).context("the terminal's device")?;
        Ok(Terminal { device: device.trim().to_owned(), session })
    }

    /// Changes the size; whoever has the terminal is told.
    pub fn resize(&self, size: Size) -> Result<()> {
        let (rows, columns) = (size.rows.to_string(), size.columns.to_string());
        let status = Command::new("stty").args(["-F", &self.device, "rows", &rows, "cols", &columns]).status()?;
        ensure!(status.success(), "stty: {status}");
        Ok(())
    }

    /// Presses keys.
    pub fn write(&mut self, keys: &str) -> Result<()> {
        self.session.write(keys)
    }

    /// Types a line to a shell and waits for what it prints, which must not be
    /// in the line itself: a terminal shows what is typed.
    pub fn line(&mut self, line: &str, shown: &str) -> Result<()> {
        ensure!(!line.contains(shown), "{shown:?} is shown before it is printed");
        self.write(&format!("{line}\n"))?;
        self.wait_for(shown)
    }

    pub fn wait_for(&self, shown: &str) -> Result<()> {
        self.session.wait_for(shown)
    }

    /// Everything shown so far.
    pub fn output(&self) -> String {
        self.session.output()
    }

    /// Waits until the command has ended; its status.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.session.wait()
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
