//! What a replay does with each event: one pure function of what is known of it and what was asked for,
//! with its table of cases as the test. Whoever calls it acts, nobody else decides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use chickwork_queue::events::Standing;
use chickwork_queue::job::{Cause, Step};
use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

use super::super::dead::take::is_doubtful;
use super::found::Found;
use crate::words;

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Put back from the archive, to be asked about.
    PutBack,
    /// Its dead letter is put back where it was given up.
    Retry,
    /// Its message, which has a reply, is answered once more.
    Again,
    /// Another answer to its message was asked for and never came: it is put back for that.
    Owed,
    /// It is not known here, or has lost its archived copy, and is received anew.
    TakeIn,
    /// Another event about its message answers it, or has done so: that is written down as its end.
    Close,
}

impl Deed {
    /// All of them, in the order of the preview.
    pub(super) const ALL: [Self; 6] = [
        Self::PutBack,
        Self::Retry,
        Self::Again,
        Self::Owed,
        Self::TakeIn,
        Self::Close,
    ];
}

/// Why nothing is done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Skip {
    /// Its message has a reply.
    Answered,
    /// Its message has a reply, by way of another event.
    AnsweredByAnother,
    /// It is in this round of another answer already, or something has become of it since that was begun.
    AgainAlready,
    /// It was answered once more not long ago, in the round that was begun then.
    AgainLately(Timestamp),
    /// It waits to be worked on.
    Waiting,
    /// It was put back, and there are fewer jobs than events of which this is so.
    MayBeLost,
    /// It waits where it was exported, or may do so.
    WaitsElsewhere,
    /// It would be ignored again, for this reason.
    Ignored(String),
    /// It was ignored for a reason that may be over: it has to be chosen for that.
    IgnoredForAWhile(String),
    /// A person dropped its dead letter: it has to be chosen for that.
    Dropped,
    /// Nobody understands it.
    Malformed,
    /// It is older than `CHICKWORK_MAX_AGE`.
    TooOld,
    /// Another event about the same message is put back, or waits.
    SameMessage,
}

impl Skip {
    /// For people, who want to know what to do about it as well.
    fn says(&self) -> String {
        match self {
            Self::Answered => "answered already (--again answers once more)".to_owned(),
            Self::AnsweredByAnother => {
                "its message is answered, by way of another event".to_owned()
            }
            Self::AgainAlready => "put back in this round of --again already".to_owned(),
            Self::AgainLately(round) => format!(
                "answered once more already, at {} (--again=TIME with the present time does it all the same)",
                words::time(*round)
            ),
            Self::Waiting => "waits already".to_owned(),
            Self::MayBeLost => {
                "put back before, and may be lost (--state unexplained puts it back all the same)"
                    .to_owned()
            }
            Self::WaitsElsewhere => {
                "waits where it was exported (--state waiting takes it in all the same)".to_owned()
            }
            Self::Ignored(reason) => format!("would be ignored again: {reason}"),
            Self::IgnoredForAWhile(reason) => {
                format!("was ignored: {reason} (--state ignored puts it back)")
            }
            Self::Dropped => "dropped by a person (--state dropped puts it back)".to_owned(),
            Self::Malformed => "nobody understands it (its id puts it back)".to_owned(),
            Self::TooOld => "older than CHICKWORK_MAX_AGE (--ignore-age)".to_owned(),
            Self::SameMessage => "another event about its message goes or waits".to_owned(),
        }
    }

