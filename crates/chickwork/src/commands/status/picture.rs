//! How the bot is at one moment, and the words for it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chickwork_queue::examine::SpoolSeen;
use chickwork_queue::job::Step;
use chickwork_queue::report::{AccountLimit, Depth, Paused, Report, SpoolReport, Unfinished};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::words;

/// Without a webhook for so long one should look whether Chatwork still sends them.
const SILENCE: SignedDuration = SignedDuration::from_hours(24);
/// A reason is shown up to this length, in characters.
const LONGEST_REASON: usize = 300;
/// The name of a machine is shown up to this length, in characters.
const LONGEST_HOST: usize = 64;

/// What was seen at one time; `None` where something could not be seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    pub(super) now: Timestamp,
    /// Where the queue is, if it could be opened.
    pub(super) queue: Option<String>,
    /// How far back it was looked for what has not come to an end.
    pub(super) max_age: Duration,
    /// Why the queue cannot be used. Something may be seen in it nevertheless.
    pub(super) down: Option<String>,
    /// That is because of this command, which looks at another place or may not look: the bot may do well.
    pub(super) looked_in_vain: bool,
    pub(super) reports: Option<Vec<Report>>,
    pub(super) depths: Option<Vec<Depth>>,
    pub(super) unfinished: Option<Unfinished>,
    /// The inner `None`: the archive has no event.
    pub(super) last_event: Option<Option<Timestamp>>,
    /// Where a spool may be on this machine, if that was looked at: while a broker cannot be used,
    /// or because it was pointed at.
    pub(super) place: Option<Place>,
    /// It was pointed at that spool, which tells nothing else of the bot.
    pub(super) of_spool_alone: bool,
}

/// What is where a spool may be.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Spool(SpoolFile),
    /// Nothing is at this path so far.
    Empty(String),
    /// A file that is no spool, or cannot be read, in words.
    Other(String),
}

/// A spool as it lies on the disk of this machine.
#[derive(Debug, Clone)]
pub(super) struct SpoolFile {
    pub(super) path: String,
    /// This machine, as its processes call it.
    pub(super) host: String,
    pub(super) seen: SpoolSeen,
    /// How much it may hold, if that was given.
    pub(super) max_bytes: Option<u64>,
}

impl SpoolFile {
    /// Whether it is the spool that this ingress tells of.
    fn is_of(&self, report: &Report) -> bool {
        self.seen.process == Some(report.pid) && self.host == report.host
    }
}

/// A spool, by the ingress that tells of it, by what lies on the disk, or by both.
#[derive(Debug)]
struct Spool<'a> {
    report: Option<&'a Report>,
    path: Option<&'a str>,
    events: u64,
    oldest: Option<Timestamp>,
    bytes: u64,
    max_bytes: Option<u64>,
}

impl<'a> Spool<'a> {
    fn told(report: &'a Report) -> Option<Self> {
        let SpoolReport {
            events,
            oldest,
            bytes,
            max_bytes,
        } = report.spool?;
        Some(Self {
            report: Some(report),
            path: None,
            events,
            oldest,
            bytes,
            max_bytes: Some(max_bytes),
        })
    }

    /// With how much it may hold, as far as that is more than an assumption.
    fn full(&self) -> Option<SpoolReport> {
        Some(SpoolReport {
            events: self.events,
            oldest: self.oldest,
            bytes: self.bytes,
            max_bytes: self.max_bytes?,
        })
    }

    fn is_nearly_full(&self) -> bool {
        self.full().is_some_and(|spool| spool.is_nearly_full())
    }

    /// How much room it takes.
    fn fullness(&self) -> String {
        let bytes = words::size(self.bytes);
        let Some(spool) = self.full() else {
            return format!("it takes {bytes}");
        };
        let (percent, most) = (spool.percent(), words::size(spool.max_bytes));
        let refused = if spool.is_nearly_full() {
            ": large webhooks may be refused already"
        } else {
            ""
        };
        format!("it is {percent} % full ({bytes} of {most}){refused}")
    }

    fn json(&self, now: Timestamp) -> Value {
        let seconds = |at| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        json!({
            "process": self.report.map(|report| report.process),
            "host": self.report.map(|report| &report.host),
            "pid": self.report.map(|report| report.pid),
            "path": self.path,
            "events": self.events,
            "oldest_seconds": self.oldest.map(|oldest| seconds(oldest).as_secs()),
            "bytes": self.bytes,
            "max_bytes": self.max_bytes,
        })
    }
}

