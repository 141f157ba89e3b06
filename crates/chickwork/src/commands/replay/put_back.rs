//! The usual way to go: events are put back into the queue, after a preview and with consent, one by one
//! and not too fast.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::Queue;
use chickwork_queue::audit::PutBack;
use chickwork_queue::dead::{DeadLetter, Verdict};
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::outcome::By;
use jiff::Timestamp;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::found::{Bodies, Choosing, Found};
use super::plan::{self, Deed, Planned, Wish};
use crate::consent::Consent;
use crate::progress::Progress;
use crate::settings::parse::Rate;
use crate::shutdown::Shutdown;
use crate::{output, words};

/// A run that is longer than this says so before it begins.
const LONG: Duration = Duration::from_secs(10);
/// How long the event at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// A reason is shown up to this length, in characters.
const LONGEST_REASON: usize = 100;

/// How events are put back.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) choosing: Choosing,
    pub(super) wish: Wish,
    pub(super) limit: Option<u64>,
    pub(super) reason: String,
    pub(super) rate: Rate,
    pub(super) dry_run: bool,
    pub(super) consent: Consent,
    pub(super) json: bool,
}

impl Errand {
    /// Does it, or says what it would do.
    pub(super) async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        if !self.dry_run {
            self.consent.check()?;
        }
        let found = self.choosing.find(Some(queue)).await?;
        let all_found = super::tell_of_missing(&self.choosing.choice.ids, &found);
        let (planned, beyond_limit) = self.plan(found);
        let goes = planned.iter().filter(|event| event.decision.is_ok());
        let goes = goes.count() as u64;
        let written = if self.dry_run {
            self.show(&planned)
        } else {
            Ok(())
        };
        // Whoever has closed stderr does without.
        let _ = self.preview(&planned, goes, beyond_limit);
        let done = self.dry_run
            || goes == 0
            || self.agreed(goes).await? && self.perform(queue, planned, goes).await?;
        let code = if all_found && done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        output::end(written, code)
    }

    /// What is done with each; and how many more are for another run.
    fn plan(&self, found: Vec<Found>) -> (Vec<Planned>, u64) {
        let named: HashSet<EventId> = self.choosing.choice.ids.iter().copied().collect();
        let planned = found.into_iter().map(|found| {
            let decision = plan::decide(&found.known(&named), &self.wish);
            Planned { found, decision }
        });
        let mut planned: Vec<_> = planned.collect();
        plan::one_of_each_message(&mut planned);
        let (mut room, mut beyond) = (self.limit.unwrap_or(u64::MAX), 0);
        planned.retain(|event| match event.decision {
            Ok(_) if room == 0 => {
                beyond += 1;
                false
            }
            Ok(_) => {
                room -= 1;
                true
            }
            Err(_) => true,
        });
        (planned, beyond)
    }

    /// What would be done with each.
    fn show(&self, planned: &[Planned]) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        if self.json {
            for event in planned {
                output::json(event, &mut out)?;
            }
            return out.flush();
        }
        if planned.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "{:<36}  {:<20}  {:>10}  {:<11}  PLAN",
            "ID", "RECEIVED", "ROOM", "STATE"
        )?;
        for Planned { found, decision } in planned {
            let plan = match decision {
                Ok(deed) => deed.says().to_owned(),
                Err(skip) => format!("skipped: {}", skip.says()),
            };
            writeln!(
                out,
                "{}  {:<20}  {:>10}  {:<11}  {}",
                found.id,
                words::time(found.received_at),
                found
                    .room_id
                    .map_or_else(|| "-".to_owned(), |room| room.to_string()),
                found.state.map_or("-", |state| state.as_str()),
                words::line(&plan, LONGEST_REASON),
            )?;
        }
        out.flush()
    }

    fn preview(&self, planned: &[Planned], goes: u64, beyond_limit: u64) -> io::Result<()> {
        let mut out = io::stderr().lock();
        for sentence in sums(planned, self.wish.again.is_some()) {
            writeln!(out, "{sentence}")?;
        }
        if beyond_limit > 0 {
            let these = words::count(beyond_limit, "event");
            writeln!(out, "{these} more to be put back, beyond --limit.")?;
        }
        let waits = |event: &Planned| event.decision == Err(plan::Skip::Waiting);
        if self.choosing.on_broker && planned.iter().any(waits) {
            writeln!(
                out,
                "A broker tells how many events wait, but not which: when none waits any more, chickwork audit tells whether one is lost."
            )?;
        }
        if goes == 0 {
            return writeln!(
                out,
                "Nothing to do: nothing that these flags choose is to be put back."
            );
        }
        let pauses = u32::try_from(goes - 1).unwrap_or(u32::MAX);
        let time = self.pause() * pauses;
        if time >= LONG {
            writeln!(out, "This takes about {}; see --rate.", words::length(time))?;
        }
        Ok(())
    }

    /// From one event to the next.
    fn pause(&self) -> Duration {
        self.rate.per / self.rate.calls
    }

    async fn agreed(&self, goes: u64) -> anyhow::Result<bool> {
        let these = words::count(goes, "event");
        let agreed = self.consent.to(format!("Put {these} back?")).await?;
        if !agreed {
            words::tell("Nothing was changed.");
        }
        Ok(agreed)
    }

    /// Does it. True when it was done to all.
    async fn perform(
        &self,
        queue: &Queue,
        planned: Vec<Planned>,
        total: u64,
    ) -> anyhow::Result<bool> {
        // From here on: a prompt is better interrupted in the usual way.
        let (_trigger, shutdown) =
            Shutdown::on_signals(FINISH_LIMIT).context("cannot wait for signals")?;
        let mut pace = interval(self.pause());
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut run = Run {
            errand: self,
            queue,
            pace,
            shutdown,
            progress: Progress::of(total),
        };
        let goes = planned.into_iter().filter(|event| event.decision.is_ok());
        let (letters, events): (Vec<_>, Vec<_>) =
            goes.partition(|event| event.decision == Ok(Deed::Retry));
        let events = events.into_iter().map(|event| event.found).collect();
        let mut end = run.put_back(events).await;
        if matches!(end, Ok(End::Reached)) {
            end = run.retry(letters).await;
        }
        let done = run.progress.done();
        drop(run);
        let left = total - done;
        let rest = match &end {
            _ if left == 0 => String::new(),
            Ok(End::Reached) => {
                format!("; {left} are gone: taken by somebody else, or forgotten by the archive")
            }
            Ok(End::Stopped) | Err(_) => format!("; stopped, {left} left"),
            Ok(End::Unread) => format!("; nobody reads on, so stopped, {left} left"),
        };
        words::tell(format_args!("{done} of {total} put back{rest}."));
        if left > 0 && !matches!(end, Ok(End::Reached)) {
            words::tell(self.how_to_go_on());
        }
        match end {
            Err(error) if left > 0 => Err(error.context("the queue does not take them")),
            _ => Ok(left == 0),
        }
    }

    fn how_to_go_on(&self) -> String {
        match self.wish.again {
            None => "The same command goes on from there, and puts nothing back twice.".to_owned(),
            // By the time it tells what belongs to this round; without it another one would begin.
            Some(round) => format!(
                "The same command with --again={round} goes on from there; --again alone would answer those that are done once more."
            ),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left that could be done.
    Reached,
    /// A signal came.
    Stopped,
    /// Whoever read the results has gone.
    Unread,
}

/// Putting back, under way.
struct Run<'a> {
    errand: &'a Errand,
    queue: &'a Queue,
    pace: Interval,
    shutdown: Shutdown,
    progress: Progress,
}

