//! The cluster's own public key infrastructure: three certificate authorities,
//! the leaf certificates of every component, and the service-account key.
//!
//! Everything is ECDSA P-256 and made on first start. Files that exist are used
//! as they are, so an operator can put own authorities in place beforehand.
//! Leaves are made again when fewer than [`RENEW_BEFORE_DAYS`] days are left or
//! when the names they must carry have changed; private keys are 0600 and the
//! keys of nodes never leave the node.

mod authority;
mod der;
mod files;
mod leaf;
mod server;
mod signing;

pub use authority::{Authority, fingerprint};
pub use files::{FileError, read_secret, write_atomic, write_public, write_secret};
pub use leaf::{CertificateInfo, KeyAndCertificate, Leaf, certificate_request, tls_key};
pub use server::{ServerPki, ServerPkiOptions};

/// Life of a certificate authority.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Life of a leaf certificate.
pub const LEAF_DAYS: i64 = 365;
/// A leaf with fewer days left is made again.
pub const RENEW_BEFORE_DAYS: i64 = 120;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {source}")]
    Parse {
        path: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("make certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("certificate request refused: {0}")]
    Request(String),
    #[error("{path}: {message}")]
    Certificate { path: String, message: String },
}