impl Picture {
    /// Why the bot does not work; nothing if it does.
    pub(super) fn troubles(&self) -> Vec<String> {
        if let Some(spool) = self.spool_alone() {
            return match spool.events {
                0 => Vec::new(),
                _ => vec![self.waiting_in("this spool", &spool)],
            };
        }
        if let Some(why) = &self.down {
            let what = if self.looked_in_vain {
                "how the bot is cannot be told"
            } else {
                "the queue cannot be used"
            };
            return vec![format!("{what}: {why}")];
        }
        if self.reports.is_none() {
            return vec!["it could not be seen whether anybody works".to_owned()];
        }
        let mut troubles = Vec::new();
        for (role, without) in [
            ("ingress", "nobody takes webhooks"),
            ("worker", "nobody asks and posts"),
        ] {
            let mut able = self.at_work().filter(|report| has_role(report, role));
            if able.any(|report| report.not_ready.is_none()) {
                continue;
            }
            let there = self.at_work().any(|report| has_role(report, role));
            let why = if there {
                format!("no {role} is ready")
            } else {
                format!("no {role} reports")
            };
            troubles.push(format!("{without}: {why}"));
        }
        // The broker's next hiccup would cost webhooks there.
        let unusable = self.at_work().filter_map(|report| {
            let why = words::line(report.spool_trouble.as_ref()?, LONGEST_REASON);
            let host = words::line(&report.host, LONGEST_HOST);
            Some(format!(
                "the spool of the ingress on {host} cannot be used: {why}"
            ))
        });
        troubles.extend(unusable);
        // After its time the next job tries again; whether in vain nobody knows yet.
        let pauses = self.pauses().into_iter();
        let lasting = pauses.filter(|paused| paused.until > self.now);
        troubles.extend(lasting.map(|paused| self.pause(&paused)));
        troubles
    }

    /// The picture in sentences that could be read aloud.
    pub(super) fn lines(&self) -> Vec<String> {
        if let Some(spool) = self.spool_alone() {
            return self.of_spool_alone(&spool);
        }
        let troubles = self.troubles();
        let mut lines = Vec::new();
        if troubles.is_empty() {
            lines.push("The bot works.".to_owned());
        } else if let Some(why) = self.down.as_ref().filter(|_| self.looked_in_vain) {
            let why = words::sentence(why);
            lines.push(format!("How the bot is cannot be told: {why}"));
        } else {
            lines.push("The bot does not work:".to_owned());
            let troubles = troubles.iter().map(|trouble| words::sentence(trouble));
            lines.extend(troubles.map(|trouble| format!("  {trouble}")));
        }
        if let Some(queue) = &self.queue {
            lines.push(format!("Queue: {queue}."));
        }
        lines.extend(self.of_spool_meanwhile());
        if self.down.is_some() && self.depths.is_none() {
            return lines;
        }
        lines.extend(self.of_processes());
        lines.extend(self.of_work());
        lines.extend(self.of_past_pauses());
        lines.extend(self.account_limit().map(|limit| self.of_limit(&limit)));
        lines.push(self.of_last_webhook());
        lines
    }

    /// The picture for programs.
    pub(super) fn json(&self) -> Value {
        let troubles = self.troubles();
        let depths = self.depths.as_deref();
        let seconds = |at: Option<Timestamp>| at.map(|at| self.since(at).as_secs());
        let (waiting, oldest) = self.waiting().unzip();
        let spools = self.reports.is_some() || self.file().is_some();
        json!({
            "queue": self.queue,
            "up": self.down.is_none(),
            "works": troubles.is_empty(),
            "troubles": troubles,
            "processes": self.reports.as_ref().map(|reports| reports.iter().map(process).collect::<Vec<_>>()),
            "waiting": waiting,
            "oldest_seconds": seconds(oldest.flatten()),
            "later": self.jobs(Depth::LATER),
            "dead": self.jobs(Depth::DEAD),
            "unfinished": self.unfinished.map(|unfinished| unfinished.count),
            "unfinished_oldest_seconds": seconds(self.unfinished.and_then(|unfinished| unfinished.oldest)),
            "spools": spools.then(|| self.spools().map(|spool| spool.json(self.now)).collect::<Vec<_>>()),
            "queues": depths.map(|depths| depths.iter().map(depth).collect::<Vec<_>>()),
            "account_limit": self.account_limit(),
            "pauses": self.reports.as_ref().map(|_| self.pauses()),
            "last_webhook_at": self.last_webhook(),
        })
    }

