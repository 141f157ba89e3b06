//! Forgetting in time. A stream forgets whole segments, and looks for old ones only when it begins a new
//! one: the archive of a bot to whom nobody speaks would keep its last segment for ever. So padding is
//! written to it now and then, as long as a segment, by every process that takes webhooks.
//!
//! When is said by the clock alone: at each multiple of [`turn_every`]. Whoever runs at that moment writes
//! it, so nobody has to read what others did, a right that an ingress has not, and a restart neither
//! begins the wait anew nor writes more. Two such turns are the longest that anything outlasts its time
//! by: one until its segment ends, one until that is looked at.
//!
//! The outcomes need none: the reports of the processes, which travel among them, fill a segment within
//! three hours.

use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::BasicProperties;

use super::publish::{Address, Message, Routing};
use super::topology::SEGMENT_BYTES;
use super::{Broker, BrokerError};
use crate::Settings;

/// `type` and routing key of padding. Whoever reads the archive passes it over: it says nothing of an event.
const PADDING: &str = "padding";
/// So many times the archive is turned over while it keeps what came in.
const TURNS: u32 = 16;
/// Not more often: each turn costs a segment.
const SHORTEST_TURN: Duration = Duration::from_secs(10 * 60);
/// Not less often: a turn that nobody was there for costs another one.
const LONGEST_TURN: Duration = Duration::from_secs(24 * 3600);
/// How long outcomes outlast their time at most: twice what the reports of one process take to fill a
/// segment with, which then is.
const OUTCOMES_OUTLAST: Duration = Duration::from_secs(6 * 3600);
/// How long to wait until the broker is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// How long the archive goes on in one segment at most.
fn turn_every(keep: Duration) -> Duration {
    (keep / TURNS).clamp(SHORTEST_TURN, LONGEST_TURN)
}

/// The longest that anything outlasts its time by in the archive: until its segment ends, and until
/// that is looked at.
fn archive_outlasts(keep: Duration) -> Duration {
    2 * turn_every(keep)
}

/// How long until the next turn.
fn until_turn(now: Timestamp, every: Duration) -> Duration {
    let now = now.as_duration().unsigned_abs();
    let since = now.as_nanos() % every.as_nanos();
    every - Duration::from_nanos(u64::try_from(since).unwrap_or(0))
}

impl Broker {
    /// Has the archive begin a new segment, and so forget what is too old.
    pub(crate) async fn forget(&self) -> Result<(), BrokerError> {
        if !self.inner.archived {
            return Ok(());
        }
        let padding = |bytes| Message {
            address: Address {
                exchange: self.names().events(),
                key: PADDING.to_owned(),
            },
            properties: BasicProperties::default()
                .with_type(PADDING.into())
                .with_timestamp(Timestamp::now().as_second().unsigned_abs())
                .with_app_id("chickwork".into())
                .with_delivery_mode(2),
            body: vec![0; bytes],
        };
        let segment = usize::try_from(SEGMENT_BYTES).unwrap_or(0);
        // A segment that is full is noticed with the next message.
        for message in [padding(segment), padding(0)] {
            let publishing = &self.inner.publishing;
            publishing.publish(&message, Routing::Optional).await?;
        }
        Ok(())
    }

    /// How old anything in the archive can get.
    pub(crate) fn archive_forgets_within(&self) -> Duration {
        let keep = self.inner.archive_keep;
        keep + archive_outlasts(keep)
    }

    /// How old any of the outcomes can get.
    pub(crate) fn outcomes_forgotten_within(&self) -> Duration {
        self.outcomes_keep() + OUTCOMES_OUTLAST
    }

    /// How long outcomes are kept.
    pub(crate) fn outcomes_keep(&self) -> Duration {
        self.inner
            .archive_keep
            .max(Settings::OUTCOMES_KEPT_AT_LEAST)
    }

    /// Does so whenever it is time, for ever.
    pub(crate) async fn keep_forgetting(&self) {
        let keep = self.inner.archive_keep;
        if !self.inner.archived {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(until_turn(Timestamp::now(), turn_every(keep))).await;
            // What this process has copied since the last turn has filled a segment already.
            let copied = self.inner.copied.swap(0, Ordering::Relaxed);
            if copied >= SEGMENT_BYTES.unsigned_abs() {
                continue;
            }
            let mut failed = false;
            while let Err(error) = self.forget().await {
                // Once: whoever is away for an hour is so every minute of it.
                if !failed {
                    log::warn!("the archive cannot be turned over, and keeps what is old: {error}");
                }
                failed = true;
                tokio::time::sleep(AGAIN).await;
            }
            if failed {
                log::info!("the archive is turned over again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn nothing_outlasts_its_time_by_more_than_an_eighth_or_twenty_minutes_or_by_two_days() {
        for (keep, turn) in [
            (MINUTE, 10 * MINUTE),
            (HOUR, 10 * MINUTE),
            (DAY, 90 * MINUTE),
            (7 * DAY, 7 * DAY / 16),
            (30 * DAY, DAY),
            (3650 * DAY, DAY),
        ] {
            assert_eq!(turn_every(keep), turn);
            assert!(
                archive_outlasts(keep) <= (keep / 8).max(20 * MINUTE),
                "{keep:?}"
            );
        }
    }

    #[test]
    fn everybody_turns_at_the_same_time() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        for (now, until) in [
            (0, 600),
            (1, 599),
            (599, 1),
            (600, 600),
            (1_764_403_201, 599),
        ] {
            assert_eq!(until_turn(at(now), 10 * MINUTE), Duration::from_secs(until));
        }
    }
}
