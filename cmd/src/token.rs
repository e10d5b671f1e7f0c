//! Join tokens: the shared secret of a cluster together with the proof of whom
//! one is talking to.
//!
//! Full form `K10<sha256 of the server authority>::<user>:<secret>` with user
//! `server` or `node`; the short form is the secret alone and trusts the
//! authority on first use.

use std::fmt;

/// The user part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUser {
    Server,
    Node,
}

/// A parsed token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Hash of the authority to trust; absent in the short form.
    pub authority_hash: Option<String>,
    pub user: TokenUser,
    pub secret: String,
}

/// A text that is no token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("the token is empty")]
    Empty,
    #[error("the token starts with K10 but is not of the form K10<64 hex digits>::<user>:<secret>; was it cut off?")]
    Malformed,
    #[error("the token's user is {0:?}; it must be server or node")]
    User(String),
}

impl Token {
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let Some(rest) = text.strip_prefix("K10") else {
            return Ok(Token { authority_hash: None, user: TokenUser::Node, secret: text.to_owned() });
        };
        let (hash, credentials) = rest.split_once("::").ok_or(TokenError::Malformed)?;
        let (user, secret) = credentials.split_once(':').ok_or(TokenError::Malformed)?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) || secret.is_empty() {
            return Err(TokenError::Malformed);
        }
        let user = match user {
            "server" => TokenUser::Server,
            "node" => TokenUser::Node,
            other => return Err(TokenError::User(other.to_owned())),
        };
        Ok(Token { authority_hash: Some(hash.to_ascii_lowercase()), user, secret: secret.to_owned() })
    }

    /// The user name sent with the secret.
    pub fn user_name(&self) -> &'static str {
        match self.user {
            TokenUser::Server => "server",
            TokenUser::Node => "node",
        }
    }

    /// The full form, to be shown only to the administrator.
    pub fn full(&self) -> String {
        match &self.authority_hash {
            Some(hash) => format!("K10{hash}::{}:{}", self.user_name(), self.secret),
            None => self.secret.clone(),
        }
    }
}

/// Never shows the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, …)", self.user_name())
    }
}

/// A fresh secret of 128 bits.
pub fn random_secret() -> String {
    let bytes: [u8; 16] = rand::random();
    skiff_api::hex::encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_full_form_round_trips() {
        let full = format!("K10{}::node:s3:cret", "ab".repeat(32));
        let token = Token::parse(&full).unwrap();
        assert_eq!(token.secret, "s3:cret");
        assert_eq!(token.full(), full);
        assert_eq!(Token::parse("plain").unwrap().authority_hash, None);
        assert!(!format!("{token:?}").contains("s3"));
    }

    #[test]
    fn cut_off_and_foreign_tokens_are_refused() {
        assert_eq!(Token::parse("K10abc::node:x"), Err(TokenError::Malformed));
        assert_eq!(Token::parse(&format!("K10{}::root:x", "0".repeat(64))), Err(TokenError::User("root".into())));
        assert_eq!(Token::parse("  "), Err(TokenError::Empty));
    }
}
