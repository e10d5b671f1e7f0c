//! JSON text to [`Value`] and back, for what is done with every write.
//!
//! The results are those of serde_json, bit by bit, at a third to a half of
//! the cost: no visitors, one look at the encoding for the whole text, strings
//! taken in one piece. What is unusual (deep nesting, numbers that are not
//! plain integers, surrogate pairs, and everything that is wrong) is left to
//! serde_json, so that its limits and the words of its errors hold.

use serde_json::{Map, Number, Value};

/// Nesting up to which the short way is taken; serde_json's own limit is 128.
const DEPTH_MAX: usize = 96;
/// Digits that fit an `i64` and a `u64` whatever they are.
const DIGITS_MAX: usize = 18;

/// Parses JSON text; of a key that stands twice, the last value counts.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    match read(text) {
        Some(Read { value, .. }) => Ok(value),
        None => serde_json::from_slice(text),
    }
}

/// A value that was read.
pub(super) struct Read {
    pub(super) value: Value,
    /// Whether a key stood twice in an object.
    pub(super) repeated: bool,
    /// Whether there may be numbers that are no integers.
    pub(super) floats: bool,
}

/// Reads a whole text the short way; `None` when that does not do.
pub(super) fn read(text: &[u8]) -> Option<Read> {
    let text = std::str::from_utf8(text).ok()?;
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, repeated: false, floats: false };
    let value = reader.value(0)?;
    reader.space();
    let Reader { repeated, floats, .. } = reader;
    (reader.at == reader.bytes.len()).then_some(Read { value, repeated, floats })
}

struct Reader<'a> {
    text: &'a str,
    /// Those of `text`.
    bytes: &'a [u8],
    at: usize,
    repeated: bool,
    floats: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, which is passed over.
    fn token(&mut self) -> Option<u8> {
        self.space();
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.token()? {
            b'"' => self.string().map(Value::String),
            b'{' => self.object(depth).map(Value::Object),
            b'[' => self.array(depth).map(Value::Array),
            b't' => self.word("rue", Value::Bool(true)),
            b'f' => self.word("alse", Value::Bool(false)),
            b'n' => self.word("ull", Value::Null),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            _ => None,
        }
    }

    fn word(&mut self, rest: &str, value: Value) -> Option<Value> {
        let found = self.bytes.get(self.at..)?.starts_with(rest.as_bytes());
        self.at += rest.len();
        found.then_some(value)
    }

    fn object(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut fields = Map::new();
        let mut quote = self.token()?;
        if quote == b'}' {
            return Some(fields);
        }
        loop {
            if quote != b'"' {
                return None;
            }
            let name = self.string()?;
            if self.token()? != b':' {
                return None;
            }
            let value = self.value(depth + 1)?;
            self.repeated |= fields.insert(name, value).is_some();
            match self.token()? {
                b',' => quote = self.token()?,
                b'}' => return Some(fields),
                _ => return None,
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(items);
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.token()? {
                b',' => {}
                b']' => return Some(items),
                _ => return None,
            }
        }
    }

    /// The rest of a string behind its opening quote.
    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.plain()?;
        let piece = self.text.get(start..self.at)?;
        if self.peek()? == b'"' {
            self.at += 1;
            return Some(piece.to_owned());
        }
        let mut text = String::with_capacity(piece.len() * 2);
        text.push_str(piece);
        loop {
            self.at += 1;
            let escaped = self.peek()?;
            self.at += 1;
            text.push(match escaped {
                b'"' | b'\\' | b'/' => char::from(escaped),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.unicode()?,
                _ => return None,
            });
            let start = self.at;
            self.plain()?;
            text.push_str(self.text.get(start..self.at)?);
            if self.peek()? == b'"' {
                self.at += 1;
                return Some(text);
            }
        }
    }

    /// Goes on to the next quote or backslash; `None` at what may not stand in a string.
    fn plain(&mut self) -> Option<()> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| is_special(*byte))?;
        self.at += length;
        (rest[length] >= b' ').then_some(())
    }

    /// Four hexadecimal digits that are a character by themselves.
    fn unicode(&mut self) -> Option<char> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        char::from_u32(u32::from_str_radix(digits, 16).ok()?)
    }

    /// A number from its first byte, which has been passed over.
    fn number(&mut self) -> Option<Number> {
        let start = self.at - 1;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        self.at += self.bytes[self.at..].iter().take_while(|byte| is_part(byte)).count();
        let text = &self.text[start..self.at];
        let (digits, negative) = text.strip_prefix('-').map_or((text, false), |digits| (digits, true));
        let plain = digits.len() <= DIGITS_MAX
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && (!digits.starts_with('0') || text == "0");
        if !plain {
            self.floats = true;
            return serde_json::from_str(text).ok();
        }
        let size: i64 = digits.parse().ok()?;
        Some(Number::from(if negative { -size } else { size }))
    }
}

/// Writes a value as compact JSON text.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            out.push(b'{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, name);
                out.push(b':');
                write(out, value);
            }
            out.push(b'}');
        }
    }
}

/// Writes a text as a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    while let Some(length) = rest.iter().position(|byte| is_special(*byte)) {
        out.extend_from_slice(&rest[..length]);
        escape(out, rest[length]);
        rest = &rest[length + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Whether a byte cannot stand in a JSON string as it is.
fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Texts at which the two ways could part.
    const TEXTS: [&str; 44] = [
        "{}",
        " [ ] ",
        "{ \"a\" : [ 1 , 2 ] , \"b\" : { } }",
        "[1,-1,0,-0,0.0,1.0,-1.5,1e3,1E-2,1e400,01,-01,1.,.5,+1,--1,1-1]",
        "[0,-0]",
        "[1.0,1e2,1.5,-0.0]",
        "999999999999999999",
        "-999999999999999999",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "-",
        "01",
        "\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\t\"",
        "\"\\u00e4\\u0000\\uFFFF\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\u12",
        "\"\\x\"",
        "\"\\",
        "\"\u{1f600} \u{e4}\u{7f}\u{2028}\"",
        "\"\u{1}\"",
        "\"\n\"",
        "\"open",
        "{\"a\":1,}",
        "[1,]",
        "[,]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,\"b\":2,\"a\":3}",
        "{} x",
        "nul",
        "truefalse",
        "\u{feff}{}",
        "",
    ];

    #[test]
    fn every_text_is_read_as_serde_json_reads_it() {
        for text in TEXTS {
            let (have, want) = (parse(text.as_bytes()), serde_json::from_str::<Value>(text));
            assert_eq!(
                have.as_ref().map_err(ToString::to_string),
                want.as_ref().map_err(ToString::to_string),
                "{text}"
            );
            // Equal as numbers is not enough: -0.0 is equal to 0.0.
            assert_eq!(have.ok().map(|value| value.to_string()), want.ok().map(|value| value.to_string()), "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(120).as_bytes()).is_ok() && parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn every_value_is_written_as_serde_json_writes_it() {
        let mut all: String = (0..0x180).filter_map(char::from_u32).collect();
        all.push_str("\u{2028}\u{1f600}");
        let value = json!({"": null, "a\"": [true, false, 0, -1, 1.5, 1e300, u64::MAX, i64::MIN], "text": all, "o": {}, "l": []});
        let mut out = Vec::new();
        write(&mut out, &value);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), value.to_string());
        assert_eq!(parse(&out).unwrap(), value);
    }
}
