//! `chickwork audit`: the promise as a command. What was received has to be answered, ignored, dead or
//! waiting; what is none of these is listed, and can be put back.

mod requeue;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use chickwork_queue::audit::{Audit, Sums, Twice, Unexplained};
use chickwork_queue::{Queue, QueueError, Settings};
use clap::{ArgMatches, Command};
use jiff::Timestamp;
use serde::Serialize;

use self::requeue::Requeue;
use super::operator::{on_queue, settings, usable};
use crate::command_line::{self, switch};
use crate::commands::{Call, Order};
use crate::filter::{self, Moment};
use crate::settings::parse;
use crate::settings::read::Mistakes;
use crate::{output, words};

/// The longest `--wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Who looks longer than this is told why.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is about to be forgotten is not looked at: half of it may be gone already.
const EDGE: Duration = Duration::from_secs(5 * 60);

const NOTES: &str = "\
received = answered + ignored + dead + waiting + unexplained, by the ids of events. What is
unexplained is listed: it was received, has come to no end, and waits nowhere. Looking changes
nothing. Exits 0 when everything is explained and nothing was said twice, else 1.

waiting is what is to be worked on, at once or later, and what workers have in hand. What is in
the spools of ingresses is told beside it, as spooled: it is not among those received until the
broker has taken it.

A broker does not tell which events wait, and workers say only every few seconds how many they
have in hand. So what has no end yet is looked at again, up to --wait. An event that was refused
with 503, or is in a spool still, may be in the archive all the same, and unexplained.

--requeue puts what is unexplained back to be asked about, with its id, aged from then. First
you are told what will happen, then you are asked, unless --yes. Ctrl-C stops between two
events. Exits 0 when all of it was put back and nothing was said twice.

--json prints one object with received, answered, ignored, dead, waiting, unexplained, twice,
spooled, ignored_by and dead_by; then one for each unexplained event: unexplained (true), id,
bot, type, room_id, message_id, received_at, last (the last outcome); and one for each message
that was answered twice: twice (true), room_id, message_id, replies. Times are RFC 3339; what is
not known is null.

Examples:
  chickwork audit
  chickwork audit --since 2h --json
  chickwork audit --requeue --reason 'the ask queue was purged'";

