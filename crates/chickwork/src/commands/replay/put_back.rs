//! The usual way to go: events are put back into the queue, after a preview and with consent, one by one
//! and not too fast.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::audit::{Duplicate, PutBack};
use chickwork_queue::dead::{DeadLetter, Verdict};
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::outcome::{By, What};
use chickwork_queue::{Queue, QueueError};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Terms;
use super::found::{Bodies, Found};
use super::plan::{self, Deed, Planned, Skip, Wish};
use crate::run::{Halt, Run};
use crate::{choice, output, words};

/// How long the event at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// So often it is looked whether somebody else answers the same messages once more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Two clocks may differ, and outcomes be stored a little late.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(1);
/// Why a dead letter is dropped whose message another event answers.
const ANSWERED_BY_ANOTHER: &str = "its message is answered by way of another event";
/// What an error in the middle means.
const NOT_TAKEN: &str = "the queue does not take them";
/// A reason is shown up to this length, in characters.
const LONGEST_REASON: usize = 100;

/// How events are put back.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) terms: Terms,
    pub(super) wish: Wish,
    pub(super) reason: String,
}

impl Errand {
    /// Does it, or says what it would do.
    pub(super) async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        let found = self.terms.choosing.find(Some(queue)).await?;
        let all_found = super::tell_of_missing(&self.terms.choosing.choice.ids, &found);
        let (planned, beyond_limit) = self.plan(found);
        let goes = planned.iter().filter(|event| event.decision.is_ok());
        let goes = goes.count() as u64;
        let written = if self.terms.dry_run {
            self.show(&planned)
        } else {
            Ok(())
        };
        // Whoever has closed stderr does without.
        let _ = self.preview(&planned, goes, beyond_limit);
        self.tell_of_what_is_left_out(queue, &planned).await?;
        let may_be_lost = planned
            .iter()
            .any(|event| event.decision == Err(Skip::MayBeLost));
        let done = self.terms.dry_run
            || (goes == 0
                || self.agreed(&planned).await? && self.perform(queue, planned, goes).await?)
                && !may_be_lost;
        let code = if all_found && done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        output::end(written, code)
    }

    /// What is done with each; and how many more are for another run.
    fn plan(&self, found: Vec<Found>) -> (Vec<Planned>, u64) {
        let named: HashSet<EventId> = self.terms.choosing.choice.ids.iter().copied().collect();
        let planned = found.into_iter().map(|found| {
            let decision = plan::decide(&found.known(&named), &self.wish);
            Planned { found, decision }
        });
        let mut planned: Vec<_> = planned.collect();
        plan::one_of_each_message(&mut planned);
        let (mut room, mut beyond) = (self.terms.limit.unwrap_or(u64::MAX), 0);
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
        if self.terms.json {
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
        for event in planned {
            let found = &event.found;
            writeln!(
                out,
                "{}  {:<20}  {:>10}  {:<11}  {}",
                found.id,
                words::time(found.received_at),
                found
                    .room_id
                    .map_or_else(|| "-".to_owned(), |room| room.to_string()),
                found.state.map_or("-", |state| state.as_str()),
                words::line(&event.says(&self.wish), LONGEST_REASON),
            )?;
        }
        out.flush()
    }

    fn preview(&self, planned: &[Planned], goes: u64, beyond_limit: u64) -> io::Result<()> {
        let mut out = io::stderr().lock();
        for sentence in sums(planned, &self.wish) {
            writeln!(out, "{sentence}")?;
        }
        if beyond_limit > 0 {
            let these = words::count(beyond_limit, "more event");
            writeln!(out, "{these} to be put back, beyond --limit.")?;
        }
        let waits = |event: &Planned| event.decision == Err(Skip::Waiting);
        if self.terms.choosing.on_broker && planned.iter().any(waits) {
            writeln!(
                out,
                "A broker tells how many events wait, but not which: when none waits any more, chickwork audit tells whether one is lost."
            )?;
        }
        if goes == 0 {
            let choosing = &self.terms.choosing;
            return writeln!(
                out,
                "Nothing to do: {}.{}",
                match planned {
                    [] => choosing.none_is_chosen(),
                    _ => "nothing that these flags choose is to be put back",
                },
                choosing.hint()
            );
        }
        if let Some(warning) = self.terms.pace.warning(goes) {
            writeln!(out, "{warning}")?;
        }
        Ok(())
    }

    /// What whoever gave these flags may have meant and did not choose.
    async fn tell_of_what_is_left_out(
        &self,
        queue: &Queue,
        planned: &[Planned],
    ) -> anyhow::Result<()> {
        let choosing = &self.terms.choosing;
        if planned.is_empty()
            && let Some(hint) = choice::hint_of_reply(queue, &choosing.choice).await?
        {
            words::tell(hint);
        }
        if let Some(hint) = choosing.hint_of_letters_of_older_events(queue).await? {
            words::tell(hint);
        }
        Ok(())
    }

    async fn agreed(&self, planned: &[Planned]) -> anyhow::Result<bool> {
        let agreed = self.terms.consent.to(question(planned, &self.wish)).await?;
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
        if let Some(round) = self.wish.again
            && planned
                .iter()
                .any(|event| event.decision == Ok(Deed::Again))
        {
            // Before the first one: who is killed tells nothing.
            words::tell(format_args!(
                "This round is --again={round}: should it be interrupted, that goes on with it."
            ));
        }
        let mut putting = Putting {
            errand: self,
            queue,
            run: Run::begin(total, self.terms.pace, FINISH_LIMIT)?,
            others: Others::since(self.wish.now),
        };
        let put_back = putting.all(planned).await;
        let is_broken_off = put_back.is_err();
        let left = putting.run.end(put_back, "put back", |left| {
            format!(
                "{left} are gone: taken or put back by somebody else, or forgotten by the archive"
            )
        });
        let all_done = matches!(left, Ok(0));
        if is_broken_off && !all_done {
            words::tell(self.how_to_go_on());
        }
        left?;
        Ok(all_done)
    }

    fn print(&self, event: &Planned) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terms.json {
            output::json(event, &mut out)
        } else {
            writeln!(out, "{}", event.found.id)
        }
    }

    fn how_to_go_on(&self) -> String {
        match self.wish.again {
            None => "The same command goes on from there, and puts nothing back twice.".to_owned(),
            // By the time it tells what belongs to this round; without it another one would begin.
            Some(round) => format!("The same command with --again={round} goes on from there."),
        }
    }
}

