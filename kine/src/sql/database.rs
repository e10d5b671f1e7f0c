//! A database server that several stores may share, as the operator names it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::tls::{PemFiles, TlsPlan};
use super::url::{self, Target};
use super::{Engine, mysql, postgres};

/// PEM files for TLS with a database server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The endpoint cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("datastore endpoint: {0}")]
pub struct DatabaseError(pub String);

/// A PostgreSQL or MySQL server and a database on it.
#[derive(Clone)]
pub struct Database {
    kind: &'static str,
    target: Target,
    plan: TlsPlan,
}

impl Database {
    /// From an endpoint as K3s takes it; `None` if it is for another kind of engine. Reads the
    /// files. An error never shows the password.
    pub fn parse(endpoint: &str, tls: TlsFiles) -> Result<Option<Database>, DatabaseError> {
        let files = PemFiles { ca: tls.ca, certificate: tls.certificate, key: tls.key };
        let (kind, target) = match endpoint.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => ("postgres", url::postgres(rest, files)),
            Some(("mysql" | "mariadb", rest)) => ("mysql", url::mysql(rest, files)),
            _ => return Ok(None),
        };
        let target = target.map_err(|text| DatabaseError(format!("{kind}: {text}")))?;
        let plan =
            TlsPlan::new(target.tls_mode, &target.files).map_err(|text| DatabaseError(format!("{kind}: {text}")))?;
        Ok(Some(Database { kind, target, plan }))
    }

    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        let (target, plan) = (self.target.clone(), self.plan.clone());
        match self.kind {
            "mysql" => Arc::new(mysql::Mysql::new(target, plan)),
            _ => Arc::new(postgres::Postgres::new(target, plan)),
        }
    }
}

/// Without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind, self.target.shown())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
