//! The join secrets of a cluster, kept in `<data-dir>/server`.

use std::path::Path;

use crate::{
    pki::{FileError, fingerprint, read_secret, write_secret},
    supervisor::JoinSecrets,
    token::{Token, TokenError, TokenUser, random_secret},
};

/// Secrets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--token: {0}")]
    Token(#[from] TokenError),
    #[error(
        "--token is another one than that of this cluster (see {path}); to use the cluster as it is, leave --token out"
    )]
    Changed { path: String },
}

/// Loads the secrets, or takes them from the flags, or makes them. The token
/// files always show the full form with the hash of the authority.
pub fn load_or_create(
    folder: &Path,
    given: Option<&str>,
    given_agent: Option<&str>,
    authority_pem: &str,
) -> Result<JoinSecrets, SecretError> {
    let path = folder.join("token");
    let kept = read_secret(&path)?.map(|text| Token::parse(&text)).transpose()?.map(|token| token.secret);
    let given = given.map(Token::parse).transpose()?.map(|token| token.secret);
    let server = match (kept, given) {
        (Some(kept), Some(given)) if kept != given => {
            return Err(SecretError::Changed { path: path.display().to_string() });
        }
        (Some(kept), _) => kept,
        (None, Some(given)) => given,
        (None, None) => random_secret(),
    };
    let agent_path = folder.join("agent-token");
    let kept_agent = read_secret(&agent_path)?.map(|text| Token::parse(&text)).transpose()?.map(|token| token.secret);
    let given_agent = given_agent.map(Token::parse).transpose()?.map(|token| token.secret);
    let agent = given_agent.or(kept_agent).unwrap_or_else(|| server.clone());
    let full = |user, secret: &str| {
        let token = Token { authority_hash: Some(fingerprint(authority_pem)), user, secret: secret.to_owned() };
        format!("{}\n", token.full())
    };
    write_changed(&path, &full(TokenUser::Server, &server))?;
    write_changed(&folder.join("node-token"), &full(TokenUser::Node, &agent))?;
    if agent != server {
        write_changed(&agent_path, &full(TokenUser::Node, &agent))?;
    }
    Ok(JoinSecrets { server, agent })
}

fn write_changed(path: &Path, text: &str) -> Result<(), FileError> {
    if read_secret(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    write_secret(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_create(folder.path(), None, None, "pem").unwrap();
        let second = load_or_create(folder.path(), None, None, "pem").unwrap();
        assert_eq!(first.server, second.server);
        assert_eq!(first.agent, first.server);
        assert!(load_or_create(folder.path(), Some("other"), None, "pem").is_err());
        let full = std::fs::read_to_string(folder.path().join("node-token")).unwrap();
        assert_eq!(Token::parse(&full).unwrap().secret, first.server);
        let separate = load_or_create(folder.path(), None, Some("agents"), "pem").unwrap();
        assert_eq!((separate.server, separate.agent), (first.server, "agents".to_owned()));
    }
}