/// Putting back, under way.
struct Putting<'a> {
    errand: &'a Errand,
    queue: &'a Queue,
    run: Run,
    others: Others,
}

impl Putting<'_> {
    /// Each in its way.
    async fn all(&mut self, planned: Vec<Planned>) -> Result<(), Halt> {
        let (mut events, mut letters, mut duplicates) = (Vec::new(), Vec::new(), Vec::new());
        let mut deeds = HashMap::new();
        for event in planned {
            match event.decision {
                Ok(Deed::Retry) => letters.push(event),
                Ok(Deed::Close) => duplicates.push(event),
                Ok(deed) => {
                    deeds.insert(event.found.id, deed);
                    events.push(event.found);
                }
                Err(_) => {}
            }
        }
        self.put_back(events, &deeds).await?;
        self.retry(letters).await?;
        // Last: now the events that answer their messages are on their way.
        self.close(duplicates).await
    }

    /// Events, oldest first.
    async fn put_back(
        &mut self,
        events: Vec<Found>,
        deeds: &HashMap<EventId, Deed>,
    ) -> Result<(), Halt> {
        let mut bodies = Bodies::of(Some(self.queue), events);
        while let Some((found, event)) = self.run.prepare(bodies.next()).await?? {
            self.run.turn().await?;
            let deed = deeds.get(&found.id).copied().context("it was planned")?;
            if deed == Deed::Again {
                let looking = self.others.have_begun_anew(self.queue, &found);
                if self.run.prepare(looking).await?? {
                    continue;
                }
            }
            let put_back = self.run.finish(self.put_one_back(&found, deed, event));
            put_back.await?.context(NOT_TAKEN)?;
            let decision = Ok(deed);
            let printed = self.errand.print(&Planned { found, decision });
            self.run.step(printed)?;
        }
        Ok(())
    }

    async fn put_one_back(
        &self,
        found: &Found,
        deed: Deed,
        event: Event,
    ) -> Result<(), QueueError> {
        let put_back = PutBack {
            replay: found.replay,
            reason: &self.errand.reason,
            by: By::REPLAY,
            // Else a reply of an earlier round would stand for that of this one.
            again: match deed {
                Deed::Again => self.errand.wish.again,
                Deed::Owed => found.open_round,
                Deed::PutBack | Deed::Retry | Deed::TakeIn | Deed::Close => None,
            },
        };
        if found.has_copy {
            self.queue.put_back(event, put_back).await
        } else {
            self.queue.take_in(event, put_back).await
        }
    }

    /// Dead letters.
    async fn retry(&mut self, letters: Vec<Planned>) -> Result<(), Halt> {
        // To overrule the doubt about others would be to invite a second reply.
        let (doubtful, others): (Vec<_>, Vec<_>) = letters
            .into_iter()
            .partition(|event| !self.errand.wish.looks_first() && event.is_doubtful());
        for (again, events) in [(true, doubtful), (false, others)] {
            let verdict = Verdict::Retry {
                reason: self.errand.reason.clone(),
                again,
                by: By::REPLAY,
            };
            self.take(events, verdict).await?;
        }
        Ok(())
    }

    /// Those whose messages other events answer.
    async fn close(&mut self, duplicates: Vec<Planned>) -> Result<(), Halt> {
        let (letters, events): (Vec<_>, Vec<_>) = duplicates
            .into_iter()
            .partition(|event| event.found.letter.is_some());
        for event in events {
            self.run.turn().await?;
            let found = &event.found;
            let ended = self.queue.end_as_duplicate(Duplicate {
                id: found.id,
                bot: &found.bot,
                room_id: found.room_id,
                message_id: found.message_id.as_ref(),
            });
            self.run.finish(ended).await?.context(NOT_TAKEN)?;
            let printed = self.errand.print(&event);
            self.run.step(printed)?;
        }
        let reason = ANSWERED_BY_ANOTHER.to_owned();
        self.take(letters, Verdict::Drop { reason }).await
    }

    async fn take(&mut self, mut events: Vec<Planned>, verdict: Verdict) -> Result<(), Halt> {
        let letter = |event: &mut Planned| event.found.letter.take();
        let letters: Vec<DeadLetter> = events.iter_mut().filter_map(letter).map(|l| *l).collect();
        let expected = letters.len();
        if expected == 0 {
            return Ok(());
        }
        let errand = self.errand;
        let taking = self.queue.dead_letters().take(letters, verdict);
        let print = |letter: &DeadLetter| {
            let event = events.iter().find(|event| event.found.id == letter.id);
            event.map_or(Ok(()), |event| errand.print(event))
        };
        self.run.take(taking, expected, print).await
    }
}