pub(crate) fn command() -> Command {
    let command = command_line::operators(
        "audit",
        "Holds what was received against what became of it, and lists what nothing explains",
    );
    let command = command
        .arg(
            command_line::value("since", "WHEN", "Only what was received since then: a time (2026-11-24T08:00:00Z), or so long ago (2h, 7d) [default: all that is kept]").value_parser(since),
        )
        .arg(
            command_line::value("wait", "TIME", "How long to look again until what is under way has come to an end").value_parser(wait).default_value("30s"),
        )
        .arg(
            switch("json", "Prints one JSON object a line"),
        );
    Requeue::flags(command).after_help(NOTES)
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    since: Timestamp,
    /// What was asked for is not kept as long.
    looks_back_less: bool,
    wait: Duration,
    json: bool,
    requeue: Option<Requeue>,
    /// Whether events are archived, as far as this command is told.
    is_archived: bool,
    namespace: String,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let errand = Errand::of(&call.flags, &settings.queue, Timestamp::now());
    let work = on_queue(settings.queue, async move |queue| errand.run(queue).await);
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

impl Errand {
    fn of(flags: &ArgMatches, settings: &Settings, now: Timestamp) -> Self {
        let kept = oldest_kept(settings, now);
        let wanted = flags
            .get_one::<Moment>("since")
            .map_or(kept, |moment| moment.at(now));
        Self {
            since: wanted.max(kept),
            // Nobody misses the edge.
            looks_back_less: wanted.saturating_add(EDGE).is_ok_and(|edge| edge < kept),
            wait: *flags.get_one("wait").expect("it has a default"),
            json: flags.get_flag("json"),
            requeue: Requeue::of(flags),
            is_archived: !settings.archive_keep.is_zero(),
            namespace: settings.namespace.clone(),
        }
    }

    async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        if let Some(requeue) = &self.requeue {
            requeue.check()?;
        }
        if self.looks_back_less {
            words::tell(format_args!(
                "What was received before {} is not looked at: it is being forgotten (CHICKWORK_ARCHIVE_KEEP).",
                words::time(self.since)
            ));
        }
        let audit = self.look(queue).await?;
        let caveats = self.caveats(&audit, usable(queue).await.err().as_ref());
        let mut out = BufWriter::new(io::stdout());
        let written = if self.json {
            json(&audit, &mut out)
        } else {
            tell(
                &audit,
                caveats.is_empty(),
                self.since,
                Timestamp::now(),
                &mut out,
            )
        };
        let written = written.and_then(|()| out.flush());
        for note in caveats.into_iter().chain(notes(&audit, self.is_archived)) {
            words::tell(note);
        }
        let is_clean = match &self.requeue {
            Some(requeue) => {
                let all_back = requeue.run(queue, &audit, self.since).await?;
                all_back && audit.twice.is_empty()
            }
            None => {
                if !self.json && audit.sums.unexplained > 0 && audit.told_apart {
                    words::tell("Next: chickwork audit --requeue puts them back.");
                }
                audit.is_clean()
            }
        };
        let code = if is_clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        output::end(written, code)
    }

    /// Looks, and says so when that takes long.
    async fn look(&self, queue: &Queue) -> Result<Audit, QueueError> {
        let audit = queue.audit(self.since, self.wait);
        tokio::pin!(audit);
        tokio::select! {
            audit = &mut audit => return audit,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        words::tell("Still looking: there is much to read, or something is under way (--wait).");
        audit.await
    }

    /// Of what nothing may be known.
    fn caveats(&self, audit: &Audit, trouble: Option<&QueueError>) -> Vec<String> {
        let no_archive = if !self.is_archived {
            Some("There is no archive (CHICKWORK_ARCHIVE_KEEP is 0)".to_owned())
        } else if audit.archived.is_none() {
            let namespace = &self.namespace;
            Some(format!(
                "The archive does not exist on the broker ({namespace}.archive)"
            ))
        } else {
            None
        };
        let no_archive = no_archive.map(|why| {
            format!("{why}, so only what waits, has outcomes or a dead letter counts as received.")
        });
        let not_told = trouble.map(|error| {
            format!("No events can be stored now ({error}), nor can ingresses tell what is in their spools.")
        });
        no_archive.into_iter().chain(not_told).collect()
    }
}

fn since(text: &str) -> Result<Moment, String> {
    match filter::moment(text)? {
        Moment::At(at) if at > Timestamp::now() => Err("is in the future".to_owned()),
        moment => Ok(moment),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    match parse::duration(text)? {
        time if time <= LONGEST_WAIT => Ok(time),
        _ => Err(format!("is longer than {}", words::length(LONGEST_WAIT))),
    }
}

/// From when on everything is known that has become of events.
pub(super) fn oldest_kept(settings: &Settings, now: Timestamp) -> Timestamp {
    let outcomes = settings.outcomes_keep().saturating_sub(EDGE);
    let kept = if settings.archive_keep.is_zero() {
        outcomes
    } else {
        outcomes.min(settings.archive_keep)
    };
    now.checked_sub(kept).unwrap_or(Timestamp::MIN)
}

fn json(audit: &Audit, out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct UnexplainedLine<'a> {
        unexplained: bool,
        #[serde(flatten)]
        event: &'a Unexplained,
    }
    #[derive(Serialize)]
    struct TwiceLine<'a> {
        twice: bool,
        #[serde(flatten)]
        message: &'a Twice,
    }
    output::json(&audit.sums, out)?;
    for event in &audit.unexplained {
        let unexplained = true;
        output::json(&UnexplainedLine { unexplained, event }, out)?;
    }
    for message in &audit.twice {
        let twice = true;
        output::json(&TwiceLine { twice, message }, out)?;
    }
    Ok(())
}

