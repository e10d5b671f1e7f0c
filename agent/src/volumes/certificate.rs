//! Certificates of pods: a key is made here, a PodCertificateRequest asks the
//! signer for its certificate, and both are renewed in time.
//!
//! The key never leaves this process but into the pod's volume. Nothing is kept
//! across restarts: a new process asks anew. The requests of the node are watched
//! from the first pod on that needs one; an answer wakes its pod.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Revision};
use skiff_client::{Client, EventRecorder, EventType, Reflector, Store, StoreEvent, store::store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::keys;
use crate::{events, objects::Wake, pods::spec};

/// After the time to renew, a certificate that is still not renewed is told of.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// Renewals are spread over this long, so that pods do not ask all at once.
const JITTER_SECONDS: i64 = 300;
/// A failed attempt to renew is repeated after this.
const RETRY_AFTER: SignedDuration = SignedDuration::from_mins(1);
const NOT_ISSUED: &str = "credential bundle is not issued yet";

/// What goes into a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// PKCS#8, as PEM.
    pub key: String,
    /// The certificate first, then what signed it, as PEM.
    pub chain: String,
    /// When to look again.
    pub look_at: Timestamp,
}

/// A source of a volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    pod_uid: String,
    volume: String,
    index: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Issued {
    key: String,
    chain: String,
    refresh_at: Timestamp,
    ends_at: Timestamp,
    told_overdue: bool,
    told_ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    key: String,
    name: String,
    revision: Revision,
}

/// How far a source is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    /// The signer is asked; the older certificate serves meanwhile.
    Waiting(Asked, Option<Issued>),
    Fresh(Issued),
    /// For good.
    Refused(String),
}

/// What the signer said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Pending,
    /// The request was deleted before it was answered.
    Gone,
    Issued {
        chain: String,
        refresh_at: Timestamp,
        ends_at: Timestamp,
    },
    Refused {
        verdict: &'static str,
        reason: String,
        message: String,
    },
}

/// The certificates of all pods of this node.
pub struct CertificateCache {
    client: Client,
    node: String,
    wake: Wake,
    recorder: EventRecorder,
    tasks: TaskTracker,
    token: CancellationToken,
    requests: Mutex<Option<Store>>,
    states: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<State>>>>,
}

impl CertificateCache {
    pub fn new(
        client: Client,
        node: String,
        wake: Wake,
        recorder: EventRecorder,
        tasks: TaskTracker,
        token: CancellationToken,
    ) -> CertificateCache {
        let (requests, states) = Default::default();
        CertificateCache { client, node, wake, recorder, tasks, token, requests, states }
    }

    /// The key and certificate of a source, which are asked for if need be.
    pub async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        index: usize,
        source: &PodCertificateProjection,
    ) -> Result<Credentials, String> {
        let place = Place { pod_uid: spec::uid(pod).to_owned(), volume: volume.to_owned(), index };
        let state = Arc::clone(self.states.lock().entry(place).or_default());
        let mut state = state.lock().await;
        let now = Timestamp::now();
        if let State::Waiting(asked, _) = &*state {
            let answer = answer_to(&self.requests(), spec::namespace(pod), asked);
            if let Answer::Refused { verdict, reason, message } = &answer {
                let name = format!("{}/{}", spec::namespace(pod), asked.name);
                let what = if *verdict == "Denied" { "was denied" } else { "failed" };
                let text = format!("PodCertificateRequest {name} {what}, reason={reason:?}, message={message:?}");
                self.warn(pod, verdict, text);
            }
            let jitter = SignedDuration::from_secs(rand::rng().random_range(0..JITTER_SECONDS));
            *state = after(std::mem::take(&mut *state), answer, jitter);
        }
        let held = match &*state {
            State::New => Some(None),
            State::Fresh(issued) if issued.refresh_at <= now => Some(Some(issued.clone())),
            _ => None,
        };
        if let Some(held) = held {
            match self.ask(pod, source).await {
                Ok(asked) => *state = State::Waiting(asked, held),
                Err(error) if held.is_none() => return Err(error),
                Err(error) => tracing::warn!(component = "volumes", pod = spec::full_name(pod), error, "renew"),
            }
        }
        if let State::Waiting(_, Some(issued)) | State::Fresh(issued) = &mut *state {
            for (reason, message) in complaints(issued, now) {
                self.warn(pod, reason, message.to_owned());
            }
        }
        credentials(&state, now)
    }

    fn warn(&self, pod: &Pod, reason: &str, message: String) {
        self.recorder.record(events::pod(pod, EventType::Warning, reason, message));
    }

    /// Drops the keys of a pod.
    pub fn forget(&self, pod_uid: &str) {
        self.states.lock().retain(|place, _| place.pod_uid != pod_uid);
    }

    /// The requests of this node, watched from now on.
    fn requests(&self) -> Store {
        self.requests.lock().get_or_insert_with(|| self.watch()).clone()
    }

    fn watch(&self) -> Store {
        let (writer, reader) = store(&[]);
        let reflector = Reflector::new(resource()).fields(format!("spec.nodeName={}", self.node));
        self.tasks.spawn(reflector.run(self.client.clone(), writer, self.token.clone()));
        let (mut changes, all) = (reader.subscribe(), reader.clone());
        let (wake, token) = (Arc::clone(&self.wake), self.token.clone());
        self.tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    () = token.cancelled() => return,
                    event = changes.next() => event,
                };
                let changed = match event {
                    None => return,
                    Some(StoreEvent::Applied { new, .. }) => vec![new],
                    Some(StoreEvent::Deleted(last)) => vec![last],
                    Some(StoreEvent::Resync) => all.list(None),
                };
                for request in changed.iter().filter_map(|object| object.value().ok()) {
                    wake(request["spec"]["podUID"].as_str().unwrap_or_default());
                }
            }
        });
        reader
    }

    /// Makes a key and asks the signer for its certificate.
    async fn ask(&self, pod: &Pod, source: &PodCertificateProjection) -> Result<Asked, String> {
        // Before the request is made, so that its answer cannot be missed.
        self.requests();
        let key_type = source.key_type.clone();
        let key = tokio::task::spawn_blocking(move || keys::generate(&key_type))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("while generating keypair: {error}"))?;
        let account = spec::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let (node, accounts) = (GroupVersionResource::of::<Node>(), GroupVersionResource::of::<ServiceAccount>());
        let (node, service_account) = tokio::try_join!(
            self.client.get(&node, None, &self.node),
            self.client.get(&accounts, Some(spec::namespace(pod)), &account)
        )
        .map_err(|error| format!("while fetching node and service account: {error}"))?;
        let uids = (service_account.meta.uid.as_str(), node.meta.uid.as_str());
        let body = request_body(pod, source, &account, uids, &self.node, &key.request);
        let made = self
            .client
            .create(&resource(), Some(spec::namespace(pod)), &body)
            .await
            .map_err(|error| format!("while creating PodCertificateRequest: {error}"))?;
        // One that cannot be read never counts as passed.
        let revision = Revision(made.meta.resource_version.parse().unwrap_or(u64::MAX));
        Ok(Asked { key: key.pem, name: made.meta.name.clone(), revision })
    }
}