/// What others who answer messages once more do meanwhile, as the outcomes tell.
#[derive(Debug)]
struct Others {
    /// Up to when it is known, and since when something is to be known.
    read_at: Option<Instant>,
    since: Timestamp,
    rounds: HashMap<EventId, Timestamp>,
}

impl Others {
    /// Of what was planned at this time.
    fn since(planned_at: Timestamp) -> Self {
        Self {
            read_at: None,
            since: before(planned_at),
            rounds: HashMap::new(),
        }
    }

    /// Whether somebody has begun another round for this event since it was looked at.
    async fn have_begun_anew(&mut self, queue: &Queue, found: &Found) -> anyhow::Result<bool> {
        if self.read_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            let begun = (Instant::now(), Timestamp::now());
            let mut outcomes = queue.outcomes().read(self.since);
            while let Some(outcome) = outcomes.next().await? {
                if let (What::Replayed { .. }, Some(round)) = (&outcome.what, outcome.again) {
                    let last = self.rounds.entry(outcome.id).or_insert(round);
                    *last = round.max(*last);
                }
            }
            (self.read_at, self.since) = (Some(begun.0), before(begun.1));
        }
        let last = self.rounds.get(&found.id).copied();
        Ok(last > found.last_round)
    }
}

/// So early, by whichever clock.
fn before(time: Timestamp) -> Timestamp {
    time.checked_sub(CLOCKS_DIFFER).unwrap_or(Timestamp::MIN)
}

