//! Reads a bbolt file page by page. The file comes from outside: nothing in it is believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{
    BRANCH, BUCKET, ELEMENT_BYTES, LEAF, META_BYTES, Meta, PAGE_BYTES_MAX, PAGE_HEADER_BYTES, PageHeader, u32_at,
    u64_at,
};

/// Levels of a tree that are followed; a real one of this height would not fit on any disk.
const DEPTH_MAX: usize = 32;
/// Bytes one page with its overflow may take: the largest request etcd can be set up to take, amply.
const NODE_BYTES_MAX: u64 = 256 << 20;

/// Why a file cannot be read as bbolt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoltError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
}

/// What is done with each key and value.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), BoltError>;

/// The same with the element's flags.
type VisitElement<'a> = &'a mut dyn FnMut(u32, &[u8], &[u8]) -> Result<(), BoltError>;

/// An open file.
pub(crate) struct BoltFile {
    file: File,
    meta: Meta,
}

/// A page with its overflow.
struct Node {
    header: PageHeader,
    bytes: Vec<u8>,
}

fn damaged<T>(text: impl Into<String>) -> Result<T, BoltError> {
    Err(BoltError::Damaged(text.into()))
}

impl BoltFile {
    /// Finds the newest valid meta.
    pub(crate) fn open(file: File) -> Result<BoltFile, BoltError> {
        let length = file.metadata()?.len();
        let metas = [meta_at(&file, 0), second_meta(&file)];
        let Some(meta) = metas.into_iter().flatten().max_by_key(|meta| meta.txid) else {
            return damaged("it does not begin as a bbolt file");
        };
        if meta.pages < 3 || meta.pages.checked_mul(u64::from(meta.page_bytes)).is_none_or(|bytes| bytes > length) {
            return damaged("it ends too early");
        }
        Ok(BoltFile { file, meta })
    }

    /// Visits a bucket's keys in order; a bucket that is not there has none.
    pub(crate) fn for_each(&self, bucket: &str, visit: Visit<'_>) -> Result<(), BoltError> {
        let mut found = None;
        let mut pages_left = self.meta.pages;
        let mut look = |flags: u32, key: &[u8], value: &[u8]| {
            if flags & BUCKET != 0 && key == bucket.as_bytes() {
                found = Some(value.to_vec());
            }
            Ok(())
        };
        self.walk(self.meta.root, 0, &mut pages_left, &mut look)?;
        let Some(value) = found else { return Ok(()) };
        let Some(root) = u64_at(&value, 0) else { return damaged(format!("bucket {bucket} has no root")) };
        let mut plain = |_: u32, key: &[u8], value: &[u8]| visit(key, value);
        if root != 0 {
            return self.walk(root, 0, &mut pages_left, &mut plain);
        }
        let inline = value.get(16..).unwrap_or_default();
        match PageHeader::decode(inline) {
            Some(header) if header.flags & LEAF != 0 => visit_leaf(header, inline, &mut plain),
            _ => damaged(format!("bucket {bucket} has no leaf")),
        }
    }

    fn walk(&self, page: u64, depth: usize, pages_left: &mut u64, visit: VisitElement<'_>) -> Result<(), BoltError> {
        // A page that is reached twice means a cycle.
        let Some(left) = pages_left.checked_sub(1).filter(|_| depth < DEPTH_MAX) else {
            return damaged(format!("page {page} belongs to a cycle"));
        };
        *pages_left = left;
        let Node { header, bytes } = self.node(page)?;
        match header.flags & (BRANCH | LEAF) {
            LEAF => visit_leaf(header, &bytes, visit),
            BRANCH => {
                for i in 0..usize::from(header.count) {
                    let element = PAGE_HEADER_BYTES + i * ELEMENT_BYTES;
                    let Some(child) = u64_at(&bytes, element + 8) else {
                        return damaged(format!("page {page} is cut"));
                    };
                    self.walk(child, depth + 1, pages_left, visit)?;
                }
                Ok(())
            }
            _ => damaged(format!("page {page} is of no known kind")),
        }
    }

    fn node(&self, page: u64) -> Result<Node, BoltError> {
        if page < 2 || page >= self.meta.pages {
            return damaged(format!("page {page} lies outside of the file"));
        }
        let page_bytes = u64::from(self.meta.page_bytes);
        let mut start = [0; PAGE_HEADER_BYTES];
        self.file.read_exact_at(&mut start, page * page_bytes)?;
        let header = PageHeader::decode(&start).filter(|header| header.id == page);
        let Some(header) = header else { return damaged(format!("page {page} carries another number")) };
        let bytes = (u64::from(header.overflow) + 1) * page_bytes;
        if page + u64::from(header.overflow) >= self.meta.pages || bytes > NODE_BYTES_MAX {
            return damaged(format!("page {page} is too long"));
        }
        let mut node = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut node, page * page_bytes)?;
        Ok(Node { header, bytes: node })
    }
}

/// `bytes` begins with the page header.
fn visit_leaf(header: PageHeader, bytes: &[u8], visit: VisitElement<'_>) -> Result<(), BoltError> {
    for i in 0..usize::from(header.count) {
        let element = PAGE_HEADER_BYTES + i * ELEMENT_BYTES;
        let number = |at: usize| u32_at(bytes, element + at).map(|number| number as usize);
        let parts = (|| {
            let (flags, position, key, value) = (number(0)?, number(4)?, number(8)?, number(12)?);
            let start = element.checked_add(position)?;
            let middle = start.checked_add(key)?;
            let end = middle.checked_add(value)?;
            Some((flags as u32, bytes.get(start..middle)?, bytes.get(middle..end)?))
        })();
        let Some((flags, key, value)) = parts else { return damaged(format!("page {} is cut", header.id)) };
        visit(flags, key, value)?;
    }
    Ok(())
}

fn meta_at(file: &File, offset: u64) -> Option<Meta> {
    let mut bytes = [0; PAGE_HEADER_BYTES + META_BYTES];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Meta::decode(&bytes[PAGE_HEADER_BYTES..])
}

/// The second meta lies one page in, and only the metas know how long a page is.
fn second_meta(file: &File) -> Option<Meta> {
    let mut page_bytes = 1024;
    while page_bytes <= PAGE_BYTES_MAX {
        let found = meta_at(file, u64::from(page_bytes)).filter(|meta| meta.page_bytes == page_bytes);
        if found.is_some() {
            return found;
        }
        page_bytes *= 2;
    }
    None
}
