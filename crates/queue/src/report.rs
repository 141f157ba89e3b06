//! What a person looks at: what the processes say of themselves, how much waits where, and what
//! has not come to an end yet. Looking changes nothing.
//!
//! Reports are best effort and short-lived: every process sends one every few seconds, and one that
//! has sent none for [`Report::FRESH`] is not counted any more. Releases run side by side and read each
//! other's, so what is added to a report later is optional. Frozen examples: `tests/data/report.v1.json`,
//! `report.v1.spool.json` and `report.v1.spool_trouble.json` of an ingress with a spool, and `report.v1.holds.json` of a worker.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::course::{Course, Reasons, State};
use crate::event::EventId;
use crate::job::Step;
use crate::spool::{NEARLY_FULL_PERCENT, Spooled};
use crate::{Backend, Queue, QueueError};

/// The most events that are looked at for what is unfinished; together some 100 MB.
const MOST_EVENTS: usize = 1_000_000;

/// What a process says of itself. Its JSON is versioned: see [`Report::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this JSON.
    pub v: u32,
    /// When it was sent, by the clock of the process.
    pub at: Timestamp,
    /// The process; a new one each time it starts.
    pub process: Uuid,
    /// The name of its machine or container.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The release that runs.
    pub release: String,
    /// When it started.
    pub since: Timestamp,
    /// What it does: `ingress`, `worker`.
    pub roles: Vec<String>,
    /// Why it cannot do its job just now; `None`: it can.
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Whether it is about to end.
    #[serde(default)]
    pub stopping: bool,
    /// When the last authentic webhook came in here; an ingress's.
    #[serde(default)]
    pub last_webhook: Option<Timestamp>,
    /// What is left of the account's calls; of the worker that posts.
    #[serde(default)]
    pub account_limit: Option<AccountLimit>,
    /// The steps that have been stopped for a while; a worker's.
    #[serde(default)]
    pub pauses: Vec<Paused>,
    /// Whether it is the one worker that posts.
    #[serde(default)]
    pub posting: bool,
    /// What it keeps on its disk until the broker takes it; an ingress's with a spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolReport>,
    /// Why what it keeps there cannot be seen, and presumably no event can be kept; `None`: it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool_trouble: Option<String>,
    /// How many jobs it has claimed and not settled yet; a worker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<u64>,
}

impl Report {
    /// The version that this release writes.
    pub const VERSION: u32 = 1;
    /// A process that has sent none for this long is presumed to be gone.
    pub const FRESH: SignedDuration = SignedDuration::from_secs(30);

    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a report has no map with keys that are not strings")
    }

    /// `None`: it is no report that this release can read.
    pub(crate) fn decode(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether its process is presumed to be there still.
    fn is_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.at).abs() <= Self::FRESH
    }
}

/// Chatwork's calls for the account in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLimit {
    /// How many there are.
    pub calls: u32,
    /// How many of them are left.
    pub left: u32,
    /// When the window ends.
    pub until: Timestamp,
}

/// A step that this process does not do for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Which.
    pub step: Step,
    /// Why: what the service said.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
}

/// What the spool of an ingress holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolReport {
    /// How many events wait in it.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// How many bytes they take on the disk.
    pub bytes: u64,
    /// How many they may take.
    pub max_bytes: u64,
}

impl SpoolReport {
    /// How much of the room is taken.
    pub fn percent(&self) -> u64 {
        let taken = u128::from(self.bytes) * 100 / u128::from(self.max_bytes.max(1));
        u64::try_from(taken).unwrap_or(u64::MAX)
    }

    /// Whether it soon takes no more.
    pub fn is_nearly_full(&self) -> bool {
        self.percent() >= NEARLY_FULL_PERCENT
    }
}

impl From<Spooled> for SpoolReport {
    fn from(spooled: Spooled) -> Self {
        let Spooled {
            events,
            oldest,
            bytes,
            max_bytes,
        } = spooled;
        Self {
            events,
            oldest,
            bytes,
            max_bytes,
        }
    }
}

/// How much a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    /// `ask`, `post.<bot>`, [`Depth::LATER`] or [`Depth::DEAD`].
    pub queue: String,
    /// How many wait in it. What somebody has claimed is not counted.
    pub jobs: u64,
    /// When the one that has been here longest was received. The broker does not tell.
    pub oldest: Option<Timestamp>,
    /// How many claim from it. A file does not tell.
    pub consumers: Option<u32>,
}

impl Depth {
    /// The name for what is put off, of whichever queue.
    pub const LATER: &str = "later";
    /// The name for what was given up.
    pub const DEAD: &str = "dead";
}

/// Events that have not come to an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// How many.
    pub count: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
}

impl Queue {
    /// Sends a report, best effort; never waits. While others wait to be sent it is dropped: the
    /// next one says it better.
    pub fn report(&self, report: &Report) {
        match &self.0 {
            Backend::Sqlite(store) => store.report(report),
            Backend::Amqp(broker) => broker.report(report),
        }
    }

    /// The newest report of each process that has sent one within [`Report::FRESH`].
    pub async fn reports(&self) -> Result<Vec<Report>, QueueError> {
        let now = Timestamp::now();
        let mut reports = match &self.0 {
            Backend::Sqlite(store) => store.reports().await?,
            Backend::Amqp(broker) => broker.reports(now).await?,
        };
        reports.retain(|report| report.is_fresh(now));
        reports.sort_by_key(|report| report.since);
        Ok(reports)
    }

