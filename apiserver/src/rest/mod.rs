//! Requests to resources: one function per verb, for every row of the table.

mod component_status;
pub mod connect;
mod create;
mod delete;
mod delete_collection;
mod get;
mod list;
mod patch;
mod resource_metrics;
mod update;
mod watch;
mod websocket_watch;
mod yaml_duplicates;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use serde_json::Value;
use skiff_api::{GroupVersionKind, Resource, Status, Verb, resource::Subresource, schema::Root};

use crate::{
    authn::UserInfo,
    authz::{self, Authorizer},
    body::{self, Body},
    negotiation::{Negotiated, Offer, View, negotiate},
    options::{Query, WriteOptions},
    registry::{
        View as ObjectView,
        store::{Store, WriteRequest},
    },
    render::{self, Style},
    request_info::{RequestInfo, query_bool},
    table::IncludeObject,
    warnings::Warnings,
    wire::{self, Format},
};

/// One request to a resource, resolved.
pub(crate) struct Call<'a> {
    pub store: &'a Arc<Store>,
    pub info: &'a RequestInfo,
    pub user: &'a UserInfo,
    /// Asked once more when an update or an apply turns out to create.
    pub authorizer: &'a dyn Authorizer,
    pub row: Arc<Resource>,
    pub subresource: Option<Subresource>,
    pub query: Query,
    pub headers: HeaderMap,
    pub warnings: Warnings,
    /// Ends long answers when the server stops.
    pub stop: tokio_util::sync::CancellationToken,
    /// What nodes and containers use.
    pub metrics: &'a crate::resource_metrics::ResourceMetrics,
    /// Owns tasks that outlive the answer: streams over switched connections.
    pub sessions: &'a tokio_util::task::TaskTracker,
}

/// 405 in upstream's words, whatever the path.
pub(crate) fn method_not_allowed() -> Status {
    let text = "the server does not allow this method on the requested resource";
    let details = Some(skiff_api::status::Details::default());
    Status { details, ..Status::failure(skiff_api::Reason::MethodNotAllowed, text) }
}

/// Finds row, subresource and verb of a request; 404 or 405.
pub(crate) fn resolve(store: &Store, info: &RequestInfo) -> Result<(Arc<Resource>, Option<Subresource>), Status> {
    let row = store.resources.lookup(&info.group, &info.version, &info.resource).ok_or_else(Status::no_route)?;
    let scoped_by_name = info.resource == "namespaces" && info.group.is_empty();
    if !row.namespaced && !info.namespace.is_empty() && !scoped_by_name {
        return Err(Status::no_route());
    }
    if info.parts.len() > 3 && info.subresource != "proxy" {
        return Err(Status::no_route());
    }
    let subresource = match info.subresource.as_str() {
        "" => None,
        name => Some(row.subresource(name).cloned().ok_or_else(Status::no_route)?),
    };
    Ok((row, subresource))
}

impl Call<'_> {
    /// The namespace of the object; empty for cluster-scoped rows.
    pub fn namespace(&self) -> &str {
        if self.row.namespaced { &self.info.namespace } else { "" }
    }

    /// The namespace a list is limited to.
    pub fn list_namespace(&self) -> Option<&str> {
        (self.row.namespaced && !self.info.namespace.is_empty()).then_some(self.info.namespace.as_str())
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.row.group, &self.row.plural, &self.info.name)
    }

    /// Whether the user may create the object of an update or apply that found none; 403.
    fn may_create(&self) -> Result<(), Status> {
        let attributes = self.info.attributes(self.user, "create");
        let decision = self.authorizer.authorize(&attributes);
        if decision.is_allowed() { Ok(()) } else { Err(authz::forbidden(&attributes, &decision)) }
    }

    fn verbs(&self) -> skiff_api::resource::Verbs {
        self.subresource.as_ref().map_or(self.row.verbs, |subresource| subresource.verbs)
    }

    fn not_allowed(&self) -> Status {
        method_not_allowed()
    }

    fn user_agent(&self) -> &str {
        self.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn write_options(&self) -> Result<WriteOptions, Status> {
        let kind = match self.info.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            _ => "DeleteOptions",
        };
        WriteOptions::parse(&self.query, self.user_agent(), kind)
    }

    pub fn write_request<'w>(&'w self, options: &'w WriteOptions, name: &'w str) -> WriteRequest<'w> {
        WriteRequest {
            row: &self.row,
            subresource: &self.info.subresource,
            namespace: self.namespace(),
            name,
            user: self.user,
            options,
            warnings: &self.warnings,
        }
    }

    /// The kind of bodies: the subresource's own, or the row's.
    pub fn body_kind(&self) -> (GroupVersionKind, Option<Root>) {
        match &self.subresource {
            Some(subresource) if subresource.gvk() != self.row.gvk() => {
                let gvk = subresource.gvk();
                let root = Root::for_kind(&gvk);
                (gvk, root)
            }
            _ => (self.row.gvk(), self.row.schema.clone()),
        }
    }

    /// Decodes a body of that kind.
    pub fn decode(&self, body: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
        let (gvk, root) = self.body_kind();
        wire::decode(&gvk, root.as_ref(), self.content_type(), body, options.field_validation, &self.warnings)
    }

    /// The view behind a subresource such as `scale`.
    pub fn view(&self) -> Option<Arc<dyn ObjectView>> {
        let storage = self.row.storage.as_ref()?;
        self.subresource.as_ref().and_then(|sub| self.store.registry.view_of(storage, &sub.name))
    }

    /// The form of the answer; 406.
    pub fn style(&self, offer: Offer) -> Result<Style, Status> {
        let negotiated = negotiate(&self.headers, offer)?;
        let include = if negotiated.view == View::Table {
            IncludeObject::parse(self.query.get("includeObject"))?
        } else {
            IncludeObject::None
        };
        let pretty = if self.query.has("pretty") {
            query_bool(self.query.get("pretty"))
        } else {
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|agent| self.user_agent().starts_with(agent))
        };
        Ok(Style { negotiated, include, pretty, gzip: body::accepts_gzip(&self.headers) })
    }

    /// Whether the row's kind is a message of the schema table: those have
    /// protobuf bodies and strategic merge patches.
    pub fn has_message(&self) -> bool {
        self.row.origin == skiff_api::resource::Origin::BuiltIn && self.row.schema.is_some()
    }

    /// What objects of this row can be shown as.
    pub fn offer(&self) -> Offer {
        Offer::objects(self.has_message())
    }
}

