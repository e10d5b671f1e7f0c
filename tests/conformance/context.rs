//! What a test gets: clients of the cluster, and namespaces of its own that go
//! away with it.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

/// A test's view of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    /// Connection settings, for requests with unusual headers.
    pub config: Config,
    /// An image with busybox that nodes have.
    pub image: String,
    namespaces: Arc<Mutex<Vec<String>>>,
}

impl Context {
    /// From `KUBECONFIG`; `None` when it is not set.
    pub async fn from_environment() -> Result<Option<Context>> {
        if std::env::var_os("KUBECONFIG").is_none() {
            return Ok(None);
        }
        let config = Config::infer().await.context("read KUBECONFIG")?;
        let client = Client::try_from(config.clone())?;
        let image = std::env::var("CONFORMANCE_IMAGE").unwrap_or_else(|_| skiff_tests::image::BUSYBOX.to_owned());
        Ok(Some(Context { client, config, image, namespaces: Arc::default() }))
    }

    /// The same cluster with a list of namespaces of its own.
    pub fn for_test(&self) -> Context {
        Context { namespaces: Arc::default(), ..self.clone() }
    }

    /// A new namespace with a unique name, once its default service account is there.
    pub async fn namespace(&self, base: &str) -> Result<String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let body = serde_json::from_value(json!({"metadata": {
            "generateName": format!("{base}-"), "labels": {"e2e-framework": base}}}))?;
        let created = namespaces.create(&PostParams::default(), &body).await?;
        let name = created.metadata.name.context("the namespace has a name")?;
        if let Ok(mut own) = self.namespaces.lock() {
            own.push(name.clone());
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &name);
        eventually("the default service account exists", Duration::from_secs(30), || async {
            accounts.get("default").await.map(drop).map_err(Into::into)
        })
        .await?;
        Ok(name)
    }

    /// Deletes the namespaces of the test, without waiting for them to be gone.
    pub async fn clean_up(&self) {
        let own = self.namespaces.lock().map(|own| own.clone()).unwrap_or_default();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in own {
            if let Err(error) = namespaces.delete(&name, &DeleteParams::default()).await {
                eprintln!("delete namespace {name}: {error}");
            }
        }
    }
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
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
