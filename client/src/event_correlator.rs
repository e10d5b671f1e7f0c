//! Decides what becomes of an event: dropped as spam, merged with similar
//! ones, counted as a repeat, or written. Same rules and numbers as client-go.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use jiff::{SignedDuration, Timestamp};

use crate::{EventType, events::Reported, limits::EVENT_SERIES_MAX};

/// Events one source may report about one object at once, and how fast that allowance returns.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Similar events (all but the message equal) that are kept apart within the interval.
const SIMILAR_MAX: usize = 10;
const SIMILAR_INTERVAL: SignedDuration = SignedDuration::from_secs(600);

/// Identity of a series: everything of an event but its times.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    similar: SimilarKey,
    field_path: String,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SourceKey {
    component: String,
    host: String,
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SimilarKey {
    source: SourceKey,
    warning: bool,
    reason: String,
}

/// One Event object and how often it has happened.
#[derive(Clone, Debug)]
pub struct Series {
    key: SeriesKey,
    /// Name of the Event object; empty before the first write.
    pub name: String,
    pub message: String,
    pub first: Timestamp,
    pub count: u32,
}

/// What to do with an event.
#[derive(Debug)]
pub enum Verdict {
    /// One source reports too much about one object.
    Drop,
    /// Create it, or raise the count of the named one; then call [`EventCorrelator::written`].
    Write(Box<Series>),
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

/// The memory of the decisions; every map is bounded.
#[derive(Default)]
pub struct EventCorrelator {
    buckets: Recent<SourceKey, Bucket>,
    similar: Recent<SimilarKey, Similar>,
    series: Recent<SeriesKey, Series>,
}

impl EventCorrelator {
    pub fn correlate(&mut self, reported: &Reported) -> Verdict {
        let similar = similar_key(reported);
        if !self.take_token(&similar.source, reported.at) {
            return Verdict::Drop;
        }
        let message = reported.record.message.clone();
        let merged = self.is_merged(&similar, &message, reported.at);
        let (identity, message) = if merged {
            (String::new(), format!("(combined from similar events): {message}"))
        } else {
            (message.clone(), message)
        };
        let key = SeriesKey { similar, field_path: reported.record.regarding.field_path.clone(), message: identity };
        let series = match self.series.get(&key) {
            Some(known) => Series { count: known.count + 1, message, ..known.clone() },
            None => Series { key, name: String::new(), message, first: reported.at, count: 1 },
        };
        Verdict::Write(Box::new(series))
    }

    /// Remembers a series that was written.
    pub fn written(&mut self, series: Series) {
        self.series.put(series.key.clone(), series);
    }

    fn take_token(&mut self, source: &SourceKey, now: Timestamp) -> bool {
        let mut tokens = match self.buckets.get(source) {
            None => SPAM_BURST,
            Some(bucket) => {
                let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
                (bucket.tokens + passed * SPAM_REFILL_PER_SECOND).min(SPAM_BURST)
            }
        };
        let allowed = tokens >= 1.0;
        if allowed {
            tokens -= 1.0;
        }
        self.buckets.put(source.clone(), Bucket { tokens, at: now });
        allowed
    }

    fn is_merged(&mut self, key: &SimilarKey, message: &str, now: Timestamp) -> bool {
        let mut messages = match self.similar.get(key) {
            Some(similar) if now.duration_since(similar.last) <= SIMILAR_INTERVAL => similar.messages.clone(),
            _ => BTreeSet::new(),
        };
        messages.insert(message.to_owned());
        let merged = messages.len() >= SIMILAR_MAX;
        if merged && messages.len() > SIMILAR_MAX {
            messages.pop_first();
        }
        self.similar.put(key.clone(), Similar { messages, last: now });
        merged
    }
}

fn similar_key(reported: &Reported) -> SimilarKey {
    let regarding = &reported.record.regarding;
    let source = SourceKey {
        component: reported.component.to_string(),
        host: reported.host.to_string(),
        api_version: regarding.api_version.clone(),
        kind: regarding.kind.clone(),
        namespace: regarding.namespace.clone(),
        name: regarding.name.clone(),
        uid: regarding.uid.0.clone(),
    };
    SimilarKey {
        source,
        warning: reported.record.event_type == EventType::Warning,
        reason: reported.record.reason.clone(),
    }
}

/// A map that forgets what was not touched for longest once it is full.
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    clock: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Recent { entries: HashMap::new(), clock: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    fn put(&mut self, key: K, value: V) {
        self.clock += 1;
        self.entries.insert(key, (self.clock, value));
        if self.entries.len() > EVENT_SERIES_MAX {
            // Forgetting the older half at once keeps the cost per entry constant.
            let mut ages: Vec<u64> = self.entries.values().map(|(age, _)| *age).collect();
            let middle = ages.len() / 2;
            let (_, limit, _) = ages.select_nth_unstable(middle);
            let limit = *limit;
            self.entries.retain(|_, (age, _)| *age >= limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use skiff_api::ObjectReference;

    use super::*;
    use crate::EventRecord;

    fn event(object: &str, message: &str, at: i64) -> Reported {
        Reported {
            record: EventRecord {
                regarding: ObjectReference { kind: "Pod".into(), name: object.into(), ..ObjectReference::default() },
                event_type: EventType::Warning,
                reason: "FailedScheduling".into(),
                message: message.into(),
            },
            component: "scheduler".into(),
            host: "".into(),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    fn write(correlator: &mut EventCorrelator, event: &Reported) -> Option<Series> {
        match correlator.correlate(event) {
            Verdict::Drop => None,
            Verdict::Write(mut series) => {
                if series.name.is_empty() {
                    series.name = format!("event-{}", event.at.as_second());
                }
                correlator.written(Series::clone(&series));
                Some(*series)
            }
        }
    }

    #[test]
    fn a_repeat_raises_the_count_of_the_first_event() {
        let mut correlator = EventCorrelator::default();
        write(&mut correlator, &event("a", "no nodes", 1));
        let second = write(&mut correlator, &event("a", "no nodes", 2)).unwrap();
        assert_eq!((second.count, second.name.as_str()), (2, "event-1"));
        let other = write(&mut correlator, &event("b", "no nodes", 3)).unwrap();
        assert_eq!(other.count, 1);
    }

    #[test]
    fn more_than_a_burst_about_one_object_is_dropped_until_tokens_return() {
        let mut correlator = EventCorrelator::default();
        let written = (0..40).filter(|_| write(&mut correlator, &event("a", "same", 5)).is_some()).count();
        assert_eq!(written, 25);
        assert!(write(&mut correlator, &event("a", "same", 5 + 301)).is_some());
    }

    #[test]
    fn the_tenth_different_message_is_merged() {
        let mut correlator = EventCorrelator::default();
        for index in 0..9 {
            let series = write(&mut correlator, &event("a", &format!("m{index}"), index)).unwrap();
            assert_eq!(series.count, 1);
        }
        let tenth = write(&mut correlator, &event("a", "m9", 10)).unwrap();
        assert_eq!(tenth.message, "(combined from similar events): m9");
        let next = write(&mut correlator, &event("a", "m10", 11)).unwrap();
        assert_eq!((next.count, next.name.as_str()), (2, "event-10"));
    }
}
