//! Revisions and unique identifiers: the two opaque tokens of the API.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A point in the one global history of the store. Printed as a plain decimal
/// integer, it is the `resourceVersion` of clients; zero means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The state before the first write.
    pub const ZERO: Revision = Revision(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Revision {
    type Err = std::num::ParseIntError;

    /// Accepts what a `resourceVersion` may hold; the empty string is zero.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Revision::ZERO) } else { text.parse().map(Revision) }
    }
}

/// The `metadata.uid` of an object: unique over time, even for reused names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub String);

impl Uid {
    /// A fresh random (version 4) identifier.
    pub fn random() -> Uid {
        Uid(uuid::Uuid::new_v4().to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Uid(text.to_owned())
    }
}
