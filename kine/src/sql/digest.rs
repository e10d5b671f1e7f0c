//! MD5, which PostgreSQL's older passwords need and no cryptographic library should offer.

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The digest in lower-case hexadecimal.
pub(super) fn md5_hex(message: &[u8]) -> String {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64).wrapping_mul(8).to_le_bytes());
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let words: Vec<u32> = block.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut next = state;
        for step in 0..64 {
            next = round(next, step, &words);
        }
        state.iter_mut().zip(next).for_each(|(word, add)| *word = word.wrapping_add(add));
    }
    hex(&state.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
}

fn round([a, b, c, d]: [u32; 4], step: usize, words: &[u32]) -> [u32; 4] {
    let (mixed, word) = match step / 16 {
        0 => ((b & c) | (!b & d), step),
        1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
        2 => (b ^ c ^ d, (3 * step + 5) % 16),
        _ => (c ^ (b | !d), (7 * step) % 16),
    };
    // The constants are the sines of the step numbers.
    let constant = (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
    let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(words[word]);
    [d, b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4])), b, c]
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    push_hex(&mut out, bytes);
    out
}

/// Appends bytes in lower-case hexadecimal.
pub(super) fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_rfc_1321() {
        assert_eq!(md5_hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5_hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let long = "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(md5_hex(long.as_bytes()), "57edf4a22be3c955ac49da2e2107b67a");
    }

    #[test]
    fn every_length_around_a_block_is_padded_right() {
        assert_eq!(md5_hex(&[b'a'; 55]), "ef1772b6dff9a122358552954ad0df65");
        assert_eq!(md5_hex(&[b'a'; 56]), "3b0c8ac703f828b04c6c197006d17218");
        assert_eq!(md5_hex(&[b'a'; 63]), "b06521f39153d618550606be297466d5");
        assert_eq!(md5_hex(&[b'a'; 64]), "014842d480b571495a4a0363793f7367");
    }
}
