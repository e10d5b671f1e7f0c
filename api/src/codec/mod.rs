//! How objects travel: JSON, YAML and protobuf, to and from [`serde_json::Value`].
//!
//! Inside the program an object under work is a `Value` in canonical form. A
//! request body becomes one in two steps, whatever its format:
//!
//! ```
//! use skiff_api::{GroupVersionKind, codec, schema::Root};
//! let root = Root::for_kind(&GroupVersionKind::new("", "v1", "ConfigMap")).unwrap();
//! let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dta":{},"data":{"k":"1","k":"2"}}"#;
//! let decoded = codec::json::decode(Some(&root), body).unwrap();
//! assert_eq!(decoded.unknown, ["dta"]);
//! assert_eq!(decoded.duplicate, ["data.k"]);
//! assert_eq!(decoded.value["data"]["k"], "2");
//! let bytes = codec::protobuf::encode_object(&decoded.value).unwrap();
//! assert_eq!(codec::protobuf::decode_object(&bytes).unwrap()["data"]["k"], "2");
//! ```
//!
//! - [`json::decode`], [`yaml::decode`]: parse, prune, type-check, normalise scalars.
//! - [`json::conform`]: the second half alone, for a `Value` at hand (a patched object).
//! - [`json::canonicalize`]: empty fields left out, required ones filled, as upstream prints.
//! - [`tree`]: JSON text to values and back, without looking at what they mean.
//! - [`protobuf`]: `k8s\0` envelopes of built-in kinds.

mod canonical;
pub mod json;
pub mod protobuf;
pub mod strict;
pub mod tree;
pub mod yaml;

/// A decoded body and what was questionable about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Known fields only, scalars in canonical form.
    pub value: serde_json::Value,
    /// Paths of fields that the schema does not have, which were dropped.
    pub unknown: Vec<String>,
    /// Paths of fields that appeared more than once; the last one counts.
    pub duplicate: Vec<String>,
}

impl Decoded {
    /// One message per questionable field, as `Warning` headers carry them.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self.unknown.iter().map(|path| format!("unknown field {path:?}"));
        unknown.chain(self.duplicate.iter().map(|path| format!("duplicate field {path:?}"))).collect()
    }

    /// The error of strict field validation, or `None` when all is well.
    pub fn strict_error(&self) -> Option<String> {
        let warnings = self.warnings();
        (!warnings.is_empty()).then(|| format!("strict decoding error: {}", warnings.join(", ")))
    }
}

/// Upstream's sentence around a body that does not decode as the expected kind.
pub fn not_handled(kind: &str, version: &str, error: impl std::fmt::Display) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}")
}