    /// In sums, where each has one line.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Answered | Self::AnsweredByAnother => "answered already (see --again)",
            Self::AgainAlready => "put back in this round of --again already",
            Self::AgainLately(_) => "answered once more within the last hour (see --again=TIME)",
            Self::MayBeLost => {
                "put back before, of which SOME MAY BE LOST: fewer jobs wait (see --state unexplained)"
            }
            Self::Waiting => "waiting already",
            Self::WaitsElsewhere => "waiting where they were exported (see --state waiting)",
            Self::Ignored(_) => "that would be ignored again",
            Self::IgnoredForAWhile(_) => "ignored for a while (see --state ignored)",
            Self::Dropped => "dropped by a person (see --state dropped)",
            Self::Malformed => "that nobody understands",
            Self::TooOld => "older than CHICKWORK_MAX_AGE (see --ignore-age)",
            Self::SameMessage => "whose message another event is about",
        }
    }
}

/// What is done with an event, or why nothing is.
pub(super) type Decision = Result<Deed, Skip>;

/// What is known of an event.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// Where it stands; `None`: nothing is known of it here, nor told by the file that it is from.
    pub(super) standing: Option<Standing>,
    /// Whether that is known here; else it is what the file told.
    pub(super) is_here: bool,
    /// The reason or cause.
    pub(super) why: Option<&'a str>,
    /// Its dead letter.
    pub(super) letter: Option<(Cause, Step)>,
    /// When its message was written, as far as that is known.
    pub(super) aged_from: Timestamp,
    /// When something last became of it.
    pub(super) last_at: Option<Timestamp>,
    /// Whether its copy is in the archive, or in its dead letter.
    pub(super) has_copy: bool,
    /// The round that it is in without a reply.
    pub(super) open_round: Option<Timestamp>,
    /// The last round that a person has begun.
    pub(super) last_round: Option<Timestamp>,
    /// Whether it was put back, and fewer jobs wait than events of which this is so.
    pub(super) may_be_lost: bool,
    /// Whether a reply to its message is in the room, from whichever round.
    pub(super) was_answered: bool,
    /// Whether its id was given.
    pub(super) is_named: bool,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wish {
    /// Answered messages are answered once more; the moment at which a person asked for that.
    pub(super) again: Option<Timestamp>,
    /// Whether that round was begun by an earlier command, or at least named.
    pub(super) is_named_round: bool,
    /// However old they are.
    pub(super) ignore_age: bool,
    /// `CHICKWORK_MAX_AGE`.
    pub(super) max_age: Duration,
    /// The states that were chosen by name.
    pub(super) states: Vec<Standing>,
    /// Now.
    pub(super) now: Timestamp,
}

impl Wish {
    /// Whether uncertain replies are looked for before they are posted.
    pub(super) fn looks_first(&self) -> bool {
        self.again.is_none()
    }

    fn chooses(&self, standing: Standing, known: &Known<'_>) -> bool {
        known.is_named || self.states.contains(&standing)
    }

    fn is_too_old(&self, aged_from: Timestamp) -> bool {
        let age = Duration::try_from(self.now.duration_since(aged_from)).unwrap_or_default();
        !self.ignore_age && age > self.max_age
    }
}

/// Where an event without an end seems to stand on a broker, by the numbers of the audit.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByNumbers {
    /// Whether the audit has it among those that may be unexplained.
    pub(super) may_be_lost: bool,
    /// Whether its last word is that it waits.
    pub(super) is_said_to_wait: bool,
    /// Whether some of the chosen events without an end were put back before.
    pub(super) some_were_put_back: bool,
}

/// Where an event without an end stands, seen more closely. A broker tells how many jobs wait, but not of
/// which events; and one that was put back though it was waiting has two jobs, behind which a lost one
/// can hide. So where some were put back, only these wait for certain, as far as there are jobs enough for
/// all of them: the others are put back too, rather than left out by mistake, and a message with two jobs
/// is answered once. That is how a replay that was interrupted goes on.
pub(super) fn seen_closely(by: ByNumbers) -> Standing {
    match (by.may_be_lost, by.is_said_to_wait) {
        (true, _) => Standing::Open,
        (false, false) if by.some_were_put_back => Standing::Open,
        (false, _) => Standing::Waiting,
    }
}

