//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

/// What the exchange was about when the first message had gone out.
pub(super) struct Scram {
    password: String,
    nonce: String,
}

/// The second message, and what the server must answer to it.
pub(super) struct Proof {
    pub(super) message: String,
    pub(super) expected: String,
}

const BARE: &str = "n=,r=";

impl Scram {
    pub(super) fn new(password: &str, nonce: &[u8]) -> Scram {
        Scram { password: password.to_owned(), nonce: BASE64.encode(nonce) }
    }

    pub(super) fn first(&self) -> String {
        format!("n,,{BARE}{}", self.nonce)
    }

    /// Answers the server's challenge; `None` if that is not one.
    pub(super) fn prove(&self, challenge: &str) -> Option<Proof> {
        let field = |name: char| challenge.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (nonce, salt, rounds) = (field('r')?, BASE64.decode(field('s')?).ok()?, field('i')?.parse().ok()?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return None;
        }
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        let rounds = NonZeroU32::new(rounds)?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let conversation = format!("{BARE}{},{challenge},{without_proof}", self.nonce);
        let signature = sign(stored_key.as_ref(), conversation.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = sign(&salted, b"Server Key");
        let expected = sign(server_key.as_ref(), conversation.as_bytes());
        Some(Proof {
            message: format!("{without_proof},p={}", BASE64.encode(proof)),
            expected: format!("v={}", BASE64.encode(expected.as_ref())),
        })
    }
}

fn sign(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_the_one_of_rfc_7677_but_for_the_name() {
        // The RFC's conversation has a user name; PostgreSQL's has none. The expected values
        // were computed with an independent implementation (Python's hashlib and hmac).
        let scram = Scram { password: "pencil".into(), nonce: "rOprNGfwEbeRWgbNEkqO".into() };
        assert_eq!(scram.first(), "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = scram.prove(challenge).unwrap();
        assert_eq!(
            proof.message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k="
        );
        assert_eq!(proof.expected, "v=3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg=");
    }

    #[test]
    fn a_challenge_that_does_not_continue_our_nonce_is_refused() {
        let scram = Scram { password: "p".into(), nonce: "abc".into() };
        assert!(scram.prove("r=abc,s=W22Z,i=4096").is_none());
        assert!(scram.prove("r=xyzabc,s=W22Z,i=4096").is_none());
        assert!(scram.prove("r=abcd,s=W22Z,i=0").is_none());
        assert!(scram.prove("e=other-error").is_none());
    }
}