impl Run<'_> {
    /// Events, oldest first.
    async fn put_back(&mut self, events: Vec<Found>) -> anyhow::Result<End> {
        let mut bodies = Bodies::of(Some(self.queue), events);
        loop {
            let next = tokio::select! {
                biased;
                () = self.shutdown.requested() => return Ok(End::Stopped),
                next = bodies.next() => next?,
            };
            let Some((found, event)) = next else {
                return Ok(End::Reached);
            };
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Ok(End::Stopped),
                _ = self.pace.tick() => {}
            }
            tokio::select! {
                put_back = self.put_one_back(&found, event) => put_back?,
                () = self.shutdown.deadline() => return Ok(End::Stopped),
            }
            let is_again = found.was_answered && self.errand.wish.again.is_some();
            let decision = Ok(match (found.is_here, is_again) {
                (false, _) => Deed::TakeIn,
                (true, true) => Deed::Again,
                (true, false) => Deed::PutBack,
            });
            self.progress.step();
            if self.print(&Planned { found, decision }).is_err() {
                return Ok(End::Unread);
            }
        }
    }

    async fn put_one_back(&self, found: &Found, event: Event) -> anyhow::Result<()> {
        let put_back = PutBack {
            replay: found.replay,
            reason: &self.errand.reason,
            by: By::REPLAY,
            // Else a reply of an earlier round would stand for that of this one.
            again: self.errand.wish.again.filter(|_| found.was_answered),
        };
        if found.is_here {
            self.queue.put_back(event, put_back).await?;
        } else {
            self.queue.take_in(event, put_back).await?;
        }
        Ok(())
    }

    /// Dead letters.
    async fn retry(&mut self, letters: Vec<Planned>) -> anyhow::Result<End> {
        // To overrule the doubt about others would be to invite a second reply.
        let (doubtful, others): (Vec<_>, Vec<_>) = letters
            .into_iter()
            .partition(|event| self.errand.wish.again.is_some() && event.is_doubtful());
        for (again, events) in [(true, doubtful), (false, others)] {
            let end = self.retry_these(events, again).await?;
            if end != End::Reached {
                return Ok(end);
            }
        }
        Ok(End::Reached)
    }

    async fn retry_these(&mut self, mut events: Vec<Planned>, again: bool) -> anyhow::Result<End> {
        let letter = |event: &mut Planned| event.found.letter.take();
        let letters: Vec<DeadLetter> = events.iter_mut().filter_map(letter).map(|l| *l).collect();
        let expected = letters.len();
        if expected == 0 {
            return Ok(End::Reached);
        }
        let verdict = Verdict::Retry {
            reason: self.errand.reason.clone(),
            again,
            by: By::REPLAY,
        };
        let mut taking = self.queue.dead_letters().take(letters, verdict);
        let mut taken = 0;
        loop {
            // Nobody has to wait for the end.
            if taken < expected {
                tokio::select! {
                    biased;
                    () = self.shutdown.requested() => return Ok(End::Stopped),
                    _ = self.pace.tick() => {}
                }
            }
            let letter = tokio::select! {
                letter = taking.next() => letter?,
                () = self.shutdown.deadline() => return Ok(End::Stopped),
            };
            let Some(letter) = letter else {
                return Ok(End::Reached);
            };
            taken += 1;
            self.progress.step();
            let event = events.iter().find(|event| event.found.id == letter.id);
            if let Some(event) = event
                && self.print(event).is_err()
            {
                return Ok(End::Unread);
            }
        }
    }

    fn print(&self, event: &Planned) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.errand.json {
            output::json(event, &mut out)
        } else {
            writeln!(out, "{}", event.found.id)
        }
    }
}

