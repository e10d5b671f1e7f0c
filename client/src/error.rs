//! Why a request to the API failed, in the terms callers decide on.

use skiff_api::{DecodeError, Reason, Status};

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The API answered with a failure.
    #[error("{0}")]
    Api(Box<Status>),
    /// No answer: connection refused, reset, TLS failure, timeout.
    #[error("{context}: {source}")]
    Transport {
        context: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer was not what the API promises.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl ClientError {
    pub fn transport(context: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        ClientError::Transport { context: context.into(), source: source.into() }
    }

    /// [`ClientError::transport`] for a source that is boxed already.
    pub fn boxed(context: impl Into<String>, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        ClientError::Transport { context: context.into(), source }
    }

    /// The API's reason, when it answered.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            ClientError::Api(status) => Some(status.reason),
            _ => None,
        }
    }

    /// The API's whole answer, when it answered.
    pub fn into_status(self) -> Option<Status> {
        match self {
            ClientError::Api(status) => Some(*status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    pub fn is_conflict(&self) -> bool {
        self.reason() == Some(Reason::Conflict)
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some(Reason::AlreadyExists)
    }

    /// The history asked for is gone: list again.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason(), Some(Reason::Expired | Reason::Gone))
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        ClientError::Api(Box::new(status))
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        ClientError::Decode(error.into())
    }
}
