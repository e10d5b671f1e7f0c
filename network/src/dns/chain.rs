//! One server's plugins, in CoreDNS's order: cache, rewrite, template, hosts,
//! kubernetes, forward.
//!
//! Answering has two parts. [`Server::begin`] never waits and is enough for
//! everything the cluster knows itself; only names of others need
//! [`Server::finish`], which asks upstream.

use std::{sync::Arc, time::Instant};

use super::{
    cache::Cache,
    forward::Forward,
    hosts::Hosts,
    kubernetes::Kubernetes,
    message::{Answer, CLASS_IN, Query, Rcode, Record, RecordData, record_type},
    metrics::Metrics,
    name::Name,
    rewrite::{self, Rule, Undo},
    template::Template,
};
use crate::limits::DNS_CHASE_DEPTH_MAX;

/// A server with everything it answers from.
pub struct Server {
    pub zones: Vec<Name>,
    pub port: u16,
    pub has_log: bool,
    pub has_errors: bool,
    pub has_loadbalance: bool,
    pub cache: Option<Cache>,
    pub rewrites: Vec<Rule>,
    pub templates: Vec<Template>,
    pub hosts: Vec<Hosts>,
    pub kubernetes: Vec<Kubernetes>,
    pub forwards: Vec<Arc<Forward>>,
    /// A name nobody else asks for: hearing it means our questions come back to us.
    pub loop_name: Option<Name>,
    pub metrics: Metrics,
}

/// What [`Server::begin`] came to.
pub enum Step {
    /// The answer, and how old it is.
    Done(Arc<Answer>, u32),
    /// Upstream must be asked.
    Forward(Box<Pending>),
}

/// A question on its way upstream.
pub struct Pending {
    asked: Query,
    forward: Arc<Forward>,
    /// Records found before: names that lead to the one asked now.
    prefix: Vec<Record>,
    depth: usize,
    undo: Option<Undo>,
}

enum Local {
    Answer(Answer),
    Ask(Pending),
}

impl Server {
    /// Length of the longest zone that holds the name, if any does.
    pub fn zone_length(&self, name: &Name) -> Option<usize> {
        self.zones.iter().filter(|zone| name.is_within(zone)).map(|zone| zone.wire().len()).max()
    }

    pub fn begin(&self, query: &Query) -> Step {
        if query.class != CLASS_IN || query.record_type == record_type::AXFR {
            return Step::Done(Arc::new(Answer::code(Rcode::REFUSED)), 0);
        }
        if let Some((answer, age)) = self.cache.as_ref().and_then(|cache| cache.get(query, Instant::now())) {
            return Step::Done(self.balanced_shared(answer), age);
        }
        let rewritten = if self.rewrites.is_empty() { None } else { rewrite::apply(&self.rewrites, query) };
        let (asked, undo) = match rewritten {
            Some((asked, undo)) => (asked, Some(undo)),
            None => (query.clone(), None),
        };
        match self.local(asked, Vec::new(), 0) {
            Local::Answer(mut answer) => {
                if let Some(undo) = &undo {
                    undo.restore(&mut answer);
                }
                Step::Done(Arc::new(self.balanced(answer)), 0)
            }
            Local::Ask(pending) => Step::Forward(Box::new(Pending { undo, ..pending })),
        }
    }

    /// Asks upstream until the answer is complete.
    pub async fn finish(&self, query: &Query, mut pending: Pending) -> Answer {
        let undo = pending.undo.take();
        let mut answer = loop {
            let mut answer = pending.forward.ask(&pending.asked).await;
            let Some(next) = self.next_name(&pending.asked, &answer, pending.depth) else {
                answer.answers.splice(0..0, pending.prefix);
                break answer;
            };
            // A name of others that leads back into the cluster.
            let mut prefix = pending.prefix;
            prefix.append(&mut answer.answers);
            match self.local(pending.asked.ask_instead(next, pending.asked.record_type), prefix, pending.depth + 1) {
                Local::Answer(answer) => break answer,
                Local::Ask(further) => pending = further,
            }
        };
        if let Some(undo) = &undo {
            undo.restore(&mut answer);
        }
        if let Some(cache) = &self.cache {
            answer = cache.put(query, answer, Instant::now());
        }
        self.balanced(answer)
    }