    /// How much each queue holds. A queue that does not exist is left out.
    pub async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.depths(Timestamp::now()).await?),
            Backend::Amqp(broker) => Ok(broker.depths().await?),
        }
    }

    /// The events received since then that were neither answered nor ignored, nor given up or dropped.
    /// Of very many, the oldest million are looked at. Read from the archive: without one there are none.
    pub async fn unfinished(&self, since: Timestamp) -> Result<Unfinished, QueueError> {
        let mut archived = self.archive().read(since);
        let mut received: HashMap<EventId, (Timestamp, Course)> = HashMap::new();
        while received.len() < MOST_EVENTS
            && let Some(event) = archived.next().await?
        {
            received.insert(event.id, (event.received_at, Course::default()));
        }
        // After the archive: what came to an end meanwhile has come to an end.
        let mut reasons = Reasons::default();
        let mut outcomes = self.outcomes().read(since);
        while let Some(outcome) = outcomes.next().await? {
            if let Some((_, course)) = received.get_mut(&outcome.id) {
                course.apply(&outcome, &mut reasons);
            }
        }
        let open = received
            .into_values()
            .filter(|(_, course)| course.state(None) == State::Open);
        let mut unfinished = Unfinished::default();
        for (received_at, _) in open {
            unfinished.count += 1;
            let oldest = unfinished.oldest.unwrap_or(received_at);
            unfinished.oldest = Some(oldest.min(received_at));
        }
        Ok(unfinished)
    }

    /// When the newest event of the archive was received, of those that came in by themselves: not what a
    /// person put in, as `recover` does. On RabbitMQ, the newest of those that were archived last. Without
    /// an archive nobody knows.
    pub async fn last_event(&self) -> Result<Option<Timestamp>, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.last_event().await?),
            Backend::Amqp(broker) => Ok(broker.last_event().await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    const FROZEN: &str = include_str!("../tests/data/report.v1.json");
    const FROZEN_WITH_SPOOL: &str = include_str!("../tests/data/report.v1.spool.json");
    const FROZEN_WITH_TROUBLE: &str = include_str!("../tests/data/report.v1.spool_trouble.json");
    const FROZEN_WITH_HOLDS: &str = include_str!("../tests/data/report.v1.holds.json");

    #[test]
    fn the_frozen_reports_of_version_1_are_read_and_written_as_they_are() {
        for (frozen, events, holds) in [
            (FROZEN, None, None),
            (FROZEN_WITH_SPOOL, Some(12), None),
            (FROZEN_WITH_TROUBLE, None, None),
            (FROZEN_WITH_HOLDS, None, Some(16)),
        ] {
            let report = Report::decode(frozen.as_bytes()).expect("a report");
            assert_eq!(report.spool.map(|spool| spool.events), events);
            assert_eq!(report.holds, holds);
            let in_trouble = frozen == FROZEN_WITH_TROUBLE;
            assert_eq!(report.spool_trouble.is_some(), in_trouble);
            assert_eq!(report.encode(), frozen.trim_end());
        }
    }

    #[test]
    fn a_spool_is_nearly_full_from_eighty_percent_on() {
        let spool = |bytes, max_bytes| SpoolReport {
            events: 1,
            oldest: None,
            bytes,
            max_bytes,
        };
        for (bytes, max_bytes, percent, nearly_full) in [
            (0, 1_000, 0, false),
            (799, 1_000, 79, false),
            (800, 1_000, 80, true),
            (u64::MAX, u64::MAX, 100, true),
            (1, 0, 100, true),
        ] {
            let spool = spool(bytes, max_bytes);
            let told = (spool.percent(), spool.is_nearly_full());
            assert_eq!(told, (percent, nearly_full), "{spool:?}");
        }
    }

    #[test]
    fn a_report_with_something_more_or_without_what_is_optional_is_read_all_the_same() {
        let newer = FROZEN.replace("{\"v\":1,", "{\"v\":2,\"mood\":\"good\",");
        assert_eq!(Report::decode(newer.as_bytes()).expect("more").v, 2);
        let least = r#"{"v":1,"at":"2026-11-24T09:00:00Z","process":"01936b1e-7a00-7000-8000-000000000001",
            "host":"chick-1","pid":7,"release":"0.1.0","since":"2026-11-24T08:00:00Z","roles":["ingress"]}"#;
        let report = Report::decode(least.as_bytes()).expect("less");
        assert_eq!((report.not_ready, report.stopping), (None, false));
    }

    #[test]
    fn no_reader_of_outcomes_takes_a_report_for_one() {
        assert!(serde_json::from_str::<Outcome>(FROZEN).is_err());
    }

    #[test]
    fn a_report_fades_after_half_a_minute_whichever_clock_is_wrong() {
        let report = Report::decode(FROZEN.as_bytes()).expect("a report");
        for (seconds, fresh) in [
            (-31, false),
            (-30, true),
            (0, true),
            (30, true),
            (31, false),
        ] {
            let now = report.at + SignedDuration::from_secs(seconds);
            assert_eq!(report.is_fresh(now), fresh, "{seconds} s later");
        }
    }
}
