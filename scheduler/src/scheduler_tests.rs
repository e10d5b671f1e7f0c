//! The loop against a fake API that binds, patches and deletes: what is
//! written, and what wakes a pod that found no node.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{Object, Revision, Status};
use skiff_client::{Body, ClientError, Snapshot, StoreWriter, Transport, events, store::store};

use super::*;

struct Api {
    pods: StoreWriter,
    nodes: StoreWriter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    log: Vec<String>,
    /// Bindings still to be refused.
    refusals: u32,
}

impl Api {
    fn put(&self, writer: &StoreWriter, mut value: Value) {
        let revision = {
            let mut state = self.state.lock();
            state.revision += 1;
            state.revision
        };
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        writer.apply(Arc::new(Object::from_value(&value).unwrap()));
    }

    fn pod(&self, name: &str) -> Option<Value> {
        Some(self.pods.reader().get("d", name)?.value().unwrap())
    }

    fn put_pod(&self, name: &str, cpu: &str, priority: i32) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
            "spec": {"priority": priority, "schedulerName": "default-scheduler",
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        self.put(&self.pods, pod);
    }

    fn put_node(&self, name: &str, cpu: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}});
        self.put(&self.nodes, node);
    }

    fn log(&self) -> Vec<String> {
        self.state.lock().log.clone()
    }
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

#[async_trait]
impl Transport for Api {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/namespaces/d/").split('/').collect();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        match (request.method().clone(), parts.as_slice()) {
            (Method::POST, ["pods", name, "binding"]) => {
                let node = body["target"]["name"].as_str().unwrap().to_owned();
                let refused = {
                    let mut state = self.state.lock();
                    let refused = state.refusals > 0;
                    state.refusals = state.refusals.saturating_sub(1);
                    state.log.push(format!("bind {name} to {node}{}", if refused { ", refused" } else { "" }));
                    refused
                };
                if refused {
                    return Ok(answer(500, &json!(Status::internal("not now"))));
                }
                let mut pod = self.pod(name).unwrap();
                pod["spec"]["nodeName"] = node.into();
                self.put(&self.pods, pod);
                Ok(answer(201, &json!({"kind": "Status", "status": "Success"})))
            }
            (Method::PATCH, ["pods", name, "status"]) => {
                let Some(mut pod) = self.pod(name) else {
                    return Ok(answer(404, &json!(Status::not_found("", "pods", name))));
                };
                for (field, value) in body["status"].as_object().unwrap() {
                    pod["status"][field] = value.clone();
                }
                let condition = &body["status"]["conditions"][0];
                let text =
                    format!("{} {}", condition["type"].as_str().unwrap_or("-"), body["status"]["nominatedNodeName"]);
                self.state.lock().log.push(format!("status {name} {text}"));
                self.put(&self.pods, pod.clone());
                Ok(answer(200, &pod))
            }
            (Method::DELETE, ["pods", name]) => {
                self.state.lock().log.push(format!("delete {name}"));
                let pod = self.pods.reader().get("d", name).unwrap();
                self.pods.delete(pod);
                Ok(answer(200, &json!({"kind": "Status", "status": "Success"})))
            }
            _ => Ok(answer(404, &json!(Status::no_route()))),
        }
    }
}

/// Runs the scheduler while `act` plays the rest of the cluster.
async fn with_scheduler<F: Future<Output = ()>>(act: impl FnOnce(Arc<Api>) -> F) -> Vec<String> {
    let (pods, pod_reader) = store(&[]);
    let (nodes, node_reader) = store(&[]);
    pods.replace(Vec::new(), Revision(1));
    nodes.replace(Vec::new(), Revision(1));
    let snapshot = Snapshot::new();
    snapshot.insert(GroupResource::new("", "pods"), pod_reader);
    snapshot.insert(GroupResource::new("", "nodes"), node_reader);
    let api = Arc::new(Api { pods, nodes, state: Mutex::new(State { revision: 1, ..State::default() }) });
    let client = Client::new(api.clone(), "test");
    let (recorder, _sink) = events::recorder(client.clone(), "test", "");
    let token = CancellationToken::new();
    let running = run(SchedulerConfig::default(), client, snapshot, recorder, token.clone());
    let acting = async {
        act(Arc::clone(&api)).await;
        token.cancel();
    };
    tokio::join!(running, acting);
    api.log()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_once_each_and_never_beyond_the_room() {
    let log = with_scheduler(|api| async move {
        api.put_node("n1", "2");
        for name in ["a", "b", "c"] {
            api.put_pod(name, "1", 0);
        }
        pass(5).await;
    })
    .await;
    assert_eq!(log, ["bind a to n1", "bind b to n1", "status c PodScheduled null"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_placed_when_room_appears_and_not_polled_before() {
    let log = with_scheduler(|api| async move {
        api.put_node("n1", "1");
        api.put_pod("a", "1", 0);
        pass(1).await;
        api.put_pod("b", "1", 0);
        pass(60).await;
        assert_eq!(api.log().len(), 2, "{:?}", api.log());
        api.put_node("n2", "1");
        pass(1).await;
    })
    .await;
    assert_eq!(log, ["bind a to n1", "status b PodScheduled null", "bind b to n2"]);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_gives_the_room_back_and_is_tried_again() {
    let log = with_scheduler(|api| async move {
        api.state.lock().refusals = 1;
        api.put_node("n1", "1");
        api.put_pod("a", "1", 0);
        pass(5).await;
    })
    .await;
    assert_eq!(log, ["bind a to n1, refused", "bind a to n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_more_important_pod_takes_the_place_of_a_less_important_one() {
    let log = with_scheduler(|api| async move {
        api.put_node("n1", "1");
        api.put_pod("low", "1", 0);
        pass(1).await;
        api.put_pod("high", "1", 100);
        pass(5).await;
    })
    .await;
    assert!(log.contains(&"status low DisruptionTarget null".to_owned()), "{log:?}");
    assert!(log.contains(&"status high PodScheduled \"n1\"".to_owned()), "{log:?}");
    assert_eq!(log.last().unwrap(), "bind high to n1");
}
