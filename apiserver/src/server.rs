//! The API server: its parts put together, and the way of a request through them.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, header};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use skiff_api::{ResourceRegistry, Status};
use skiff_client::Snapshot;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission,
    admission::dynamic::type_check,
    aggregation::Aggregator,
    audit::AuditLog,
    authn::{
        Authentication, TokenAuthenticator, TokenIssuer, TokenUnion, UserInfo, bootstrap_token::BootstrapTokens,
        impersonation, request_header, service_account::ServiceAccountAuthenticator, token, user, x509::CaSet,
    },
    authz::{self, Authorizer, Decision, Masters, node::NodeAuthorizer, rbac::Rbac},
    body::{self, Body},
    caches::Caches,
    crd::CustomResources,
    discovery::Discovery,
    flow::{self, Flow},
    health::{self, CachesLoaded, GoesOn, HealthCheck, Hook, Ping, StoreAnswers},
    limits,
    metrics::{self, metrics},
    openapi::OpenApi,
    options::Query,
    patience::Patience,
    process_metrics,
    proxy::{self, NodeDialer, Proxy, ProxyConfig},
    registry::{self, Dependencies, store::Store},
    render,
    request_info::RequestInfo,
    resource_metrics::{self, ResourceMetrics},
    rest,
    serve::{ConnectionInfo, Handler},
    statusz::Statusz,
    storage::{Backend, measured::Measured},
    storage_migration,
    version::VersionInfo,
    warnings::{Annotations, Warnings},
    webhook::Webhooks,
};

/// The way to kubelets and pods.
pub struct ProxySettings {
    pub dialer: Arc<dyn NodeDialer>,
    /// TLS towards kubelets, with the API server's client certificate.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// How the server shows itself to aggregated API servers: the front-proxy client certificate.
    pub aggregator_identity: Option<Arc<rustls::sign::CertifiedKey>>,
}

/// What an API server is made of.
pub struct Config {
    pub backend: Arc<dyn Backend>,
    /// CAs whose certificates name users.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// CAs whose certificates are front proxies'; may be empty.
    pub request_header_ca: Vec<CertificateDer<'static>>,
    /// Names a front proxy may have; empty allows any.
    pub request_header_names: Vec<String>,
    /// Requests without credentials go on as `system:anonymous`.
    pub anonymous: bool,
    /// Tokens beside service accounts' (bootstrap, static).
    pub tokens: Vec<Arc<dyn TokenAuthenticator>>,
    pub token_issuer: Arc<TokenIssuer>,
    /// Primary first.
    pub service_cidrs: Vec<ipnet::IpNet>,
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// `host:port` at which clients reach the server.
    pub server_address: String,
    pub version: VersionInfo,
    /// `None`: nothing behind nodes can be reached (tests).
    pub proxy: Option<ProxySettings>,
    /// Checks of `/readyz` beside the server's own.
    pub health_checks: Vec<Arc<dyn HealthCheck>>,
}