    /// Asks the plugins that know answers themselves, following names that lead to names.
    fn local(&self, asked: Query, prefix: Vec<Record>, depth: usize) -> Local {
        if let Some(mut answer) = self.known(&asked) {
            if let Some(next) = self.next_name(&asked, &answer, depth) {
                let mut prefix = prefix;
                prefix.append(&mut answer.answers);
                let mut result = self.local(asked.ask_instead(next, asked.record_type), prefix, depth + 1);
                if let Local::Answer(answer) = &mut result {
                    // The name exists; that what it leads to does not, is for the client to see.
                    answer.is_authoritative = true;
                }
                return result;
            }
            answer.answers.splice(0..0, prefix);
            return Local::Answer(answer);
        }
        match self.forwards.iter().find(|forward| forward.accepts(&asked.name)) {
            Some(forward) => Local::Ask(Pending { asked, forward: Arc::clone(forward), prefix, depth, undo: None }),
            None if depth > 0 => Local::Answer(Answer { answers: prefix, ..Answer::default() }),
            None => Local::Answer(Answer::code(Rcode::SERVER_FAILURE)),
        }
    }

    fn known(&self, asked: &Query) -> Option<Answer> {
        self.templates
            .iter()
            .find_map(|template| template.answer(asked))
            .or_else(|| self.hosts.iter().find_map(|hosts| hosts.answer(asked)))
            .or_else(|| self.kubernetes.iter().find_map(|kubernetes| kubernetes.answer(asked)))
            .or_else(|| self.detect_loop(asked))
    }

    fn detect_loop(&self, asked: &Query) -> Option<Answer> {
        let name = self.loop_name.as_ref().filter(|_| asked.record_type == record_type::HINFO)?;
        if *name != asked.name {
            return None;
        }
        for forward in &self.forwards {
            if !forward.set_looping() {
                tracing::error!(
                    component = "dns",
                    "the servers to forward to lead back here: names outside the cluster will fail until the \
                     node's resolver configuration names a real server"
                );
            }
        }
        Some(Answer::code(Rcode::REFUSED))
    }

    /// The name an address question leads to, if the answer stops at it.
    fn next_name(&self, asked: &Query, answer: &Answer, depth: usize) -> Option<Name> {
        let wants_address = matches!(asked.record_type, record_type::A | record_type::AAAA);
        if !wants_address || depth >= DNS_CHASE_DEPTH_MAX {
            return None;
        }
        let mut name = &asked.name;
        let target = |name: &Name| {
            answer.answers.iter().find_map(|record| match &record.data {
                RecordData::Cname(target) if record.name == *name => Some(target),
                _ => None,
            })
        };
        // As many steps as there are records, at most: a circle ends too.
        for _ in 0..answer.answers.len() {
            match target(name) {
                Some(next) => name = next,
                None => break,
            }
        }
        let is_resolved =
            answer.answers.iter().any(|record| record.name == *name && record.data.record_type() == asked.record_type);
        if *name == asked.name || is_resolved {
            return None;
        }
        // What upstream says of a name that leads to us does not matter: it cannot know.
        let mut zones = self.kubernetes.iter().flat_map(|kubernetes| &kubernetes.config.zones);
        let is_ours = zones.any(|zone| name.is_within(zone));
        (is_ours || (answer.is_authoritative && answer.rcode == Rcode::NO_ERROR)).then(|| name.clone())
    }

    fn balanced_shared(&self, answer: Arc<Answer>) -> Arc<Answer> {
        if self.has_loadbalance && answer.answers.len() > 1 {
            Arc::new(self.balanced(Answer::clone(&answer)))
        } else {
            answer
        }
    }

    /// Puts addresses in random order, behind the names that lead to them.
    fn balanced(&self, mut answer: Answer) -> Answer {
        if !self.has_loadbalance || answer.answers.len() < 2 {
            return answer;
        }
        let is_address =
            |record: &Record| matches!(record.data.record_type(), record_type::A | record_type::AAAA | record_type::MX);
        let records = std::mem::take(&mut answer.answers);
        let (mut addresses, mut others): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_address);
        if addresses.len() > 1 {
            let length = addresses.len();
            addresses.rotate_left(rand::random_range(0..length));
        }
        others.append(&mut addresses);
        answer.answers = others;
        answer
    }
}
