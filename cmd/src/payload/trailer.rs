//! The last bytes of a binary with a payload.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Marks the end of a binary that carries a payload.
const MAGIC: &[u8; 8] = b"SKIFFPL1";
/// Magic, archive length, SHA-256 of the archive.
pub const TRAILER_BYTES: u64 = 8 + 8 + 32;

/// Where the archive is, and its content hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub archive_offset: u64,
    pub archive_bytes: u64,
    pub sha256: [u8; 32],
}

impl Trailer {
    /// Reads the trailer of an executable; `None` when it has no payload.
    pub fn read(file: &mut File) -> io::Result<Option<Trailer>> {
        let length = file.seek(SeekFrom::End(0))?;
        if length < TRAILER_BYTES {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(length - TRAILER_BYTES))?;
        let mut bytes = [0; TRAILER_BYTES as usize];
        file.read_exact(&mut bytes)?;
        let (archive_bytes_le, rest) = (&bytes[..8], &bytes[8..]);
        let (sha256, magic) = rest.split_at(32);
        if magic != MAGIC {
            return Ok(None);
        }
        let archive_bytes = u64::from_le_bytes(archive_bytes_le.try_into().expect("eight bytes"));
        let Some(archive_offset) = (length - TRAILER_BYTES).checked_sub(archive_bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the payload is longer than the file"));
        };
        Ok(Some(Trailer { archive_offset, archive_bytes, sha256: sha256.try_into().expect("32 bytes") }))
    }

    /// The bytes to append after the archive.
    pub fn encode(archive_bytes: u64, sha256: &[u8; 32]) -> Vec<u8> {
        [&archive_bytes.to_le_bytes()[..], sha256, MAGIC].concat()
    }

    /// Name of the folder the archive is unpacked to.
    pub fn folder_name(&self) -> String {
        skiff_api::hex::encode(&self.sha256[..16])
    }
}
