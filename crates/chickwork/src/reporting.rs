//! What a process that serves says of itself every few seconds, for `chickwork status`. Best effort,
//! and beside the work: it asks nobody but its own spool, and never waits for the queue.

use std::time::Duration;

use chickwork_ingress::LastWebhook;
use chickwork_queue::Queue;
use chickwork_queue::report::{AccountLimit, Paused, Report, SpoolReport};
use chickwork_queue::spool::{Spool, SpoolError};
use chickwork_worker::View;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use crate::roles::Readiness;

/// There is a report at least this often. A process is taken for gone after [`Report::FRESH`] without one.
const INTERVAL: Duration = Duration::from_secs(5);
/// This often it is looked whether there is something that should be told at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to see what the spool holds. A disk that is slower tells the next time.
const SPOOL_LIMIT: Duration = Duration::from_secs(1);
/// The longest name of a machine that is told, in bytes.
const LONGEST_HOST: usize = 255;

/// What a process tells of.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) readiness: Readiness,
    pub(crate) ingress: Option<LastWebhook>,
    pub(crate) spool: Option<Spool>,
    pub(crate) worker: Option<View>,
}

/// The reports of this process, until it is stopped.
#[derive(Debug)]
pub(crate) struct Reporting {
    reporter: Reporter,
    task: JoinHandle<()>,
}

impl Reporting {
    /// Begins to report. Must be called within a tokio runtime.
    pub(crate) fn start(queue: Queue, sources: Sources) -> Self {
        let reporter = Reporter {
            queue,
            sources,
            process: Uuid::now_v7(),
            host: host(),
            since: Timestamp::now(),
        };
        let task = tokio::spawn(reporter.clone().keep_reporting());
        Self { reporter, task }
    }

    /// Says that the process ends, and no more.
    pub(crate) async fn stop(self) {
        self.task.abort();
        // So that nothing is said after the last word.
        let _ = self.task.await;
        let last = self.reporter.report(Instant::now(), Timestamp::now()).await;
        self.reporter.queue.report(&Report {
            stopping: true,
            ..last
        });
    }
}

#[derive(Debug, Clone)]
struct Reporter {
    queue: Queue,
    sources: Sources,
    process: Uuid,
    host: String,
    since: Timestamp,
}

impl Reporter {
    async fn keep_reporting(self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<(Instant, Report)> = None;
        loop {
            let now = looks.tick().await;
            let report = self.report(now, Timestamp::now()).await;
            let due = told.as_ref().is_none_or(|(at, earlier)| {
                now.duration_since(*at) >= INTERVAL || is_news(earlier, &report)
            });
            if due {
                self.queue.report(&report);
                told = Some((now, report));
            }
        }
    }

    /// The report of this moment, by both of its clocks.
    async fn report(&self, now: Instant, clock: Timestamp) -> Report {
        let Sources {
            readiness,
            ingress,
            spool,
            worker,
        } = &self.sources;
        let roles = [
            ingress.as_ref().map(|_| "ingress"),
            worker.as_ref().map(|_| "worker"),
        ];
        let at = |instant| timestamp(instant, now, clock);
        let state = worker.as_ref().map(|worker| worker.state(now));
        let posting = state.as_ref().is_some_and(|state| state.posts);
        let (spool, spool_trouble) = match spool {
            Some(spool) => match spooled(spool).await {
                Ok(spooled) => (Some(spooled), None),
                Err(why) => (None, Some(why)),
            },
            None => (None, None),
        };
        let holds = state.as_ref().map(|state| state.holds);
        Report {
            v: Report::VERSION,
            at: clock,
            process: self.process,
            host: self.host.clone(),
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.since,
            roles: roles.into_iter().flatten().map(str::to_owned).collect(),
            not_ready: readiness.check_roles().err(),
            stopping: readiness.is_stopping(),
            last_webhook: ingress.as_ref().and_then(LastWebhook::at),
            account_limit: state
                .as_ref()
                .filter(|state| state.posts)
                .map(|state| AccountLimit {
                    calls: state.left.of,
                    left: state.left.calls,
                    until: at(state.left.until),
                }),
            pauses: state
                .map(|state| state.pauses)
                .unwrap_or_default()
                .into_iter()
                .map(|paused| Paused {
                    step: paused.step,
                    reason: paused.reason,
                    until: at(paused.until),
                })
                .collect(),
            posting,
            spool,
            spool_trouble,
            holds,
        }
    }
}

/// What the spool holds, or why that cannot be seen now.
async fn spooled(spool: &Spool) -> Result<SpoolReport, String> {
    let looked = tokio::time::timeout(SPOOL_LIMIT, spool.look()).await;
    let looked = looked.unwrap_or(Err(SpoolError::Slow.into()));
    looked
        .map(SpoolReport::from)
        .map_err(|error| error.to_string())
}

