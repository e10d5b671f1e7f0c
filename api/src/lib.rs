//! The nouns of the Kubernetes API as Skiff uses them: resources, objects,
//! metadata, status errors, selectors, quantities, schemas and codecs.
//!
//! Nothing here performs I/O or knows about a running system. Every other
//! crate that speaks the Kubernetes API builds on these types, so a fact (a
//! path, a short name, a protobuf tag) is written once, in a table, and
//! derived everywhere else.

pub mod apply;
pub mod codec;
pub mod field_selector;
pub mod group_version;
pub mod hex;
pub mod json_path;
pub mod limits;
pub mod metadata;
pub mod names;
pub mod object;
pub mod patch;
pub mod printers;
pub mod quantity;
pub mod quote;
pub mod resource;
pub mod resources;
pub mod revision;
pub mod schema;
pub mod selector;
pub mod status;
pub mod timestamp;
pub mod typed;

pub use field_selector::FieldSelector;
pub use group_version::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource};
pub use metadata::{ObjectMeta, OwnerReference};
pub use object::{DecodeError, Object, ObjectKey, ObjectReference};
pub use quantity::Quantity;
pub use resource::{Resource, Verb};
pub use resources::{ResourceRegistry, builtin};
pub use revision::{Revision, Uid};
pub use selector::Selector;
pub use status::{Cause, Reason, Status};