/// What is said with every answer of a kind that upstream has deprecated.
fn deprecation(row: &Resource) -> Option<&'static str> {
    match (row.group.as_ref(), row.plural.as_ref()) {
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Serves a request whose row is known; warnings go into the headers.
pub(crate) async fn serve(mut call: Call<'_>, request: Request<Body>) -> Response<Body> {
    call.headers = request.headers().clone();
    if let Some(text) = deprecation(&call.row) {
        call.warnings.add(text);
    }
    let result = dispatch(&call, request).await;
    let mut response = match result {
        Ok(response) => response,
        Err(status) => {
            let style = call.style(Offer::values(true)).ok().filter(|style| style.negotiated.view == View::Full);
            render::failure(style.as_ref(), &status)
        }
    };
    call.warnings.write(response.headers_mut());
    let annotations = call.warnings.take_annotations();
    if !annotations.is_empty() {
        // For the audit log.
        response.extensions_mut().insert(annotations);
    }
    response
}

async fn dispatch(call: &Call<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let named = call.info.has_name_segment();
    let needs_namespace = call.row.namespaced && call.info.namespace.is_empty();
    match call.info.verb.as_str() {
        "get" if named => {
            allow(call, Verb::Get)?;
            if call.query.flag("watch") && call.subresource.is_none() && call.row.verbs.contains(Verb::Watch) {
                return watched(call, request).await;
            }
            get::get(call).await
        }
        "list" => {
            allow(call, Verb::List)?;
            list::list(call).await
        }
        "watch" => {
            allow(call, Verb::Watch)?;
            watched(call, request).await
        }
        "create" => {
            allow(call, Verb::Create)?;
            if needs_namespace {
                return Err(call.not_allowed());
            }
            create::create(call, body::read(request.into_body()).await?).await
        }
        "update" if named => {
            allow(call, Verb::Update)?;
            update::update(call, body::read(request.into_body()).await?).await
        }
        "patch" if named => {
            allow(call, Verb::Patch)?;
            patch::patch(call, body::read(request.into_body()).await?).await
        }
        "delete" if named => {
            allow(call, Verb::Delete)?;
            delete::delete(call, body::read(request.into_body()).await?).await
        }
        "deletecollection" => {
            allow(call, Verb::DeleteCollection)?;
            delete_collection::delete_collection(call, body::read(request.into_body()).await?).await
        }
        _ => Err(call.not_allowed()),
    }
}

/// A watch, over a websocket when the client asks for one.
async fn watched(call: &Call<'_>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let response = watch::watch(call).await?;
    if websocket_watch::is_asked_for(&call.headers) {
        return websocket_watch::switch(call, request, response);
    }
    Ok(response)
}

fn allow(call: &Call<'_>, verb: Verb) -> Result<(), Status> {
    if call.verbs().contains(verb) { Ok(()) } else { Err(call.not_allowed()) }
}

/// Shared by the writing verbs: an object, or its view, with a code.
async fn answer(call: &Call<'_>, object: &Arc<skiff_api::Object>, code: u16) -> Result<Response<Body>, Status> {
    let style = call.style(call.offer())?;
    let object = call.store.present_one(&call.row, object).await?;
    match call.view() {
        Some(view) => render::scale(&style, &view.show(&render::value_in(&call.row, &object)?)?, code),
        None => render::object(&style, &call.row, &object, code),
    }
}

/// A form that only carries JSON values, used for answers of endpoints.
fn plain_style(call: &Call<'_>) -> Result<Style, Status> {
    let style = call.style(Offer::values(true))?;
    debug_assert!(style.negotiated.view == View::Full);
    Ok(Style { negotiated: Negotiated { view: View::Full, ..style.negotiated }, ..style })
}

/// Whether a body can be taken as JSON, YAML or protobuf.
fn format_of(call: &Call<'_>) -> Option<Format> {
    Format::of(call.content_type())
}
