//! Numbers for tests that try much: any, but the same in every run.

/// Gives numbers below its argument.
pub(crate) fn numbers() -> impl FnMut(usize) -> usize {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    }
}
