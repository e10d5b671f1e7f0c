//! Counters of a server, in Prometheus' text format under CoreDNS's names.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    message::{Rcode, TYPE_NAMES},
    presentation::type_name,
};

/// Upper bounds of the duration histogram: CoreDNS's.
const BUCKETS_US: [u64; 16] = [
    250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000,
    4_096_000, 8_192_000,
];

const TYPES_LEN: usize = TYPE_NAMES.len() + 1;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// Counters of one server (a zone list on a port).
#[derive(Default)]
pub struct Metrics {
    /// By protocol, address family and type.
    requests: [[[AtomicU64; TYPES_LEN]; 2]; 2],
    responses: [AtomicU64; Rcode::NAMES.len() + 1],
    durations: [AtomicU64; BUCKETS_US.len() + 1],
    duration_us: AtomicU64,
}

impl Metrics {
    pub fn request(&self, protocol: Protocol, is_v4: bool, record_type: u16) {
        let kind = TYPE_NAMES.iter().position(|(number, _)| *number == record_type).unwrap_or(TYPES_LEN - 1);
        self.requests[protocol as usize][usize::from(!is_v4)][kind].fetch_add(1, Ordering::Relaxed);
    }

    pub fn response(&self, rcode: Rcode, took: Duration) {
        let code = Rcode::NAMES.iter().position(|(known, _)| *known == rcode).unwrap_or(Rcode::NAMES.len());
        self.responses[code].fetch_add(1, Ordering::Relaxed);
        let us = took.as_micros() as u64;
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        self.durations[bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Appends this server's samples; `server` and `zone` are its labels.
    pub fn write(&self, server: &str, zone: &str, text: &mut Samples) {
        let labels = format!("server=\"{server}\",zone=\"{zone}\",view=\"\"");
        for (protocol, name) in ["udp", "tcp"].into_iter().enumerate() {
            for (family, number) in ["1", "2"].into_iter().enumerate() {
                for (kind, counter) in self.requests[protocol][family].iter().enumerate() {
                    let count = counter.load(Ordering::Relaxed);
                    if count > 0 {
                        let kind = TYPE_NAMES.get(kind).map_or("other", |(number, _)| type_name(*number));
                        let _ = writeln!(
                            text.requests,
                            "coredns_dns_requests_total{{{labels},proto=\"{name}\",family=\"{number}\",type=\"{kind}\"}} {count}"
                        );
                    }
                }
            }
        }
        for (index, counter) in self.responses.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                let code = Rcode::NAMES.get(index).map_or("other", |(_, name)| name);
                let _ = writeln!(text.responses, "coredns_dns_responses_total{{{labels},rcode=\"{code}\"}} {count}");
            }
        }
        let mut total = 0;
        for (index, counter) in self.durations.iter().enumerate() {
            total += counter.load(Ordering::Relaxed);
            let bound = BUCKETS_US.get(index).map_or("+Inf".to_owned(), |us| format!("{}", *us as f64 / 1e6));
            let _ = writeln!(
                text.durations,
                "coredns_dns_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {total}"
            );
        }
        let sum = self.duration_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text.durations, "coredns_dns_request_duration_seconds_sum{{{labels}}} {sum}");
        let _ = writeln!(text.durations, "coredns_dns_request_duration_seconds_count{{{labels}}} {total}");
    }
}

/// Samples by metric, as the format wants them grouped.
#[derive(Default)]
pub struct Samples {
    requests: String,
    responses: String,
    durations: String,
    pub cache: String,
}

impl Samples {
    pub fn finish(self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "# TYPE coredns_build_info gauge\ncoredns_build_info{{version=\"skiff-{version}\"}} 1\n\
             # TYPE coredns_dns_requests_total counter\n{}# TYPE coredns_dns_responses_total counter\n{}\
             # TYPE coredns_dns_request_duration_seconds histogram\n{}{}",
            self.requests, self.responses, self.durations, self.cache
        )
    }
}
