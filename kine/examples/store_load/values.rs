//! The values that are written: 1 KiB each, from a pool made at the start.
//!
//! `object` is what a cluster stores: a Pod as JSON, with names, ids, times and addresses of its own.
//! `noise` is what nothing makes smaller, such as encrypted Secrets.

use bytes::Bytes;
use rand::Rng;

const BYTES: usize = 1024;
const POOL: usize = 512;

/// Values in turn.
pub struct Values(Vec<Bytes>);

impl Values {
    /// `object` or `noise`.
    pub fn new(kind: &str) -> Option<Values> {
        let one: fn() -> Vec<u8> = match kind {
            "object" => object,
            "noise" => noise,
            _ => return None,
        };
        Some(Values((0..POOL).map(|_| Bytes::from(one())).collect()))
    }

    /// The value of the `n`th write.
    pub fn get(&self, n: usize) -> Bytes {
        self.0[n % POOL].clone()
    }
}

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    rand::fill(&mut bytes[..]);
    bytes
}

fn object() -> Vec<u8> {
    let mut random = rand::rng();
    let mut hex = |digits: usize| -> String {
        (0..digits).map(|_| char::from_digit(random.random_range(0..16), 16).unwrap_or('0')).collect()
    };
    let (replica_set, suffix) = (hex(10), hex(5));
    let (uid, owner, token) = (hex(32), hex(32), hex(5));
    let (container, image) = (hex(64), hex(64));
    let mut random = rand::rng();
    let mut number = |below: u32| random.random_range(0..below);
    let time = format!(
        "2026-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        1 + number(12),
        1 + number(28),
        number(24),
        number(60),
        number(60)
    );
    let (address, node, app) = (format!("10.42.{}.{}", number(255), number(255)), number(100), number(500));
    let mut text = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"app-{app}-{replica_set}-{suffix}","generateName":"app-{app}-{replica_set}-","namespace":"team-{node}","uid":"{uid}","creationTimestamp":"{time}","labels":{{"app.kubernetes.io/name":"app-{app}","pod-template-hash":"{replica_set}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"app-{app}-{replica_set}","uid":"{owner}","controller":true}}]}},"spec":{{"nodeName":"node-{node}","serviceAccountName":"default","containers":[{{"name":"app","image":"registry.local/team/app-{app}@sha256:{image}","volumeMounts":[{{"name":"kube-api-access-{token}","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}]}}]}},"status":{{"phase":"Running","podIP":"{address}","startTime":"{time}","containerStatuses":[{{"name":"app","ready":true,"containerID":"containerd://{container}"}}]}}}}"#
    );
    // Annotations or less of them: every value has the same length.
    let mut filler = 0;
    while text.len() < BYTES {
        text.push_str(&format!(r#" "note-{filler}":"{:08x}""#, number(u32::MAX)));
        filler += 1;
    }
    text.truncate(BYTES);
    text.into_bytes()
}