/// The reasons that may be over by now: the flood has passed, the bot was let into the room or the
/// account is answered by now, there is a fallback line. The others hold whoever looks, and whenever.
const FOR_A_WHILE: [&str; 4] = ["flood", "room_closed", "nothing_to_say", "ignored_account"];

/// The reason for which an event is ignored whose message is answered.
const DUPLICATE: &str = "duplicate";

/// So long no new round is begun for a message that was answered in one: who runs an interrupted command
/// once more means to go on with it.
const LATELY: SignedDuration = SignedDuration::from_hours(1);
/// A new round is dated back to the beginning of such a span. Two commands that are begun at the same time
/// so begin the same round, in which a message is answered once.
const ROUND_SPAN: SignedDuration = SignedDuration::from_secs(10);

/// The round that is begun now.
pub(super) fn new_round(now: Timestamp) -> Timestamp {
    let second = now.as_second();
    let begun = second - second.rem_euclid(ROUND_SPAN.as_secs());
    Timestamp::from_second(begun).unwrap_or(now)
}

/// Whether the event is not to be answered once more in this round.
fn is_done_in(round: Timestamp, known: &Known<'_>, wish: &Wish) -> Result<(), Skip> {
    match known.last_round {
        Some(last) if last >= round => return Err(Skip::AgainAlready),
        Some(last) if !wish.is_named_round && wish.now.duration_since(last) < LATELY => {
            return Err(Skip::AgainLately(last));
        }
        _ => {}
    }
    // Answered for the first time since the round was begun, it was not meant.
    let begun = round.saturating_add(ROUND_SPAN).unwrap_or(round);
    if wish.is_named_round && known.last_at.is_some_and(|at| at >= begun) {
        return Err(Skip::AgainAlready);
    }
    Ok(())
}

/// The decision, for one event by itself.
pub(super) fn decide(known: &Known<'_>, wish: &Wish) -> Decision {
    let put_back = match known.open_round {
        // In any other its message has a reply already.
        Some(_) => Deed::Owed,
        None if known.has_copy => Deed::PutBack,
        None => Deed::TakeIn,
    };
    let standing = match known.standing {
        // Its message is answered, if by way of this event: an older worker took a later round for that.
        Some(Standing::Ignored) if known.was_answered && known.why == Some(DUPLICATE) => {
            Some(Standing::Answered)
        }
        standing => standing,
    };
    let deed = match standing {
        Some(Standing::Open)
            if known.may_be_lost
                && !wish.chooses(Standing::Open, known)
                && !wish.chooses(Standing::Unexplained, known) =>
        {
            return Err(Skip::MayBeLost);
        }
        None | Some(Standing::Unexplained) => put_back,
        Some(Standing::Open) if known.is_here => put_back,
        Some(Standing::Answered) => match wish.again {
            None => return Err(Skip::Answered),
            Some(_) if known.open_round.is_some() => Deed::Owed,
            Some(round) => {
                is_done_in(round, known, wish)?;
                Deed::Again
            }
        },
        Some(Standing::Waiting) if known.is_here => return Err(Skip::Waiting),
        // There a broker could not tell whether it waits.
        Some(standing @ (Standing::Waiting | Standing::Open)) => {
            if !wish.chooses(Standing::Waiting, known) && !wish.chooses(standing, known) {
                return Err(Skip::WaitsElsewhere);
            }
            Deed::TakeIn
        }
        Some(Standing::Dead) => {
            let is_malformed = match known.letter {
                Some((cause, _)) => cause == Cause::Malformed,
                None => known.why == Some(Cause::Malformed.as_str()),
            };
            if is_malformed && !known.is_named {
                return Err(Skip::Malformed);
            }
            match known.letter {
                Some(_) if known.is_here => Deed::Retry,
                _ => put_back,
            }
        }
        Some(Standing::Dropped) if wish.chooses(Standing::Dropped, known) => put_back,
        Some(Standing::Dropped) => return Err(Skip::Dropped),
        Some(Standing::Ignored) => {
            let reason = known.why.unwrap_or("for no known reason").to_owned();
            if !FOR_A_WHILE.contains(&reason.as_str()) {
                return Err(Skip::Ignored(reason));
            }
            if !wish.chooses(Standing::Ignored, known) {
                return Err(Skip::IgnoredForAWhile(reason));
            }
            put_back
        }
    };
    if wish.is_too_old(known.aged_from) {
        return Err(Skip::TooOld);
    }
    Ok(deed)
}

