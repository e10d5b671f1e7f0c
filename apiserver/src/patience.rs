//! How long the server works on one request before it gives it up.

use std::time::Duration;

use skiff_api::{Status, timestamp};

use crate::{limits, options::Query, request_info::RequestInfo, server::writes};

/// How long a request may take, and what is said of one that takes longer.
pub(crate) struct Patience {
    pub duration: Duration,
    pub over: &'static str,
}

impl Patience {
    /// Bounds of the server, and that of the client if it is tighter.
    pub fn of(info: &RequestInfo, query: &str) -> Result<Patience, Status> {
        let asked =
            match Query::parse(query).get("timeout") {
                "" => Duration::ZERO,
                // What is negative is no bound, like zero.
                text => timestamp::parse_duration(text).map(|asked| asked.try_into().unwrap_or_default()).map_err(
                    |error| Status::bad_request(format!("invalid timeout specified in the request URL - {error}")),
                )?,
            };
        // A whole collection may take as long as a list.
        let is_write = info.is_resource && writes(&info.verb) && info.verb != "deletecollection";
        let (most, over) = if is_write {
            (limits::WRITE_TIMEOUT, "request did not complete within requested timeout - context deadline exceeded")
        } else {
            (limits::REQUEST_TIMEOUT, "request did not complete within the allotted timeout")
        };
        Ok(Patience { duration: if asked.is_zero() { most } else { asked.min(most) }, over })
    }
}
