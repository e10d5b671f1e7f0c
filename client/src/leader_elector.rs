//! One leader among several processes, by a Lease: same fields and timings as
//! client-go, so that processes of both kinds can compete for one lease.

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Object};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Client, ClientError};

const LEASES: GroupVersionResource = GroupVersionResource::new("coordination.k8s.io", "v1", "leases");

/// How long a lease lasts without renewal, as others see it.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The leader steps down when it could not renew for this long.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between attempts, before jitter.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
const JITTER_FACTOR: f64 = 1.2;

/// A candidate for one lease.
pub struct LeaderElector {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    /// The record last seen, and when (by our clock) it last changed: clocks of hosts are not compared.
    observed: Option<(Value, Instant)>,
}

impl LeaderElector {
    /// `identity` must be unique among candidates, for example `host_uuid`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> LeaderElector {
        LeaderElector {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            observed: None,
        }
    }

    /// Waits for the lease, then runs `lead` with a token that is cancelled
    /// when the lease is lost; repeats until `token` is cancelled. The lease is
    /// given back at the end.
    pub async fn run<F, L>(mut self, token: CancellationToken, lead: L)
    where
        F: Future<Output = ()>,
        L: Fn(CancellationToken) -> F,
    {
        while !token.is_cancelled() {
            if !self.acquire(&token).await {
                break;
            }
            tracing::info!(component = "leader-election", lease = self.name, "became leader");
            let leading = token.child_token();
            let renewal = self.renew(&token);
            let work = lead(leading.clone());
            tokio::pin!(renewal, work);
            tokio::select! {
                () = &mut renewal => {
                    tracing::warn!(component = "leader-election", "lease lost, stopping");
                    leading.cancel();
                    work.await;
                }
                () = &mut work => leading.cancel(),
            }
        }
        self.release().await;
    }

    /// Whether the lease was won before `token` was cancelled.
    async fn acquire(&mut self, token: &CancellationToken) -> bool {
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(component = "leader-election", %error, "lease not acquired"),
            }
            let pause = RETRY_PERIOD.mul_f64(1.0 + rand::random::<f64>() * JITTER_FACTOR);
            tokio::select! {
                () = token.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Returns when the lease is lost or `token` is cancelled.
    async fn renew(&mut self, token: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
            let deadline = renewed + RENEW_DEADLINE;
            match tokio::time::timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(component = "leader-election", %error, "lease not renewed, trying again");
                    if Instant::now() >= deadline {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, ClientError> {
        let now = micro_time(Timestamp::now());
        let object = match self.client.get(&LEASES, Some(&self.namespace), &self.name).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return self.create(&now).await,
            Err(error) => return Err(error),
        };
        let mut lease = object.value()?;
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != lease["spec"]) {
            self.observed = Some((lease["spec"].clone(), Instant::now()));
        }
        let changed = self.observed.as_ref().map_or_else(Instant::now, |(_, at)| *at);
        if !may_take(&lease["spec"], &self.identity, changed.elapsed()) {
            return Ok(false);
        }
        take(&mut lease["spec"], &self.identity, &now);
        let written = self.client.update(&LEASES, Some(&self.namespace), &self.name, None, &lease).await;
        self.after_write(written)
    }

    async fn create(&mut self, now: &str) -> Result<bool, ClientError> {
        let mut spec = json!({"leaseTransitions": 0});
        take(&mut spec, &self.identity, now);
        spec["leaseTransitions"] = 0.into();
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        });
        let written = self.client.create(&LEASES, Some(&self.namespace), &body).await;
        self.after_write(written)
    }

    /// Another candidate was quicker: that is no failure.
    fn after_write(&mut self, written: Result<Object, ClientError>) -> Result<bool, ClientError> {
        match written {
            Ok(object) => {
                self.observed = Some((object.value()?["spec"].clone(), Instant::now()));
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the next candidate in at once.
    async fn release(&self) {
        let held = self.observed.as_ref().is_some_and(|(spec, _)| spec["holderIdentity"] == self.identity.as_str());
        if !held {
            return;
        }
        let give_back = async {
            let object = self.client.get(&LEASES, Some(&self.namespace), &self.name).await?;
            let mut lease = object.value()?;
            if lease["spec"]["holderIdentity"] == self.identity.as_str() {
                lease["spec"]["holderIdentity"] = "".into();
                lease["spec"]["leaseDurationSeconds"] = 1.into();
                self.client.update(&LEASES, Some(&self.namespace), &self.name, None, &lease).await?;
            }
            Ok::<(), ClientError>(())
        };
        match tokio::time::timeout(RETRY_PERIOD, give_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(component = "leader-election", %error, "lease not given back"),
            Err(_) => tracing::debug!(component = "leader-election", "lease not given back in time"),
        }
    }
}

/// A lease may be taken when it is ours, free, or unchanged for longer than it lasts.
fn may_take(spec: &Value, identity: &str, unchanged_for: Duration) -> bool {
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    let lasts = spec["leaseDurationSeconds"].as_u64().map_or(LEASE_DURATION, Duration::from_secs);
    holder.is_empty() || holder == identity || unchanged_for > lasts
}

fn take(spec: &mut Value, identity: &str, now: &str) {
    if !spec.is_object() {
        *spec = json!({});
    }
    if spec["holderIdentity"] != identity {
        spec["leaseTransitions"] = (spec["leaseTransitions"].as_i64().unwrap_or_default() + 1).into();
        spec["acquireTime"] = now.into();
        spec["holderIdentity"] = identity.into();
    }
    spec["leaseDurationSeconds"] = LEASE_DURATION.as_secs().into();
    spec["renewTime"] = now.into();
}

fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_lease_is_taken_only_after_it_stood_still_for_its_duration() {
        let spec = json!({"holderIdentity": "other", "leaseDurationSeconds": 15});
        assert!(!may_take(&spec, "me", Duration::from_secs(14)));
        assert!(may_take(&spec, "me", Duration::from_secs(16)));
        assert!(may_take(&spec, "other", Duration::ZERO));
    }

    #[test]
    fn a_change_of_holder_counts_as_transition_and_renewal_does_not() {
        let mut spec = json!({"holderIdentity": "other", "leaseTransitions": 4, "acquireTime": "x"});
        take(&mut spec, "me", "t1");
        assert_eq!((&spec["leaseTransitions"], &spec["acquireTime"]), (&json!(5), &json!("t1")));
        take(&mut spec, "me", "t2");
        assert_eq!((&spec["leaseTransitions"], &spec["acquireTime"]), (&json!(5), &json!("t1")));
        assert_eq!(spec["renewTime"], "t2");
    }
}
