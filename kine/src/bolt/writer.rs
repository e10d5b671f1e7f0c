//! Writes a bbolt file from sorted keys, front to back; only the metas are written at the end.

use std::io::{self, Seek, SeekFrom, Write};

use super::{BRANCH, BUCKET, ELEMENT_BYTES, FREELIST, LEAF, META, Meta, PAGE_BYTES, PAGE_HEADER_BYTES, PageHeader};

/// A leaf element.
struct Item {
    flags: u32,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A file under way.
pub(crate) struct BoltWriter<W> {
    out: W,
    next_page: u64,
    buckets: Vec<Item>,
}

impl<W: Write + Seek> BoltWriter<W> {
    pub(crate) fn new(mut out: W) -> io::Result<BoltWriter<W>> {
        out.write_all(&[0; 2 * PAGE_BYTES])?;
        Ok(BoltWriter { out, next_page: 2, buckets: Vec::new() })
    }

    /// Begins a bucket. Its keys must be put in ascending order.
    pub(crate) fn bucket(&mut self, name: &str) -> io::Result<BucketWriter<'_, W>> {
        if self.buckets.iter().any(|bucket| bucket.key == name.as_bytes()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("bucket {name} stands twice")));
        }
        Ok(BucketWriter { name: name.into(), file: self, leaf: Vec::new(), leaf_bytes: 0, levels: Vec::new() })
    }

    /// Writes the root and the metas; answers the file and its length.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        self.buckets.sort_by(|a, b| a.key.cmp(&b.key));
        let buckets = std::mem::take(&mut self.buckets);
        let root = self.leaf(&buckets)?;
        let freelist = self.page(FREELIST, 0, &[])?;
        let pages = self.next_page;
        for txid in 0..2_u64 {
            let meta = Meta { page_bytes: PAGE_BYTES as u32, root, freelist, pages, txid };
            let header = PageHeader { id: txid, flags: META, count: 0, overflow: 0 };
            self.out.seek(SeekFrom::Start(txid * PAGE_BYTES as u64))?;
            self.out.write_all(&header.encode())?;
            self.out.write_all(&meta.encode())?;
        }
        self.out.flush()?;
        Ok((self.out, pages * PAGE_BYTES as u64))
    }

    fn leaf(&mut self, items: &[Item]) -> io::Result<u64> {
        let body = leaf_body(items);
        self.page(LEAF, items.len(), &body)
    }

    /// Appends one page, as long as it must be.
    fn page(&mut self, flags: u16, count: usize, body: &[u8]) -> io::Result<u64> {
        let bytes = PAGE_HEADER_BYTES + body.len();
        let pages = bytes.div_ceil(PAGE_BYTES);
        let too_large = |_| io::Error::other("a page is too large");
        let id = self.next_page;
        let header = PageHeader {
            id,
            flags,
            count: u16::try_from(count).map_err(too_large)?,
            overflow: u32::try_from(pages - 1).map_err(too_large)?,
        };
        self.out.write_all(&header.encode())?;
        self.out.write_all(body)?;
        self.out.write_all(&vec![0; pages * PAGE_BYTES - bytes])?;
        self.next_page += pages as u64;
        Ok(id)
    }
}

/// Elements first, then keys and values; each element says how far away its key is.
fn leaf_body(items: &[Item]) -> Vec<u8> {
    let mut elements = Vec::with_capacity(items.len() * ELEMENT_BYTES);
    let mut data: Vec<u8> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let position = (items.len() - i) * ELEMENT_BYTES + data.len();
        for number in [item.flags, position as u32, item.key.len() as u32, item.value.len() as u32] {
            elements.extend(number.to_le_bytes());
        }
        data.extend(&item.key);
        data.extend(&item.value);
    }
    elements.extend(data);
    elements
}

fn branch_body(children: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut elements = Vec::with_capacity(children.len() * ELEMENT_BYTES);
    let mut data: Vec<u8> = Vec::new();
    for (i, (key, page)) in children.iter().enumerate() {
        let position = (children.len() - i) * ELEMENT_BYTES + data.len();
        elements.extend((position as u32).to_le_bytes());
        elements.extend((key.len() as u32).to_le_bytes());
        elements.extend(page.to_le_bytes());
        data.extend(key);
    }
    elements.extend(data);
    elements
}

/// Children that wait for their branch page.
#[derive(Default)]
struct Level {
    children: Vec<(Vec<u8>, u64)>,
    bytes: usize,
}

/// A bucket under way: one open page per level of its tree.
pub(crate) struct BucketWriter<'a, W> {
    file: &'a mut BoltWriter<W>,
    name: Vec<u8>,
    leaf: Vec<Item>,
    leaf_bytes: usize,
    levels: Vec<Level>,
}

impl<W: Write + Seek> BucketWriter<'_, W> {
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let bytes = ELEMENT_BYTES + key.len() + value.len();
        if self.leaf.last().is_some_and(|last| last.key.as_slice() >= key) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "keys of a bucket must ascend"));
        }
        if !self.leaf.is_empty() && PAGE_HEADER_BYTES + self.leaf_bytes + bytes > PAGE_BYTES {
            self.flush_leaf()?;
        }
        self.leaf_bytes += bytes;
        self.leaf.push(Item { flags: 0, key: key.to_vec(), value: value.to_vec() });
        Ok(())
    }

    /// Closes the bucket and enters it into the file's root.
    pub(crate) fn end(mut self) -> io::Result<()> {
        let root = match self.leaf.is_empty() && self.levels.is_empty() {
            true => 0,
            false => self.flush_all()?,
        };
        // Root page and sequence; a bucket without a page carries its empty leaf itself.
        let mut value = root.to_le_bytes().to_vec();
        value.extend([0; 8]);
        if root == 0 {
            value.extend(PageHeader { id: 0, flags: LEAF, count: 0, overflow: 0 }.encode());
        }
        self.file.buckets.push(Item { flags: BUCKET, key: self.name, value });
        Ok(())
    }

    fn flush_leaf(&mut self) -> io::Result<()> {
        let items = std::mem::take(&mut self.leaf);
        self.leaf_bytes = 0;
        let page = self.file.leaf(&items)?;
        let first = items.into_iter().next().map(|item| item.key).unwrap_or_default();
        self.add_child(0, first, page)
    }

    fn add_child(&mut self, level: usize, first: Vec<u8>, page: u64) -> io::Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let bytes = ELEMENT_BYTES + first.len();
        let open = &self.levels[level];
        if open.children.len() > 1 && PAGE_HEADER_BYTES + open.bytes + bytes > PAGE_BYTES {
            self.flush_level(level)?;
        }
        let open = &mut self.levels[level];
        open.bytes += bytes;
        open.children.push((first, page));
        Ok(())
    }

    fn flush_level(&mut self, level: usize) -> io::Result<()> {
        let Level { children, .. } = std::mem::take(&mut self.levels[level]);
        let page = self.file.page(BRANCH, children.len(), &branch_body(&children))?;
        let first = children.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        self.add_child(level + 1, first, page)
    }

    /// Writes every open page, bottom up; the last one is the root.
    fn flush_all(&mut self) -> io::Result<u64> {
        if !self.leaf.is_empty() {
            self.flush_leaf()?;
        }
        let mut level = 0;
        loop {
            if level + 1 == self.levels.len()
                && let [(_, root)] = self.levels[level].children[..]
            {
                return Ok(root);
            }
            self.flush_level(level)?;
            level += 1;
        }
    }
}
