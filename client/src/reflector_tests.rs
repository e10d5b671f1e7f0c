//! A reflector against scripted answers: paging, watching, lost history.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::{Body, Transport};

/// Answers in order; each is a body of lines, and whether it stays open.
struct Script {
    answers: Mutex<VecDeque<(Vec<Value>, bool)>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Transport for Script {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let mut query: Vec<String> = request.uri().query().unwrap_or_default().split('&').map(str::to_owned).collect();
        query.retain(|part| !part.starts_with("timeoutSeconds") && !part.starts_with("allowWatchBookmarks"));
        self.asked.lock().push(query.join("&"));
        let next = self.answers.lock().pop_front();
        let Some((lines, stays)) = next else { return Err(ClientError::transport("dial", "refused")) };
        let frames = lines.into_iter().map(|line| Ok(http_body::Frame::data(Bytes::from(format!("{line}\n")))));
        let frames = stream::iter(frames);
        let body = if stays {
            StreamBody::new(frames.chain(stream::pending())).boxed_unsync()
        } else {
            StreamBody::new(frames).boxed_unsync()
        };
        Ok(Response::new(body))
    }
}

fn pod(name: &str, revision: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d",
        "resourceVersion": revision.to_string()}})
}

fn list(items: Vec<Value>, revision: u64, token: &str) -> Vec<Value> {
    vec![json!({"apiVersion": "v1", "kind": "PodList", "items": items,
        "metadata": {"resourceVersion": revision.to_string(), "continue": token}})]
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

async fn run(answers: Vec<(Vec<Value>, bool)>) -> (Vec<String>, Revision, Vec<String>) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into()), asked: Mutex::default() });
    let (writer, reader) = store(&[]);
    let token = CancellationToken::new();
    let reflector = Reflector::new(GroupVersionResource::new("", "v1", "pods"));
    let running = reflector.run(Client::new(script.clone(), "test"), writer, token.clone());
    let stop = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        token.cancel();
    };
    tokio::join!(running, stop);
    let names = reader.list(None).iter().map(|object| object.meta.name.clone()).collect();
    let asked = script.asked.lock().clone();
    (names, reader.revision(), asked)
}

#[tokio::test(start_paused = true)]
async fn pages_are_joined_and_the_watch_goes_on_from_there() {
    let watch = vec![
        event("ADDED", pod("c", 8)),
        event("DELETED", pod("a", 9)),
        event("BOOKMARK", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "12"}})),
    ];
    let answers =
        vec![(list(vec![pod("a", 3)], 7, "next"), false), (list(vec![pod("b", 4)], 7, ""), false), (watch, true)];
    let (names, revision, asked) = run(answers).await;
    assert_eq!(names, ["b", "c"]);
    assert_eq!(revision, Revision(12));
    assert_eq!(asked, ["limit=500", "limit=500&continue=next", "resourceVersion=7&watch=true"]);
}

#[tokio::test(start_paused = true)]
async fn an_ended_watch_continues_where_it_was() {
    let answers = vec![
        (list(Vec::new(), 5, ""), false),
        (vec![event("ADDED", pod("a", 6))], false),
        (vec![event("MODIFIED", pod("a", 9))], true),
    ];
    let (_, revision, asked) = run(answers).await;
    assert_eq!(revision, Revision(9));
    assert_eq!(asked[1..], ["resourceVersion=5&watch=true", "resourceVersion=6&watch=true"]);
}

#[tokio::test(start_paused = true)]
async fn lost_history_means_a_new_list() {
    let gone = json!(skiff_api::Status::expired("too old resource version"));
    let answers = vec![
        (list(vec![pod("a", 3)], 5, ""), false),
        (vec![event("ERROR", gone)], false),
        (list(vec![pod("b", 20)], 21, ""), false),
        (Vec::new(), true),
    ];
    let (names, revision, asked) = run(answers).await;
    assert_eq!((names, revision), (vec!["b".to_owned()], Revision(21)));
    assert_eq!(asked.len(), 4);
}
