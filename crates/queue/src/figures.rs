//! The figures that the queue itself records; their names are a contract.

use jiff::Timestamp;

use crate::job::Cause;

/// A job was buried.
pub(crate) fn dead(cause: Cause) {
    metrics::counter!("chickwork_dead_total", "cause" => cause.as_str()).increment(1);
}

/// How many jobs each queue holds, and the age of the oldest.
pub(crate) fn depths(depths: &[(String, u64, Option<Timestamp>)], now: Timestamp) {
    for (queue, jobs, oldest) in depths {
        let age = oldest.map_or(0.0, |oldest| {
            now.duration_since(oldest).as_secs_f64().max(0.0)
        });
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        metrics::gauge!("chickwork_queue_jobs", "queue" => queue.clone()).set(*jobs as f64);
        metrics::gauge!("chickwork_queue_oldest_seconds", "queue" => queue.clone()).set(age);
    }
}
