//! The figures on `/metrics`: where they are collected, their buckets, and what they mean. They are
//! recorded where they arise; their names are a contract.

use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::job::Cause;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Histograms buffer what is recorded; so often the buffers are emptied, whether or not anybody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// From half a millisecond to the ingress's own deadline, in seconds.
const QUICK: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// Calls of the two services, which may take 10 s.
const CALLS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0,
];
/// From received to posted: with luck a moment, with retries up to `CHICKWORK_MAX_AGE`.
const PATIENT: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
    1800.0, 3600.0,
];

/// Begins to collect. Must be called within a tokio runtime, once.
pub(crate) fn collect() -> anyhow::Result<PrometheusHandle> {
    let handle = [
        ("ack_seconds", QUICK),
        ("publish_seconds", QUICK),
        ("call_seconds", CALLS),
        ("reply_seconds", PATIENT),
    ]
    .into_iter()
    .try_fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full(format!("chickwork_{name}")), buckets)
    })
    .and_then(PrometheusBuilder::install_recorder)
    .context("metrics cannot be collected")?;
    describe();
    begin_at_zero();
    metrics::gauge!("chickwork_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Figures that exist before their first event, so that their first increase is seen as one.
fn begin_at_zero() {
    for cause in Cause::ALL {
        metrics::counter!("chickwork_dead_total", "cause" => cause.as_str()).absolute(0);
    }
}

/// Whether this process can do its job now, as `/readyz` tells it.
pub(crate) fn ready(is_ready: bool) {
    metrics::gauge!("chickwork_ready").set(if is_ready { 1.0 } else { 0.0 });
}

/// What is recorded here, by the queue and by the worker; the ingress describes its own.
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("chickwork_build_info", "1; the label tells the release");
    describe_gauge!(
        "chickwork_ready",
        "1 while the process can do its job; /readyz says why not"
    );
    describe_histogram!(
        "chickwork_publish_seconds",
        "How long it took to store an event"
    );
    describe_gauge!("chickwork_queue_jobs", "Jobs in the embedded queue");
    describe_gauge!(
        "chickwork_queue_oldest_seconds",
        "Age of the oldest job in the embedded queue"
    );
    describe_gauge!("chickwork_spool_up", "1 while the spool can be used");
    describe_gauge!(
        "chickwork_spool_events",
        "Events that wait on this machine for the broker"
    );
    describe_gauge!(
        "chickwork_spool_oldest_seconds",
        "Age of the oldest event that waits on this machine for the broker"
    );
    describe_gauge!(
        "chickwork_spool_bytes",
        "How much of the spool's room is in use"
    );
    describe_gauge!("chickwork_spool_max_bytes", "How much room the spool has");
    describe_counter!(
        "chickwork_copies_lost_total",
        "Copies for the archive, the outcomes or the log of dead letters that the broker was too slow for"
    );
    describe_counter!(
        "chickwork_jobs_total",
        "Claims settled, by step and outcome"
    );
    describe_histogram!(
        "chickwork_call_seconds",
        "Calls of SimSimi and Chatwork, by result"
    );
    describe_histogram!(
        "chickwork_reply_seconds",
        "From a webhook received to its reply posted"
    );
    describe_gauge!(
        "chickwork_ratelimit_remaining",
        "Calls that Chatwork would still allow the account"
    );
    describe_counter!("chickwork_dead_total", "Jobs given up, by cause");
    describe_gauge!(
        "chickwork_paused",
        "1 while a step is paused because a service refuses us, not the event"
    );
    describe_gauge!("chickwork_broker_up", "1 while the broker can be used");
    describe_gauge!(
        "chickwork_broker_blocked",
        "1 while the broker takes no messages because of an alarm"
    );
}
