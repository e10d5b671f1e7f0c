//! The runtime's log format: `<time> stdout|stderr <tags> <text>`, one record per line.
//!
//! The first tag is `F` for a record that ends a line and `P` for a part of a longer one; further tags follow after colons.

use jiff::Timestamp;

/// One record; borrows from the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// RFC 3339 with up to nine digits of fraction.
    pub time: &'a str,
    /// Whether it came from standard error.
    pub stderr: bool,
    /// Whether the text goes on in the next record of the same stream.
    pub partial: bool,
    /// The text, without line end.
    pub text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses one line without its line end; `None` for anything else.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split_space(line)?;
        let (stream, rest) = split_space(rest)?;
        // A record without text may lack the last space.
        let (tags, text) = split_space(rest).unwrap_or((rest, &[]));
        let stderr = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = match tags.split(|&byte| byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        let time = std::str::from_utf8(time).ok().filter(|time| time.len() >= "2006-01-02T15:04:05Z".len())?;
        Some(Record { time, stderr, partial, text })
    }

    /// The time as a value.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    /// Appends the time with exactly nine digits of fraction, as upstream prints it.
    pub fn push_time(&self, out: &mut Vec<u8>) {
        let seconds_len = "2006-01-02T15:04:05".len();
        let (seconds, rest) = self.time.as_bytes().split_at(seconds_len.min(self.time.len()));
        let fraction = rest.strip_prefix(b".").unwrap_or(&[]);
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let zone = if rest.first() == Some(&b'.') { &fraction[digits..] } else { rest };
        out.extend_from_slice(seconds);
        out.push(b'.');
        out.extend((0..9).map(|i| if i < digits { fraction[i] } else { b'0' }));
        out.extend_from_slice(zone);
    }
}

fn split_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parsed() {
        let line = b"2026-01-02T03:04:05.123456789Z stdout F hello  world";
        let record = Record::parse(line).expect("a record");
        let expected =
            Record { time: "2026-01-02T03:04:05.123456789Z", stderr: false, partial: false, text: b"hello  world" };
        assert_eq!(record, expected);
        let record = Record::parse(b"2026-01-02T03:04:05+02:00 stderr P:x a").expect("a record");
        assert!(record.stderr && record.partial);
        assert_eq!(record.timestamp(), "2026-01-02T01:04:05Z".parse().ok());
        assert_eq!(Record::parse(b"2026-01-02T03:04:05Z stdout F ").expect("a record").text, b"");
        assert_eq!(Record::parse(b"2026-01-02T03:04:05Z stdout F").expect("a record").text, b"");
    }

    #[test]
    fn other_lines_are_none() {
        for line in
            [&b""[..], b"hello", b"x stdout F y", b"2026-01-02T03:04:05Z stdin F y", b"2026-01-02T03:04:05Z stdout Q y"]
        {
            assert_eq!(Record::parse(line), None);
        }
    }

    #[test]
    fn times_are_printed_with_nine_digits_and_their_zone() {
        let printed = |time: &str| {
            let mut out = Vec::new();
            Record { time, stderr: false, partial: false, text: b"" }.push_time(&mut out);
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(printed("2026-01-02T03:04:05.12Z"), "2026-01-02T03:04:05.120000000Z");
        assert_eq!(printed("2026-01-02T03:04:05+02:00"), "2026-01-02T03:04:05.000000000+02:00");
        assert_eq!(printed("2026-01-02T03:04:05.123456789-07:00"), "2026-01-02T03:04:05.123456789-07:00");
    }
}
