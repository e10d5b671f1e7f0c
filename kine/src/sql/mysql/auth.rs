//! Passwords as MySQL and MariaDB want to see them.
//!
//! Known are the defaults of both servers, `mysql_native_password` and `caching_sha2_password`, the
//! socket methods, and `mysql_clear_password` where the connection is protected. The full exchange of
//! `caching_sha2_password` sends the password itself, so it too needs TLS or a unix socket.

use ring::digest;

/// A method by its name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Native,
    CachingSha2,
    Clear,
    /// The server knows who is at the other end of the unix socket.
    Socket,
}

impl Method {
    pub(super) fn named(name: &[u8]) -> Option<Method> {
        match name {
            b"mysql_native_password" => Some(Method::Native),
            b"caching_sha2_password" => Some(Method::CachingSha2),
            b"mysql_clear_password" => Some(Method::Clear),
            b"auth_socket" | b"unix_socket" => Some(Method::Socket),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Native => "mysql_native_password",
            Method::CachingSha2 => "caching_sha2_password",
            Method::Clear => "mysql_clear_password",
            Method::Socket => "auth_socket",
        }
    }

    /// The answer to the server's challenge; `None` if it would show the password.
    pub(super) fn answer(self, password: &str, challenge: &[u8], protected: bool) -> Option<Vec<u8>> {
        if password.is_empty() {
            return Some(if self == Method::Clear { vec![0] } else { Vec::new() });
        }
        match self {
            Method::Native => Some(native(password, challenge)),
            Method::CachingSha2 => Some(caching_sha2(password, challenge)),
            Method::Clear => protected.then(|| clear(password)),
            Method::Socket => Some(Vec::new()),
        }
    }
}

/// The password itself, ended by a zero.
pub(super) fn clear(password: &str) -> Vec<u8> {
    [password.as_bytes(), b"\0"].concat()
}

/// SHA1(password) xor SHA1(challenge + SHA1(SHA1(password)))
fn native(password: &str, challenge: &[u8]) -> Vec<u8> {
    let hash = |parts: &[&[u8]]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &parts.concat());
    let once = hash(&[password.as_bytes()]);
    let twice = hash(&[once.as_ref()]);
    xor(once.as_ref(), hash(&[challenge, twice.as_ref()]).as_ref())
}

/// SHA256(password) xor SHA256(SHA256(SHA256(password)) + challenge)
fn caching_sha2(password: &str, challenge: &[u8]) -> Vec<u8> {
    let hash = |parts: &[&[u8]]| digest::digest(&digest::SHA256, &parts.concat());
    let once = hash(&[password.as_bytes()]);
    let twice = hash(&[once.as_ref()]);
    xor(once.as_ref(), hash(&[twice.as_ref(), challenge]).as_ref())
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::digest::hex;

    #[test]
    fn answers_are_those_of_other_clients() {
        // Computed with an independent implementation (Python's hashlib).
        let challenge: Vec<u8> = (1..=20).collect();
        let native = Method::Native.answer("secret", &challenge, false).unwrap();
        assert_eq!(hex(&native), "b32bb3a583e1340c0a1108d58b1be49781ad8c2f");
        let sha2 = Method::CachingSha2.answer("secret", &challenge, false).unwrap();
        assert_eq!(hex(&sha2), "746ebe205d56a0707acb3e796e834e0dd7b1d61743b26bd5202c7a623230c7c9");
    }

    #[test]
    fn a_password_is_shown_only_where_nobody_else_sees_it() {
        assert_eq!(Method::Clear.answer("secret", b"", false), None);
        assert_eq!(Method::Clear.answer("secret", b"", true), Some(b"secret\0".to_vec()));
        assert_eq!(Method::CachingSha2.answer("", b"x", false), Some(Vec::new()), "no password, nothing to hide");
    }
}
