//! The figures that the queue itself records; their names are a contract.

use std::time::Instant;

use jiff::Timestamp;

use crate::job::Cause;
use crate::spool::Spooled;
use crate::sqlite::Sizes;

/// A job was buried.
pub(crate) fn dead(cause: Cause) {
    metrics::counter!("chickwork_dead_total", "cause" => cause.as_str()).increment(1);
}

/// Measures how long it takes to store an event, whatever comes of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Publishing(Instant);

impl Publishing {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        metrics::histogram!("chickwork_publish_seconds").record(self.0.elapsed());
    }
}

/// How many jobs each queue holds, and the age of the oldest.
pub(crate) fn sizes(sizes: &Sizes, now: Timestamp) {
    for (queue, (jobs, oldest)) in sizes {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        metrics::gauge!("chickwork_queue_jobs", "queue" => queue.clone()).set(*jobs as f64);
        metrics::gauge!("chickwork_queue_oldest_seconds", "queue" => queue.clone())
            .set(age(*oldest, now));
    }
}

/// Whether the spool can be used, and if so how many events wait in it, the age of the oldest, and how
/// much of its room they take.
pub(crate) fn spooled(spooled: Option<&Spooled>, now: Timestamp) {
    let up = spooled.is_some();
    metrics::gauge!("chickwork_spool_up").set(if up { 1.0 } else { 0.0 });
    let Some(spooled) = spooled else { return };
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    metrics::gauge!("chickwork_spool_events").set(spooled.events as f64);
    metrics::gauge!("chickwork_spool_oldest_seconds").set(age(spooled.oldest, now));
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    for (name, bytes) in [
        ("chickwork_spool_bytes", spooled.bytes),
        ("chickwork_spool_max_bytes", spooled.max_bytes),
    ] {
        metrics::gauge!(name).set(bytes as f64);
    }
}

/// In seconds; nothing has no age.
fn age(oldest: Option<Timestamp>, now: Timestamp) -> f64 {
    oldest.map_or(0.0, |oldest| {
        now.duration_since(oldest).as_secs_f64().max(0.0)
    })
}
