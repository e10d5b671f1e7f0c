//! The three patch formats of the API, each a pure function of object and patch.
//!
//! ```
//! use skiff_api::{GroupVersionKind, patch, schema::Root};
//! use serde_json::json;
//! let root = Root::for_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
//! let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
//! let change = json!({"spec": {"containers": [{"name": "b", "image": "z"}]}});
//! let patched = patch::strategic::apply(&root, pod, change).unwrap();
//! assert_eq!(patched["spec"]["containers"][1]["image"], "z");
//! ```
//!
//! The fourth, server-side apply, is in [`crate::apply`]. Results are not
//! checked against the schema: conform them as any request body.

pub mod json_patch;
pub mod merge;
pub mod strategic;

use crate::{Reason, Status, status::Details};

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is not well formed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit this object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// A `test` of the patch does not hold: 422.
    #[error("{0}")]
    TestFailed(String),
    /// Too many operations: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Status {
        match error {
            PatchError::Malformed(message) => Status::bad_request(message),
            PatchError::TooLarge(message) => {
                Status::failure(Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
            }
            // Upstream keeps what went wrong to itself: every client sees this one sentence.
            PatchError::Unprocessable(_) | PatchError::TestFailed(_) => {
                let text = "the server rejected our request due to an error in our request";
                Status { details: Some(Details::default()), ..Status::failure(Reason::Invalid, text) }
            }
        }
    }
}