fn tell(
    audit: &Audit,
    all_is_known: bool,
    since: Timestamp,
    now: Timestamp,
    out: &mut impl Write,
) -> io::Result<()> {
    let sums = &audit.sums;
    writeln!(out, "Events received since {}:", words::time(since))?;
    writeln!(out, "{}", equation(sums))?;
    for (name, counts) in [("ignored", &sums.ignored_by), ("dead", &sums.dead_by)] {
        if !counts.is_empty() {
            writeln!(out, "{name}: {}", by_count(counts))?;
        }
    }
    if sums.spooled > 0 {
        let (these, wait) = match sums.spooled {
            1 => ("1 event".to_owned(), "waits"),
            many => (format!("{} events", number(many)), "wait"),
        };
        writeln!(
            out,
            "Beside these, {these} {wait} in spools until the broker takes them."
        )?;
    }
    if audit.is_clean() {
        let all = if all_is_known {
            "Everything"
        } else {
            "Everything that is known of"
        };
        writeln!(out, "{all} is explained, and nothing was said twice.")?;
        if sums.waiting > 0 && !audit.is_by_id {
            writeln!(
                out,
                "A broker tells how many wait, but not which: lost ones could hide among the {}. Look again when none waits.",
                number(sums.waiting)
            )?;
        }
    }
    if !audit.unexplained.is_empty() {
        unexplained(audit, now, out)?;
    }
    for Twice {
        room_id,
        message_id,
        replies,
        ..
    } in &audit.twice
    {
        let replies: Vec<_> = replies.iter().map(ToString::to_string).collect();
        let replies = replies.join(", ");
        writeln!(
            out,
            "Answered twice: message {message_id} in room {room_id}, by the messages {replies}."
        )?;
    }
    if sums.dead > sums.dead_by.get(Sums::DROPPED).copied().unwrap_or(0) {
        writeln!(out, "What is dead: chickwork dead list.")?;
    }
    Ok(())
}

/// `12 received = 9 answered + 1 ignored + …`
fn equation(sums: &Sums) -> String {
    let parts = [
        (sums.answered, "answered"),
        (sums.ignored, "ignored"),
        (sums.dead, "dead"),
        (sums.waiting, "waiting"),
        (sums.unexplained, "unexplained"),
    ];
    let parts = parts.map(|(count, name)| format!("{} {name}", number(count)));
    format!("{} received = {}", number(sums.received), parts.join(" + "))
}

/// The largest first.
fn by_count(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by(|(_, left), (_, right)| right.cmp(left));
    let counts = counts
        .into_iter()
        .map(|(name, count)| format!("{} {}", number(*count), words::line(name, LONGEST_NAME)));
    counts.collect::<Vec<_>>().join(", ")
}

/// A reason is told up to this length, in characters.
const LONGEST_NAME: usize = 60;

/// A number with its thousands apart: `1,204`.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

fn unexplained(audit: &Audit, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    if audit.told_apart {
        let these = words::count(audit.sums.unexplained, "event");
        writeln!(out, "Nothing explains {these}:")?;
    } else {
        writeln!(
            out,
            "Nothing explains {} of these {}:",
            audit.sums.unexplained,
            words::count(audit.unexplained.len() as u64, "event"),
        )?;
    }
    writeln!(
        out,
        "{:<36}  {:<20}  {:>10}  {:<19}  LAST WORD",
        "ID", "RECEIVED", "ROOM", "MESSAGE"
    )?;
    let unknown = || "-".to_owned();
    for event in &audit.unexplained {
        let last = match (event.last, event.last_at) {
            (Some(last), Some(at)) => format!("{last}, {}", words::ago(at, now)),
            _ => "none".to_owned(),
        };
        writeln!(
            out,
            "{}  {:<20}  {:>10}  {:<19}  {last}",
            event.id,
            event.received_at.map_or_else(unknown, words::time),
            event.room_id.map_or_else(unknown, |room| room.to_string()),
            event
                .message_id
                .as_ref()
                .map_or_else(unknown, |message| message.to_string()),
        )?;
    }
    Ok(())
}