    fn of_processes(&self) -> Vec<String> {
        let Some(reports) = &self.reports else {
            return vec!["What the processes say could not be seen.".to_owned()];
        };
        if reports.is_empty() {
            let why = if self.down.is_some() {
                ", but reports are messages as well"
            } else {
                ""
            };
            return vec![format!("No process has reported in the last 30 s{why}.")];
        }
        let kinds = counted(reports.iter().map(kind));
        let kinds: Vec<String> = kinds
            .into_iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        // While nothing can be stored there is no newer report, and soon none.
        let when = match self.down {
            Some(_) => ", as last reported",
            None => "",
        };
        let mut lines = vec![format!("Processes{when}: {}.", kinds.join(", "))];
        let not_ready = reports.iter().filter_map(|report| {
            let why = report.not_ready.as_ref().filter(|_| !report.stopping)?;
            let why = words::line(why, LONGEST_REASON);
            Some(format!("{} is not ready: {why}", kind(report)))
        });
        for (what, count) in counted(not_ready) {
            lines.push(format!("  {count} {what}"));
        }
        let stopping = reports.iter().filter(|report| report.stopping).count();
        if stopping > 0 {
            lines.push(format!("  {stopping} of them stopping, or just stopped"));
        }
        let releases = counted(reports.iter().map(|report| report.release.clone()));
        if releases.len() > 1 {
            let releases: Vec<String> = releases
                .into_iter()
                .map(|(release, count)| format!("{count} of {release}"))
                .collect();
            lines.push(format!("  of different releases: {}", releases.join(", ")));
        }
        // One that was looked into has been told of.
        for spool in self.spools().filter(|spool| spool.path.is_none()) {
            if let Some(report) = spool.report
                && (spool.events > 0 || spool.is_nearly_full())
            {
                let host = words::line(&report.host, LONGEST_HOST);
                let mut waits = self.waiting_in("its spool", &spool);
                if spool.is_nearly_full() {
                    waits = format!("{waits}; {}", spool.fullness());
                }
                lines.push(format!("  {} on {host}: {waits}", kind(report)));
            }
        }
        lines
    }

