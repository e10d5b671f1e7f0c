//! An APIService as forwarding needs it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use skiff_api::{Object, Revision};
use tokio_rustls::TlsConnector;

use super::{availability, trust};
use crate::registry::value::{field, int, text};

/// A parsed APIService.
pub(crate) struct Remote {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub revision: Revision,
    pub available: bool,
    /// `None` for a group version that is served here.
    pub service: Option<ServiceReference>,
    /// TLS for users' requests; why not, when its settings are wrong.
    pub tls: Result<TlsConnector, String>,
}

/// The Service in front of a remote API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReference {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl ServiceReference {
    /// The name its certificate must be for.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

impl Remote {
    pub fn parse(object: &Object, identity: Option<&Arc<CertifiedKey>>) -> Result<Remote, skiff_api::DecodeError> {
        let value = object.value()?;
        let spec = &value["spec"];
        let service = field(spec, "service").map(|service| ServiceReference {
            namespace: text(service, "namespace").to_owned(),
            name: text(service, "name").to_owned(),
            port: int(service, "port").and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
        });
        let tls = if service.is_some() { connector(spec, identity) } else { Err("served here".to_owned()) };
        Ok(Remote {
            name: object.meta.name.to_string(),
            group: text(spec, "group").to_owned(),
            version: text(spec, "version").to_owned(),
            group_priority: int(spec, "groupPriorityMinimum").unwrap_or(0),
            version_priority: int(spec, "versionPriority").unwrap_or(0),
            revision: object.revision,
            available: availability::is_available(&value),
            service,
            tls,
        })
    }

    pub fn is_remote(&self) -> bool {
        self.service.is_some()
    }
}

fn connector(spec: &Value, identity: Option<&Arc<CertifiedKey>>) -> Result<TlsConnector, String> {
    if spec["insecureSkipTLSVerify"] == true {
        return insecure(identity);
    }
    let bundle = BASE64.decode(text(spec, "caBundle")).map_err(|error| format!("caBundle: {error}"))?;
    let config = trust::client_config(Some(&bundle), identity).map_err(|error| error.to_string())?;
    Ok(Arc::new(config).into())
}

/// TLS for checks: who owns the network can at most make a server look unavailable.
pub(super) fn insecure(identity: Option<&Arc<CertifiedKey>>) -> Result<TlsConnector, String> {
    let config = trust::client_config(None, identity).map_err(|error| error.to_string())?;
    Ok(Arc::new(config).into())
}
