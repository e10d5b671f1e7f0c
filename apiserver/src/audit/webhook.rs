//! The web service events are sent to, as `EventList`s of `audit.k8s.io/v1`.
//!
//! Where it is and who we are there stands in a kubeconfig file. Events are
//! gathered into batches; a batch that cannot be delivered after a few attempts
//! is given up with a line in the log, as the file beside it is the record.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use skiff_client::{Client, ClientError, kubeconfig::Access};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Attempts at a batch; the pause between them grows by half each time.
const ATTEMPTS_MAX: u32 = 5;
/// Bytes of a batch from which on nothing is added to it.
const BATCH_BYTES_MAX: usize = 8 << 20;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where events are sent, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookOptions {
    pub kubeconfig: PathBuf,
    /// Requests wait when events come faster than they can be sent; otherwise events are dropped.
    pub blocking: bool,
    /// Events of one batch.
    pub batch_max: usize,
    /// How long a batch waits to become full.
    pub wait_max: Duration,
    /// Pause after the first failed attempt.
    pub backoff: Duration,
}

/// Sends events.
pub struct Sender {
    client: Client,
    path: String,
    options: WebhookOptions,
}

impl Sender {
    pub fn open(options: WebhookOptions) -> Result<Sender, ClientError> {
        let access = Access::from_kubeconfig(&options.kubeconfig, None)?;
        let client = Client::new(access.transport()?, "kube-apiserver-audit");
        Ok(Sender { client, path: access.path, options })
    }

    /// Sends until `stop`, then what is left, once.
    pub async fn run(self, mut queue: mpsc::Receiver<Arc<str>>, stop: CancellationToken) {
        while let Some(batch) = self.gather(&mut queue, &stop).await {
            self.deliver(&batch, &stop).await;
        }
    }

    /// The next batch; none when the queue has ended.
    async fn gather(&self, queue: &mut mpsc::Receiver<Arc<str>>, stop: &CancellationToken) -> Option<Vec<Arc<str>>> {
        let first = tokio::select! {
            biased;
            event = queue.recv() => event,
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                queue.recv().await
            }
        }?;
        let (mut bytes, mut batch) = (first.len(), vec![first]);
        let full = Instant::now() + self.options.wait_max;
        while batch.len() < self.options.batch_max && bytes < BATCH_BYTES_MAX {
            let next = tokio::select! {
                biased;
                event = timeout_at(full, queue.recv()) => event,
                () = stop.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
            };
            let Ok(Some(event)) = next else { break };
            bytes += event.len();
            batch.push(event);
        }
        Some(batch)
    }

    async fn deliver(&self, batch: &[Arc<str>], stop: &CancellationToken) {
        let body = list(batch);
        let mut pause = self.options.backoff;
        for attempt in 1..=ATTEMPTS_MAX {
            let sent = timeout(ATTEMPT_TIMEOUT, self.client.raw(Method::POST, &self.path, Some(body.clone()))).await;
            let error = match sent {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            let last = attempt == ATTEMPTS_MAX || stop.is_cancelled();
            if last {
                tracing::error!(component = "audit", %error, events = batch.len(), "events are not delivered");
                return;
            }
            tracing::warn!(component = "audit", %error, attempt, "send events");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = pause.mul_f64(1.5);
        }
    }
}

fn list(events: &[Arc<str>]) -> Bytes {
    let items = events.join(",");
    Bytes::from(format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{{}},"items":[{items}]}}"#))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use http::{Request, Response};
    use parking_lot::Mutex;
    use skiff_client::{Body, Transport};

    use crate::body;

    use super::*;

    /// Fails as often as it is told to, then keeps what it gets.
    #[derive(Default)]
    struct Service {
        failures: Mutex<u32>,
        got: Mutex<Vec<(String, serde_json::Value)>>,
    }

    #[async_trait]
    impl Transport for Service {
        async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err(ClientError::transport("connect", "refused"));
            }
            let body = serde_json::from_slice(request.body()).unwrap();
            self.got.lock().push((request.uri().to_string(), body));
            Ok(Response::new(body::full("{}")))
        }
    }

    fn sender(service: &Arc<Service>) -> Sender {
        let options = WebhookOptions {
            kubeconfig: PathBuf::new(),
            blocking: false,
            batch_max: 2,
            wait_max: Duration::from_secs(30),
            backoff: Duration::from_secs(10),
        };
        Sender { client: Client::new(Arc::clone(service) as _, "test"), path: "/audit".to_owned(), options }
    }

    async fn sent(failures: u32) -> Vec<usize> {
        let service = Arc::new(Service { failures: Mutex::new(failures), ..Service::default() });
        let (events, queue) = mpsc::channel(16);
        for number in 0..5 {
            events.send(format!("{{\"n\":{number}}}").into()).await.unwrap();
        }
        drop(events);
        sender(&service).run(queue, CancellationToken::new()).await;
        let got = service.got.lock();
        for (path, body) in got.iter() {
            assert_eq!((path.as_str(), &body["kind"]), ("/audit", &"EventList".into()));
        }
        got.iter().map(|(_, body)| body["items"].as_array().unwrap().len()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_sent_in_batches_and_again_after_failures() {
        assert_eq!(sent(0).await, [2, 2, 1]);
        assert_eq!(sent(3).await, [2, 2, 1], "the fourth attempt succeeds");
        assert_eq!(sent(5).await, [2, 1], "a batch is given up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_only_so_long_and_the_end_sends_what_is_left() {
        let service = Arc::new(Service::default());
        let (events, queue) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let task = tokio::spawn(sender(&service).run(queue, stop.clone()));
        events.send("{}".into()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(service.got.lock().len(), 1);
        events.send("{}".into()).await.unwrap();
        tokio::task::yield_now().await;
        stop.cancel();
        task.await.unwrap();
        assert_eq!(service.got.lock().len(), 2);
    }
}