    /// The spool, if nothing else was looked at.
    fn spool_alone(&self) -> Option<Spool<'_>> {
        self.file().filter(|_| self.of_spool_alone)
    }

    /// What a spool tells that it was pointed at.
    fn of_spool_alone(&self, spool: &Spool<'_>) -> Vec<String> {
        let path = spool.path.unwrap_or_default();
        let mut lines = vec![format!("{path} is the spool of an ingress.")];
        lines.push(match spool.events {
            0 => "Nothing waits in it.".to_owned(),
            _ => self.of_file(spool, "it"),
        });
        lines.push(
            "How the bot is, the broker knows: set CHICKWORK_QUEUE to its address.".to_owned(),
        );
        lines
    }

    /// What becomes of webhooks while a broker cannot be used.
    fn of_spool_meanwhile(&self) -> Option<String> {
        let why_not = match self.place.as_ref()? {
            Place::Spool(SpoolFile { path, .. }) => {
                let spool = self.file().filter(|spool| spool.events > 0);
                return Some(match spool {
                    Some(spool) => self.of_file(&spool, path),
                    None => format!("Nothing waits in the spool {path}."),
                });
            }
            Place::Empty(path) => format!("there is none at {path}"),
            Place::Other(what) => what.clone(),
        };
        Some(format!(
            "Meanwhile each ingress keeps events in its spool, and {why_not}: run this beside an ingress, with its CHICKWORK_SPOOL, to see how many."
        ))
    }

    fn of_file(&self, spool: &Spool<'_>, name: &str) -> String {
        let waits = self.waiting_in(name, spool);
        format!("{waits}; {}.", spool.fullness())
    }

    /// So many events wait in such a place, and since when.
    fn waiting_in(&self, place: &str, spool: &Spool<'_>) -> String {
        let (wait, them) = match spool.events {
            1 => ("waits", "it"),
            _ => ("wait", "them"),
        };
        let events = words::count(spool.events, "event");
        let oldest = match spool.oldest {
            Some(oldest) => format!(" (the oldest for {})", self.age(oldest)),
            None => String::new(),
        };
        format!("{events} {wait} in {place}{oldest} until the broker takes {them}")
    }

    fn of_work(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.waiting() {
            None => lines.push("What waits could not be seen.".to_owned()),
            Some((0, _)) => lines.push("Nothing waits.".to_owned()),
            Some((count, oldest)) => {
                let oldest = oldest.map(|oldest| format!(", the oldest for {}", self.age(oldest)));
                lines.push(format!("{count} waiting{}.", oldest.unwrap_or_default()));
            }
        }
        if let Some(later @ 1..) = self.jobs(Depth::LATER) {
            lines.push(format!("{later} put off until later."));
        }
        if let Some(dead @ 1..) = self.jobs(Depth::DEAD) {
            let dead = words::count(dead, "dead letter");
            lines.push(format!("{dead}: see `chickwork dead list`."));
        }
        if let Some(Unfinished {
            count: count @ 1..,
            oldest,
        }) = self.unfinished
        {
            let oldest = oldest.map(|oldest| format!(", the oldest after {}", self.age(oldest)));
            lines.push(format!(
                "Of the last {}, {} {} not come to an end{}.",
                words::length(self.max_age),
                words::count(count, "event"),
                if count == 1 { "has" } else { "have" },
                oldest.unwrap_or_default()
            ));
        }
        lines
    }

    fn of_limit(&self, limit: &AccountLimit) -> String {
        let AccountLimit { calls, left, until } = limit;
        let rest = self.until(*until);
        let again = if left < calls {
            format!(", all of them again in {}", words::length(rest))
        } else {
            String::new()
        };
        format!("Account limit: {left} of {calls} calls left{again}.")
    }

    fn of_last_webhook(&self) -> String {
        let Some(at) = self.last_webhook() else {
            return if self.reports.is_some() && self.last_event.is_some() {
                "No webhook has come so far.".to_owned()
            } else {
                "The last webhook could not be seen.".to_owned()
            };
        };
        // While the queue cannot be used, another ingress may have had one since.
        let known = match self.down {
            Some(_) => " that is known of",
            None => "",
        };
        let came = format!("The last webhook{known} came {}", words::ago(at, self.now));
        if self.now.duration_since(at) > SILENCE {
            format!(
                "{came}: look at the webhook's edit screen whether Chatwork has switched it off."
            )
        } else {
            format!("{came}.")
        }
    }

    fn pause(&self, paused: &Paused) -> String {
        let step = match paused.step {
            Step::Ask => "asking",
            Step::Post => "posting",
            Step::Receive => "receiving",
        };
        let rest = words::length(self.until(paused.until));
        let reason = words::line(&paused.reason, LONGEST_REASON);
        format!("{step} is paused for {rest}: {reason}")
    }

    fn of_past_pauses(&self) -> Vec<String> {
        let pauses = self.pauses().into_iter();
        let past = pauses.filter(|paused| paused.until <= self.now);
        past.map(|paused| {
            let verb = paused.step.as_str();
            let reason = words::line(&paused.reason, LONGEST_REASON);
            words::sentence(&format!(
                "The next job to {verb} tries again after a pause: {reason}"
            ))
        })
        .collect()
    }

    /// Those that do not stop.
    fn at_work(&self) -> impl Iterator<Item = &Report> {
        let reports = self.reports.iter().flatten();
        reports.filter(|report| !report.stopping)
    }

    /// What each step pauses for, the longest pause of each; every process has its own.
    fn pauses(&self) -> Vec<Paused> {
        let mut longest: BTreeMap<&str, &Paused> = BTreeMap::new();
        for paused in self.at_work().flat_map(|report| &report.pauses) {
            let known = longest.entry(paused.step.as_str()).or_insert(paused);
            if known.until < paused.until {
                *known = paused;
            }
        }
        longest.into_values().cloned().collect()
    }

    /// What is left to the worker that posts. While one takes over from another both may say so.
    fn account_limit(&self) -> Option<AccountLimit> {
        let limits = self
            .at_work()
            .filter_map(|report| report.account_limit.clone());
        limits.min_by_key(|limit| limit.left)
    }

    /// The spool that was looked into; its ingress knows best how much it may hold.
    fn file(&self) -> Option<Spool<'_>> {
        let Some(Place::Spool(file)) = &self.place else {
            return None;
        };
        let mut reports = self.reports.iter().flatten();
        let report = reports.find(|report| file.is_of(report));
        let told = report.and_then(|report| report.spool);
        Some(Spool {
            report,
            path: Some(&file.path),
            events: file.seen.events,
            oldest: file.seen.oldest,
            bytes: file.seen.bytes,
            max_bytes: told.map(|told| told.max_bytes).or(file.max_bytes),
        })
    }

    /// The spools that are known, each once: what lies on the disk is newer than any report of it.
    fn spools(&self) -> impl Iterator<Item = Spool<'_>> {
        let file = self.file();
        let seen = file.as_ref().and_then(|spool| spool.report);
        let others = self
            .at_work()
            .filter(move |report| seen.is_none_or(|seen| seen.process != report.process));
        others.filter_map(Spool::told).chain(file)
    }

    /// How much waits to be worked on, and since when.
    fn waiting(&self) -> Option<(u64, Option<Timestamp>)> {
        if let Some(spool) = self.spool_alone() {
            return Some((spool.events, spool.oldest));
        }
        let depths = self.depths.as_ref()?;
        let waiting = || {
            depths
                .iter()
                .filter(|depth| ![Depth::LATER, Depth::DEAD].contains(&depth.queue.as_str()))
        };
        let in_queues: u64 = waiting().map(|depth| depth.jobs).sum();
        let in_spools: u64 = self.spools().map(|spool| spool.events).sum();
        let count = in_queues + in_spools;
        let told = waiting().filter_map(|depth| depth.oldest);
        let told = told
            .chain(self.spools().filter_map(|spool| spool.oldest))
            .min();
        // A broker does not tell; the archive does.
        let oldest = told
            .or_else(|| self.unfinished?.oldest)
            .filter(|_| count > 0);
        Some((count, oldest))
    }

    fn jobs(&self, queue: &str) -> Option<u64> {
        let mut depths = self.depths.iter().flatten();
        depths
            .find(|depth| depth.queue == queue)
            .map(|depth| depth.jobs)
    }

    fn last_webhook(&self) -> Option<Timestamp> {
        let reports = self.reports.iter().flatten();
        let told = reports.filter_map(|report| report.last_webhook).max();
        let spooled = match &self.place {
            Some(Place::Spool(file)) => file.seen.newest,
            _ => None,
        };
        told.max(self.last_event.flatten()).max(spooled)
    }

    fn age(&self, at: Timestamp) -> String {
        words::length(self.since(at))
    }

    /// How long ago; nothing if that is still to come.
    fn since(&self, at: Timestamp) -> Duration {
        Duration::try_from(self.now.duration_since(at)).unwrap_or_default()
    }

    /// How long it still takes; nothing if that has passed.
    fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.now)).unwrap_or_default()
    }
}

