//! One task per pod: brings the pod to what was last asked of it.
//!
//! The mailbox holds only the latest wish. A pod on its way up is left alone
//! the moment its end is asked for; an end, once begun, is carried through.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use skiff_client::{EventType, work_queue::backoff};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::BackOff,
    resize::{Allocated, Applied, effective},
    spec,
};
use crate::{
    config::AgentEvent,
    context::Context,
    limits,
    observed::ObservedPod,
    status::{Override, ResizeCondition, StatusInput, WaitReason, generate_pod_status},
};

/// What is asked of a pod.
#[derive(Clone)]
pub enum Wish {
    /// The object is there: run it, or end it if it is being deleted.
    Present(Arc<Pod>),
    /// The node cannot carry it any longer: end it as failed, with this message.
    Evict(Arc<Pod>, String),
    /// The object is gone: end what still runs and forget it.
    Gone(Arc<Pod>),
}

impl Wish {
    pub fn pod(&self) -> &Arc<Pod> {
        match self {
            Wish::Present(pod) | Wish::Evict(pod, _) | Wish::Gone(pod) => pod,
        }
    }
}

/// What a round of work led to.
pub(super) enum Round {
    /// Look again when something changes, or after this long.
    Wait(Option<Duration>),
    /// Something did not work; try again with back-off, or at the latest after this long.
    Retry(Option<Duration>),
    /// Nothing is left to do, ever.
    Done,
}

/// The state of one pod's worker.
pub(super) struct PodWorker {
    pub context: Arc<Context>,
    pub uid: String,
    pub backoff: BackOff,
    /// Why containers wait, by name.
    pub waiting: HashMap<String, WaitReason>,
    /// Last words, by container id.
    pub messages: HashMap<String, String>,
    pub verdict: Option<Override>,
    pub admitted: bool,
    /// All containers have ended for good.
    pub ended: bool,
    /// Ended and cleaned up.
    pub cleaned: bool,
    pub first_seen: Timestamp,
    pub previous: Option<PodStatus>,
    /// Static pods have no object of their own; their mirror is deleted, not they.
    pub is_static: bool,
    /// Granted requests and limits, and what running containers have of them.
    pub allocated: Allocated,
    pub applied: HashMap<String, Applied>,
    pub resize: Option<ResizeCondition>,
    /// Events already told in this life of the pod, to say some things once.
    pub told: HashSet<String>,
}

impl PodWorker {
    pub fn new(context: Arc<Context>, uid: String, is_static: bool) -> PodWorker {
        PodWorker {
            context,
            uid,
            backoff: BackOff::new(limits::CRASH_BACKOFF_FIRST, limits::CRASH_BACKOFF_MAX),
            waiting: HashMap::new(),
            messages: HashMap::new(),
            verdict: None,
            admitted: false,
            ended: false,
            cleaned: false,
            first_seen: Timestamp::now(),
            previous: None,
            is_static,
            allocated: Allocated::new(),
            applied: HashMap::new(),
            resize: None,
            told: HashSet::new(),
        }
    }

    /// Works until the pod is gone, or until `token` is cancelled (which leaves its containers running).
    pub async fn run(mut self, mut mailbox: watch::Receiver<Wish>, wake: Arc<Notify>, token: CancellationToken) {
        let mut failures = 0;
        loop {
            let wish = mailbox.borrow_and_update().clone();
            let round = tokio::select! {
                () = token.cancelled() => return,
                // In a place of its own, which most pods do not need most of the time.
                round = Box::pin(self.round(wish, mailbox.clone())) => round,
            };
            let pause = match round {
                Round::Done => return,
                Round::Wait(after) => {
                    failures = 0;
                    after
                }
                Round::Retry(at_latest) => {
                    let wait = backoff(limits::SYNC_BACKOFF_FIRST, limits::SYNC_BACKOFF_MAX, failures);
                    failures = (failures + 1).min(16);
                    Some(at_latest.map_or(wait, |latest| latest.min(wait)))
                }
            };
            let pause = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = wake.notified() => {}
                changed = mailbox.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    async fn round(&mut self, wish: Wish, mailbox: watch::Receiver<Wish>) -> Round {
        let pod = Arc::clone(wish.pod());
        if let Wish::Evict(_, message) = &wish
            && !self.ended
        {
            self.context.recorder.record(crate::events::pod(&pod, EventType::Warning, "Evicted", message.clone()));
            self.verdict = Some(Override { reason: "Evicted".to_owned(), message: message.clone(), disruption: true });
            self.ended = true;
        }
        if matches!(wish, Wish::Gone(_)) || spec::is_deleting(&pod) || self.ended || spec::is_terminal(&pod) {
            return self.terminate(&wish, mailbox).await;
        }
        // Borrowed apart from `self`, so that the end can interrupt the work.
        let mut interrupt = mailbox;
        let ending = async move {
            let _ = interrupt.wait_for(|wish| !matches!(wish, Wish::Present(_)) || spec::is_deleting(wish.pod())).await;
        };
        tokio::select! {
            biased;
            () = ending => Round::Wait(Some(Duration::ZERO)),
            round = self.sync(&pod) => round,
        }
    }

    /// Generates the status from what is known now.
    pub fn status(&mut self, pod: &Arc<Pod>, observed: &ObservedPod) -> PodStatus {
        let probes = self.context.prober.results(observed);
        // What the containers have counts, not what they are to get.
        let granted = effective(pod, &self.allocated);
        let status = generate_pod_status(&StatusInput {
            pod: &granted,
            previous: self.previous.as_ref(),
            observed,
            probes: &probes,
            waiting: &self.waiting,
            messages: &self.messages,
            verdict: self.verdict.as_ref(),
            resize: self.resize.as_ref(),
            ended: self.ended,
            host_ips: &self.context.config.node_ips,
            first_seen: self.first_seen,
            now: Timestamp::now(),
        });
        let before = self.previous.as_ref().and_then(|before| before.phase.as_deref());
        if status.phase.as_deref() == Some("Running") && before != Some("Running") && spec::phase(pod) != "Running" {
            let (namespace, name) = (spec::namespace(pod).to_owned(), spec::name(pod).to_owned());
            (self.context.events)(AgentEvent::PodRunning { namespace, name, at: Timestamp::now() });
        }
        self.previous = Some(status.clone());
        status
    }

    /// Generates the status and has it written.
    pub fn publish(&mut self, pod: &Arc<Pod>, observed: &ObservedPod) {
        let status = self.status(pod, observed);
        self.context.status.set(pod, status);
    }

    /// Reads the last words of containers that ended since the last look.
    pub fn read_messages(&mut self, observed: &ObservedPod) {
        self.messages.retain(|id, _| observed.containers.iter().any(|container| container.id == *id));
        for container in &observed.containers {
            if !container.is_live() && !self.messages.contains_key(&container.id) {
                let message = super::messages::termination_message(container);
                self.messages.insert(container.id.clone(), message);
            }
        }
    }

    pub async fn observe(&self, pod: &Pod) -> Result<Arc<ObservedPod>, crate::cri::CriError> {
        self.context.pleg.observe(&self.uid, spec::namespace(pod), spec::name(pod)).await
    }
}
