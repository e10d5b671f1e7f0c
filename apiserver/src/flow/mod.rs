//! API priority and fairness: who waits when the server is busy.
//!
//! A request belongs to the first FlowSchema that matches it and by it to a
//! priority level. A level has seats; a request without a free seat waits in
//! one of its level's queues, or is refused (429). Which schema and level it
//! was stands in the answer's headers. Objects are compiled when they change;
//! on the way of a request there is one lock and no allocation.
//!
//! Long-running requests but watches take no seat; a watch gives its back as
//! soon as it has begun.

mod classify;
mod maintain;
mod seats;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName};
use serde_json::Value;
use skiff_api::Status;

use crate::{
    authn::{UserInfo, user},
    limits,
    metrics::metrics,
    request_info::RequestInfo,
};

use classify::{Rules, Schema};
use seats::{Refusal, Seat, Seats};

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Classifies requests and gives them seats.
pub struct Flow {
    rules: ArcSwap<Rules>,
    seats: Arc<Seats>,
}

/// What a request was given; the seat is given back on drop.
pub struct Place {
    schema: Option<Arc<Schema>>,
    seat: Option<Seat>,
    gauge: Option<&'static AtomicI64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Place {
    /// Says in the answer how the request was classified.
    pub fn label(&self, headers: &mut HeaderMap) {
        if let Some(schema) = &self.schema {
            headers.insert(SCHEMA_HEADER, schema.uid.clone());
            headers.insert(LEVEL_HEADER, schema.level_uid.clone());
        }
    }

    #[cfg(test)]
    fn has_seat(&self) -> bool {
        self.seat.is_some()
    }
}

impl Default for Flow {
    fn default() -> Self {
        Flow::new(limits::READS_IN_FLIGHT_MAX + limits::WRITES_IN_FLIGHT_MAX)
    }
}

impl Flow {
    /// Until objects are known everybody but masters shares the seats of one level.
    pub fn new(seats: usize) -> Flow {
        let flow = Flow { rules: ArcSwap::from_pointee(Rules::default()), seats: Arc::new(Seats::new(seats)) };
        flow.set(&[], &[]);
        flow
    }

    /// Takes over the objects as they are now.
    pub fn set(&self, schemas: &[Value], levels: &[Value]) {
        self.seats.set_levels(&classify::levels(levels));
        self.rules.store(Arc::new(Rules::compile(schemas, levels)));
    }

    /// A place for this request, now or after a wait in its queue; the refusal when there is none.
    pub async fn enter(&self, info: &RequestInfo, user: &UserInfo) -> Result<Place, (Status, Place)> {
        let schema = self.rules.load().classify(info, user).cloned();
        let mut place = Place { schema, seat: None, gauge: None };
        let free = (info.is_long_running() && info.verb != "watch") || user.is_in(user::MASTERS);
        if let Some(schema) = place.schema.clone().filter(|schema| !free && !schema.exempt) {
            match self.seats.take(&schema.level, schema.flow(info, user)).await {
                Ok(seat) => place.seat = Some(seat),
                Err(refusal) => {
                    metrics().rejected(&schema.level, &schema.name, refusal.as_str());
                    return Err((too_many(refusal), place));
                }
            }
        }
        if !info.is_long_running() {
            let reading = matches!(info.verb.as_str(), "get" | "list" | "head");
            let gauge = if reading { &metrics().reads_in_flight } else { &metrics().writes_in_flight };
            gauge.fetch_add(1, Ordering::Relaxed);
            place.gauge = Some(gauge);
        }
        Ok(place)
    }
}

fn too_many(refusal: Refusal) -> Status {
    tracing::debug!(component = "flow", reason = refusal.as_str(), "request refused");
    Status::too_many_requests("Too many requests, please try again later.", limits::RETRY_AFTER_SECONDS)
}

pub(crate) use maintain::run;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(verb: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            resource: "pods".to_owned(),
            namespace: "n".to_owned(),
            ..RequestInfo::default()
        }
    }

    #[tokio::test]
    async fn a_full_level_refuses_and_the_exempt_pass() {
        let flow = Flow::new(1);
        let level = json!({"metadata": {"name": "catch-all", "uid": "l"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}});
        let schema = json!({"metadata": {"name": "catch-all", "uid": "s"}, "spec": {"matchingPrecedence": 10000,
            "priorityLevelConfiguration": {"name": "catch-all"}, "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "*"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]}});
        flow.set(&[schema], &[level]);
        let user = UserInfo::new("u", &[]);
        let first = flow.enter(&info("get"), &user).await.ok().unwrap();
        assert!(first.has_seat());
        let mut headers = HeaderMap::new();
        first.label(&mut headers);
        assert_eq!((&headers[SCHEMA_HEADER], &headers[LEVEL_HEADER]), (&"s".parse().unwrap(), &"l".parse().unwrap()));
        let (status, place) = flow.enter(&info("list"), &user).await.err().unwrap();
        assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 1));
        assert!(place.schema.is_some());
        assert!(!flow.enter(&info("get"), &UserInfo::new("m", &[user::MASTERS])).await.ok().unwrap().has_seat());
        let exec = RequestInfo { subresource: "exec".to_owned(), ..info("create") };
        assert!(!flow.enter(&exec, &user).await.ok().unwrap().has_seat());
        drop(first);
        assert!(flow.enter(&info("watch"), &user).await.ok().unwrap().has_seat());
    }
}
