//! Every bound of this crate, and what happens beyond it.

/// Levels of nesting of a JSON value under a schema; deeper bodies are refused.
/// (Parsing has a lower limit of its own.)
pub const JSON_DEPTH_MAX: usize = 200;
/// Levels of protobuf messages, embedded objects included; deeper bodies are refused.
pub const PROTOBUF_DEPTH_MAX: usize = 100;
/// Unknown fields listed per body; further ones are dropped without a word.
pub const UNKNOWN_FIELDS_MAX: usize = 1000;
/// Duplicate fields listed per body; further ones are not listed.
pub const DUPLICATE_FIELDS_MAX: usize = 1000;
/// Operations in one JSON patch; more are refused with 413.
pub const PATCH_OPERATIONS_MAX: usize = 10_000;
/// Bytes that `copy` operations of one JSON patch may add; more are refused with 422.
pub const PATCH_COPY_BYTES_MAX: usize = 3 << 20;
/// Levels of a field set; deeper paths are cut off when read.
pub const FIELD_SET_DEPTH_MAX: usize = 200;
/// `Update` entries in `managedFields`; the oldest beyond are merged.
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// Levels of a custom resource's schema; deeper ones are refused.
pub const STRUCTURAL_DEPTH_MAX: usize = 100;
/// Bytes of a printer column's JSONPath; longer ones are refused.
pub const JSON_PATH_LEN_MAX: usize = 1024;