/// An event and what is done with it. The JSON fields are a contract.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Planned {
    /// The event.
    #[serde(flatten)]
    pub(super) found: Found,
    /// `plan` and `reason`.
    #[serde(flatten, serialize_with = "decision")]
    pub(super) decision: Decision,
}

impl Planned {
    /// Whether SimSimi may be asked because of it: a reply that was given up is there already.
    pub(super) fn may_ask(&self) -> bool {
        match self.decision {
            Ok(Deed::Retry) => {
                self.found.letter.as_ref().is_none_or(|letter| {
                    letter.step != Step::Post && letter.cause != Cause::Malformed
                })
            }
            Ok(Deed::Close) | Err(_) => false,
            Ok(_) => true,
        }
    }

    /// Whether a room will hear a second reply.
    pub(super) fn is_second_reply(&self) -> bool {
        matches!(self.decision, Ok(Deed::Again | Deed::Owed))
    }

    /// What is to become of it, for people.
    pub(super) fn says(&self, wish: &Wish) -> String {
        match &self.decision {
            Ok(_) if self.is_doubtful() && wish.looks_first() => {
                "uncertain reply looked for, then posted".to_owned()
            }
            Ok(_) if self.is_doubtful() => "uncertain reply posted WITHOUT LOOKING".to_owned(),
            Ok(deed) => deed.says().to_owned(),
            Err(skip) => format!("skipped: {}", skip.says()),
        }
    }

    /// Whether nothing tells how it has ended, and nobody works on it.
    fn lacks_an_end(&self) -> bool {
        self.found.is_here
            && (self.found.letter.is_some()
                || matches!(
                    self.found.state,
                    Some(Standing::Open | Standing::Unexplained)
                ))
    }

    /// Whether its reply may be in the room, for all that anybody knows.
    pub(super) fn is_doubtful(&self) -> bool {
        let letter = self.found.letter.as_deref();
        self.decision == Ok(Deed::Retry) && letter.is_some_and(is_doubtful)
    }
}

fn decision<S: Serializer>(decision: &Decision, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields<'a> {
        plan: &'a str,
        reason: Option<String>,
    }
    let (plan, reason) = match decision {
        Ok(deed) => (deed.word(), None),
        Err(skip) => ("skip", Some(skip.says())),
    };
    Fields { plan, reason }.serialize(to)
}

impl Deed {
    /// The word in JSON, which is a contract.
    fn word(self) -> &'static str {
        match self {
            Self::PutBack => "put_back",
            Self::Retry => "retry",
            Self::Again | Self::Owed => "again",
            Self::TakeIn => "take_in",
            Self::Close => "close",
        }
    }

    /// For people.
    fn says(self) -> &'static str {
        match self {
            Self::PutBack => "put back",
            Self::Retry => "dead letter put back",
            Self::Again => "answered AGAIN",
            Self::Owed => "answered AGAIN, as was asked for before",
            Self::TakeIn => "received anew",
            Self::Close => "ended as a duplicate",
        }
    }
}

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// One event about it is put back.
    Goes,
    /// Somebody works on it, or its dead letter is put back.
    Waits,
    /// It has a reply.
    Answered,
}

