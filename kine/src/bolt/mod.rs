//! bbolt's file format, as far as a snapshot needs it: written once, read once.
//!
//! Why: etcd's snapshots are bbolt files, and stock tools check every page of them.
//! A file is pages of equal size. Pages 0 and 1 are metas (the valid one with the larger
//! transaction id counts), one page lists free pages, all others are B+tree pages: branches
//! of (first key, page) and leaves of (key, value). A leaf of the root tree holds buckets: the
//! value is the page of the bucket's own root, or 0 and the only leaf itself.
//!
//! Invariants: keys of a tree ascend; every page below the high-water mark is reachable once.

mod reader;
mod writer;

pub(crate) use reader::{BoltError, BoltFile};
pub(crate) use writer::BoltWriter;

/// Page size of the files written here.
const PAGE_BYTES: usize = 4096;
/// Largest page size that is believed of a file from elsewhere.
const PAGE_BYTES_MAX: u32 = 64 * 1024;
const PAGE_HEADER_BYTES: usize = 16;
/// An element of a branch or a leaf, without key and value.
const ELEMENT_BYTES: usize = 16;
const META_BYTES: usize = 64;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Flag of a leaf element that is a bucket.
const BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What begins every page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageHeader {
    id: u64,
    flags: u16,
    count: u16,
    /// Further pages this one extends over.
    overflow: u32,
}

impl PageHeader {
    fn encode(self) -> [u8; PAGE_HEADER_BYTES] {
        let mut bytes = [0; PAGE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// Where everything begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_bytes: u32,
    root: u64,
    freelist: u64,
    /// High-water mark: the number of pages in use.
    pages: u64,
    txid: u64,
}

impl Meta {
    fn encode(self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // Flags at 12 and the root bucket's sequence at 24 stay zero.
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` unless magic, version, checksum and page size are right.
    fn decode(bytes: &[u8]) -> Option<Meta> {
        let bytes = bytes.get(..META_BYTES)?;
        let page_bytes = u32_at(bytes, 8)?;
        let valid = u32_at(bytes, 0)? == MAGIC
            && u32_at(bytes, 4)? == VERSION
            && u64_at(bytes, 56)? == fnv1a(&bytes[..56])
            && page_bytes.is_power_of_two()
            && (1024..=PAGE_BYTES_MAX).contains(&page_bytes);
        valid.then_some(())?;
        Some(Meta {
            page_bytes,
            root: u64_at(bytes, 16)?,
            freelist: u64_at(bytes, 32)?,
            pages: u64_at(bytes, 40)?,
            txid: u64_at(bytes, 48)?,
        })
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn key(n: u32) -> Vec<u8> {
        format!("key-{n:08}").into_bytes()
    }

    fn value(n: u32) -> Vec<u8> {
        // Some larger than a page, some empty.
        vec![n as u8; (n as usize * 7919) % 9000]
    }

    fn file(keys: u32) -> std::fs::File {
        let mut bolt = BoltWriter::new(tempfile::tempfile().unwrap()).unwrap();
        bolt.bucket("empty").unwrap().end().unwrap();
        let mut bucket = bolt.bucket("full").unwrap();
        (0..keys).for_each(|n| bucket.put(&key(n), &value(n)).unwrap());
        bucket.end().unwrap();
        bolt.finish().unwrap().0
    }

    fn read(bolt: &BoltFile, bucket: &str) -> Result<Vec<Pair>, BoltError> {
        let mut found = Vec::new();
        bolt.for_each(bucket, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_whatever_the_height_of_the_tree() {
        for keys in [0, 1, 2, 300, 20_000] {
            let bolt = BoltFile::open(file(keys)).unwrap();
            assert!(read(&bolt, "empty").unwrap().is_empty());
            assert!(read(&bolt, "missing").unwrap().is_empty());
            let expected: Vec<_> = (0..keys).map(|n| (key(n), value(n))).collect();
            assert!(read(&bolt, "full").unwrap() == expected, "{keys} keys");
        }
    }

    #[test]
    fn a_meta_with_any_bit_flipped_is_not_valid() {
        let meta = Meta { page_bytes: 4096, root: 3, freelist: 2, pages: 4, txid: 1 };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for bit in 0..META_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn damage_anywhere_ends_in_an_error_or_an_answer_never_in_a_panic_or_a_loop() {
        let mut file = file(300);
        let length = file.metadata().unwrap().len();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..400 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Headers and elements are where damage hurts.
            let page = (random >> 33) % (length / 4096);
            let at = page * 4096 + (random >> 20) % 64;
            let mut old = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut old, at).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&(random as u32).to_le_bytes()).unwrap();
            if let Ok(bolt) = BoltFile::open(file.try_clone().unwrap()) {
                let _ = read(&bolt, "full");
            }
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&old).unwrap();
        }
        assert_eq!(read(&BoltFile::open(file).unwrap(), "full").unwrap().len(), 300);
    }
}
