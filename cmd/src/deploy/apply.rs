//! Applies one file: server-side apply of every object, then deletion of what
//! the file held before and no longer holds.

use std::sync::Arc;

use skiff_api::{ObjectReference, ResourceRegistry};
use skiff_client::{Client, ClientError, DeleteOptions, Patch, PropagationPolicy};

use super::{
    addon::{self, ADDONS, Applied, NAMESPACE},
    manifest::{self, Document},
    scan::ManifestFile,
};

/// Field manager of everything that comes from files.
const MANAGER: &str = "deploy@skiff";

/// Why a file was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{0}")]
    Syntax(String),
    #[error("no resource of kind {0} is served (yet)")]
    UnknownKind(String),
    #[error("{what}: {source}")]
    Api {
        what: String,
        #[source]
        source: ClientError,
    },
}

impl ApplyError {
    /// Whether trying again may help without a change of the file.
    pub fn is_temporary(&self) -> bool {
        !matches!(self, ApplyError::Syntax(_))
    }
}

/// Applies files through the API.
pub struct Applier {
    pub client: Client,
    pub registry: Arc<ResourceRegistry>,
}

impl Applier {
    /// Applies a file unless its addon shows that this was done already.
    pub async fn apply(&self, file: &ManifestFile) -> Result<Option<ObjectReference>, ApplyError> {
        let api = |what: &str| {
            let what = what.to_owned();
            move |source| ApplyError::Api { what, source }
        };
        let before = match self.client.get(&ADDONS, Some(NAMESPACE), &file.name).await {
            Ok(addon) => addon::read(&addon.value().map_err(|error| api("read addon")(error.into()))?),
            Err(error) if error.is_not_found() => Default::default(),
            Err(error) => return Err(api("read addon")(error)),
        };
        if before.0 == file.checksum {
            return Ok(None);
        }
        let documents = manifest::parse(&file.text).map_err(ApplyError::Syntax)?;
        let mut applied = Vec::with_capacity(documents.len());
        for document in &documents {
            applied.push(self.apply_document(document).await?);
        }
        for gone in before.1.iter().filter(|old| !applied.contains(old)) {
            self.delete(gone).await?;
        }
        let source = file.path.display().to_string();
        let body = addon::object(&file.name, &source, &file.checksum, &applied);
        let patch = Patch::Apply { manager: MANAGER.to_owned(), force: true, body };
        let addon = self.client.patch(&ADDONS, Some(NAMESPACE), &file.name, None, &patch).await;
        Ok(Some(addon.map_err(api("record addon"))?.reference()))
    }

    async fn apply_document(&self, document: &Document) -> Result<Applied, ApplyError> {
        let kind = format!("{} {}", document.gvk.api_version(), document.gvk.kind);
        let row = self.registry.by_kind(&document.gvk).ok_or_else(|| ApplyError::UnknownKind(kind.clone()))?;
        let namespace = row
            .namespaced
            .then(|| if document.namespace.is_empty() { "default".to_owned() } else { document.namespace.clone() });
        let mut body = document.object.clone();
        if let Some(namespace) = &namespace {
            body["metadata"]["namespace"] = namespace.as_str().into();
        }
        let patch = Patch::Apply { manager: MANAGER.to_owned(), force: true, body };
        let gvr = row.gvr();
        self.client
            .patch(&gvr, namespace.as_deref(), &document.name, None, &patch)
            .await
            .map_err(|source| ApplyError::Api { what: format!("apply {kind} {}", document.name), source })?;
        Ok(Applied { gvr, namespace, name: document.name.clone() })
    }

    async fn delete(&self, gone: &Applied) -> Result<(), ApplyError> {
        let options =
            DeleteOptions { propagation_policy: Some(PropagationPolicy::Background), ..DeleteOptions::default() };
        match self.client.delete(&gone.gvr, gone.namespace.as_deref(), &gone.name, &options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(source) => Err(ApplyError::Api { what: format!("delete {} {}", gone.gvr.resource, gone.name), source }),
        }
    }
}
