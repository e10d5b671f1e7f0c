//! Who is asking.
//!
//! Credentials are tried in upstream's order: front proxy headers, client
//! certificate, bearer token; a request without any is anonymous, a request
//! with a bad one is refused.

pub mod bootstrap_token;
pub mod impersonation;
pub mod request_header;
pub mod service_account;
pub mod token;
pub mod user;
pub mod x509;

use std::sync::Arc;

use http::HeaderMap;
use skiff_api::Status;

pub use service_account::TokenIssuer;
pub use token::{TokenAuthenticator, TokenUnion};
pub use user::UserInfo;

use crate::serve::ConnectionInfo;

/// Settings of authentication.
pub struct Authentication {
    /// CAs of user and component certificates, and of the front proxy. The TLS
    /// layer verifies against both; which of them signed decides what the
    /// certificate proves.
    pub client_ca: x509::CaSet,
    pub request_header_ca: x509::CaSet,
    /// Common names a front proxy may have; empty allows every name its CA signed.
    pub request_header_names: Vec<String>,
    pub tokens: Arc<dyn TokenAuthenticator>,
    /// Whether requests without credentials go on as `system:anonymous`.
    pub anonymous: bool,
}

impl Authentication {
    /// The identity behind a request; 401 for bad credentials.
    pub async fn authenticate(&self, headers: &HeaderMap, connection: &ConnectionInfo) -> Result<UserInfo, Status> {
        if let Some(leaf) = connection.client_certificates.first() {
            if self.request_header_ca.verifies(&connection.client_certificates)
                && request_header::is_proxy(leaf, &self.request_header_names)
                && let Some(user) = request_header::user(headers)
            {
                return Ok(authenticated(user));
            }
            if self.client_ca.verifies(&connection.client_certificates)
                && let Some(user) = x509::user(leaf)
            {
                return Ok(authenticated(user));
            }
        }
        if let Some(token) = token::bearer(headers) {
            return match self.tokens.authenticate(&token, &[]).await {
                Some(user) => Ok(authenticated(user)),
                None => Err(Status::unauthorized()),
            };
        }
        if self.anonymous { Ok(UserInfo::anonymous()) } else { Err(Status::unauthorized()) }
    }
}

/// Everyone with credentials is in `system:authenticated`, unless the
/// credentials say that they stand for nobody.
pub(crate) fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.is_in(user::AUTHENTICATED) && !user.is_in(user::UNAUTHENTICATED) {
        user.groups.push(user::AUTHENTICATED.to_owned());
    }
    user
}
