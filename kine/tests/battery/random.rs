//! A random history against a model that remembers every state.

use std::collections::BTreeMap;
use std::time::Duration;

use skiff_kine::*;
use tokio::time::timeout;

use crate::target::{Target, bytes};

/// Deterministic, so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

type State = BTreeMap<String, KeyValue>;

/// Every state since revision 1, and the events between them.
struct Model {
    states: Vec<State>,
    events: Vec<(EventKind, KeyValue)>,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn next_revision(&self) -> Revision {
        Revision(self.states.len() as u64 + 1)
    }

    fn put(&mut self, state: &mut State, key: &str, value: &str) {
        let revision = self.next_revision();
        let before = state.get(key);
        let kv = KeyValue {
            key: bytes(key),
            value: bytes(value),
            create_revision: before.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |kv| kv.version + 1),
            lease: 0,
        };
        self.events.push((EventKind::Put, kv.clone()));
        state.insert(key.into(), kv);
    }

    fn delete(&mut self, state: &mut State, prefix: &str) -> usize {
        let mod_revision = self.next_revision();
        let gone: Vec<String> = state.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        for key in &gone {
            state.remove(key);
            let kv = KeyValue { key: bytes(key), mod_revision, ..KeyValue::default() };
            self.events.push((EventKind::Delete, kv));
        }
        gone.len()
    }
}

async fn step(target: &dyn Target, model: &mut Model, random: &mut Random) {
    let key = |random: &mut Random| format!("k{}/{}", random.below(4), random.below(4));
    let value = random.below(1000).to_string();
    let mut state = model.now().clone();
    let before = model.events.len();
    let put = |key: &str, value: &str| Op::Put(PutRequest::new(bytes(key), bytes(value)));
    match random.below(10) {
        0..=4 => {
            let key = key(random);
            model.put(&mut state, &key, &value);
            target.txn(Txn::new().then(put(&key, &value))).await.unwrap();
        }
        5 | 6 => {
            let prefix = format!("k{}/", random.below(4));
            let expected = model.delete(&mut state, &prefix);
            let range = KeyRange::prefix(bytes(&prefix));
            let response = target.delete_request(DeleteRequest { range, prev_kv: false }).await.unwrap();
            assert_eq!(response.deleted, expected);
        }
        _ => {
            // Compare and swap of two keys, with a guess that is often wrong.
            let (a, b) = (key(random), key(random));
            let known = state.get(&a).map_or(Revision(0), |kv| kv.mod_revision);
            let guess = if random.below(2) == 0 { known } else { Revision(random.below(20)) };
            let mut txn = Txn::new()
                .when(Compare::mod_revision(bytes(&a), guess))
                .then(put(&a, &value))
                .otherwise(Op::Range(RangeRequest::new(KeyRange::key(bytes(&a)))));
            if a != b {
                txn = txn.then(put(&b, &value));
            }
            let response = target.txn(txn).await.unwrap();
            assert_eq!(response.succeeded, guess == known);
            if guess == known {
                model.put(&mut state, &a, &value);
                if a != b {
                    model.put(&mut state, &b, &value);
                }
            }
        }
    }
    if model.events.len() > before {
        model.states.push(state);
    }
}

pub async fn a_random_history_agrees_with_the_model(target: &dyn Target) {
    let mut random = Random(42);
    let mut model = Model { states: vec![State::new()], events: Vec::new() };
    for _ in 0..400 {
        step(target, &mut model, &mut random).await;
    }
    assert_eq!(target.revision().await, Revision(model.states.len() as u64));
    let compacted = Revision(model.states.len() as u64 / 3);
    target.compact(compacted).await.unwrap();
    for (position, state) in model.states.iter().enumerate() {
        let revision = Revision(position as u64 + 1);
        let response = target.range(RangeRequest::new(KeyRange::all()).at(revision)).await;
        if revision < compacted {
            assert!(response.is_err(), "{revision}");
            continue;
        }
        assert_eq!(response.unwrap().kvs, state.values().cloned().collect::<Vec<_>>(), "{revision}");
    }
    let start = compacted.next();
    let expected: Vec<_> = model.events.into_iter().filter(|(_, kv)| kv.mod_revision >= start).collect();
    let mut watch = target.watch(WatchRequest::new(KeyRange::all(), start)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let events = timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap();
        seen.extend(events.into_iter().map(|event| (event.kind, event.kv)));
    }
    assert_eq!(seen, expected);
}
