//! How many requests are worked on at once.
//!
//! Reads and writes have their own limits; beyond them a client is told to come
//! back (429). Long-running requests, health checks and members of
//! `system:masters` are not counted.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use skiff_api::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    authn::{UserInfo, user},
    limits,
    metrics::metrics,
    request_info::RequestInfo,
};

/// The limits.
pub struct Flow {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// A place; given back on drop.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    gauge: &'static AtomicI64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Flow {
    fn default() -> Self {
        Flow::new(limits::READS_IN_FLIGHT_MAX, limits::WRITES_IN_FLIGHT_MAX)
    }
}

impl Flow {
    pub fn new(reads: usize, writes: usize) -> Flow {
        Flow { reads: Arc::new(Semaphore::new(reads)), writes: Arc::new(Semaphore::new(writes)) }
    }

    /// A place for this request, `None` when it is exempt, 429 when all are taken.
    pub fn enter(&self, info: &RequestInfo, user: &UserInfo) -> Result<Option<Place>, Status> {
        if info.is_long_running() || !info.is_resource || user.is_in(user::MASTERS) {
            return Ok(None);
        }
        let reading = matches!(info.verb.as_str(), "get" | "list");
        let (places, gauge) = if reading {
            (&self.reads, &metrics().reads_in_flight)
        } else {
            (&self.writes, &metrics().writes_in_flight)
        };
        match Arc::clone(places).try_acquire_owned() {
            Ok(permit) => {
                gauge.fetch_add(1, Ordering::Relaxed);
                Ok(Some(Place { _permit: permit, gauge }))
            }
            Err(_) => Err(Status::too_many_requests(
                "Too many requests, please try again later.",
                limits::RETRY_AFTER_SECONDS,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_refuses_ordinary_requests_only() {
        let flow = Flow::new(1, 0);
        let user = UserInfo::new("u", &[]);
        let get = RequestInfo { is_resource: true, verb: "get".to_owned(), ..RequestInfo::default() };
        let place = flow.enter(&get, &user).unwrap();
        assert!(place.is_some());
        assert_eq!(flow.enter(&get, &user).map(|_| ()).unwrap_err().code, 429);
        assert!(flow.enter(&get, &UserInfo::new("m", &[user::MASTERS])).unwrap().is_none());
        let watch = RequestInfo { verb: "watch".to_owned(), ..get.clone() };
        assert!(flow.enter(&watch, &user).unwrap().is_none());
        drop(place);
        assert!(flow.enter(&get, &user).is_ok());
    }
}
