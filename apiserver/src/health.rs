//! `/healthz`, `/livez` and `/readyz`: `ok`, or the list of checks.

use std::sync::Arc;

use async_trait::async_trait;
use http::Response;
use skiff_api::quote::quote;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    body::{self, Body},
    caches::Caches,
    options::Query,
    storage::Backend,
};

/// One thing that can be wrong.
#[async_trait]
pub trait HealthCheck: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// The reason why not.
    async fn check(&self) -> Result<(), String>;
    /// Counts for `/readyz` only, not for `/livez` and `/healthz`.
    fn readiness_only(&self) -> bool {
        false
    }
}

/// Always well: whoever answers is alive.
pub struct Ping;

#[async_trait]
impl HealthCheck for Ping {
    fn name(&self) -> &'static str {
        "ping"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The store answers: to be alive, and once more under the name that counts for readiness.
pub struct StoreAnswers {
    pub name: &'static str,
    pub backend: Arc<dyn Backend>,
}

#[async_trait]
impl HealthCheck for StoreAnswers {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn check(&self) -> Result<(), String> {
        self.backend.current_revision().await.map(drop).map_err(|error| error.to_string())
    }

    fn readiness_only(&self) -> bool {
        self.name != "etcd"
    }
}

/// Something that happens once after the start has happened.
pub struct Hook {
    name: &'static str,
    done: watch::Receiver<bool>,
}

impl Hook {
    pub fn new(name: &'static str, done: watch::Receiver<bool>) -> Hook {
        Hook { name, done }
    }
}

#[async_trait]
impl HealthCheck for Hook {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn check(&self) -> Result<(), String> {
        if *self.done.borrow() { Ok(()) } else { Err("not finished".to_owned()) }
    }
}

/// The server is not about to stop.
pub struct GoesOn(pub CancellationToken);

#[async_trait]
impl HealthCheck for GoesOn {
    fn name(&self) -> &'static str {
        "shutdown"
    }

    async fn check(&self) -> Result<(), String> {
        if self.0.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) }
    }

    fn readiness_only(&self) -> bool {
        true
    }
}

/// The watch caches are loaded.
pub struct CachesLoaded(pub Arc<Caches>);

#[async_trait]
impl HealthCheck for CachesLoaded {
    fn name(&self) -> &'static str {
        "informer-sync"
    }

    async fn check(&self) -> Result<(), String> {
        if self.0.is_ready() { Ok(()) } else { Err("caches are not loaded".to_owned()) }
    }

    fn readiness_only(&self) -> bool {
        true
    }
}

/// Whether a path belongs to health.
pub fn is_health_path(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path == *root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
}

fn counts(endpoint: &str, check: &dyn HealthCheck) -> bool {
    endpoint == "readyz" || !check.readiness_only()
}

/// The paths of single checks.
pub fn paths(checks: &[Arc<dyn HealthCheck>]) -> impl Iterator<Item = String> {
    let of = |endpoint: &'static str| {
        let relevant = checks.iter().filter(move |check| counts(endpoint, check.as_ref()));
        relevant.map(move |check| format!("/{endpoint}/{}", check.name()))
    };
    ["healthz", "livez", "readyz"].into_iter().flat_map(of)
}

/// Answers such a path.
pub async fn serve(checks: &[Arc<dyn HealthCheck>], path: &str, query: &str) -> Response<Body> {
    let mut segments = path.trim_matches('/').splitn(2, '/');
    let endpoint = segments.next().unwrap_or_default();
    let query = Query::parse(query);
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut unmatched = excluded.clone();
    let mut relevant = checks.iter().filter(|check| counts(endpoint, check.as_ref()));
    if let Some(name) = segments.next() {
        return match relevant.find(|check| check.name() == name) {
            None => body::response(404, "text/plain; charset=utf-8", "404 page not found\n"),
            Some(check) => match check.check().await {
                Ok(()) => body::response(200, "text/plain; charset=utf-8", "ok"),
                Err(why) => body::response(500, "text/plain; charset=utf-8", format!("internal server error: {why}\n")),
            },
        };
    }
    let mut text = String::new();
    let mut failed = false;
    for check in relevant {
        let name = check.name();
        if excluded.contains(&name) {
            unmatched.retain(|other| *other != name);
            text.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check.check().await {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::warn!(component = "health", check = name, %why, "check failed");
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed = true;
            }
        }
    }
    if !unmatched.is_empty() {
        let names: Vec<String> = unmatched.iter().map(|name| quote(name)).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(", ")));
    }
    if failed {
        text.push_str(&format!("{endpoint} check failed\n"));
        return body::response(500, "text/plain; charset=utf-8", text);
    }
    if query.has("verbose") {
        text.push_str(&format!("{endpoint} check passed\n"));
        return body::response(200, "text/plain; charset=utf-8", text);
    }
    body::response(200, "text/plain; charset=utf-8", "ok")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    struct Sick;

    #[async_trait]
    impl HealthCheck for Sick {
        fn name(&self) -> &'static str {
            "sick"
        }

        async fn check(&self) -> Result<(), String> {
            Err("tired".to_owned())
        }

        fn readiness_only(&self) -> bool {
            true
        }
    }

    async fn ask(path: &str, query: &str) -> (u16, String) {
        let checks: Vec<Arc<dyn HealthCheck>> = vec![Arc::new(Ping), Arc::new(Sick)];
        let response = serve(&checks, path, query).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_and_liveness_differ_and_checks_can_be_left_out() {
        assert_eq!(ask("/livez", "").await, (200, "ok".to_owned()));
        assert_eq!(ask("/readyz", "").await.0, 500);
        assert_eq!(ask("/readyz", "exclude=sick").await, (200, "ok".to_owned()));
        assert!(ask("/livez", "verbose").await.1.contains("[+]ping ok\nlivez check passed"));
        let unmatched = "[+]ping excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"odd\"\n";
        assert!(ask("/livez", "verbose&exclude=odd&exclude=ping").await.1.starts_with(unmatched));
        assert_eq!(ask("/healthz", "").await.0, 200, "what is about readiness alone");
        let checks: Vec<Arc<dyn HealthCheck>> = vec![Arc::new(Ping), Arc::new(Sick)];
        let paths: Vec<String> = paths(&checks).collect();
        assert_eq!(paths, ["/healthz/ping", "/livez/ping", "/readyz/ping", "/readyz/sick"]);
        assert_eq!(ask("/readyz/ping", "").await, (200, "ok".to_owned()));
        assert_eq!(ask("/readyz/none", "").await.0, 404);
        assert!(is_health_path("/healthz/ping") && !is_health_path("/healthzz"));
    }
}