/// What will happen, in sentences.
fn sums(planned: &[Planned], wish: &Wish) -> Vec<String> {
    let number = |fits: &dyn Fn(&Planned) -> bool| number(planned, fits);
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
        let effect = if wish.looks_first() {
            "uncertain replies to be looked for in their rooms, and posted if certainly not there"
        } else {
            "uncertain replies to be posted WITHOUT LOOKING: one that is in its room already is said twice"
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
    let again = number(&Planned::is_second_reply);
    if asked > 0 {
        let once = match again {
            0 => " What turns out to be answered is not answered twice.",
            again if again < asked => " What else turns out to be answered is not answered twice.",
            _ => "",
        };
        sentences.push(format!(
            "SimSimi may be asked {}, which is paid for.{once}",
            words::count(asked, "time")
        ));
    }
    sentences
}

fn number(planned: &[Planned], fits: impl Fn(&Planned) -> bool) -> u64 {
    planned.iter().filter(|event| fits(event)).count() as u64
}

/// What is to be agreed to: a second reply is named as such.
fn question(planned: &[Planned], wish: &Wish) -> String {
    let goes = number(planned, |event| event.decision.is_ok());
    let again = number(planned, Planned::is_second_reply);
    let unlooked = match wish.looks_first() {
        true => 0,
        false => number(planned, Planned::is_doubtful),
    };
    if again == goes {
        return format!("Say a SECOND REPLY to {}?", words::count(again, "message"));
    }
    if unlooked == goes {
        return match unlooked {
            1 => "Post 1 uncertain reply WITHOUT LOOKING?".to_owned(),
            many => format!("Post {many} uncertain replies WITHOUT LOOKING?"),
        };
    }
    let these = words::count(goes, "event");
    let parts = [
        (again, "to be answered with a SECOND REPLY"),
        (unlooked, "to be posted WITHOUT LOOKING"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, how)| format!("{count} {how}")).collect();
    match &parts[..] {
        [] => format!("Put {these} back?"),
        parts => format!("Put {these} back, of them {}?", parts.join(" and ")),
    }
}

fn effect(deed: Deed) -> &'static str {
    match deed {
        Deed::PutBack => "to be put back, and asked about",
        Deed::Retry => "to be put back where given up, from the dead letters",
        Deed::Again => {
            "to be answered AGAIN: they are answered, and their rooms will hear a SECOND REPLY"
        }
        Deed::Owed => {
            "to be answered AGAIN, as somebody asked for before: their rooms will hear a SECOND REPLY"
        }
        Deed::TakeIn => {
            "to be received anew, with their ids: a reply from elsewhere is looked for in their rooms, and theirs posted if there certainly is none"
        }
        Deed::Close => {
            "to be ended as duplicates, their dead letters dropped: other events answer their messages"
        }
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::job::{Cause, Step};

    use super::super::found::tests::found;
    use super::*;
    use crate::filter::tests::a_letter;

    fn now() -> Timestamp {
        Timestamp::from_second(2_000_000_000).expect("a time")
    }

    fn wish(again: Option<Timestamp>) -> Wish {
        Wish {
            again,
            is_named_round: false,
            ignore_age: false,
            max_age: Duration::from_secs(3600),
            states: Vec::new(),
            now: now(),
        }
    }

    fn planned(deed: Deed) -> Planned {
        Planned {
            found: found("5", now()),
            decision: Ok(deed),
        }
    }

    async fn uncertain_reply() -> Planned {
        let mut planned = planned(Deed::Retry);
        let letter = a_letter().await;
        planned.found.letter = Some(Box::new(DeadLetter {
            cause: Cause::Uncertain,
            step: Step::Post,
            ..letter
        }));
        planned
    }

    #[tokio::test]
    async fn what_is_agreed_to_is_named() {
        let uncertain = uncertain_reply().await;
        let of = |deeds: &[Deed], doubtful: usize| {
            let events = deeds.iter().copied().map(planned);
            let doubtful = std::iter::repeat_n(uncertain.clone(), doubtful);
            let skipped = Planned {
                decision: Err(Skip::Answered),
                ..planned(Deed::PutBack)
            };
            let all = events.chain(doubtful).chain([skipped]);
            all.collect::<Vec<_>>()
        };
        use Deed::{Again, Owed, PutBack};
        let (plain, again) = (wish(None), wish(Some(now())));
        for (events, wish, expected) in [
            (of(&[PutBack], 0), &plain, "Put 1 event back?"),
            (of(&[PutBack], 1), &plain, "Put 2 events back?"),
            (of(&[Again], 0), &again, "Say a SECOND REPLY to 1 message?"),
            (
                of(&[Again, Owed], 0),
                &again,
                "Say a SECOND REPLY to 2 messages?",
            ),
            (
                of(&[], 2),
                &again,
                "Post 2 uncertain replies WITHOUT LOOKING?",
            ),
            (
                of(&[Again, PutBack], 1),
                &again,
                "Put 3 events back, of them 1 to be answered with a SECOND REPLY and 1 to be posted WITHOUT LOOKING?",
            ),
            (
                of(&[Owed, PutBack], 1),
                &plain,
                "Put 3 events back, of them 1 to be answered with a SECOND REPLY?",
            ),
        ] {
            assert_eq!(question(&events, wish), expected);
        }
    }

    #[test]
    fn a_second_reply_is_not_said_to_be_none() {
        use Deed::{Again, PutBack};
        for (deeds, expected) in [
            (
                &[PutBack][..],
                " What turns out to be answered is not answered twice.",
            ),
            (
                &[PutBack, Again],
                " What else turns out to be answered is not answered twice.",
            ),
            (&[Again], ""),
        ] {
            let planned: Vec<_> = deeds.iter().copied().map(planned).collect();
            let said = sums(&planned, &wish(Some(now())));
            let costs = said.last().expect("it may be asked about");
            assert!(
                costs.ends_with(&format!("which is paid for.{expected}")),
                "{costs}"
            );
        }
    }

    #[tokio::test]
    async fn an_uncertain_reply_is_looked_for_unless_it_is_to_be_said_again() {
        let uncertain = uncertain_reply().await;
        assert_eq!(
            uncertain.says(&wish(None)),
            "uncertain reply looked for, then posted"
        );
        assert_eq!(
            uncertain.says(&wish(Some(now()))),
            "uncertain reply posted WITHOUT LOOKING"
        );
        assert_eq!(
            planned(Deed::Retry).says(&wish(None)),
            "dead letter put back"
        );
    }
}