/// What the sums do not tell.
fn notes(audit: &Audit, is_archived: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let received = audit.sums.received;
    let archived = audit.archived.filter(|_| is_archived).unwrap_or(received);
    let missing = received.saturating_sub(archived);
    if missing > 0 {
        notes.push(format!(
            "{} not in the archive, and known by waiting or by what became of them.",
            match missing {
                1 => "1 event is".to_owned(),
                many => format!("{} events are", number(many)),
            }
        ));
    }
    if !audit.told_apart {
        notes.push(format!(
            "Which of these events still wait cannot be told while {} waiting: look again when the queue is empty.",
            match audit.sums.waiting {
                1 => "1 is".to_owned(),
                many => format!("{} are", number(many)),
            }
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::id::{MessageId, RoomId};
    use chickwork_queue::event::{BotName, EventId};
    use chickwork_queue::{Declare, Location, StoreError};

    use super::*;

    fn settings(archive_keep: Duration) -> Settings {
        Settings {
            location: Location::Sqlite("queue.db".into()),
            namespace: "test".to_owned(),
            bots: vec![BotName::default()],
            declare: Declare::Nothing,
            archive_keep,
        }
    }

    fn errand(flags: &[&str]) -> Result<Errand, clap::Error> {
        let matches = command().no_binary_name(true).try_get_matches_from(flags)?;
        let (settings, now) = (settings(DAY), Timestamp::now());
        Ok(Errand::of(&matches, &settings, now))
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn what_belongs_to_putting_back_is_not_said_without_it() {
        let wrong: [&[&str]; 7] = [
            &["--yes"],
            &["--reason", "because"],
            &["--rate", "1/1s"],
            &["--wait", "2h"],
            &["--since", "yesterday"],
            &["--since", "2999-01-01T00:00:00Z"],
            &["--requeue", "--reason", "one\ntwo"],
        ];
        for flags in wrong {
            let error = errand(flags).expect_err("wrong usage");
            assert_eq!(error.exit_code(), 2, "{flags:?}");
        }
        let right = errand(&["--since", "2h", "--wait", "0", "--json"]).expect("right usage");
        assert!(right.requeue.is_none() && right.json && right.wait.is_zero());
        let right = errand(&["--requeue", "--yes", "--rate", "1/1s"]).expect("right usage");
        assert!(right.requeue.is_some());
    }

    #[test]
    fn it_looks_back_as_far_as_everything_is_kept() {
        let now = Timestamp::now();
        for (archive_keep, expected) in [
            (7 * DAY, 7 * DAY - EDGE),
            (Duration::from_secs(3600), Duration::from_secs(3600)),
            (Duration::ZERO, DAY - EDGE),
        ] {
            assert_eq!(oldest_kept(&settings(archive_keep), now), now - expected);
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1_204, "1,204"),
            (12_345, "12,345"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(number(given), expected);
        }
    }

    fn an_audit() -> Audit {
        let counts = |counts: &[(&str, u64)]| {
            let counts = counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            counts.collect()
        };
        let message = |number| MessageId::new(number).expect("digits");
        let received_at = "2026-11-24T08:00:00Z".parse().expect("a time");
        Audit {
            sums: Sums {
                received: 1_206,
                answered: 1_180,
                ignored: 12,
                dead: 3,
                waiting: 9,
                unexplained: 2,
                twice: 1,
                spooled: 4,
                ignored_by: counts(&[("flood", 3), ("own", 9)]),
                dead_by: counts(&[("dropped", 1), ("refused", 2)]),
            },
            archived: Some(1_206),
            told_apart: true,
            is_by_id: true,
            unexplained: vec![Unexplained {
                id: EventId::fresh(),
                bot: BotName::default(),
                event_type: None,
                room_id: Some(RoomId(3)),
                message_id: Some(message("5")),
                received_at: Some(received_at),
                last: Some("asked"),
                last_at: Some(received_at),
                archived: true,
                replay: 0,
                open_round: None,
            }],
            twice: vec![Twice {
                bot: BotName::default(),
                room_id: RoomId(3),
                message_id: message("6"),
                replies: vec![message("7"), message("8")],
            }],
        }
    }

    #[test]
    fn a_person_sees_a_sum_and_what_is_behind_it() {
        let audit = an_audit();
        let since = "2026-11-24T08:00:00Z".parse().expect("a time");
        let now = "2026-11-24T10:00:00Z".parse().expect("a time");
        let mut out = Vec::new();
        tell(&audit, true, since, now, &mut out).expect("a vector takes it");
        let id = audit.unexplained[0].id;
        let expected = format!(
            "Events received since 2026-11-24T08:00:00Z:\n\
             1,206 received = 1,180 answered + 12 ignored + 3 dead + 9 waiting + 2 unexplained\n\
             ignored: 9 own, 3 flood\n\
             dead: 2 refused, 1 dropped\n\
             Beside these, 4 events wait in spools until the broker takes them.\n\
             Nothing explains 2 events:\n\
             ID                                    RECEIVED                    ROOM  MESSAGE              LAST WORD\n\
             {id}  2026-11-24T08:00:00Z           3  5                    asked, 2 h ago\n\
             Answered twice: message 6 in room 3, by the messages 7, 8.\n\
             What is dead: chickwork dead list.\n"
        );
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn a_program_sees_the_fields_of_the_contract() {
        let audit = an_audit();
        let mut out = Vec::new();
        json(&audit, &mut out).expect("a vector takes it");
        let id = audit.unexplained[0].id;
        let expected = format!(
            "{{\"received\":1206,\"answered\":1180,\"ignored\":12,\"dead\":3,\"waiting\":9,\"unexplained\":2,\
             \"twice\":1,\"spooled\":4,\"ignored_by\":{{\"flood\":3,\"own\":9}},\"dead_by\":{{\"dropped\":1,\"refused\":2}}}}\n\
             {{\"unexplained\":true,\"id\":\"{id}\",\"bot\":\"bot\",\"type\":null,\"room_id\":3,\"message_id\":\"5\",\
             \"received_at\":\"2026-11-24T08:00:00Z\",\"last\":\"asked\"}}\n\
             {{\"twice\":true,\"room_id\":3,\"message_id\":\"6\",\"replies\":[\"7\",\"8\"]}}\n"
        );
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn what_the_sums_hide_is_said_beside_them() {
        let audit = an_audit();
        assert!(notes(&audit, true).is_empty());
        let cases: [(Audit, &str); 2] = [
            (
                Audit {
                    archived: Some(1_205),
                    ..audit.clone()
                },
                "1 event is not in the archive",
            ),
            (
                Audit {
                    told_apart: false,
                    ..audit
                },
                "cannot be told while 9 are waiting",
            ),
        ];
        for (audit, expected) in cases {
            let notes = notes(&audit, true);
            let [note] = &notes[..] else {
                panic!("{notes:?}");
            };
            assert!(note.contains(expected), "{note}");
        }
    }

    #[test]
    fn not_everything_is_explained_where_something_may_be_unknown() {
        let usual = errand(&[]).expect("right usage");
        let audit = an_audit();
        assert!(usual.caveats(&audit, None).is_empty());
        let not_kept = Errand {
            is_archived: false,
            ..errand(&[]).expect("right usage")
        };
        let missing = Audit {
            archived: None,
            ..audit.clone()
        };
        let trouble = QueueError::from(StoreError::Slow);
        for (caveats, expected) in [
            (not_kept.caveats(&audit, None), "CHICKWORK_ARCHIVE_KEEP"),
            (usual.caveats(&missing, None), "(test.archive)"),
            (
                usual.caveats(&audit, Some(&trouble)),
                "No events can be stored now (the disk",
            ),
        ] {
            let [caveat] = &caveats[..] else {
                panic!("{caveats:?}");
            };
            assert!(caveat.contains(expected), "{caveat}");
        }

        let clean = Audit {
            sums: Sums {
                received: 3,
                answered: 1,
                dead: 2,
                dead_by: BTreeMap::from([(Sums::DROPPED.to_owned(), 2)]),
                ..Sums::default()
            },
            unexplained: Vec::new(),
            twice: Vec::new(),
            ..audit
        };
        let now = Timestamp::now();
        for (all_is_known, expected) in [
            (
                true,
                "Everything is explained, and nothing was said twice.\n",
            ),
            (
                false,
                "Everything that is known of is explained, and nothing was said twice.\n",
            ),
        ] {
            let mut out = Vec::new();
            tell(&clean, all_is_known, now, now, &mut out).expect("a vector takes it");
            let said = String::from_utf8(out).expect("text");
            assert!(said.ends_with(expected), "{said}");
        }

        let mut on_a_broker = clean;
        on_a_broker.sums.waiting = 2;
        for (is_by_id, doubt) in [(true, false), (false, true)] {
            on_a_broker.is_by_id = is_by_id;
            let mut out = Vec::new();
            tell(&on_a_broker, true, now, now, &mut out).expect("a vector takes it");
            let said = String::from_utf8(out).expect("text");
            assert_eq!(said.contains("could hide among the 2"), doubt, "{said}");
        }
    }

    #[test]
    fn it_is_said_what_is_not_looked_at_unless_it_is_only_the_edge() {
        let day = errand(&["--since", "1d"]).expect("right usage");
        assert!(!day.looks_back_less);
        assert!(
            errand(&["--since", "2d"])
                .expect("right usage")
                .looks_back_less
        );
    }
}
