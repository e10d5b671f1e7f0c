//! The few DER values that keys and requests are made of.

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_ID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
pub const CONTEXT_0: u8 = 0xa0;
pub const CONTEXT_1: u8 = 0xa1;

/// A value of one kind with its length.
pub fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(SEQUENCE, &parts.concat())
}

/// A non-negative number from its bytes, highest first.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = &bytes[zeros.min(bytes.len().saturating_sub(1))..];
    // A leading one would make it negative.
    let pad: &[u8] = if digits.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    tagged(INTEGER, &[pad, digits].concat())
}

/// Whole bytes as a string of bits.
pub fn bits(bytes: &[u8]) -> Vec<u8> {
    tagged(BIT_STRING, &[&[0], bytes].concat())
}

/// Two numbers of a sequence, each filled up to `width`, for checking signatures.
#[cfg(test)]
pub fn pair(der: &[u8], width: usize) -> Option<Vec<u8>> {
    let header = if *der.get(1)? & 0x80 == 0 { 2 } else { 2 + usize::from(der[1] & 0x7f) };
    let mut rest = der.get(header..)?;
    let mut out = Vec::new();
    for _ in 0..2 {
        let size = usize::from(*rest.get(1)?);
        let digits = rest.get(2..2 + size)?;
        let digits = digits.strip_prefix(&[0]).unwrap_or(digits);
        out.extend(std::iter::repeat_n(0, width - digits.len()));
        out.extend(digits);
        rest = &rest[2 + size..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_signs_are_shortest() {
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(tagged(OCTET_STRING, &[7; 127])[..2], [4, 127]);
        assert_eq!(tagged(OCTET_STRING, &[7; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tagged(OCTET_STRING, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(bits(&[1]), [3, 2, 0, 1]);
    }
}