/// Whether somebody who looks should hear of it at once.
fn is_news(earlier: &Report, report: &Report) -> bool {
    // The end of a pause is not compared: it goes through two clocks, which drift.
    let pauses = |report: &Report| -> Vec<_> {
        let pauses = report.pauses.iter();
        pauses
            .map(|paused| (paused.step, paused.reason.clone()))
            .collect()
    };
    let told = |report: &Report| {
        (
            report.not_ready.clone(),
            report.stopping,
            report.posting,
            report.spool.map(|spool| spool.events > 0),
            report.spool_trouble.is_some(),
            report.holds.map(|holds| holds > 0),
            pauses(report),
        )
    };
    told(earlier) != told(report)
}

/// An instant as the time of day, given both for now.
fn timestamp(at: Instant, now: Instant, clock: Timestamp) -> Timestamp {
    let ahead = SignedDuration::try_from(at.saturating_duration_since(now));
    let behind = SignedDuration::try_from(now.saturating_duration_since(at));
    let (Ok(ahead), Ok(behind)) = (ahead, behind) else {
        return clock;
    };
    clock.saturating_add(ahead - behind).unwrap_or(clock)
}

/// The name of this machine or container.
#[expect(unsafe_code, reason = "the name is only to be had from libc")]
pub(crate) fn host() -> String {
    let mut name = [0_u8; LONGEST_HOST + 1];
    // SAFETY: it writes at most as many bytes as it is told that the array has.
    let got = unsafe { libc::gethostname(name.as_mut_ptr().cast(), LONGEST_HOST) == 0 };
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    if got && end > 0 {
        String::from_utf8_lossy(&name[..end]).into_owned()
    } else {
        "unknown".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::job::Step;

    use super::*;

    fn a_report() -> Report {
        Report {
            v: Report::VERSION,
            at: Timestamp::UNIX_EPOCH,
            process: Uuid::nil(),
            host: "here".to_owned(),
            pid: 1,
            release: "1.0.0".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            roles: vec!["worker".to_owned()],
            not_ready: None,
            stopping: false,
            last_webhook: None,
            account_limit: None,
            pauses: Vec::new(),
            posting: false,
            spool: None,
            spool_trouble: None,
            holds: None,
        }
    }

    #[test]
    fn an_instant_is_a_time_of_day_in_the_past_and_in_the_future() {
        let now = Instant::now() + Duration::from_secs(100);
        let clock = Timestamp::from_second(1_000).expect("a time");
        let second = |at| timestamp(at, now, clock).as_second();
        assert_eq!(second(now), 1_000);
        assert_eq!(second(now + Duration::from_secs(60)), 1_060);
        assert_eq!(second(now - Duration::from_secs(60)), 940);
    }

    #[test]
    fn that_something_waits_in_the_spool_is_news_and_how_much_can_wait() {
        let spooling = |events| Report {
            spool: Some(SpoolReport {
                events,
                oldest: None,
                bytes: events * 1_000,
                max_bytes: 1_000_000,
            }),
            ..a_report()
        };
        assert!(is_news(&spooling(0), &spooling(1)));
        assert!(is_news(&spooling(7), &spooling(0)));
        assert!(!is_news(&spooling(1), &spooling(7)));
        let in_trouble = Report {
            spool_trouble: Some("the spool's disk is too slow".to_owned()),
            ..a_report()
        };
        assert!(is_news(&spooling(1), &in_trouble));
    }

    #[test]
    fn that_a_worker_has_begun_or_done_its_work_is_news() {
        let holding = |holds| Report {
            holds: Some(holds),
            ..a_report()
        };
        assert!(is_news(&holding(0), &holding(1)));
        assert!(is_news(&holding(16), &holding(0)));
        assert!(!is_news(&holding(1), &holding(16)));
    }

    #[test]
    fn readiness_pauses_and_the_right_to_post_are_news_and_the_rest_can_wait() {
        let paused = |seconds| Paused {
            step: Step::Ask,
            reason: "quota".to_owned(),
            until: Timestamp::from_second(seconds).expect("a time"),
        };
        let at_work = a_report();
        let with = |change: fn(&mut Report)| {
            let mut report = a_report();
            change(&mut report);
            is_news(&at_work, &report)
        };
        assert!(with(|report| report.not_ready = Some("why".to_owned())));
        assert!(with(|report| report.posting = true));
        assert!(with(|report| report.stopping = true));
        assert!(!with(|report| report.at = Timestamp::MAX));
        assert!(!with(|report| report.last_webhook = Some(Timestamp::MAX)));
        let pausing = |seconds| Report {
            pauses: vec![paused(seconds)],
            ..a_report()
        };
        assert!(is_news(&at_work, &pausing(60)));
        assert!(!is_news(&pausing(60), &pausing(61)));
    }

    #[test]
    fn a_machine_has_a_name() {
        assert!(!host().is_empty());
    }
}
