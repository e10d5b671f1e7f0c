//! How every component speaks to the Kubernetes API: a small client, caches fed
//! by watches, and the runner that turns pure reconcilers into controllers.
//!
//! - [`Client`] sends requests through a [`Transport`]: over TLS from a remote
//!   process ([`https`], found through a [`kubeconfig`]), or by a plain function call
//!   inside the server process.
//! - [`Store`] holds the current objects of one resource; [`Snapshot`] is the
//!   set of stores a component reads. In the server process the stores *are*
//!   the API server's watch caches; elsewhere a [`Reflector`](reflector::Reflector) fills them.
//! - [`Controller`] decides in pure code; [`runner`] acts.

pub mod any_certificate;
pub mod client;
pub mod controller;
pub mod error;
pub mod event_correlator;
pub mod events;
pub mod https;
pub mod kubeconfig;
pub mod leader_elector;
pub mod limits;
pub mod metrics;
pub mod node_selector;
mod operation;
pub mod reflector;
pub mod runner;
pub mod snapshot;
pub mod store;
pub mod transport;
pub mod work_queue;

pub use client::{Client, DeleteOptions, ListOptions, ObjectList, Patch, PropagationPolicy, WatchEvent};
pub use controller::{
    Context, Controller, EventRecord, EventType, EveryResource, ObjectRef, Operation, Outcome, Trigger,
};
pub use error::ClientError;
pub use events::{EventRecorder, EventSink};
pub use https::{HttpsTransport, Identity, ServerAddresses, Trust};
pub use kubeconfig::Access;
pub use leader_elector::LeaderElector;
pub use reflector::Reflector;
pub use runner::RunnerDeps;
pub use snapshot::Snapshot;
pub use store::{Store, StoreEvent, StoreWriter, Subscription};
pub use transport::{Body, Transport};
pub use work_queue::WorkQueue;