fn resource() -> GroupVersionResource {
    GroupVersionResource::new("certificates.k8s.io", "v1", "podcertificaterequests")
}

fn request_body(
    pod: &Pod,
    source: &PodCertificateProjection,
    account: &str,
    (account_uid, node_uid): (&str, &str),
    node: &str,
    request: &[u8],
) -> Value {
    let (name, uid) = (spec::name(pod), spec::uid(pod));
    let mut body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {
            "generateName": "req-", "namespace": spec::namespace(pod),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}],
        },
        "spec": {
            "signerName": source.signer_name, "podName": name, "podUID": uid,
            "serviceAccountName": account, "serviceAccountUID": account_uid,
            "nodeName": node, "nodeUID": node_uid, "stubPKCS10Request": BASE64.encode(request),
        },
    });
    if let Some(seconds) = source.max_expiration_seconds {
        body["spec"]["maxExpirationSeconds"] = seconds.into();
    }
    if let Some(annotations) = &source.user_annotations {
        body["spec"]["unverifiedUserAnnotations"] = json!(annotations);
    }
    body
}

fn answer_to(requests: &Store, namespace: &str, asked: &Asked) -> Answer {
    match requests.get(namespace, &asked.name).map(|object| object.value()) {
        Some(Ok(request)) => answer(&request["status"]),
        Some(Err(_)) => Answer::Pending,
        None if requests.revision() >= asked.revision => Answer::Gone,
        None => Answer::Pending,
    }
}

/// Reads the status of a request.
fn answer(status: &Value) -> Answer {
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        let refused = |verdict| Answer::Refused {
            verdict,
            reason: text("reason").to_owned(),
            message: text("message").to_owned(),
        };
        match text("type") {
            "Denied" => return refused("Denied"),
            "Failed" => return refused("Failed"),
            "Issued" => {
                let time = |name: &str| status[name].as_str().and_then(|text| text.parse().ok());
                let (Some(refresh_at), Some(ends_at)) = (time("beginRefreshAt"), time("notAfter")) else {
                    return Answer::Pending;
                };
                let chain = clean(status["certificateChain"].as_str().unwrap_or_default());
                return Answer::Issued { chain, refresh_at, ends_at };
            }
            _ => {}
        }
    }
    Answer::Pending
}

/// The blocks of a chain without what stands between them and without headers.
fn clean(chain: &str) -> String {
    let blocks = x509_parser::pem::Pem::iter_from_buffer(chain.as_bytes()).flatten();
    blocks.map(|block| keys::pem("CERTIFICATE", &block.contents)).collect()
}

fn after(state: State, answer: Answer, jitter: SignedDuration) -> State {
    let State::Waiting(asked, held) = state else { return state };
    match answer {
        Answer::Pending => State::Waiting(asked, held),
        Answer::Gone => held.map_or(State::New, State::Fresh),
        Answer::Issued { chain, refresh_at, ends_at } => State::Fresh(Issued {
            key: asked.key,
            chain,
            // Never beyond the end: the API keeps ten minutes between the two.
            refresh_at: refresh_at + jitter,
            ends_at,
            told_overdue: false,
            told_ended: false,
        }),
        Answer::Refused { verdict, reason, message } => State::Refused(format!(
            "PodCertificateRequest was permanently {}: reason={reason:?} message={message:?}",
            verdict.to_lowercase()
        )),
    }
}

