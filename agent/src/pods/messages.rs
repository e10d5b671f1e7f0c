//! Last words of ended containers.
//!
//! A container may leave a message in a file; with `FallbackToLogsOnError` the
//! end of its log stands in when it failed without one.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use crate::{labels, limits, observed::ObservedContainer};

/// The message of a container that has ended.
pub fn termination_message(container: &ObservedContainer) -> String {
    let from_file = container.termination_message_file.as_deref().and_then(|path| read_start(Path::new(path)).ok());
    if let Some(message) = from_file.filter(|message| !message.is_empty()) {
        return message;
    }
    let policy = container.annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str);
    if policy == Some("FallbackToLogsOnError") && container.exit_code != 0 {
        return log_tail(Path::new(&container.log_path)).unwrap_or_default();
    }
    String::new()
}

fn read_start(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limits::TERMINATION_MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log in the runtime's format, without its time stamps.
fn log_tail(path: &Path) -> io::Result<String> {
    // Every line carries some dozens of bytes of time and tags besides its text.
    let window = u64::try_from(limits::TERMINATION_LOG_BYTES_MAX * 4).unwrap_or(u64::MAX);
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
    let mut bytes = Vec::new();
    file.take(window).read_to_end(&mut bytes)?;
    Ok(strip(&String::from_utf8_lossy(&bytes), length > window))
}

fn strip(text: &str, cut: bool) -> String {
    let lines: Vec<&str> = text.lines().skip(usize::from(cut)).collect();
    let start = lines.len().saturating_sub(limits::TERMINATION_LOG_LINES_MAX);
    let mut out = String::new();
    for line in &lines[start..] {
        // `<time> <stream> <F or P> <text>`; a partial line continues in the next.
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, message) = (parts.next(), parts.next(), parts.next(), parts.next());
        out.push_str(message.unwrap_or_default());
        if tag != Some("P") {
            out.push('\n');
        }
    }
    let excess = out.len().saturating_sub(limits::TERMINATION_LOG_BYTES_MAX);
    let from = (excess..out.len()).find(|index| out.is_char_boundary(*index)).unwrap_or(out.len());
    out.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_lose_their_tags_and_are_bounded() {
        let text = "2026-01-01T00:00:00Z stdout P par\n2026-01-01T00:00:00Z stdout F tial\n2026-01-01T00:00:00Z stderr F end\n";
        assert_eq!(strip(text, false), "partial\nend\n");
        let long = "t s F x\n".repeat(200);
        assert_eq!(strip(&long, false).lines().count(), limits::TERMINATION_LOG_LINES_MAX);
        let wide = format!("t s F {}\n", "ä".repeat(3000));
        assert!(strip(&wide, false).len() <= limits::TERMINATION_LOG_BYTES_MAX);
    }
}
