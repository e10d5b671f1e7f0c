//! What the API server knows about kinds: the table of strategies, endpoints
//! and views, and the generic store every write ends in.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod builtin;
pub mod certificates;
pub mod cluster_trust_bundle;
pub mod coordination;
pub mod core;
mod device_selectors;
pub mod discovery;
pub mod endpoint;
mod fingerprint;
pub mod flowcontrol;
pub mod meta;
pub mod names;
pub mod networking;
pub mod node_and_aggregation;
mod own;
pub mod pod_certificate_request;
pub mod policy;
pub mod rbac;
mod remove;
pub mod resource;
pub mod scheduling;
pub mod storage;
pub mod store;
pub mod strategy;
#[cfg(test)]
pub(crate) mod testing;
pub mod validation;
pub mod value;
pub mod write;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use skiff_api::GroupResource;
use skiff_client::Snapshot;

pub use endpoint::{Endpoint, EndpointRequest, EndpointResponse, View};
pub(crate) use own::own_user;
pub use strategy::{Allocation, DefaultStrategy, Operation, RequestContext, Strategy};

use crate::{
    authn::{TokenAuthenticator, service_account::TokenIssuer},
    authz::Authorizer,
    webhook::Webhooks,
};

/// What strategies, endpoints and admission plugins are built from.
#[derive(Clone)]
pub struct Dependencies {
    /// The watch caches; complete once the server is ready.
    pub snapshot: Snapshot,
    /// Primary first; one per address family.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Inclusive range of node ports.
    pub node_ports: std::ops::RangeInclusive<u16>,
    pub authorizer: Arc<dyn Authorizer>,
    /// For TokenReview.
    pub authenticator: Arc<dyn TokenAuthenticator>,
    /// For `serviceaccounts/token`.
    pub token_issuer: Arc<TokenIssuer>,
    pub webhooks: Webhooks,
    /// All kinds, for references by kind.
    pub resources: Arc<skiff_api::ResourceRegistry>,
}

/// Per-kind behaviour by resource (and subresource).
#[derive(Default)]
pub struct Registry {
    strategies: HashMap<GroupResource, Arc<dyn Strategy>>,
    endpoints: HashMap<(GroupResource, String), Arc<dyn Endpoint>>,
    views: HashMap<(GroupResource, String), Arc<dyn View>>,
    /// Custom resources, which come and go.
    custom: RwLock<HashMap<GroupResource, Custom>>,
}

/// The behaviour of one custom resource.
pub(crate) struct Custom {
    pub kind: Arc<crate::crd::CustomKind>,
    pub strategy: Arc<dyn Strategy>,
    pub scale: Option<Arc<dyn View>>,
}

impl Registry {
    /// Registers the strategy of a kind; kinds without one use [`DefaultStrategy`].
    pub fn strategy(&mut self, group: &'static str, resource: &'static str, strategy: impl Strategy) {
        self.strategies.insert(GroupResource::new(group, resource), Arc::new(strategy));
    }

    /// Registers a create-only resource (`subresource` empty) or subresource.
    pub fn endpoint(
        &mut self,
        group: &'static str,
        resource: &'static str,
        subresource: &str,
        endpoint: impl Endpoint,
    ) {
        self.endpoints.insert((GroupResource::new(group, resource), subresource.to_owned()), Arc::new(endpoint));
    }

    /// Registers a subresource that is a view of the object.
    pub fn view(&mut self, group: &'static str, resource: &'static str, subresource: &str, view: impl View) {
        self.views.insert((GroupResource::new(group, resource), subresource.to_owned()), Arc::new(view));
    }

    /// Registers (or replaces) the behaviour of a custom resource.
    pub(crate) fn serve_custom(&self, resource: &GroupResource, custom: Custom) {
        self.custom.write().insert(resource.clone(), custom);
    }

    /// The versions of a custom resource.
    pub(crate) fn custom_of(&self, resource: &GroupResource) -> Option<Arc<crate::crd::CustomKind>> {
        self.custom.read().get(resource).map(|custom| Arc::clone(&custom.kind))
    }

    /// Forgets a custom resource.
    pub fn forget_custom(&self, resource: &GroupResource) {
        self.custom.write().remove(resource);
    }

    /// Whether a built-in resource differs from the generic behaviour.
    pub fn has_strategy(&self, resource: &GroupResource) -> bool {
        self.strategies.contains_key(resource)
    }

    pub fn strategy_of(&self, resource: &GroupResource) -> Arc<dyn Strategy> {
        if let Some(strategy) = self.strategies.get(resource) {
            return Arc::clone(strategy);
        }
        let custom = self.custom.read().get(resource).map(|custom| Arc::clone(&custom.strategy));
        custom.unwrap_or_else(|| Arc::new(DefaultStrategy))
    }

    pub fn endpoint_of(&self, resource: &GroupResource, subresource: &str) -> Option<Arc<dyn Endpoint>> {
        self.endpoints.get(&(resource.clone(), subresource.to_owned())).cloned()
    }

    pub fn view_of(&self, resource: &GroupResource, subresource: &str) -> Option<Arc<dyn View>> {
        if let Some(view) = self.views.get(&(resource.clone(), subresource.to_owned())) {
            return Some(Arc::clone(view));
        }
        let custom = self.custom.read();
        custom.get(resource).filter(|_| subresource == "scale").and_then(|custom| custom.scale.clone())
    }
}
