//! Domain names in wire form, lower case: `\x03foo\x05local\x00`.
//!
//! Kept as bytes so that comparing, slicing off parents and looking up need no
//! allocation; a lookup key is a slice of the question itself.

use std::{fmt, str::FromStr};

/// Longest name on the wire, with the root's zero.
pub const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;

/// A text that is no domain name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a domain name")]
pub struct NameError(pub String);

/// A fully qualified name; the wire form without compression.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    pub fn root() -> Name {
        Name(Box::from([0]))
    }

    /// Takes wire form that is known to be valid; letters become lower case.
    pub(super) fn from_wire(mut wire: Vec<u8>) -> Name {
        wire.make_ascii_lowercase();
        Name(wire.into_boxed_slice())
    }

    /// Joins labels in front of a name; `None` when the result is too long or a label is malformed.
    pub fn prepend(&self, labels: &[&[u8]]) -> Option<Name> {
        let mut wire = Vec::with_capacity(self.0.len() + 64);
        for label in labels {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.extend_from_slice(&self.0);
        (wire.len() <= NAME_BYTES_MAX).then(|| Name::from_wire(wire))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The labels from the left.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// Whether this is `zone` or below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        self.offset_of(zone).is_some()
    }

    /// Where in the wire form `zone` begins.
    pub fn offset_of(&self, zone: &Name) -> Option<usize> {
        let start = self.0.len().checked_sub(zone.0.len())?;
        // The end must match at a label boundary, not inside a label.
        (self.0[start..] == *zone.0 && self.starts().any(|offset| offset == start)).then_some(start)
    }

    /// Offsets at which labels (and finally the root) begin.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let offset = next?;
            let length = usize::from(self.0[offset]);
            next = (length != 0).then(|| offset + 1 + length);
            Some(offset)
        })
    }
}

/// The labels of a name, without the root.
#[derive(Clone)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Labels<'a> {
    /// The labels of a wire form, or of the front part of one.
    pub fn of(wire: &'a [u8]) -> Labels<'a> {
        Labels(wire)
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            return None;
        }
        let label = rest.get(..length)?;
        self.0 = &rest[length..];
        Some(label)
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Accepts names with and without the final dot, and `\DDD` and `\.` escapes.
    fn from_str(text: &str) -> Result<Name, NameError> {
        let error = || NameError(text.to_owned());
        let (mut wire, mut label) = (Vec::with_capacity(text.len() + 2), Vec::new());
        let mut finish = |label: &mut Vec<u8>| {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return Err(error());
            }
            wire.push(label.len() as u8);
            wire.append(label);
            Ok(())
        };
        if text.is_empty() || text == "." {
            return Ok(Name::root());
        }
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => finish(&mut label)?,
                b'\\' => {
                    let first = bytes.next().ok_or_else(error)?;
                    if first.is_ascii_digit() {
                        let mut number = u32::from(first - b'0');
                        for _ in 0..2 {
                            let digit = bytes.next().filter(u8::is_ascii_digit).ok_or_else(error)?;
                            number = number * 10 + u32::from(digit - b'0');
                        }
                        label.push(u8::try_from(number).map_err(|_| error())?);
                    } else {
                        label.push(first);
                    }
                }
                byte if byte.is_ascii_whitespace() => return Err(error()),
                byte => label.push(byte),
            }
        }
        if !label.is_empty() {
            finish(&mut label)?;
        }
        wire.push(0);
        if wire.len() > NAME_BYTES_MAX { Err(error()) } else { Ok(Name::from_wire(wire)) }
    }
}

/// With the final dot.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", *byte as char)?,
                    0x21..=0x7e => write!(f, "{}", *byte as char)?,
                    byte => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_round_trip_and_ignore_case() {
        for text in ["a.b.", ".", "_http._tcp.x.", "a\\.b.c.", "\\000x."] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("Foo.BAR"), name("foo.bar."));
        for bad in ["a..b", ".a", "a b", &"x".repeat(64), &"abc.".repeat(64), "\\", "\\25"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_match_at_label_boundaries_only() {
        assert_eq!(name("a.cluster.local").offset_of(&name("cluster.local")), Some(2));
        assert!(!name("xcluster.local").is_within(&name("cluster.local")));
        assert!(name("a.b").is_within(&Name::root()));
        // A length byte inside a label must not look like a boundary.
        assert!(!name("a\\001b").is_within(&name("b")));
    }

    #[test]
    fn prepending_checks_lengths() {
        assert_eq!(name("b.").prepend(&[b"a", b"x"]), Some(name("a.x.b.")));
        assert_eq!(name("b.").prepend(&[b""]), None);
        assert_eq!(name("b.").prepend(&[&[b'a'; 64]]), None);
    }
}
