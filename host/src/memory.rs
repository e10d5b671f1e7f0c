//! Memory of this process: how much is resident, and giving back what is free.

/// Bytes of this process that are in memory; `None` without `/proc`.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Gives free memory inside the allocator's arenas back to the system. The C
/// library does so by itself only at the end of an arena, so a burst would
/// stay resident for good. Takes milliseconds; call it where blocking is fine.
pub fn release() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim may be called at any time from any thread; it
        // touches free memory only, under the allocator's own locks.
        unsafe {
            nix::libc::malloc_trim(0);
        }
    }
}

/// Bytes that the program holds in the allocator; the rest of what is resident
/// is free space between them, code and stacks. `None` where the C library does not count.
pub fn allocated() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallinfo2 reads the allocator's counters under its own locks and returns them by value.
        let counted = unsafe { nix::libc::mallinfo2() };
        u64::try_from(counted.uordblks + counted.hblkhd).ok()
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        let before = allocated().unwrap();
        let block = vec![1_u8; 48 << 20];
        assert!(allocated().unwrap() >= before + (40 << 20), "{}", block.len());
    }

    #[test]
    fn what_is_freed_between_live_memory_goes_back() {
        // Small blocks, every second one freed: nothing at the end of the arena to cut.
        let mut blocks: Vec<Option<Box<[u8; 16 << 10]>>> = (0..4000).map(|_| Some(Box::new([1; 16 << 10]))).collect();
        let full = resident().unwrap();
        blocks.iter_mut().step_by(64).for_each(|kept| *kept = Some(Box::new([2; 16 << 10])));
        for (index, block) in blocks.iter_mut().enumerate() {
            if index % 64 != 0 {
                *block = None;
            }
        }
        release();
        assert!(resident().unwrap() + (30 << 20) < full);
        assert!(blocks.iter().flatten().all(|block| block[0] == 2));
    }
}