fn has_role(report: &Report, role: &str) -> bool {
    report.roles.iter().any(|name| name == role)
}

/// What kind of process it is: its role, or `serve` with both.
fn kind(report: &Report) -> String {
    match report.roles.as_slice() {
        [role] => role.clone(),
        _ => "serve".to_owned(),
    }
}

fn counted(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn process(report: &Report) -> Value {
    json!({
        "process": report.process,
        "host": report.host,
        "pid": report.pid,
        "release": report.release,
        "since": report.since,
        "roles": report.roles,
        "ready": report.not_ready.is_none(),
        "not_ready": report.not_ready,
        "stopping": report.stopping,
        "posting": report.posting,
        "last_webhook_at": report.last_webhook,
        "reported_at": report.at,
    })
}

fn depth(depth: &Depth) -> Value {
    json!({ "queue": depth.queue, "jobs": depth.jobs, "consumers": depth.consumers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).expect("a time")
    }

    fn report(roles: &[&str]) -> Report {
        let json = json!({
            "v": 1,
            "at": at(-2),
            "process": "01936b1e-7a00-7000-8000-000000000001",
            "host": "chick-1",
            "pid": 7,
            "release": "0.1.0",
            "since": at(-3600),
            "roles": roles,
        });
        serde_json::from_value(json).expect("a report")
    }

    fn depth(queue: &str, jobs: u64, oldest: Option<i64>) -> Depth {
        Depth {
            queue: queue.to_owned(),
            jobs,
            oldest: oldest.map(at),
            consumers: None,
        }
    }

    fn picture(reports: Vec<Report>) -> Picture {
        Picture {
            now: at(0),
            queue: Some("/var/lib/chickwork.db".to_owned()),
            max_age: Duration::from_secs(3600),
            reports: Some(reports),
            depths: Some(vec![
                depth("ask", 0, None),
                depth("post.bot", 0, None),
                depth("later", 0, None),
                depth("dead", 0, None),
            ]),
            unfinished: Some(Unfinished::default()),
            last_event: Some(Some(at(-65))),
            ..Picture::default()
        }
    }

    fn spool(events: u64, percent: u64) -> SpoolReport {
        SpoolReport {
            events,
            oldest: (events > 0).then(|| at(-120)),
            bytes: percent * 1_000,
            max_bytes: 100_000,
        }
    }

    /// A spool on this machine, of whose size nothing is known but what it takes.
    fn spool_file(events: u64) -> SpoolFile {
        SpoolFile {
            path: "/var/lib/spool.db".to_owned(),
            host: "chick-1".to_owned(),
            seen: SpoolSeen {
                events,
                oldest: (events > 0).then(|| at(-120)),
                newest: (events > 0).then(|| at(-10)),
                bytes: 30_000,
                process: Some(7),
            },
            max_bytes: None,
        }
    }

    #[test]
    fn a_bot_at_rest_needs_few_words() {
        let picture = picture(vec![report(&["ingress", "worker"])]);
        assert_eq!(
            picture.lines(),
            [
                "The bot works.",
                "Queue: /var/lib/chickwork.db.",
                "Processes: 1 serve.",
                "Nothing waits.",
                "The last webhook came 1 min ago.",
            ]
        );
        let json = picture.json();
        assert_eq!(json["works"], true);
        assert_eq!(json["waiting"], 0);
        assert_eq!(json["oldest_seconds"], Value::Null);
        assert_eq!(json["pauses"], json!([]));
    }

    #[test]
    fn a_busy_bot_tells_what_waits_and_what_is_left() {
        let mut posting = report(&["worker"]);
        posting.account_limit = Some(AccountLimit {
            calls: 300,
            left: 212,
            until: at(240),
        });
        let mut newer = report(&["worker"]);
        newer.release = "0.2.0".to_owned();
        newer.not_ready = Some("reading the outcomes".to_owned());
        let mut leaving = report(&["ingress"]);
        leaving.stopping = true;
        leaving.not_ready = Some("the process is stopping".to_owned());
        let mut picture = picture(vec![report(&["ingress"]), posting, newer, leaving]);
        picture.depths = Some(vec![
            depth("ask", 10, Some(-4)),
            depth("post.bot", 2, Some(-3)),
            depth("later", 5, Some(-300)),
            depth("dead", 2, Some(-3000)),
        ]);
        picture.unfinished = Some(Unfinished {
            count: 17,
            oldest: Some(at(-240)),
        });
        picture.last_event = Some(Some(at(-26 * 3600)));
        assert_eq!(
            picture.lines(),
            [
                "The bot works.",
                "Queue: /var/lib/chickwork.db.",
                "Processes: 2 ingress, 2 worker.",
                "  1 worker is not ready: reading the outcomes",
                "  1 of them stopping, or just stopped",
                "  of different releases: 3 of 0.1.0, 1 of 0.2.0",
                "12 waiting, the oldest for 4 s.",
                "5 put off until later.",
                "2 dead letters: see `chickwork dead list`.",
                "Of the last 1 h, 17 events have not come to an end, the oldest after 4 min.",
                "Account limit: 212 of 300 calls left, all of them again in 4 min.",
                "The last webhook came 1 d ago: look at the webhook's edit screen whether Chatwork has switched it off.",
            ]
        );
    }

    #[test]
    fn what_waits_in_a_spool_is_told_by_its_ingress_and_counted() {
        let spooling = |events, percent| Report {
            spool: Some(spool(events, percent)),
            ..report(&["ingress"])
        };
        let mut fuller = spooling(1, 83);
        fuller.host = "chick-2".to_owned();
        let mut picture = picture(vec![
            spooling(0, 0),
            spooling(12, 3),
            fuller,
            report(&["worker"]),
        ]);
        picture.depths = Some(vec![depth("ask", 2, None)]);
        assert_eq!(
            picture.lines()[2..6],
            [
                "Processes: 3 ingress, 1 worker.",
                "  ingress on chick-1: 12 events wait in its spool (the oldest for 2 min) until the broker takes them",
                "  ingress on chick-2: 1 event waits in its spool (the oldest for 2 min) until the broker takes it; it is 83 % full (83 KB of 100 KB): large webhooks may be refused already",
                "15 waiting, the oldest for 2 min.",
            ]
        );
        let json = picture.json();
        assert_eq!(json["waiting"], 15);
        assert_eq!(json["oldest_seconds"], 120);
        let spools = json["spools"].as_array().expect("a list");
        let events: Vec<_> = spools
            .iter()
            .map(|spool| spool["events"].as_u64())
            .collect();
        assert_eq!(events, [Some(0), Some(12), Some(1)]);
        assert_eq!(spools[2]["host"], "chick-2");
        assert_eq!(spools[2]["path"], Value::Null);
    }

    #[test]
    fn while_the_broker_is_away_the_spool_of_this_machine_is_told() {
        let away = Picture {
            down: Some("the broker cannot be reached".to_owned()),
            place: Some(Place::Empty("/srv/spool.db".to_owned())),
            now: at(0),
            ..Picture::default()
        };
        let last = |picture: &Picture| picture.lines().pop().expect("it says something");
        assert_eq!(
            last(&away),
            "Meanwhile each ingress keeps events in its spool, and there is none at /srv/spool.db: run this beside an ingress, with its CHICKWORK_SPOOL, to see how many."
        );
        assert_eq!(away.json()["spools"], Value::Null);
        let other = Picture {
            place: Some(Place::Other("/srv/q.db is a queue".to_owned())),
            ..away.clone()
        };
        let words = "in its spool, and /srv/q.db is a queue: run this beside an ingress";
        assert!(last(&other).contains(words), "{}", last(&other));
        let with = |events| Picture {
            place: Some(Place::Spool(spool_file(events))),
            ..away.clone()
        };
        assert_eq!(
            last(&with(12)),
            "12 events wait in /var/lib/spool.db (the oldest for 2 min) until the broker takes them; it takes 30 KB."
        );
        assert_eq!(
            last(&with(0)),
            "Nothing waits in the spool /var/lib/spool.db."
        );
        let json = with(12).json();
        assert_eq!(json["spools"][0]["path"], "/var/lib/spool.db");
        assert_eq!(json["spools"][0]["events"], 12);
        assert_eq!(json["waiting"], Value::Null, "the broker may hold more");
        assert_eq!(json["works"], false);
    }

    #[test]
    fn a_spool_that_is_seen_and_told_of_is_one() {
        let mut told = report(&["ingress"]);
        told.spool = Some(spool(2, 2));
        told.last_webhook = Some(at(-200));
        let mut elsewhere = told.clone();
        elsewhere.process = uuid::Uuid::from_u128(2);
        elsewhere.host = "chick-2".to_owned();
        let alarm = Picture {
            down: Some("the broker takes no messages".to_owned()),
            place: Some(Place::Spool(spool_file(5))),
            last_event: Some(None),
            ..picture(vec![told, elsewhere])
        };
        assert_eq!(
            alarm.lines()[2..],
            [
                "Queue: /var/lib/chickwork.db.",
                "5 events wait in /var/lib/spool.db (the oldest for 2 min) until the broker takes them; it is 30 % full (30 KB of 100 KB).",
                "Processes, as last reported: 2 ingress.",
                "  ingress on chick-2: 2 events wait in its spool (the oldest for 2 min) until the broker takes them",
                "7 waiting, the oldest for 2 min.",
                "The last webhook that is known of came 10 s ago.",
            ]
        );
        let json = alarm.json();
        assert_eq!(json["waiting"], 7);
        let spools = json["spools"].as_array().expect("a list");
        assert_eq!(spools.len(), 2);
        assert_eq!(spools[1]["path"], "/var/lib/spool.db");
        assert_eq!(
            (&spools[1]["pid"], &spools[1]["events"]),
            (&json!(7), &json!(5))
        );
    }

    #[test]
    fn a_spool_that_is_pointed_at_is_told_as_one() {
        let pointed_at = |events| Picture {
            now: at(0),
            queue: Some("/var/lib/spool.db".to_owned()),
            place: Some(Place::Spool(SpoolFile {
                max_bytes: Some(1_000_000),
                ..spool_file(events)
            })),
            of_spool_alone: true,
            ..Picture::default()
        };
        assert_eq!(
            pointed_at(1).lines(),
            [
                "/var/lib/spool.db is the spool of an ingress.",
                "1 event waits in it (the oldest for 2 min) until the broker takes it; it is 3 % full (30 KB of 1000 KB).",
                "How the bot is, the broker knows: set CHICKWORK_QUEUE to its address.",
            ]
        );
        assert_eq!(pointed_at(1).json()["waiting"], 1);
        assert_eq!(pointed_at(1).json()["works"], false);
        assert_eq!(pointed_at(0).lines()[1], "Nothing waits in it.");
        assert_eq!(pointed_at(0).troubles(), [""; 0]);
    }

    #[test]
    fn what_keeps_the_bot_from_working_comes_first() {
        let nobody = picture(Vec::new());
        assert_eq!(
            nobody.troubles(),
            [
                "nobody takes webhooks: no ingress reports",
                "nobody asks and posts: no worker reports"
            ]
        );
        let mut unready = report(&["worker"]);
        unready.not_ready = Some("why".to_owned());
        let unready = picture(vec![report(&["ingress"]), unready]);
        assert_eq!(
            unready.troubles(),
            ["nobody asks and posts: no worker is ready"]
        );

        let mut paused = report(&["ingress", "worker"]);
        let pause = |reason: &str, until| Paused {
            step: Step::Ask,
            reason: reason.to_owned(),
            until: at(until),
        };
        paused.pauses = vec![pause("quota", 40)];
        let mut without_spool = report(&["ingress", "worker"]);
        without_spool.spool_trouble = Some("the spool's disk is too slow".to_owned());
        assert_eq!(
            picture(vec![without_spool]).troubles(),
            ["the spool of the ingress on chick-1 cannot be used: the spool's disk is too slow"]
        );
        let mut longer = paused.clone();
        longer.pauses = vec![pause("quota", 90)];
        let mut over = paused.clone();
        over.pauses = vec![pause("quota", -1)];
        let paused = picture(vec![paused, longer]);
        assert_eq!(paused.troubles(), ["asking is paused for 1 min: quota"]);
        let over = picture(vec![over]);
        assert_eq!(over.troubles(), [""; 0]);
        let told = "The next job to ask tries again after a pause: quota.".to_owned();
        assert!(over.lines().contains(&told), "{:?}", over.lines());

        let down = Picture {
            down: Some("it is away".to_owned()),
            reports: None,
            ..picture(Vec::new())
        };
        assert_eq!(down.troubles(), ["the queue cannot be used: it is away"]);
        assert_eq!(down.json()["processes"], Value::Null);

        let in_vain = Picture {
            looked_in_vain: true,
            depths: None,
            ..down
        };
        assert_eq!(
            in_vain.lines(),
            [
                "How the bot is cannot be told: it is away.",
                "Queue: /var/lib/chickwork.db.",
            ]
        );
        assert_eq!(
            in_vain.troubles(),
            ["how the bot is cannot be told: it is away"]
        );
        assert_eq!(in_vain.json()["works"], false);
    }

    #[test]
    fn what_could_not_be_seen_is_not_made_up() {
        let mut blind = picture(Vec::new());
        blind.reports = None;
        assert_eq!(
            blind.troubles(),
            ["it could not be seen whether anybody works"]
        );
        let last = |picture: &Picture| picture.lines().pop();
        let came = Some("The last webhook came 1 min ago.".to_owned());
        assert_eq!(last(&blind), came);
        blind.last_event = None;
        let unseen = Some("The last webhook could not be seen.".to_owned());
        assert_eq!(last(&blind), unseen);
        let mut forgetful = picture(vec![report(&["ingress", "worker"])]);
        forgetful.last_event = None;
        assert_eq!(last(&forgetful), unseen, "a process may be young");
        forgetful.last_event = Some(None);
        let none = Some("No webhook has come so far.".to_owned());
        assert_eq!(last(&forgetful), none);
    }

    #[test]
    fn a_queue_that_takes_nothing_is_told_with_what_is_in_it() {
        let mut picture = picture(Vec::new());
        picture.down = Some("the broker takes no messages: is it low on memory?".to_owned());
        let lines = picture.lines();
        assert_eq!(
            lines[..2],
            [
                "The bot does not work:",
                "  the queue cannot be used: the broker takes no messages: is it low on memory?",
            ]
        );
        let silence = "No process has reported in the last 30 s, but reports are messages as well.";
        assert!(lines.contains(&silence.to_owned()), "{lines:?}");
        assert!(lines.contains(&"Nothing waits.".to_owned()), "{lines:?}");
        assert_eq!(picture.json()["up"], false);
    }

    #[test]
    fn a_broker_does_not_tell_ages_and_the_archive_does() {
        let mut picture = picture(Vec::new());
        picture.depths = Some(vec![depth("ask", 3, None)]);
        picture.unfinished = Some(Unfinished {
            count: 3,
            oldest: Some(at(-7)),
        });
        assert_eq!(picture.json()["oldest_seconds"], 7);
        assert_eq!(picture.json()["dead"], Value::Null);
    }
}
