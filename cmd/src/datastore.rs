//! Which datastore: from `--datastore-endpoint` to an engine.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use skiff_kine::{Database, EtcdEndpoints, StoreOptions, TlsFiles};

/// What an endpoint may look like, for help and errors.
pub const FORMS: &str = "\
sqlite:///PATH, postgres://USER:PASSWORD@HOST:5432/DATABASE, mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE, \
http[s]://HOST:2379,… for an etcd, or memory://";

/// What keeps the data.
#[derive(Clone, Debug)]
pub enum Engine {
    File(PathBuf),
    Memory,
    Database(Database),
    Etcd(EtcdEndpoints),
}

impl Engine {
    /// From an endpoint as K3s takes it. Reads TLS files; an error never shows a password.
    pub fn parse(endpoint: &str, tls: TlsFiles) -> Result<Engine> {
        if let Some(database) = Database::parse(endpoint, tls.clone())? {
            return Ok(Engine::Database(database));
        }
        if let Some(endpoints) = EtcdEndpoints::parse(endpoint, &tls)? {
            return Ok(Engine::Etcd(endpoints));
        }
        if tls != TlsFiles::default() {
            bail!(
                "the datastore is a file; --datastore-cafile, --datastore-certfile and --datastore-keyfile are for servers"
            );
        }
        match endpoint.split_once("://") {
            Some(("sqlite" | "file", path)) if !path.is_empty() && !path.contains('?') => Ok(Engine::File(path.into())),
            Some(("sqlite", _)) => bail!("it needs a path and takes no options: sqlite:///srv/skiff/state.db"),
            Some(("memory", "")) => Ok(Engine::Memory),
            // The password may stand in what was mistyped.
            _ => bail!("a datastore endpoint is one of {FORMS}"),
        }
    }

    /// Options to open it as a store of this process; makes the folder of a file.
    pub fn store_options(&self) -> Result<StoreOptions> {
        Ok(match self {
            Engine::File(path) => {
                if let Some(folder) = path.parent() {
                    make_private(folder)?;
                }
                StoreOptions::sqlite(path)
            }
            Engine::Memory => StoreOptions::memory(),
            Engine::Database(database) => StoreOptions::database(database.clone()),
            Engine::Etcd(endpoints) => {
                bail!("{endpoints} is an etcd already; only a server takes that as its datastore")
            }
        })
    }
}

/// Without passwords.
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::File(path) => path.display().fmt(f),
            Engine::Memory => f.write_str("memory"),
            Engine::Database(database) => database.fmt(f),
            Engine::Etcd(endpoints) => write!(f, "etcd {endpoints}"),
        }
    }
}

/// Makes a folder for its owner alone.
pub fn make_private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(endpoint: &str) -> String {
        Engine::parse(endpoint, TlsFiles::default()).map_or_else(|error| format!("no: {error}"), |e| e.to_string())
    }

    #[test]
    fn every_form_names_its_engine_and_none_shows_a_password() {
        assert_eq!(shown("sqlite:///a/b.db"), "/a/b.db");
        assert_eq!(shown("memory://"), "memory");
        assert_eq!(shown("postgres://u:secret@h/db"), "postgres://u@h:5432/db");
        assert_eq!(shown("mysql://u:secret@tcp(h:1)/db"), "mysql://u@h:1/db");
        assert_eq!(shown("http://a:2379,http://b:2379"), "etcd http://a:2379,http://b:2379");
        for wrong in
            ["postgress://u:secret@h/db", "sqlite://", "sqlite:///a?mode=ro", "memory://x", "nats://u:secret@h"]
        {
            let shown = shown(wrong);
            assert!(shown.starts_with("no: ") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn tls_files_are_refused_where_nobody_would_use_them() {
        let tls = TlsFiles { ca: Some("ca.crt".into()), ..TlsFiles::default() };
        assert!(Engine::parse("sqlite:///a/b.db", tls).is_err());
    }
}
