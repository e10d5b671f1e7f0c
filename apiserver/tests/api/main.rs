//! The whole API server, request chain to storage, on the memory backend,
//! driven through its in-process client and its handler.

mod admission;
mod audit;
mod custom_resources;
mod custom_validation;
mod deletion;
mod errors;
mod harness;
mod http_layer;
mod limits;
mod lists;
mod media_types;
mod options;
mod patch_errors;
mod patches;
mod staleness;
mod storage_migration;
mod streams;
mod system_metadata;
mod watches;
mod webhooks;
mod writes;
