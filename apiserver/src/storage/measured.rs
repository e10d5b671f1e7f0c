//! A backend that counts what is asked of it, under upstream's names.

use std::sync::Arc;

use async_trait::async_trait;
use skiff_api::Revision;
use tokio::time::Instant;

use super::{Backend, KeyValue, Listing, Put, Range, StorageError, Swap, WatchStream};
use crate::metrics::metrics;

/// Counts and times the calls of another backend.
pub struct Measured(pub Arc<dyn Backend>);

fn count<T>(operation: &'static str, began: Instant, result: &Result<T, StorageError>) {
    metrics().stored(operation, began.elapsed(), result.is_ok());
}

#[async_trait]
impl Backend for Measured {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        let began = Instant::now();
        let result = self.0.get(key).await;
        count("get", began, &result);
        result
    }

    async fn list(&self, range: Range<'_>) -> Result<Listing, StorageError> {
        let began = Instant::now();
        let result = self.0.list(range).await;
        count("list", began, &result);
        result
    }

    async fn put(&self, put: Put<'_>) -> Result<Swap, StorageError> {
        let began = Instant::now();
        let operation = if put.expected.is_some() { "update" } else { "create" };
        let result = self.0.put(put).await;
        count(operation, began, &result);
        result
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError> {
        let began = Instant::now();
        let result = self.0.delete(key, expected).await;
        count("delete", began, &result);
        result
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError> {
        self.0.watch(prefix, after).await
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.0.current_revision().await
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.0.compact(before).await
    }
}
