//! Tokens of service accounts that live as long as their Secret.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use skiff_apiserver::{
    TokenIssuer,
    authn::service_account::{Binding, Reference},
};
use skiff_controllers::SecretTokens;

/// Such tokens are meant not to end; the Secret they are bound to ends them.
const LIFETIME: Duration = Duration::from_secs(100 * 365 * 86_400);

pub struct BoundTokens(pub Arc<TokenIssuer>);

impl SecretTokens for BoundTokens {
    fn token(&self, namespace: &str, account: (&str, &str), secret: (&str, &str)) -> Option<String> {
        let reference = |(name, uid): (&str, &str)| Reference { name: name.to_owned(), uid: uid.to_owned() };
        let binding = Binding {
            namespace: namespace.to_owned(),
            serviceaccount: reference(account),
            secret: Some(reference(secret)),
            ..Binding::default()
        };
        Some(self.0.issue(binding, &[], LIFETIME, Timestamp::now()).token)
    }
}
