//! Shell sessions as text: commands with the output they must have.
//!
//! A line that begins with `$ ` is run once; one that begins with `~ ` is run
//! until it shows what follows. Lines that begin with `> ` continue the command.
//! The lines up to the next command are its output, standard error included; a
//! last line `! N` demands exit code N. `[..]` stands for anything within a
//! line, a line of `...` for any lines. `## ` begins a comment.
//!
//! Before texts are compared, runs of spaces become one, and what differs from
//! run to run (ages, times, addresses, UIDs, generated names) becomes a word.
//! `SKIFF_TEST_RECORD=1` writes what happened into the file instead.

use std::{fs, path::Path, process::Command, sync::LazyLock, time::Duration};

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::eventually;

/// How long what `~` waits for may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// One command and what it must show.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Comments and blank lines before it, kept when recording.
    before: String,
    command: String,
    is_awaited: bool,
    output: String,
}

/// Runs a file with `shell`, which makes a command of a line.
pub fn run(path: &Path, shell: impl Fn(&str) -> Command) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut steps = parse(&text)?;
    let record = std::env::var_os("SKIFF_TEST_RECORD").is_some();
    let seen = |command: &str| -> Result<String> {
        let output = shell(&format!("exec 2>&1\n{command}")).output().context("run a shell")?;
        let code = output.status.code().unwrap_or(-1);
        let tail = if code == 0 { String::new() } else { format!("! {code}\n") };
        Ok(plain(&String::from_utf8_lossy(&output.stdout)) + &tail)
    };
    for step in &mut steps {
        let check = || {
            let have = seen(&step.command)?;
            if matches(&step.output, &have) {
                return Ok(());
            }
            bail!("$ {}\nshould show\n{}but shows\n{have}", step.command, step.output)
        };
        if step.is_awaited {
            eventually("the transcript goes on", LIMIT, check)?;
        } else if record {
            let have = seen(&step.command)?;
            if !matches(&step.output, &have) {
                step.output = have;
            }
        } else {
            check()?;
        }
    }
    if record {
        fs::write(path, steps.iter().map(Step::text).collect::<String>())?;
    }
    Ok(())
}

impl Step {
    fn text(&self) -> String {
        let mark = if self.is_awaited { '~' } else { '$' };
        let command = self.command.replace('\n', "\n> ");
        format!("{}{mark} {command}\n{}", self.before, self.output)
    }
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut before, mut in_command) = (String::new(), false);
    for line in text.lines() {
        let begins = line.strip_prefix("$ ").map(|rest| (rest, false));
        let begins = begins.or_else(|| line.strip_prefix("~ ").map(|rest| (rest, true)));
        if let Some((command, is_awaited)) = begins {
            let before = std::mem::take(&mut before);
            steps.push(Step { before, command: command.to_owned(), is_awaited, output: String::new() });
            in_command = true;
        } else if let (true, Some(rest), Some(step)) = (in_command, line.strip_prefix("> "), steps.last_mut()) {
            step.command.push('\n');
            step.command.push_str(rest);
        } else if line.starts_with("## ") {
            before.push_str(line);
            before.push('\n');
        } else if let Some(step) = steps.last_mut() {
            in_command = false;
            step.output.push_str(line);
            step.output.push('\n');
        } else if !line.is_empty() {
            bail!("a transcript begins with a command, not with {line:?}");
        }
    }
    Ok(steps)
}

/// The text without what differs from run to run.
fn plain(text: &str) -> String {
    static CHANGES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let table = [
            (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UID"),
            (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?Z| \+0000( UTC)?)?", "TIME"),
            (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000", "TIME"),
            (r"\b10\.43\.\d+\.\d+\b", "CLUSTER-IP"),
            (r"\b3[0-2]\d{3}/(TCP|UDP)", "NODE-PORT/$1"),
            (r"(resourceVersion: )\x22\d+\x22", "${1}VERSION"),
            (r"(\x22resourceVersion\x22: )\x22\d+\x22", "${1}VERSION"),
            (r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-HASH-RANDOM"),
            (r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b", "-HASH"),
            (r"\bkube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "kube-api-access-RANDOM"),
            (r"(/tmp/[A-Za-z-]+-)\d+", "${1}RANDOM"),
            (r"\b(\d+[smhd])+( \(x\d+ over (\d+[smhd])+\))?( |$)", "AGE$4"),
            (r" +", " "),
            (r"[ \t]+\n", "\n"),
        ];
        let compile = |(pattern, word): (&str, &'static str)| {
            (Regex::new(&format!("(?m){pattern}")).expect("the patterns are fixed"), word)
        };
        table.into_iter().map(compile).collect()
    });
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (pattern, word) in CHANGES.iter() {
        text = pattern.replace_all(&text, *word).into_owned();
    }
    text
}

/// Whether a text is as a pattern with `[..]` and `...` says.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<&str>, Vec<&str>) = (pattern.lines().collect(), text.lines().collect());
    lines_match(&pattern, &text)
}

fn lines_match(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=text.len()).any(|skip| lines_match(rest, &text[skip..])),
        (Some((first, rest)), Some((line, others))) => line_matches(first, line) && lines_match(rest, others),
        _ => false,
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run_text(name: &str, text: &str) -> Result<()> {
        let path = std::env::temp_dir().join(format!("transcript-{name}-{}", std::process::id()));
        fs::write(&path, text)?;
        let result = run(&path, shell);
        fs::remove_file(path)?;
        result
    }

    #[test]
    fn commands_must_show_their_output_and_exit_code() {
        run_text("good", "## a comment\n$ echo '# one'; echo two >&2\n# one\ntwo\n$ cat <<X\n> a   b\n> X\na b\n")
            .unwrap();
        run_text("code", "$ echo no; exit 3\nno\n! 3\n$ true\n").unwrap();
        assert!(run_text("other", "$ echo one\ntwo\n").is_err());
        assert!(run_text("failure", "$ false\n").is_err());
        assert!(run_text("more", "$ echo one; echo two\none\n").is_err());
    }

    #[test]
    fn wildcards_stand_for_parts_of_lines_and_for_lines() {
        assert!(matches("a [..] c\n", "a b b c\n") && matches("[..]x[..]\n", "axb\n"));
        assert!(!matches("a [..] c\n", "a b b d\n") && !matches("a[..]\n", "b\n"));
        assert!(matches("a\n...\nz\n", "a\nb\nc\nz\n") && matches("...\n", ""));
        assert!(!matches("a\n...\nz\n", "a\nb\n"));
    }

    #[test]
    fn what_differs_from_run_to_run_becomes_a_word() {
        let line = "web-694c869589-4s6lm  0/1  Pending   12s\n";
        assert_eq!(plain(line), "web-HASH-RANDOM 0/1 Pending AGE\n");
        assert_eq!(plain("uid: 438a10c9-7199-4612-b05c-fd5b9b8e57a6"), "uid: UID\n");
        assert_eq!(plain("at 2026-11-20T13:22:11Z"), "at TIME\n");
        assert_eq!(plain("80:30711/TCP   10.43.0.1  3m5s   x"), "80:NODE-PORT/TCP CLUSTER-IP AGE x\n");
    }
}
