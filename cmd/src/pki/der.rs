//! The little of DER that a certificate is written in.

/// One element: tag, length, content.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short if short < 128 => out.push(short.to_le_bytes()[0]),
        long => {
            let bytes = long.to_be_bytes();
            let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            out.push(0x80 | (bytes.len() - start).to_le_bytes()[0]);
            out.extend_from_slice(&bytes[start..]);
        }
    }
    out.extend_from_slice(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// An explicit context tag.
pub fn explicit(tag: u8, content: &[u8]) -> Vec<u8> {
    element(0xa0 | tag, content)
}

pub fn octets(content: &[u8]) -> Vec<u8> {
    element(0x04, content)
}

/// A non-negative number from big-endian bytes.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    let mut content = Vec::new();
    if bytes.get(start).is_none_or(|first| first & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(&bytes[start..]);
    element(0x02, &content)
}

/// A whole number of bytes as a bit string.
pub fn bits(content: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], content].concat())
}

/// Named bits, the first one first; trailing zeros are left out.
pub fn named_bits(set: &[usize]) -> Vec<u8> {
    let Some(last) = set.iter().max() else { return element(0x03, &[0]) };
    let mut bytes = vec![0u8; last / 8 + 1];
    for bit in set {
        bytes[bit / 8] |= 0x80 >> (bit % 8);
    }
    let unused = (7 - last % 8).to_le_bytes()[0];
    element(0x03, &[&[unused][..], &bytes].concat())
}

/// An object identifier.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let (first, rest) = match arcs {
        [first, second, rest @ ..] => (first * 40 + second, rest),
        _ => (0, arcs),
    };
    for arc in std::iter::once(&first).chain(rest) {
        let mut groups = vec![(arc & 0x7f).to_le_bytes()[0]];
        let mut left = arc >> 7;
        while left > 0 {
            groups.push(0x80 | (left & 0x7f).to_le_bytes()[0]);
            left >>= 7;
        }
        groups.reverse();
        content.extend(groups);
    }
    element(0x06, &content)
}

/// A time in seconds since the epoch: two digits of the year until 2049, four afterwards.
pub fn time(seconds: i64) -> Vec<u8> {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let generalized = at.strftime("%Y%m%d%H%M%SZ").to_string();
    if generalized.as_str() < "2050" {
        element(0x17, &generalized.as_bytes()[2..])
    } else {
        element(0x18, generalized.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_as_the_standard_writes_them() {
        assert_eq!(element(0x04, &[7; 200])[..3], [0x04, 0x81, 200]);
        assert_eq!(element(0x04, &[7; 300])[..4], [0x04, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0b1010_0000]);
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(time(0), element(0x17, b"700101000000Z"));
        assert_eq!(time(2_524_608_000), element(0x18, b"20500101000000Z"));
    }
}
