//! Group `batch`.

pub mod cron_job;
pub mod cron_schedule;
pub mod job;
