//! Header blocks: name/value pairs, compressed by one zlib stream per direction and connection.
//!
//! Because the zlib stream runs through the whole connection, every block must pass through the [`Compressor`] or
//! [`Decompressor`] in wire order, also those of streams nobody wants.

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;
use super::dictionary::DICTIONARY;
use crate::streaming::limits::HEADER_BLOCK_LEN_MAX;

/// Name/value pairs in order; names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// Headers from literal pairs.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        Headers(pairs.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect())
    }

    /// The value of a header; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(self.0.len() as u32);
        for (name, value) in &self.0 {
            for text in [name, value] {
                out.put_u32(text.len() as u32);
                out.put_slice(text.as_bytes());
            }
        }
        out
    }

    fn decode(mut block: &[u8]) -> Result<Self, SpdyError> {
        let count = block.try_get_u32().map_err(|_| SpdyError::Headers("no count"))?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut block)?.to_ascii_lowercase();
            pairs.push((name, take_text(&mut block)?));
        }
        if block.is_empty() { Ok(Headers(pairs)) } else { Err(SpdyError::Headers("bytes behind the last pair")) }
    }
}

fn take_text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let len = block.try_get_u32().map_err(|_| SpdyError::Headers("no length"))? as usize;
    if block.len() < len {
        return Err(SpdyError::Headers("text ends early"));
    }
    let (text, rest) = block.split_at(len);
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers("text is not UTF-8"))
}

/// The sending side of a connection's header compression.
#[derive(Debug)]
pub struct Compressor(Compress);

impl Compressor {
    /// A compressor primed with the dictionary.
    pub fn new() -> Result<Self, SpdyError> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Headers("dictionary refused"))?;
        Ok(Compressor(zlib))
    }

    /// Compresses the next block.
    pub fn compress(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let block = headers.encode();
        let mut out = Vec::with_capacity(block.len() + 64);
        let start = self.0.total_in();
        loop {
            let consumed = (self.0.total_in() - start) as usize;
            self.0
                .compress_vec(&block[consumed..], &mut out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Headers("compression failed"))?;
            // Spare room after a sync flush means that everything is out.
            if (self.0.total_in() - start) as usize == block.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// The receiving side of a connection's header compression.
#[derive(Debug)]
pub struct Decompressor(Decompress);

impl Default for Decompressor {
    fn default() -> Self {
        Decompressor(Decompress::new(true))
    }
}

impl Decompressor {
    /// Decompresses and decodes the next block.
    pub fn decompress(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let mut out = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let consumed = (self.0.total_in() - start) as usize;
            match self.0.decompress_vec(&block[consumed..], &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers("zlib stream ended")),
                Ok(_) => {}
                // Raised once, behind the zlib header; the input goes on where it stopped.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Headers("another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Headers("zlib data is damaged")),
            }
            if (self.0.total_in() - start) as usize == block.len() && out.len() < out.capacity() {
                return Headers::decode(&out);
            }
            if out.len() == out.capacity() {
                if out.len() >= HEADER_BLOCK_LEN_MAX {
                    return Err(SpdyError::Headers("longer than allowed"));
                }
                out.reserve(out.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_connection_survive_in_order() {
        let (mut compressor, mut decompressor) = (Compressor::new().expect("zlib"), Decompressor::default());
        for i in 0..50 {
            let value = "x".repeat(i * 37);
            let headers = Headers::new(&[("streamType", "error"), ("port", "80"), ("requestID", &value)]);
            let block = compressor.compress(&headers).expect("compresses");
            let back = decompressor.decompress(&block).expect("decompresses");
            assert_eq!(back.get("streamtype"), Some("error"));
            assert_eq!(back, Headers::new(&[("streamtype", "error"), ("port", "80"), ("requestid", &value)]));
        }
        let empty = compressor.compress(&Headers::default()).expect("compresses");
        assert_eq!(decompressor.decompress(&empty).expect("decompresses"), Headers::default());
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = Headers::new(&[("a", &"a".repeat(10 * HEADER_BLOCK_LEN_MAX))]);
        let block = Compressor::new().expect("zlib").compress(&bomb).expect("compresses");
        assert!(block.len() < 4096);
        assert!(matches!(Decompressor::default().decompress(&block), Err(SpdyError::Headers("longer than allowed"))));
    }

    #[test]
    fn damaged_blocks_are_errors() {
        let block = Compressor::new().expect("zlib").compress(&Headers::new(&[("a", "b")])).expect("compresses");
        for i in 0..block.len() {
            let mut damaged = block.clone();
            damaged[i] ^= 0x55;
            // Any result but a panic or a hang will do.
            let _ = Decompressor::default().decompress(&damaged);
            let _ = Decompressor::default().decompress(&block[..i]);
        }
        assert!(Headers::decode(&[0, 0, 0, 9]).is_err());
        assert!(Headers::decode(&[0xff; 12]).is_err());
    }
}
