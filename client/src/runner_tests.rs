//! Runs a small controller against a fake API: what the runner promises about
//! order, retries and the visibility of its own writes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Object, Reason};

use super::*;
use crate::{Body, ClientError, Outcome, StoreWriter, Transport, Trigger, events, store::store};

/// Answers creates of config maps; everything else is not found.
struct Api {
    log: Mutex<Vec<String>>,
    /// Failures still to be given before creates succeed.
    refusals: Mutex<u32>,
    writer: Arc<StoreWriter>,
    /// How long the watch lags behind writes.
    lag: Duration,
    revision: Mutex<u64>,
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

#[async_trait]
impl Transport for Api {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        if request.method() != Method::POST || !request.uri().path().ends_with("/configmaps") {
            return Ok(answer(404, &json!(Status::not_found("", "things", "x"))));
        }
        let mut body: Value = serde_json::from_slice(request.body()).unwrap();
        self.log.lock().push(format!("create {}", body["metadata"]["name"].as_str().unwrap()));
        {
            let mut refusals = self.refusals.lock();
            if *refusals > 0 {
                *refusals -= 1;
                return Ok(answer(403, &json!(Status::forbidden("", "configmaps", "x", "exceeded quota"))));
            }
        }
        let revision = {
            let mut revision = self.revision.lock();
            *revision += 1;
            *revision
        };
        body["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = Arc::new(Object::from_value(&body).unwrap());
        let (writer, lag) = (Arc::clone(&self.writer), self.lag);
        tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            writer.apply(object);
        });
        Ok(answer(201, &body))
    }
}

/// Wants the config maps `a-0` and `a-1` beside `a`.
struct Pairs {
    seen_failures: Mutex<Vec<Option<Reason>>>,
}

impl Controller for Pairs {
    fn name(&self) -> &'static str {
        "pairs"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::new::<ConfigMap>(|_, _, _| vec![ObjectRef::new("n", "a")])]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        self.seen_failures.lock().push(context.last_failure.as_ref().map(|status| status.reason));
        let have = world.list::<ConfigMap>(Some("n")).len();
        let mut outcome = Outcome::done();
        for index in have..3 {
            // A fresh name each time, so that acting on an old world would show.
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("{}-{index}", key.name), "namespace": "n"}});
            let resource = GroupVersionResource::of::<ConfigMap>();
            outcome.push(Operation::Create { resource, namespace: Some("n".into()), body });
        }
        outcome
    }
}

async fn run_pairs(refusals: u32, lag: Duration) -> (Vec<String>, Vec<Option<Reason>>) {
    let (writer, reader) = store(&[]);
    let writer = Arc::new(writer);
    let first = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"}});
    writer.replace(vec![Arc::new(Object::from_value(&first).unwrap())], skiff_api::Revision(1));
    let api = Arc::new(Api {
        log: Mutex::default(),
        refusals: Mutex::new(refusals),
        writer: Arc::clone(&writer),
        lag,
        revision: Mutex::new(1),
    });
    let client = Client::new(api.clone(), "test");
    let snapshot = Snapshot::new();
    snapshot.insert(GroupResource::new("", "configmaps"), reader);
    let (recorder, _sink) = events::recorder(client.clone(), "test", "");
    let controller = Arc::new(Pairs { seen_failures: Mutex::default() });
    let token = CancellationToken::new();
    let running = run(vec![controller.clone()], RunnerDeps { client, snapshot, recorder }, token.clone());
    let stop = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        token.cancel();
    };
    tokio::join!(running, stop);
    let log = api.log.lock().clone();
    let failures = controller.seen_failures.lock().clone();
    (log, failures)
}

#[tokio::test(start_paused = true)]
async fn a_lagging_snapshot_does_not_cause_double_creates() {
    let (mut log, _) = run_pairs(0, Duration::from_secs(3)).await;
    log.sort();
    assert_eq!(log, ["create a-1", "create a-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_retried_and_its_reason_handed_to_the_next_reconcile() {
    let (log, failures) = run_pairs(2, Duration::ZERO).await;
    assert_eq!(log.len(), 4, "{log:?}");
    assert!(failures.contains(&Some(Reason::Forbidden)));
    assert_eq!(failures.last(), Some(&None), "the failure is over: {failures:?}");
}

/// Another server's flunders: one that goes at once, and one that a finalizer holds.
struct Flunders {
    log: Mutex<Vec<String>>,
    left: Mutex<Vec<&'static str>>,
}

#[async_trait]
impl Transport for Flunders {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let path = request.uri().path().to_owned();
        self.log.lock().push(format!("{} {path}", request.method()));
        let names = |verbs: &[&str]| json!({"name": "flunders", "namespaced": true, "kind": "Flunder", "verbs": verbs});
        if path == "/apis/wardle.example.com/v1" {
            let other = json!({"name": "fischers", "namespaced": false, "verbs": ["list", "delete"]});
            let readings = json!({"name": "readings", "namespaced": true, "verbs": ["get", "list"]});
            let all =
                json!([names(&["list", "delete"]), {"name": "flunders/status", "namespaced": true}, other, readings]);
            return Ok(answer(200, &json!({"resources": all})));
        }
        let mut left = self.left.lock();
        if request.method() == Method::DELETE {
            left.retain(|name| !path.ends_with(name) || *name == "held");
            return Ok(answer(200, &json!({"kind": "Status", "status": "Success"})));
        }
        let items: Vec<Value> = left
            .iter()
            .map(|name| json!({"metadata": {"name": name, "namespace": "d", "resourceVersion": "1"}}))
            .collect();
        Ok(answer(
            200,
            &json!({"apiVersion": "wardle.example.com/v1", "kind": "FlunderList",
            "metadata": {"resourceVersion": "2"}, "items": items}),
        ))
    }
}

#[tokio::test]
async fn what_another_server_holds_is_deleted_until_nothing_is_left() {
    let api = Arc::new(Flunders { log: Mutex::default(), left: Mutex::new(vec!["free", "held"]) });
    let client = Client::new(Arc::clone(&api) as _, "test");
    let empty = || Operation::EmptyServed {
        group: "wardle.example.com".to_owned(),
        version: "v1".to_owned(),
        namespace: "d".to_owned(),
    };
    let error = crate::operation::execute(&client, empty()).await.unwrap_err();
    let text = "unexpected items still remain in namespace: d for gvr: wardle.example.com/v1, Resource=flunders";
    assert_eq!(error.to_string(), text);
    api.left.lock().clear();
    assert!(crate::operation::execute(&client, empty()).await.is_ok());
    let log = api.log.lock();
    let all = "/apis/wardle.example.com/v1/namespaces/d/flunders";
    let wanted = [
        "GET /apis/wardle.example.com/v1".to_owned(),
        format!("GET {all}"),
        format!("DELETE {all}/free"),
        format!("DELETE {all}/held"),
        format!("GET {all}"),
    ];
    assert_eq!(log[..5], wanted);
}
