//! What a test gets: requests to the cluster, and namespaces of its own that go
//! away with it.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use kube::{Client, Config};
use serde_json::{Value, json};

/// How long most things may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A test's view of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    /// An image with busybox that nodes have.
    pub busybox: String,
    /// An image with the test server, and the same under another name.
    pub agnhost: String,
    pub agnhost_other: String,
    pub kubectl: PathBuf,
    namespaces: Arc<Mutex<Vec<String>>>,
    /// Cluster-scoped objects to delete at the end.
    leftovers: Arc<Mutex<Vec<String>>>,
}

impl Context {
    /// From `KUBECONFIG`.
    pub async fn from_environment() -> Result<Context> {
        let mut config = Config::infer().await.context("read KUBECONFIG")?;
        config.read_timeout = None;
        // Refusals such as 429 are answers that rows look at.
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let of = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Ok(Context {
            client,
            busybox: of("CONFORMANCE_BUSYBOX", skiff_tests::image::BUSYBOX),
            agnhost: of("CONFORMANCE_AGNHOST", skiff_tests::image::AGNHOST),
            agnhost_other: of("CONFORMANCE_AGNHOST_OTHER", skiff_tests::image::AGNHOST_OTHER),
            kubectl: of("CONFORMANCE_KUBECTL", "kubectl").into(),
            namespaces: Arc::default(),
            leftovers: Arc::default(),
        })
    }

    /// The same cluster with a list of namespaces of its own.
    pub fn for_test(&self) -> Context {
        Context { namespaces: Arc::default(), leftovers: Arc::default(), ..self.clone() }
    }

    /// A new namespace with a unique name, once its default service account is there.
    pub async fn namespace(&self) -> Result<String> {
        let body = json!({"metadata": {"generateName": "e2e-", "labels": {"e2e-run": "conformance"}}});
        let created = self.create("/api/v1/namespaces", &body).await?;
        let name = created["metadata"]["name"].as_str().context("the namespace has a name")?.to_owned();
        if let Ok(mut own) = self.namespaces.lock() {
            own.push(name.clone());
        }
        self.get_soon(&format!("/api/v1/namespaces/{name}/serviceaccounts/default")).await?;
        self.get_soon(&format!("/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")).await?;
        Ok(name)
    }

    /// Remembers the path of a cluster-scoped object to delete at the end.
    pub fn leftover(&self, path: &str) {
        if let Ok(mut own) = self.leftovers.lock() {
            own.push(path.to_owned());
        }
    }

    /// The namespaces of this test so far.
    pub fn own_namespaces(&self) -> Vec<String> {
        self.namespaces.lock().map(|own| own.clone()).unwrap_or_default()
    }

    /// Deletes what the test made, without waiting for it to be gone.
    pub async fn clean_up(&self) {
        let leftovers = self.leftovers.lock().map(|own| own.clone()).unwrap_or_default();
        let namespaces = self.own_namespaces().into_iter().map(|name| format!("/api/v1/namespaces/{name}"));
        for path in leftovers.into_iter().chain(namespaces) {
            if let Err(error) = self.call("DELETE", &path, None).await {
                eprintln!("delete {path}: {error}");
            }
        }
    }

    /// Polls an object until it exists.
    pub async fn get_soon(&self, path: &str) -> Result<Value> {
        eventually(&format!("{path} exists"), LIMIT, || self.get(path)).await
    }

    /// Polls an object until it looks as wanted.
    pub async fn until(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until_within(path, what, LIMIT, wanted).await
    }

    /// [`Context::until`] with a limit of its own.
    pub async fn until_within(
        &self,
        path: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let wanted = &wanted;
        eventually(&format!("{path}: {what}"), limit, || async move {
            let object = self.get(path).await?;
            if wanted(&object) { Ok(object) } else { bail!("is {}", brief(&object)) }
        })
        .await
    }

    /// Polls until reading answers 404.
    pub async fn until_gone(&self, path: &str) -> Result<()> {
        eventually(&format!("{path} is gone"), LIMIT + LIMIT, || async {
            let answer = self.call("GET", path, None).await?;
            if answer.code == 404 { Ok(()) } else { bail!("{}: {}", answer.code, brief(&answer.body)) }
        })
        .await
    }
}

/// An object without what only fills lines.
pub fn brief(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let mut text =
        if object["status"].is_object() { format!("status {}", object["status"]) } else { object.to_string() };
    if text.len() > 1500 {
        let mut end = 1500;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

/// Calls `check` until it succeeds or the time is over.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() > deadline => {
                bail!("{what}: not within {} s: {error:#}", limit.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(150)).await,
        }
    }
}

/// Fails when `check` ever fails during the whole time.
pub async fn consistently<F>(what: &str, during: Duration, mut check: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let end = tokio::time::Instant::now() + during;
    while tokio::time::Instant::now() < end {
        check().await.with_context(|| what.to_owned())?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
