//! Failures of runtime calls.

use tonic::Code;

/// A failed call, with the name of the call.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error("connect to {socket}: {source}")]
    Connect {
        socket: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{call}: {}", .status.message())]
    Call { call: &'static str, status: Box<tonic::Status> },
    #[error("{call}: the runtime left out {missing}")]
    Incomplete { call: &'static str, missing: &'static str },
}

impl CriError {
    pub(crate) fn call(call: &'static str) -> impl FnOnce(tonic::Status) -> CriError {
        move |status| CriError::Call { call, status: Box::new(status) }
    }

    fn code(&self) -> Option<Code> {
        match self {
            CriError::Call { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// The sandbox, container or image does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// The runtime does not know this call.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    /// The call did not end in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.code(), Some(Code::DeadlineExceeded | Code::Cancelled))
    }

    /// The runtime's own words.
    pub fn message(&self) -> String {
        match self {
            CriError::Call { status, .. } => status.message().to_owned(),
            other => other.to_string(),
        }
    }
}