/// Why a server cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read certificate authority: {0}")]
    CertificateAuthority(#[source] rustls::Error),
    #[error("prepare TLS towards kubelets: {0}")]
    KubeletTls(#[source] rustls::Error),
}

/// Under which name the aggregator writes APIServices.
const AGGREGATOR: &str = "system:kube-aggregator";

struct Inner {
    store: Arc<Store>,
    caches: Arc<Caches>,
    custom: CustomResources,
    resources: Arc<ResourceRegistry>,
    authentication: Authentication,
    authorizer: Arc<dyn Authorizer>,
    token_issuer: Arc<TokenIssuer>,
    flow: Flow,
    /// Set once, before anything is served.
    audit: OnceLock<AuditLog>,
    discovery: Discovery,
    openapi: OpenApi,
    aggregator: Arc<Aggregator>,
    proxy: Option<Arc<Proxy>>,
    resource_metrics: Arc<ResourceMetrics>,
    health_checks: Vec<Arc<dyn HealthCheck>>,
    version: VersionInfo,
    started: jiff::Timestamp,
    server_address: String,
    /// Cancelled when the server stops; ends watches and proxied streams.
    stop: CancellationToken,
    /// Writes, and watches over websockets.
    sessions: TaskTracker,
}

/// The server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

impl ApiServer {
    /// Builds the server. Nothing runs yet; long answers end with `stop`.
    pub fn new(mut config: Config, stop: CancellationToken) -> Result<ApiServer, ConfigError> {
        config.backend = Arc::new(Measured(config.backend));
        let resources = Arc::new(ResourceRegistry::builtin());
        let stored = resources.table().stored().into_iter().filter_map(|row| row.storage.clone()).collect::<Vec<_>>();
        let caches = Caches::new(Arc::clone(&config.backend), stored);
        let snapshot = caches.snapshot().clone();
        let authorizer: Arc<dyn Authorizer> = Arc::new(authz::Union(vec![
            Arc::new(Masters),
            Arc::new(NodeAuthorizer::new(snapshot.clone())),
            Arc::new(Rbac::new(snapshot.clone())),
        ]));
        let accounts =
            ServiceAccountAuthenticator { issuer: Arc::clone(&config.token_issuer), snapshot: snapshot.clone() };
        let bootstrap = BootstrapTokens { snapshot: snapshot.clone() };
        let mut kinds: Vec<Arc<dyn TokenAuthenticator>> = vec![Arc::new(accounts), Arc::new(bootstrap)];
        kinds.extend(config.tokens);
        let tokens: Arc<dyn TokenAuthenticator> = Arc::new(TokenUnion(kinds));
        let (dialer, identity) = match &config.proxy {
            Some(settings) => (Some(Arc::clone(&settings.dialer)), settings.aggregator_identity.clone()),
            None => (None, None),
        };
        let aggregator = Arc::new(Aggregator::new(snapshot.clone(), dialer, identity, stop.clone()));
        let webhooks = Webhooks::new(Arc::clone(&aggregator));
        let dependencies = Dependencies {
            snapshot: snapshot.clone(),
            service_cidrs: config.service_cidrs,
            node_ports: config.node_ports,
            authorizer: Arc::clone(&authorizer),
            authenticator: Arc::clone(&tokens),
            token_issuer: Arc::clone(&config.token_issuer),
            webhooks: webhooks.clone(),
            resources: Arc::clone(&resources),
        };
        let store = Arc::new(Store::new(
            Arc::clone(&config.backend),
            Arc::clone(&caches),
            Arc::clone(&resources),
            registry::builtin::registry(&dependencies),
            admission::plugins::plugins(&dependencies),
        ));
        let authentication = Authentication {
            client_ca: CaSet::new(&config.client_ca).map_err(ConfigError::CertificateAuthority)?,
            request_header_ca: CaSet::new(&config.request_header_ca).map_err(ConfigError::CertificateAuthority)?,
            request_header_names: config.request_header_names,
            tokens,
            anonymous: config.anonymous,
        };
        let proxy = match config.proxy {
            Some(ProxySettings { dialer, kubelet_tls, .. }) => {
                let settings = ProxyConfig { dialer, kubelet_tls, snapshot: snapshot.clone() };
                Some(Arc::new(Proxy::new(settings, stop.clone()).map_err(ConfigError::KubeletTls)?))
            }
            None => None,
        };
        if proxy.is_some() {
            resources.add(resource_metrics::objects::rows(&resources));
        }
        let resource_metrics = Arc::new(ResourceMetrics::new(proxy.clone(), snapshot));
        let custom = CustomResources::new(Arc::clone(&store), webhooks);
        let store_answers = |name| StoreAnswers { name, backend: Arc::clone(&config.backend) };
        let mut health_checks: Vec<Arc<dyn HealthCheck>> = vec![
            Arc::new(Ping),
            Arc::new(store_answers("etcd")),
            Arc::new(store_answers("etcd-readiness")),
            Arc::new(CachesLoaded(Arc::clone(&caches))),
            Arc::new(Hook::new("poststarthook/crd-informer-synced", custom.is_ready())),
            Arc::new(GoesOn(stop.clone())),
        ];
        health_checks.extend(config.health_checks);
        Ok(ApiServer(Arc::new(Inner {
            discovery: Discovery::new(Arc::clone(&resources), config.server_address.clone())
                .with_aggregator(Arc::clone(&aggregator)),
            openapi: OpenApi::new(Arc::clone(&resources), &config.version.git_version)
                .with_aggregator(Arc::clone(&aggregator)),
            custom,
            aggregator,
            resource_metrics,
            store,
            caches,
            resources,
            authentication,
            authorizer,
            token_issuer: config.token_issuer,
            flow: Flow::default(),
            audit: OnceLock::new(),
            proxy,
            health_checks,
            version: config.version,
            started: jiff::Timestamp::now(),
            server_address: config.server_address,
            stop,
            sessions: TaskTracker::new(),
        })))
    }

    /// Feeds the watch caches, compacts the store and follows custom resource
    /// definitions until the server's token is cancelled, then waits for proxied
    /// streams to end.
    pub async fn run(&self) {
        let stop = self.0.stop.clone();
        let caches = &self.0.caches;
        let flow_control = self
            .client(UserInfo::new(user::API_SERVER, &[user::MASTERS]), "api-priority-and-fairness-config-producer-v1");
        let flow_stop = stop.clone();
        let migrator = self.client(UserInfo::new(user::API_SERVER, &[user::MASTERS]), storage_migration::MANAGER);
        let aggregator = self.client(UserInfo::new(AGGREGATOR, &[user::MASTERS]), "kube-aggregator");
        tokio::join!(
            Arc::clone(caches).run(stop.clone()),
            caches.compact(stop.clone()),
            self.0.custom.run(stop.clone()),
            type_check::run(&self.0.store, stop.clone()),
            storage_migration::run(&self.0.store, migrator, stop.clone()),
            self.0.aggregator.run(aggregator),
            self.0.resource_metrics.run(stop.clone()),
            flow::run(&self.0.flow, flow_control, caches.snapshot().clone(), flow_stop),
        );
        self.0.sessions.close();
        let _ = timeout(limits::DRAIN_TIMEOUT, self.0.sessions.wait()).await;
        if let Some(proxy) = &self.0.proxy {
            proxy.stopped().await;
        }
    }

    /// Waits until the watch caches are loaded and custom resources are served.
    pub async fn ready(&self) {
        self.0.caches.ready().await;
        self.0.custom.ready().await;
    }

    /// The stores of all resources, shared with every component of this process.
    pub fn snapshot(&self) -> Snapshot {
        self.0.caches.snapshot().clone()
    }

    /// The resource table; custom resources are added here.
    pub fn resources(&self) -> Arc<ResourceRegistry> {
        Arc::clone(&self.0.resources)
    }

    /// Serves one more resource: its row, its watch cache, its paths.
    pub async fn add_resource(&self, row: Arc<skiff_api::Resource>) -> Result<(), Status> {
        if let Some(stored) = row.storage.clone() {
            self.0.caches.add(stored).await?;
        }
        self.0.aggregator.add_local(&row.group, &row.version);
        self.0.resources.add([row]);
        Ok(())
    }

    /// Signs the tokens of service accounts.
    pub fn token_issuer(&self) -> Arc<TokenIssuer> {
        Arc::clone(&self.0.token_issuer)
    }

    /// What containers use, for the autoscaler of this process.
    pub fn resource_metrics(&self) -> Arc<ResourceMetrics> {
        Arc::clone(&self.0.resource_metrics)
    }

    /// Records requests from now on. Only the first log counts.
    pub fn set_audit_log(&self, log: AuditLog) {
        if self.0.audit.set(log).is_err() {
            tracing::error!(component = "audit", "there is an audit log already");
        }
    }

    /// What differs between kinds.
    pub fn registry(&self) -> &registry::Registry {
        &self.0.store.registry
    }

    /// Who may do what.
    pub fn authorizer(&self) -> Arc<dyn Authorizer> {
        Arc::clone(&self.0.authorizer)
    }

    /// Who a request is from, for handlers in front of this one.
    pub async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        connection: &ConnectionInfo,
    ) -> Result<UserInfo, Status> {
        self.0.authentication.authenticate(headers, connection).await
    }

    /// The handler of a listener.
    pub fn handler(&self) -> Handler {
        let server = self.clone();
        Arc::new(move |request, connection| {
            let server = server.clone();
            Box::pin(async move { server.handle(request, &connection).await })
        })
    }

    /// Answers a request from the network.
    pub async fn handle(&self, request: Request<Body>, connection: &ConnectionInfo) -> Response<Body> {
        self.contained(request, Some(connection), None).await
    }

    /// Answers a request of this process under a fixed identity.
    pub async fn handle_as(&self, request: Request<Body>, user: UserInfo) -> Response<Body> {
        self.contained(request, None, Some(user)).await
    }

    /// Contains panics, counts, and adds the headers of every answer.
    async fn contained(
        &self,
        request: Request<Body>,
        connection: Option<&ConnectionInfo>,
        user: Option<UserInfo>,
    ) -> Response<Body> {
        let began = Instant::now();
        let info =
            RequestInfo::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let audit_id = audit_id(&request);
        let answered =
            AssertUnwindSafe(self.chain(&info, request, connection, user, &audit_id).boxed()).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| {
            tracing::error!(component = "apiserver", path = info.path, verb = info.verb, "request panicked");
            body::failure(&Status::internal("this request caused apiserver to panic. Look in the logs for details"))
        });
        let headers = response.headers_mut();
        headers.insert("audit-id", audit_id);
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        let labels = metrics::Labels {
            verb: &info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            scope: if info.has_name_segment() {
                "resource"
            } else if info.namespace.is_empty() {
                "cluster"
            } else {
                "namespace"
            },
        };
        let known = !info.is_resource || self.0.resources.lookup(&info.group, &info.version, &info.resource).is_some();
        if known {
            metrics().finished(&labels, response.status().as_u16(), began.elapsed(), info.is_long_running());
        }
        response
    }

    /// Authentication, impersonation, in-flight limit, authorization, routing.
    async fn chain(
        &self,
        info: &RequestInfo,
        mut request: Request<Body>,
        connection: Option<&ConnectionInfo>,
        user: Option<UserInfo>,
        audit_id: &HeaderValue,
    ) -> Response<Body> {
        let authenticated = match (user, connection) {
            (Some(user), _) => Ok(user),
            (None, Some(connection)) => self.0.authentication.authenticate(request.headers(), connection).await,
            (None, None) => Ok(UserInfo::anonymous()),
        };
        let id = audit_id.to_str().unwrap_or_default();
        let log = self.0.audit.get();
        let authenticated = match authenticated {
            Ok(user) => user,
            Err(status) => {
                let event = log.and_then(|log| log.unauthenticated(info, connection, &request, id));
                if let (Some(log), Some(event)) = (log, event) {
                    log.write(event).await;
                }
                return body::failure(&status);
            }
        };
        let streams = info.is_long_running() || is_watch(&request);
        let (mut audited, mut real) = (None, None);
        if let Some(log) = log {
            let started = log.begin(info, &authenticated, connection, &mut request, id).await;
            audited = started.map(|started| (log, started));
            real = Some(authenticated.clone());
        }
        let user = match self.impersonated(authenticated, request.headers()) {
            Ok(user) => user,
            Err(status) => {
                let response = body::failure(&status);
                return match audited {
                    Some((log, started)) => log.finish(started, response, false).await,
                    None => response,
                };
            }
        };
        // Credentials end here: nothing behind may forward them.
        token::strip(request.headers_mut());
        impersonation::strip(request.headers_mut());
        request_header::strip(request.headers_mut());
        let Some((log, mut started)) = audited else { return self.admitted(info, user, request).await };
        if real.as_ref() != Some(&user) {
            started.impersonated(&user);
        }
        match AssertUnwindSafe(self.admitted(info, user, request)).catch_unwind().await {
            Ok(response) => log.finish(started, response, streams).await,
            Err(panic) => {
                let what = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                log.panicked(started, &what).await;
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Waits for a seat, then goes on.
    async fn admitted(&self, info: &RequestInfo, user: UserInfo, request: Request<Body>) -> Response<Body> {
        let place = match self.0.flow.enter(info, &user).await {
            Ok(place) => place,
            Err((status, place)) => {
                let mut response = body::failure(&status);
                place.label(response.headers_mut());
                return response;
            }
        };
        let mut response = self.seated(info, user, request).await;
        place.label(response.headers_mut());
        response
    }

    /// What follows once the request has its seat.
    async fn seated(&self, info: &RequestInfo, user: UserInfo, request: Request<Body>) -> Response<Body> {
        let (decision, refusal) = self.authorize(info, &user, request.headers());
        let mut response = match refusal {
            Some(status) => body::failure(&status),
            None => self.answered(info, user, request).await,
        };
        if self.0.audit.get().is_some() {
            let notes = response.extensions_mut().get_or_insert_default::<Annotations>();
            let (said, reason) = match decision {
                Decision::Allow(reason) => ("allow", reason),
                Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason),
            };
            notes.push(("authorization.k8s.io/decision".to_owned(), said.to_owned()));
            notes.push(("authorization.k8s.io/reason".to_owned(), reason));
        }
        response
    }

    /// What follows once the request is allowed.
    async fn answered(&self, info: &RequestInfo, user: UserInfo, request: Request<Body>) -> Response<Body> {
        let long = info.is_long_running() || is_watch(&request);
        if long {
            return self.route(info, &user, request).await;
        }
        let patience = match Patience::of(info, request.uri().query().unwrap_or_default()) {
            Ok(patience) => patience,
            Err(status) => return body::failure(&status),
        };
        let answer = async {
            if writes(&info.verb) {
                self.to_its_end(info, user, request).await
            } else {
                self.route(info, &user, request).await
            }
        };
        match timeout(patience.duration, answer).await {
            Ok(response) => response,
            Err(_) => body::failure(&Status::timeout(patience.over, 0)),
        }
    }

    /// Answers a write in a task of its own: what has begun is finished, also
    /// when the client goes away, so that storage and what was taken from pools
    /// (addresses, quota) stay in step.
    async fn to_its_end(&self, info: &RequestInfo, user: UserInfo, request: Request<Body>) -> Response<Body> {
        let (server, info) = (self.clone(), info.clone());
        let task = self.0.sessions.spawn(async move { server.route(&info, &user, request).await });
        match task.await {
            Ok(response) => response,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => body::failure(&Status::service_unavailable("the server is stopping")),
            },
        }
    }

    fn impersonated(&self, user: UserInfo, headers: &http::HeaderMap) -> Result<UserInfo, Status> {
        match impersonation::requested(headers)? {
            Some(target) => impersonation::authorize(&*self.0.authorizer, &user, target),
            None => Ok(user),
        }
    }

    /// The decision, and the refusal when it is one.
    fn authorize(&self, info: &RequestInfo, user: &UserInfo, headers: &http::HeaderMap) -> (Decision, Option<Status>) {
        let check = |verb: &str| {
            let attributes = info.attributes(user, verb);
            let decision = self.0.authorizer.authorize(&attributes);
            let refusal = (!decision.is_allowed()).then(|| authz::forbidden(&attributes, &decision));
            (decision, refusal)
        };
        let first = check(&info.verb);
        // A WebSocket is opened with GET but does what POST does.
        let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
        if first.1.is_none() && streams && info.verb == "get" && headers.contains_key(header::UPGRADE) {
            return check("create");
        }
        first
    }

    async fn route(&self, info: &RequestInfo, user: &UserInfo, request: Request<Body>) -> Response<Body> {
        if let Some(remote) = self.0.aggregator.target(info) {
            return self.0.aggregator.serve(&remote, user, request).await;
        }
        if !info.is_resource {
            return self.document(info, request).await;
        }
        let (row, subresource) = match rest::resolve(&self.0.store, info) {
            Ok(found) => found,
            Err(status) => return body::failure(&status),
        };
        let call = rest::Call {
            store: &self.0.store,
            info,
            user,
            authorizer: &*self.0.authorizer,
            row,
            subresource,
            query: Query::parse(request.uri().query().unwrap_or_default()),
            headers: request.headers().clone(),
            warnings: Warnings::default(),
            stop: self.0.stop.clone(),
            metrics: &self.0.resource_metrics,
            sessions: &self.0.sessions,
        };
        if proxy::Call::is_proxied(&info.resource, &info.subresource) && info.group.is_empty() {
            let Some(proxy) = &self.0.proxy else {
                return body::failure(&Status::service_unavailable("this server has no way to nodes"));
            };
            let result = rest::connect::connect(&call, proxy, request).await;
            let mut response = result.unwrap_or_else(|status| render::failure(None, &status));
            call.warnings.write(response.headers_mut());
            return response;
        }
        rest::serve(call, request).boxed().await
    }

    /// Paths that are no resources.
    async fn document(&self, info: &RequestInfo, request: Request<Body>) -> Response<Body> {
        let inner = &self.0;
        // The body may not be shared between threads and is not needed.
        let (request, _) = request.into_parts();
        let (path, query) = (info.path.as_str(), request.uri.query().unwrap_or_default());
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return if path == "/" || path.starts_with("/api") {
                body::failure(&rest::method_not_allowed())
            } else {
                not_found()
            };
        }
        if health::is_health_path(path) {
            return health::serve(&inner.health_checks, path, query).await;
        }
        if let Some(answer) = inner.discovery.serve(path, &request.headers) {
            return answer.unwrap_or_else(|status| body::failure(&status));
        }
        if path.starts_with("/openapi/") {
            return inner.openapi.serve(path, query, &request.headers).unwrap_or_else(not_found);
        }
        match path {
            "/" => json_response(&json!({"paths": self.paths()}), "application/json"),
            "/statusz" => {
                let (started, now) = (inner.started, jiff::Timestamp::now());
                let statusz = Statusz { started, now, version: &inner.version, paths: self.paths() };
                statusz.serve(&request.headers).unwrap_or_else(|status| body::failure(&status))
            }
            "/version" | "/version/" => json_response(&json!(inner.version), "application/json"),
            "/metrics" => {
                let objects: Vec<(String, usize)> =
                    inner.caches.all().iter().map(|cache| (cache.resource.to_string(), cache.store().len())).collect();
                let mut text = metrics().text(&objects);
                text.push_str(&skiff_client::metrics::text());
                text.push_str(&process_metrics::text());
                text.push_str(&inner.aggregator.metrics());
                text.push_str(&inner.version.metrics());
                body::response(200, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/.well-known/openid-configuration" => {
                let uri = format!("https://{}/openid/v1/jwks", inner.server_address);
                cacheable(json_response(&inner.token_issuer.discovery(&uri), "application/json"))
            }
            "/openid/v1/jwks" => cacheable(json_response(&inner.token_issuer.jwks(), "application/jwk-set+json")),
            _ if path == "/api" || path.starts_with("/api/") || path == "/apis" || path.starts_with("/apis/") => {
                body::failure(&Status::no_route())
            }
            _ => not_found(),
        }
    }

    fn paths(&self) -> Vec<String> {
        let table = self.0.resources.table();
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/statusz",
            "/version",
        ]
        .map(str::to_owned)
        .to_vec();
        paths.extend(health::paths(&self.0.health_checks));
        for group in table.groups() {
            for version in table.versions(group) {
                paths.push(if group.is_empty() {
                    format!("/api/{version}")
                } else {
                    format!("/apis/{group}/{version}")
                });
            }
            if !group.is_empty() {
                paths.push(format!("/apis/{group}"));
            }
        }
        paths.sort();
        paths
    }
}

/// Whether a verb changes something.
pub(crate) fn writes(verb: &str) -> bool {
    matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection")
}

/// A watch of one object is a GET by its verb.
fn is_watch(request: &Request<Body>) -> bool {
    Query::parse(request.uri().query().unwrap_or_default()).flag("watch")
}

/// The client's id of the request, or a new one.
fn audit_id(request: &Request<Body>) -> HeaderValue {
    let given = request.headers().get("audit-id").filter(|value| value.len() <= 64).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

fn not_found() -> Response<Body> {
    body::response(404, "text/plain; charset=utf-8", "404 page not found\n")
}

fn json_response(value: &serde_json::Value, content_type: &str) -> Response<Body> {
    let bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    body::response(200, content_type, bytes)
}

fn cacheable(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}
