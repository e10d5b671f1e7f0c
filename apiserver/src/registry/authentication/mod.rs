//! Group `authentication.k8s.io`: who a token or a request is, and fresh tokens.

pub mod reviews;
pub mod token_request;