/// Several events can be about one message: it is answered once, so one of them is enough. The others are
/// ended, where nothing tells their end yet: to have a worker find out that they are duplicates could cost
/// another question. Dead letters of a message without a reply are all put back, so that none stays behind;
/// of two about one message a worker ignores one.
pub(super) fn one_of_each_message(planned: &mut [Planned]) {
    let mut told: HashMap<_, Told> = HashMap::new();
    for event in planned.iter() {
        let what = match event.decision {
            _ if event.found.message_is_answered => Told::Answered,
            Ok(Deed::Again | Deed::Owed)
            | Err(Skip::Answered | Skip::AgainAlready | Skip::AgainLately(_))
                if event.found.is_here =>
            {
                Told::Answered
            }
            Ok(Deed::Retry) | Err(Skip::Waiting) => Told::Waits,
            _ => continue,
        };
        if let Some(key) = event.found.key() {
            let so_far = told.entry(key).or_insert(what);
            *so_far = what.max(*so_far);
        }
    }
    for event in planned.iter_mut() {
        let Some(key) = event.found.key() else {
            continue;
        };
        let lacks_an_end = event.lacks_an_end();
        let decision = match (&event.decision, told.entry(key)) {
            (Ok(Deed::Again | Deed::Owed), _) => continue,
            // However old it is: nothing is said about it any more.
            (Err(Skip::TooOld), Entry::Occupied(message))
                if lacks_an_end && *message.get() == Told::Answered =>
            {
                Ok(Deed::Close)
            }
            (Err(_), _) => continue,
            (Ok(_), Entry::Vacant(message)) => {
                message.insert(Told::Goes);
                continue;
            }
            (Ok(deed), Entry::Occupied(message)) => match (message.get(), deed) {
                (Told::Answered, _) if lacks_an_end => Ok(Deed::Close),
                (Told::Answered, _) => Err(Skip::AnsweredByAnother),
                (_, Deed::Retry) => continue,
                (Told::Goes | Told::Waits, _) if lacks_an_end => Ok(Deed::Close),
                (Told::Goes | Told::Waits, _) => Err(Skip::SameMessage),
            },
        };
        event.decision = decision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn now() -> Timestamp {
        Timestamp::from_second(2_000_000_000).expect("a time")
    }

    fn known(standing: Standing) -> Known<'static> {
        Known {
            standing: Some(standing),
            is_here: true,
            why: None,
            letter: None,
            aged_from: now() - MINUTE,
            last_at: Some(now() - MINUTE),
            has_copy: true,
            open_round: None,
            last_round: None,
            may_be_lost: false,
            was_answered: standing == Standing::Answered,
            is_named: false,
        }
    }

    fn wish() -> Wish {
        Wish {
            again: None,
            is_named_round: false,
            ignore_age: false,
            max_age: 60 * MINUTE,
            states: Vec::new(),
            now: now(),
        }
    }

    fn dead(cause: Cause, step: Step) -> Known<'static> {
        Known {
            letter: Some((cause, step)),
            why: Some(cause.as_str()),
            ..known(Standing::Dead)
        }
    }

    fn ignored(why: &'static str) -> Known<'static> {
        Known {
            why: Some(why),
            ..known(Standing::Ignored)
        }
    }

    /// In the round that a person began at this time, and in which it has no reply.
    fn owed(known: Known<'static>, round: Timestamp) -> Known<'static> {
        Known {
            open_round: Some(round),
            last_round: Some(round),
            was_answered: true,
            ..known
        }
    }

    fn had_round(round: Timestamp) -> Known<'static> {
        Known {
            last_round: Some(round),
            ..known(Standing::Answered)
        }
    }

    /// A duplicate of itself: put back once more, by a person or by an older release.
    fn answered_by_itself() -> Known<'static> {
        Known {
            was_answered: true,
            ..ignored("duplicate")
        }
    }

    fn old(known: Known<'static>) -> Known<'static> {
        let aged_from = now() - 61 * MINUTE;
        Known { aged_from, ..known }
    }

    fn named(known: Known<'static>) -> Known<'static> {
        Known {
            is_named: true,
            ..known
        }
    }

    fn elsewhere(known: Known<'static>) -> Known<'static> {
        Known {
            is_here: false,
            has_copy: false,
            ..known
        }
    }

    fn may_be_lost() -> Known<'static> {
        Known {
            may_be_lost: true,
            ..known(Standing::Open)
        }
    }

    #[test]
    fn what_is_done_with_an_event_follows_from_where_it_stands() {
        use Standing::{Answered, Dropped, Open, Unexplained, Waiting};
        let nothing = || Known {
            standing: None,
            last_at: None,
            ..elsewhere(known(Open))
        };
        let gone = |why| Known {
            why: Some(why),
            ..known(Standing::Dead)
        };
        let table = [
            (known(Answered), Err(Skip::Answered)),
            (known(Waiting), Err(Skip::Waiting)),
            (known(Open), Ok(Deed::PutBack)),
            (known(Unexplained), Ok(Deed::PutBack)),
            (dead(Cause::Exhausted, Step::Ask), Ok(Deed::Retry)),
            (dead(Cause::Uncertain, Step::Post), Ok(Deed::Retry)),
            (dead(Cause::Newer, Step::Ask), Ok(Deed::Retry)),
            (dead(Cause::Malformed, Step::Receive), Err(Skip::Malformed)),
            (named(dead(Cause::Malformed, Step::Ask)), Ok(Deed::Retry)),
            // Its letter was purged.
            (gone("exhausted"), Ok(Deed::PutBack)),
            (gone("malformed"), Err(Skip::Malformed)),
            (known(Dropped), Err(Skip::Dropped)),
            (named(known(Dropped)), Ok(Deed::PutBack)),
            (ignored("own"), Err(Skip::Ignored("own".to_owned()))),
            (named(ignored("own")), Err(Skip::Ignored("own".to_owned()))),
            (
                ignored("duplicate"),
                Err(Skip::Ignored("duplicate".to_owned())),
            ),
            (answered_by_itself(), Err(Skip::Answered)),
            (
                ignored("flood"),
                Err(Skip::IgnoredForAWhile("flood".to_owned())),
            ),
            (named(ignored("flood")), Ok(Deed::PutBack)),
            // Older than it may be.
            (old(known(Answered)), Err(Skip::Answered)),
            (old(known(Waiting)), Err(Skip::Waiting)),
            (old(known(Unexplained)), Err(Skip::TooOld)),
            (old(dead(Cause::Expired, Step::Ask)), Err(Skip::TooOld)),
            (named(old(known(Open))), Err(Skip::TooOld)),
            // Of another deployment.
            (nothing(), Ok(Deed::TakeIn)),
            (old(nothing()), Err(Skip::TooOld)),
            (elsewhere(known(Answered)), Err(Skip::Answered)),
            (elsewhere(known(Waiting)), Err(Skip::WaitsElsewhere)),
            (named(elsewhere(known(Waiting))), Ok(Deed::TakeIn)),
            (elsewhere(known(Open)), Err(Skip::WaitsElsewhere)),
            (named(elsewhere(known(Open))), Ok(Deed::TakeIn)),
            (elsewhere(known(Unexplained)), Ok(Deed::TakeIn)),
            // Known here by what became of it, and archived nowhere.
            (
                Known {
                    has_copy: false,
                    ..known(Unexplained)
                },
                Ok(Deed::TakeIn),
            ),
            // There may be no job for it any more.
            (may_be_lost(), Err(Skip::MayBeLost)),
            (named(may_be_lost()), Ok(Deed::PutBack)),
            // Another answer was promised.
            (owed(known(Open), now() - MINUTE), Ok(Deed::Owed)),
            (owed(known(Unexplained), now() - MINUTE), Ok(Deed::Owed)),
            (owed(known(Waiting), now() - MINUTE), Err(Skip::Waiting)),
            (named(owed(known(Dropped), now() - MINUTE)), Ok(Deed::Owed)),
            (
                named(owed(ignored("flood"), now() - MINUTE)),
                Ok(Deed::Owed),
            ),
            (
                owed(ignored("duplicate"), now() - MINUTE),
                Err(Skip::Answered),
            ),
            (elsewhere(gone("exhausted")), Ok(Deed::TakeIn)),
            (elsewhere(gone("malformed")), Err(Skip::Malformed)),
            (
                elsewhere(ignored("own")),
                Err(Skip::Ignored("own".to_owned())),
            ),
        ];
        for (known, expected) in table {
            assert_eq!(decide(&known, &wish()), expected, "{known:?}");
        }
    }

    #[test]
    fn what_was_asked_for_widens_what_is_done() {
        use Standing::{Answered, Dropped, Unexplained, Waiting};
        let states = |states: &[Standing]| Wish {
            states: states.to_vec(),
            ..wish()
        };
        let again = |round| Wish {
            again: Some(round),
            ..wish()
        };
        let any_age = Wish {
            ignore_age: true,
            ..wish()
        };
        let named_round = |round| Wish {
            is_named_round: true,
            ..again(round)
        };
        let (before, long_ago) = (now() - 2 * MINUTE, now() - 61 * MINUTE);
        let table = [
            (states(&[Dropped]), known(Dropped), Ok(Deed::PutBack)),
            (
                states(&[Standing::Ignored]),
                ignored("room_closed"),
                Ok(Deed::PutBack),
            ),
            (
                states(&[Standing::Ignored]),
                ignored("own"),
                Err(Skip::Ignored("own".to_owned())),
            ),
            (states(&[Waiting]), known(Waiting), Err(Skip::Waiting)),
            (
                states(&[Waiting]),
                elsewhere(known(Waiting)),
                Ok(Deed::TakeIn),
            ),
            (any_age, old(known(Unexplained)), Ok(Deed::PutBack)),
            (again(now()), known(Answered), Ok(Deed::Again)),
            (again(now()), answered_by_itself(), Ok(Deed::Again)),
            (again(now()), old(known(Answered)), Err(Skip::TooOld)),
            (again(now()), elsewhere(known(Answered)), Ok(Deed::Again)),
            (again(now()), known(Waiting), Err(Skip::Waiting)),
            // What had a reply and is lost in a later round has to be answered in that one.
            (
                again(now()),
                owed(known(Unexplained), before),
                Ok(Deed::Owed),
            ),
            (
                again(now()),
                owed(ignored("duplicate"), before),
                Ok(Deed::Owed),
            ),
            // An interrupted command that is run once more.
            (
                again(now()),
                had_round(before),
                Err(Skip::AgainLately(before)),
            ),
            (named_round(now()), had_round(before), Ok(Deed::Again)),
            (again(now()), had_round(long_ago), Ok(Deed::Again)),
            (again(now()), had_round(now()), Err(Skip::AgainAlready)),
            // A round that is gone on with: this one had its answer in it, or its first one since.
            (
                named_round(before),
                had_round(before),
                Err(Skip::AgainAlready),
            ),
            (
                named_round(before),
                known(Answered),
                Err(Skip::AgainAlready),
            ),
            (
                named_round(now() - MINUTE),
                known(Answered),
                Ok(Deed::Again),
            ),
            (states(&[Unexplained]), may_be_lost(), Ok(Deed::PutBack)),
        ];
        for (wish, known, expected) in table {
            assert_eq!(decide(&known, &wish), expected, "{known:?} {wish:?}");
        }
    }

    #[test]
    fn what_only_seems_to_wait_is_put_back_once_others_were() {
        use Standing::{Open, Waiting};
        // May be lost, said to wait, others were put back; seen closely.
        let table = [
            (false, false, false, Waiting),
            (false, false, true, Open),
            (false, true, true, Waiting),
            (true, false, false, Open),
            // There are fewer jobs than that.
            (true, true, true, Open),
        ];
        for (may_be_lost, is_said_to_wait, some_were_put_back, expected) in table {
            let by = ByNumbers {
                may_be_lost,
                is_said_to_wait,
                some_were_put_back,
            };
            assert_eq!(seen_closely(by), expected, "{by:?}");
        }
    }

    #[test]
    fn what_is_begun_at_the_same_time_is_the_same_round() {
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        assert_eq!(new_round(at(1_000_000_009_999)), at(1_000_000_000_000));
        assert_eq!(new_round(at(1_000_000_000_000)), at(1_000_000_000_000));
        assert_eq!(new_round(at(1_000_000_010_000)), at(1_000_000_010_000));
    }

    fn planned(message: &str, decision: Decision) -> Planned {
        Planned {
            found: Found {
                state: match decision {
                    Ok(Deed::PutBack) | Err(Skip::TooOld) => Some(Standing::Unexplained),
                    _ => None,
                },
                ..crate::commands::replay::found::tests::found(message, now())
            },
            decision,
        }
    }

    #[test]
    fn of_the_events_about_one_message_one_goes() {
        let (goes, closed) = (|| Ok(Deed::PutBack), || Ok(Deed::Close));
        let table = [
            (vec![goes(), goes()], vec![goes(), closed()]),
            (
                vec![goes(), Err(Skip::Answered)],
                vec![closed(), Err(Skip::Answered)],
            ),
            (
                vec![goes(), Err(Skip::Waiting)],
                vec![closed(), Err(Skip::Waiting)],
            ),
            (
                vec![goes(), Ok(Deed::Retry), Ok(Deed::Retry)],
                vec![closed(), Ok(Deed::Retry), Ok(Deed::Retry)],
            ),
            (
                vec![goes(), Ok(Deed::Again)],
                vec![closed(), Ok(Deed::Again)],
            ),
            (
                vec![Err(Skip::TooOld), goes()],
                vec![Err(Skip::TooOld), goes()],
            ),
            (
                vec![Err(Skip::TooOld), Err(Skip::Answered)],
                vec![closed(), Err(Skip::Answered)],
            ),
            // It has come to an end, or is not known here: there is nothing to be told of it.
            (
                vec![Ok(Deed::TakeIn), Err(Skip::Answered)],
                vec![Err(Skip::AnsweredByAnother), Err(Skip::Answered)],
            ),
            (
                vec![Ok(Deed::TakeIn), Ok(Deed::TakeIn)],
                vec![Ok(Deed::TakeIn), Err(Skip::SameMessage)],
            ),
        ];
        for (decisions, expected) in table {
            let mut events: Vec<_> = decisions
                .iter()
                .map(|decision| planned("1", decision.clone()))
                .collect();
            one_of_each_message(&mut events);
            let decided: Vec<_> = events.into_iter().map(|event| event.decision).collect();
            assert_eq!(decided, expected, "{decisions:?}");
        }
        let mut others = [planned("1", goes()), planned("2", goes())];
        one_of_each_message(&mut others);
        assert!(others.iter().all(|event| event.decision == goes()));
    }

    #[test]
    fn a_plan_in_json_has_its_word_and_its_reason() {
        let json = |event: &Planned| serde_json::to_value(event).expect("JSON");
        let skipped = json(&planned("1", Err(Skip::Answered)));
        assert_eq!(skipped["plan"], "skip");
        assert!(skipped["reason"].is_string() && skipped["state"].is_null());
        let goes = json(&planned("1", Ok(Deed::PutBack)));
        assert_eq!(goes["plan"], "put_back");
        assert!(goes["reason"].is_null() && goes["message_id"] == "1");
        let words: Vec<_> = Deed::ALL.into_iter().map(Deed::word).collect();
        assert_eq!(
            words,
            ["put_back", "retry", "again", "again", "take_in", "close"]
        );
    }
}
