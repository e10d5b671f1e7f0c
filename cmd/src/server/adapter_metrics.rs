//! Lets the autoscaler read what metrics adapters serve, through the API
//! server's own aggregation.
//!
//! The autoscaler never waits: a question it asks is answered in the background
//! and read at its next look. Nothing is asked without it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_client::Client;
use skiff_controllers::AdapterMetrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An answer is good for less than the time between two looks.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// An adapter that is silent this long has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Questions waiting to be asked; more are asked at a later look.
const WAITING_MAX: usize = 1024;
/// Questions asked at the same time.
const ASKING_MAX: usize = 8;

type Answer = (Instant, Option<Result<Value, String>>);

pub struct Adapters {
    /// When each question was asked or answered.
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    questions: mpsc::Sender<String>,
}

impl AdapterMetrics for Adapters {
    fn read(&self, path: &str) -> Option<Result<Value, String>> {
        let mut answers = self.answers.lock();
        let now = Instant::now();
        answers.retain(|_, (at, _)| now.duration_since(*at) < GOOD_FOR + TIMEOUT);
        match answers.get(path) {
            Some((_, None)) => return None,
            Some((at, Some(answer))) if now.duration_since(*at) < GOOD_FOR => return Some(answer.clone()),
            _ => {}
        }
        if self.questions.try_send(path.to_owned()).is_ok() {
            answers.insert(path.to_owned(), (now, None));
        }
        None
    }
}

/// The reading end, and the work that asks until `token` is cancelled.
pub fn adapters(client: Client, token: CancellationToken) -> (Adapters, impl Future<Output = ()>) {
    let (questions, mut waiting) = mpsc::channel::<String>(WAITING_MAX);
    let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
    let known = Arc::clone(&answers);
    let work = async move {
        let mut asking = tokio::task::JoinSet::new();
        loop {
            let path = tokio::select! {
                () = token.cancelled() => return,
                Some(_) = asking.join_next() => continue,
                path = waiting.recv(), if asking.len() < ASKING_MAX => match path {
                    Some(path) => path,
                    None => return,
                },
            };
            let (client, known) = (client.clone(), Arc::clone(&known));
            asking.spawn(async move {
                let answer = ask(&client, &path).await;
                known.lock().insert(path, (Instant::now(), Some(answer)));
            });
        }
    };
    (Adapters { answers, questions }, work)
}

async fn ask(client: &Client, path: &str) -> Result<Value, String> {
    let answer = tokio::time::timeout(TIMEOUT, client.raw(Method::GET, path, None)).await;
    let bytes = answer.map_err(|_| "the metrics adapter did not answer in time".to_owned())?;
    let bytes = bytes.map_err(|error| format!("unable to get metric: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("unable to get metric: {error}"))
}