/// What will happen, in sentences.
fn sums(planned: &[Planned], again: bool) -> Vec<String> {
    let number =
        |fits: &dyn Fn(&Planned) -> bool| planned.iter().filter(|event| fits(event)).count() as u64;
    let mut sentences = Vec::new();
    if planned.is_empty() {
        return sentences;
    }
    sentences.push(format!(
        "{} chosen:",
        words::count(planned.len() as u64, "event")
    ));
    for deed in Deed::ALL {
        let count = number(&|event| event.decision == Ok(deed) && !event.is_doubtful());
        if count > 0 {
            sentences.push(format!("{count:>7} {}", effect(deed)));
        }
    }
    let doubtful = number(&Planned::is_doubtful);
    if doubtful > 0 {
        let effect = match again {
            true => {
                "uncertain replies to be posted WITHOUT LOOKING: one that is in its room already is said twice"
            }
            false => {
                "uncertain replies to be looked for in their rooms, and posted if certainly not there"
            }
        };
        sentences.push(format!("{doubtful:>7} {effect}"));
    }
    let mut skipped: Vec<(&str, u64)> = Vec::new();
    for skip in planned
        .iter()
        .filter_map(|event| event.decision.as_ref().err())
    {
        let kind = skip.kind();
        match skipped.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => skipped.push((kind, 1)),
        }
    }
    skipped.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (kind, count) in skipped {
        sentences.push(format!("{count:>7} skipped: {kind}"));
    }
    let asked = number(&Planned::may_ask);
    if asked > 0 {
        sentences.push(format!(
            "SimSimi may be asked {}, which is paid for. What turns out to be answered is not answered twice.",
            words::count(asked, "time")
        ));
    }
    sentences
}

fn effect(deed: Deed) -> &'static str {
    match deed {
        Deed::PutBack => "to be put back, and asked about",
        Deed::Retry => "dead letters to be put back where they were given up",
        Deed::Again => {
            "to be answered AGAIN: they are answered, and their rooms will hear a SECOND REPLY"
        }
        Deed::TakeIn => "that are not known here to be received anew, with their ids",
    }
}

/// Now, as it is kept.
pub(super) fn whole_milliseconds(now: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
