//! From records to what the client sees: filters, time stamps, joined parts, the byte limit.

use super::record::Record;
use crate::server::limits::LOG_RECORD_LEN_MAX;
use crate::server::options::{LogOptions, LogStream};

/// Turns raw bytes of log files into text for the client.
#[derive(Debug)]
pub struct Formatter {
    options: LogOptions,
    left: Option<u64>,
    /// Bytes of a record whose end has not been read.
    pending: Vec<u8>,
    /// Whether the last record given out ended its line.
    at_line_start: bool,
    since_reached: bool,
}

impl Formatter {
    /// A formatter at the start of a log.
    pub fn new(options: LogOptions) -> Self {
        let left = options.limit_bytes;
        let since_reached = options.since.is_none();
        Formatter { options, left, pending: Vec::new(), at_line_start: true, since_reached }
    }

    /// Whether the byte limit is reached; nothing comes after it.
    pub fn is_finished(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes raw bytes, appends text to `out`.
    pub fn push(&mut self, mut raw: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = raw.iter().position(|&byte| byte == b'\n') {
            if self.pending.is_empty() {
                self.record(&raw[..end], out);
            } else {
                let mut line = std::mem::take(&mut self.pending);
                line.extend_from_slice(&raw[..end]);
                self.record(&line, out);
                line.clear();
                self.pending = line;
            }
            raw = &raw[end + 1..];
        }
        self.pending.extend_from_slice(raw);
        if self.pending.len() > LOG_RECORD_LEN_MAX {
            self.end_of_file(out);
        }
    }

    /// The file ends here: what is pending is all there will be of its record.
    pub fn end_of_file(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.pending);
        if !line.is_empty() {
            self.record(&line, out);
        }
    }

    fn record(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.is_finished() {
            return;
        }
        // A line the runtime did not write cannot be filtered or dated; it is left out, as upstream does.
        let Some(record) = Record::parse(line) else { return };
        let wanted = match self.options.stream {
            LogStream::All => true,
            LogStream::Stdout => !record.stderr,
            LogStream::Stderr => record.stderr,
        };
        if !wanted || !self.is_recent(&record) {
            return;
        }
        let start = out.len();
        if self.options.timestamps && self.at_line_start {
            record.push_time(out);
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if !record.partial {
            out.push(b'\n');
        }
        self.at_line_start = !record.partial;
        if let Some(left) = &mut self.left {
            let written = ((out.len() - start) as u64).min(*left);
            out.truncate(start + written as usize);
            *left -= written;
        }
    }

    /// Times rise within a log, so once one is recent enough the rest are.
    fn is_recent(&mut self, record: &Record<'_>) -> bool {
        if !self.since_reached {
            self.since_reached = record.timestamp().is_some_and(|time| Some(time) >= self.options.since);
        }
        self.since_reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-02T00:00:01Z stdout F one
2026-01-02T00:00:02.5Z stderr F two
2026-01-02T00:00:03Z stdout P thr
2026-01-02T00:00:03Z stdout F ee
not a record
2026-01-02T00:00:04Z stdout F four
";

    fn text(options: LogOptions, chunk_len: usize) -> String {
        let mut formatter = Formatter::new(options);
        let mut out = Vec::new();
        for chunk in LOG.as_bytes().chunks(chunk_len) {
            formatter.push(chunk, &mut out);
        }
        formatter.end_of_file(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_are_joined_whatever_the_chunks() {
        for chunk_len in [1, 7, 1000] {
            assert_eq!(text(LogOptions::default(), chunk_len), "one\ntwo\nthree\nfour\n");
        }
    }

    #[test]
    fn time_stamps_stand_at_line_starts_only() {
        let options = LogOptions { timestamps: true, ..LogOptions::default() };
        let expected = "\
2026-01-02T00:00:01.000000000Z one
2026-01-02T00:00:02.500000000Z two
2026-01-02T00:00:03.000000000Z three
2026-01-02T00:00:04.000000000Z four
";
        assert_eq!(text(options, 1000), expected);
    }

    #[test]
    fn limit_since_and_stream_filter() {
        let limit = |n| LogOptions { limit_bytes: Some(n), ..LogOptions::default() };
        assert_eq!(text(limit(6), 1000), "one\ntw");
        assert_eq!(text(limit(1000), 1000), text(LogOptions::default(), 1000));
        let since = LogOptions { since: "2026-01-02T00:00:02.5Z".parse().ok(), ..LogOptions::default() };
        assert_eq!(text(since, 1000), "two\nthree\nfour\n");
        let stderr = LogOptions { stream: LogStream::Stderr, ..LogOptions::default() };
        assert_eq!(text(stderr, 1000), "two\n");
    }
}
