//! Fills a store from the API: list, then watch, for ever.
//!
//! Invariants: the list is paged and applied as a whole; the watch continues
//! exactly where the list ended; when the server says the history is gone the
//! reflector lists again; pauses after failures grow and are spread.

use std::sync::Arc;

use futures_util::StreamExt;
use skiff_api::{GroupVersionResource, Object, Revision};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Client, ClientError, ListOptions, Store, StoreWriter, WatchEvent,
    limits::{REFLECTOR_BACKOFF_MAX, REFLECTOR_BACKOFF_MIN, REFLECTOR_PAGE_LEN, REFLECTOR_WATCH_MAX},
    store::{Index, store},
    work_queue::backoff,
};

/// What a reflector follows.
#[derive(Clone, Debug)]
pub struct Reflector {
    pub resource: GroupVersionResource,
    /// One namespace, or all.
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

impl Reflector {
    /// Follows all objects of a resource.
    pub fn new(resource: GroupVersionResource) -> Reflector {
        Reflector { resource, namespace: None, label_selector: None, field_selector: None }
    }

    /// Follows a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> Reflector {
        Reflector::new(GroupVersionResource::of::<K>())
    }

    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Reflector {
        self.namespace = Some(namespace.into());
        self
    }

    pub fn labels(mut self, selector: impl Into<String>) -> Reflector {
        self.label_selector = Some(selector.into());
        self
    }

    pub fn fields(mut self, selector: impl Into<String>) -> Reflector {
        self.field_selector = Some(selector.into());
        self
    }

    /// Makes a store and a task in `tasks` that fills it.
    pub fn spawn(self, client: Client, indexes: &[Index], tasks: &mut JoinSet<()>, token: CancellationToken) -> Store {
        let (writer, reader) = store(indexes);
        tasks.spawn(self.run(client, writer, token));
        reader
    }

    /// Fills `writer` until `token` is cancelled.
    pub async fn run(self, client: Client, writer: StoreWriter, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow(&client, &writer) => {}
        }
    }

    async fn follow(&self, client: &Client, writer: &StoreWriter) {
        let resource = self.resource.group_resource().to_string();
        let mut failures = 0;
        let mut position: Option<Revision> = None;
        loop {
            let ended = self.round(client, writer, &mut position, &mut failures).await;
            if let Err(error) = ended {
                if error.is_expired() {
                    tracing::debug!(component = "reflector", resource, "history is gone, listing again");
                    position = None;
                } else {
                    tracing::warn!(component = "reflector", resource, %error, "watch interrupted, trying again");
                }
                tokio::time::sleep(backoff(REFLECTOR_BACKOFF_MIN, REFLECTOR_BACKOFF_MAX, failures)).await;
                failures = (failures + 1).min(16);
            }
        }
    }

    /// Lists if there is no position yet, then watches until the watch ends.
    async fn round(
        &self,
        client: &Client,
        writer: &StoreWriter,
        position: &mut Option<Revision>,
        failures: &mut u32,
    ) -> Result<(), ClientError> {
        let mut after = match *position {
            Some(revision) => revision,
            None => {
                let (objects, revision) = self.list(client).await?;
                writer.replace(objects, revision);
                *position = Some(revision);
                revision
            }
        };
        let options = ListOptions {
            resource_version: Some(after.to_string()),
            timeout: Some(REFLECTOR_WATCH_MAX.mul_f64(1.0 - rand::random::<f64>() * 0.3)),
            ..self.options()
        };
        let mut events = client.watch(&self.resource, self.namespace.as_deref(), &options).await?;
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    after = object.revision;
                    writer.apply(object);
                }
                WatchEvent::Deleted(object) => {
                    after = object.revision;
                    writer.delete(object);
                }
                WatchEvent::Bookmark(revision) => {
                    after = revision;
                    writer.advance(revision);
                }
                WatchEvent::Error(status) => return Err(ClientError::Api(status)),
            }
            *failures = 0;
            *position = Some(after);
        }
        Ok(())
    }

    async fn list(&self, client: &Client) -> Result<(Vec<Arc<Object>>, Revision), ClientError> {
        let mut objects = Vec::new();
        let mut options = ListOptions { limit: Some(REFLECTOR_PAGE_LEN), ..self.options() };
        loop {
            let page = client.list(&self.resource, self.namespace.as_deref(), &options).await?;
            objects.extend(page.items);
            match page.continue_token {
                Some(token) => options.continue_token = Some(token),
                None => return Ok((objects, page.revision)),
            }
        }
    }

    fn options(&self) -> ListOptions {
        ListOptions {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            ..ListOptions::default()
        }
    }
}

#[cfg(test)]
#[path = "reflector_tests.rs"]
mod tests;
