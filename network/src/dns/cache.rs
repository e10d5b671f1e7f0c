//! The `cache` plugin: answers of upstream servers, for as long as they are valid.
//!
//! Answers about the cluster itself are not cached: they come from memory
//! anyway, and this way a change is visible at once. Two generations bound the
//! size: when the young one is full it becomes the old one and the old one is
//! dropped; what is asked for meanwhile moves back to the young one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    message::{Answer, Query, Rcode, RecordData},
    name::Name,
};

/// How long a server failure is remembered.
const FAILURE_TTL: u32 = 5;

/// Settings of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    pub zones: Vec<Name>,
    pub success_len_max: usize,
    pub success_ttl_max: u32,
    pub success_ttl_min: u32,
    pub denial_len_max: usize,
    pub denial_ttl_max: u32,
    pub denial_ttl_min: u32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            zones: vec![Name::root()],
            success_len_max: 9984,
            success_ttl_max: 3600,
            success_ttl_min: 5,
            denial_len_max: 9984,
            denial_ttl_max: 1800,
            denial_ttl_min: 5,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    record_type: u16,
    class: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
}

struct Entry {
    answer: Arc<Answer>,
    stored: Instant,
    ttl: u32,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Arc<Entry>>,
    old: HashMap<Key, Arc<Entry>>,
}

/// The plugin with its content.
#[derive(Default)]
pub struct Cache {
    config: CacheConfig,
    success: Mutex<Generations>,
    denial: Mutex<Generations>,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
}

impl Cache {
    pub fn new(config: CacheConfig) -> Cache {
        Cache { config, ..Cache::default() }
    }

    /// A valid answer and its age in seconds.
    pub fn get(&self, query: &Query, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let key = Key::of(query);
        let found = [&self.success, &self.denial].into_iter().find_map(|part| part.lock().get(&key, now));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps an upstream answer, with its times to live brought within bounds.
    pub fn put(&self, query: &Query, mut answer: Answer, now: Instant) -> Answer {
        if !self.config.zones.iter().any(|zone| query.name.is_within(zone)) || answer.is_truncated {
            return answer;
        }
        let is_success = answer.rcode == Rcode::NO_ERROR && !answer.answers.is_empty();
        let config = &self.config;
        let (part, length, ttl) = match (is_success, answer.rcode) {
            (true, _) => {
                let ttl = answer.answers.iter().map(|record| record.ttl).min().unwrap_or(0);
                (&self.success, config.success_len_max, ttl.clamp(config.success_ttl_min, config.success_ttl_max))
            }
            (false, Rcode::NO_ERROR | Rcode::NAME_ERROR) => {
                let ttl = negative_ttl(&answer).unwrap_or(0);
                (&self.denial, config.denial_len_max, ttl.clamp(config.denial_ttl_min, config.denial_ttl_max))
            }
            (false, Rcode::SERVER_FAILURE) => (&self.denial, config.denial_len_max, FAILURE_TTL),
            _ => return answer,
        };
        for record in answer.answers.iter_mut().chain(&mut answer.authority).chain(&mut answer.additional) {
            record.ttl = ttl;
        }
        let entry = Arc::new(Entry { answer: Arc::new(answer.clone()), stored: now, ttl });
        part.lock().insert(Key::of(query), entry, length);
        answer
    }

    /// Number of answers kept.
    pub fn len(&self) -> usize {
        [&self.success, &self.denial].into_iter().map(|part| part.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// RFC 2308: the lesser of the SOA's time to live and its minimum.
fn negative_ttl(answer: &Answer) -> Option<u32> {
    answer.authority.iter().find_map(|record| match record.data {
        RecordData::Soa { minimum, .. } => Some(record.ttl.min(minimum)),
        _ => None,
    })
}

impl Key {
    fn of(query: &Query) -> Key {
        Key {
            name: query.name.clone(),
            record_type: query.record_type,
            class: query.class,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled,
        }
    }
}

impl Generations {
    fn get(&mut self, key: &Key, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let entry = match self.young.get(key) {
            Some(entry) => Arc::clone(entry),
            None => {
                let entry = self.old.remove(key)?;
                self.young.insert(key.clone(), Arc::clone(&entry));
                entry
            }
        };
        let age = now.saturating_duration_since(entry.stored);
        if age >= Duration::from_secs(entry.ttl.into()) {
            self.young.remove(key);
            return None;
        }
        Some((Arc::clone(&entry.answer), age.as_secs() as u32))
    }

    fn insert(&mut self, key: Key, entry: Arc<Entry>, length_max: usize) {
        if self.young.len() >= (length_max / 2).max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, entry);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::message::Record;

    fn query(name: &str) -> Query {
        Query::new(1, name.parse().unwrap(), 1, true)
    }

    fn answer(ttl: u32) -> Answer {
        let record = Record::new("a.b".parse().unwrap(), ttl, RecordData::A([1, 2, 3, 4].into()));
        Answer { answers: vec![record], ..Answer::default() }
    }

    #[test]
    fn answers_age_and_expire() {
        let cache = Cache::new(CacheConfig { success_ttl_max: 30, ..CacheConfig::default() });
        let start = Instant::now();
        assert_eq!(cache.put(&query("a.b"), answer(300), start).answers[0].ttl, 30);
        let (_, age) = cache.get(&query("A.B"), start + Duration::from_secs(10)).unwrap();
        assert_eq!(age, 10);
        assert!(cache.get(&query("a.b"), start + Duration::from_secs(30)).is_none());
        assert!(cache.is_empty());
    }

    #[test]
    fn the_size_is_bounded_and_recent_answers_survive() {
        let cache = Cache::new(CacheConfig { success_len_max: 100, ..CacheConfig::default() });
        let now = Instant::now();
        for number in 0..1000 {
            cache.put(&query(&format!("n{number}.x")), answer(300), now);
            cache.get(&query("n0.x"), now);
        }
        assert!(cache.len() <= 101, "{}", cache.len());
        assert!(cache.get(&query("n0.x"), now).is_some());
        assert!(cache.get(&query("n5.x"), now).is_none());
    }

    #[test]
    fn truncated_answers_are_not_kept() {
        let cache = Cache::new(CacheConfig::default());
        cache.put(&query("a.b"), Answer { is_truncated: true, ..answer(300) }, Instant::now());
        assert!(cache.is_empty());
    }
}