/// What is wrong with a certificate in use and was not told yet.
fn complaints(issued: &mut Issued, now: Timestamp) -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    if now > issued.refresh_at + OVERDUE_AFTER && !std::mem::replace(&mut issued.told_overdue, true) {
        all.push(("CertificateOverdueForRefresh", "PodCertificate refresh overdue"));
    }
    if now > issued.ends_at && !std::mem::replace(&mut issued.told_ended, true) {
        all.push(("CertificateExpired", "PodCertificate expired"));
    }
    all
}

fn credentials(state: &State, now: Timestamp) -> Result<Credentials, String> {
    let issued = match state {
        State::Waiting(_, Some(issued)) | State::Fresh(issued) => issued,
        State::Refused(why) => return Err(why.clone()),
        State::New | State::Waiting(_, None) => return Err(NOT_ISSUED.to_owned()),
    };
    let look_at = match state {
        State::Fresh(_) if issued.refresh_at > now => issued.refresh_at,
        _ => now + RETRY_AFTER,
    };
    Ok(Credentials { key: issued.key.clone(), chain: issued.chain.clone(), look_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn asked(key: &str) -> Asked {
        Asked { key: key.into(), name: "req-1".into(), revision: Revision::ZERO }
    }

    fn issued_answer(chain: &str) -> Answer {
        Answer::Issued { chain: chain.into(), refresh_at: at(1000), ends_at: at(3000) }
    }

    #[test]
    fn a_certificate_is_asked_for_used_and_renewed() {
        let none = SignedDuration::ZERO;
        assert_eq!(credentials(&State::New, at(0)).unwrap_err(), NOT_ISSUED);
        let waiting = after(State::Waiting(asked("k1"), None), Answer::Pending, none);
        assert_eq!(credentials(&waiting, at(0)).unwrap_err(), NOT_ISSUED);
        let fresh = after(waiting, issued_answer("c1"), SignedDuration::from_secs(7));
        let given = credentials(&fresh, at(10)).unwrap();
        assert_eq!((given.key.as_str(), given.chain.as_str(), given.look_at), ("k1", "c1", at(1007)));
        let State::Fresh(held) = fresh else { panic!("{fresh:?}") };
        let renewing = State::Waiting(asked("k2"), Some(held));
        assert_eq!(credentials(&renewing, at(1010)).unwrap().key, "k1", "the old one serves meanwhile");
        // A deleted request is made again; an answered one replaces key and chain together.
        assert!(matches!(after(renewing.clone(), Answer::Gone, none), State::Fresh(_)));
        let renewed = credentials(&after(renewing, issued_answer("c2"), none), at(900)).unwrap();
        assert_eq!((renewed.key.as_str(), renewed.chain.as_str()), ("k2", "c2"));
        assert_eq!(after(State::Waiting(asked("k"), None), Answer::Gone, none), State::New);
    }

    #[test]
    fn a_refusal_is_final_and_told_in_upstream_s_words() {
        let status =
            json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "not you"}]});
        let state = after(State::Waiting(asked("k"), None), answer(&status), SignedDuration::ZERO);
        let wanted = "PodCertificateRequest was permanently denied: reason=\"No\" message=\"not you\"";
        assert_eq!(credentials(&state, at(0)).unwrap_err(), wanted);
        assert_eq!(after(state.clone(), issued_answer("c"), SignedDuration::ZERO), state);
    }

    #[test]
    fn a_late_certificate_is_told_of_once() {
        let State::Fresh(mut issued) =
            after(State::Waiting(asked("k"), None), issued_answer("c"), SignedDuration::ZERO)
        else {
            panic!()
        };
        assert!(complaints(&mut issued, at(1500)).is_empty());
        assert_eq!(complaints(&mut issued, at(1601))[0].0, "CertificateOverdueForRefresh");
        assert!(complaints(&mut issued, at(1602)).is_empty());
        assert_eq!(complaints(&mut issued, at(3001)), [("CertificateExpired", "PodCertificate expired")]);
    }

    #[test]
    fn chains_lose_all_but_their_blocks() {
        let block = keys::pem("CERTIFICATE", b"some bytes that stand for a certificate, longer than one line is");
        let odd = format!("leaf\n{block}then\n{block}");
        assert_eq!(clean(&odd), format!("{block}{block}"));
    }

    #[test]
    fn only_complete_answers_count() {
        assert_eq!(answer(&Value::Null), Answer::Pending);
        assert_eq!(answer(&json!({"conditions": [{"type": "Issued", "status": "True"}]})), Answer::Pending);
        let whole = json!({"conditions": [{"type": "Issued", "status": "True"}], "certificateChain": "",
            "beginRefreshAt": "1970-01-01T00:16:40Z", "notAfter": "1970-01-01T00:50:00Z"});
        assert_eq!(answer(&whole), issued_answer(""));
    }
}
