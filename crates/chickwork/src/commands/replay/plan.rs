//! What a replay does with each event: one pure function of what is known of it and what was asked for,
//! with its table of cases as the test. Whoever calls it acts, nobody else decides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use chickwork_queue::events::Standing;
use chickwork_queue::job::{Cause, Step};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::super::dead::take::is_doubtful;
use super::found::Found;

/// What is done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Put back from the archive, to be asked about.
    PutBack,
    /// Its dead letter is put back where it was given up.
    Retry,
    /// Its message, which has a reply, is answered once more.
    Again,
    /// It is not known here, and is received anew.
    TakeIn,
}

impl Deed {
    /// All of them, in the order of the preview.
    pub(super) const ALL: [Self; 4] = [Self::PutBack, Self::Retry, Self::Again, Self::TakeIn];
}

/// Why nothing is done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Skip {
    /// Its message has a reply.
    Answered,
    /// Its message has a reply, by way of another event.
    AnsweredByAnother,
    /// Something has become of it since the round of another answer was begun.
    AgainAlready,
    /// It waits to be worked on.
    Waiting,
    /// It waits where it was exported.
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
    pub(super) fn says(&self) -> String {
        match self {
            Self::Answered => "answered already (--again answers once more)".to_owned(),
            Self::AnsweredByAnother => {
                "its message is answered, by way of another event".to_owned()
            }
            Self::AgainAlready => "put back in this round of --again already".to_owned(),
            Self::Waiting => "waits already".to_owned(),
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
    /// Whether its id was given.
    pub(super) is_named: bool,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wish {
    /// Answered messages are answered once more; the moment at which a person asked for that.
    pub(super) again: Option<Timestamp>,
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
    fn chooses(&self, standing: Standing, known: &Known<'_>) -> bool {
        known.is_named || self.states.contains(&standing)
    }

    fn is_too_old(&self, aged_from: Timestamp) -> bool {
        let age = Duration::try_from(self.now.duration_since(aged_from)).unwrap_or_default();
        !self.ignore_age && age > self.max_age
    }
}

/// What else has to be looked at before it is believed where an event without an end stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// Whether ids tell what waits, and not mere numbers.
    pub(super) is_by_id: bool,
    /// Whether some of the chosen events without an end were put back before.
    pub(super) some_were_put_back: bool,
}

/// Where an event without an end stands, seen more closely. A broker tells how many jobs wait, but not of
/// which events; and one that was put back though it was waiting has two jobs, behind which a lost one
/// can hide. So where some were put back, only these wait for certain: the others are put back too, rather
/// than left out by mistake, and a message with two jobs is answered once. That is how a replay that was
/// interrupted goes on.
pub(super) fn seen_closely(
    standing: Standing,
    replay: u32,
    is_wanted_anyhow: bool,
    around: Around,
) -> Standing {
    match standing {
        Standing::Open if is_wanted_anyhow => standing,
        Standing::Open | Standing::Waiting if !around.is_by_id => match replay {
            1.. => Standing::Waiting,
            0 if around.some_were_put_back => Standing::Open,
            0 => standing,
        },
        _ => standing,
    }
}

/// The reasons that may be over by now: the flood has passed, the bot was let into the room or the
/// account is answered by now, there is a fallback line. The others hold whoever looks, and whenever.
const FOR_A_WHILE: [&str; 4] = ["flood", "room_closed", "nothing_to_say", "ignored_account"];

/// The decision, for one event by itself.
pub(super) fn decide(known: &Known<'_>, wish: &Wish) -> Decision {
    let put_back = if known.is_here {
        Deed::PutBack
    } else {
        Deed::TakeIn
    };
    let deed = match known.standing {
        None | Some(Standing::Open | Standing::Unexplained) => put_back,
        Some(Standing::Answered) => match wish.again {
            None => return Err(Skip::Answered),
            Some(round) if known.is_here && known.last_at.is_some_and(|at| at >= round) => {
                return Err(Skip::AgainAlready);
            }
            Some(_) if known.is_here => Deed::Again,
            Some(_) => Deed::TakeIn,
        },
        Some(Standing::Waiting) if known.is_here => return Err(Skip::Waiting),
        Some(Standing::Waiting) if !wish.chooses(Standing::Waiting, known) => {
            return Err(Skip::WaitsElsewhere);
        }
        Some(Standing::Waiting) => Deed::TakeIn,
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
            Ok(_) => true,
            Err(_) => false,
        }
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
            Self::Again => "again",
            Self::TakeIn => "take_in",
        }
    }

    /// For people.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::PutBack => "put back",
            Self::Retry => "dead letter put back",
            Self::Again => "answered AGAIN",
            Self::TakeIn => "received anew",
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

/// Several events can be about one message: it is answered once, so one of them is enough. Dead letters
/// are all put back, so that none stays behind; of two about one message a worker ignores one.
pub(super) fn one_of_each_message(planned: &mut [Planned]) {
    let mut told: HashMap<_, Told> = HashMap::new();
    for event in planned.iter() {
        let what = match event.decision {
            Ok(Deed::Again) | Err(Skip::Answered | Skip::AgainAlready) => Told::Answered,
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
        let skip = match (&event.decision, told.entry(key)) {
            (Err(_) | Ok(Deed::Again), _) => continue,
            (Ok(_), Entry::Vacant(message)) => {
                message.insert(Told::Goes);
                continue;
            }
            (Ok(deed), Entry::Occupied(message)) => match (message.get(), deed) {
                (Told::Answered, _) => Skip::AnsweredByAnother,
                (_, Deed::Retry) => continue,
                (Told::Goes | Told::Waits, _) => Skip::SameMessage,
            },
        };
        event.decision = Err(skip);
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
            is_named: false,
        }
    }

    fn wish() -> Wish {
        Wish {
            again: None,
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
            ..known
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
        let before = now() - 2 * MINUTE;
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
            (again(now()), old(known(Answered)), Err(Skip::TooOld)),
            (again(now()), elsewhere(known(Answered)), Ok(Deed::TakeIn)),
            (again(now()), known(Waiting), Err(Skip::Waiting)),
            // A round that is gone on with: this one had its answer in it.
            (again(before), known(Answered), Err(Skip::AgainAlready)),
        ];
        for (wish, known, expected) in table {
            assert_eq!(decide(&known, &wish), expected, "{known:?} {wish:?}");
        }
    }

    #[test]
    fn what_only_seems_to_wait_is_put_back_once_others_were() {
        use Standing::{Answered, Open, Unexplained, Waiting};
        // Standing, put back before, wanted anyhow, by id, others were put back; seen closely.
        let table = [
            (Waiting, 0, false, true, true, Waiting),
            (Waiting, 0, false, false, false, Waiting),
            (Waiting, 0, false, false, true, Open),
            (Waiting, 1, false, false, true, Waiting),
            (Open, 0, false, false, false, Open),
            (Open, 1, false, false, true, Waiting),
            // Somebody knows better.
            (Open, 1, true, false, true, Open),
            // Nothing waits, so this one was put back and lost.
            (Unexplained, 1, false, false, true, Unexplained),
            (Answered, 1, false, false, true, Answered),
        ];
        for (standing, replay, wanted, is_by_id, some_were_put_back, expected) in table {
            let around = Around {
                is_by_id,
                some_were_put_back,
            };
            let seen = seen_closely(standing, replay, wanted, around);
            assert_eq!(seen, expected, "{standing:?} {replay} {wanted} {around:?}");
        }
    }

    fn planned(message: &str, decision: Decision) -> Planned {
        Planned {
            found: crate::commands::replay::found::tests::found(message, now()),
            decision,
        }
    }

    #[test]
    fn of_the_events_about_one_message_one_goes() {
        let goes = || Ok(Deed::PutBack);
        let table = [
            (vec![goes(), goes()], vec![goes(), Err(Skip::SameMessage)]),
            (
                vec![goes(), Err(Skip::Answered)],
                vec![Err(Skip::AnsweredByAnother), Err(Skip::Answered)],
            ),
            (
                vec![goes(), Err(Skip::Waiting)],
                vec![Err(Skip::SameMessage), Err(Skip::Waiting)],
            ),
            (
                vec![goes(), Ok(Deed::Retry), Ok(Deed::Retry)],
                vec![Err(Skip::SameMessage), Ok(Deed::Retry), Ok(Deed::Retry)],
            ),
            (
                vec![Ok(Deed::Retry), Err(Skip::Answered)],
                vec![Err(Skip::AnsweredByAnother), Err(Skip::Answered)],
            ),
            (
                vec![goes(), Ok(Deed::Again)],
                vec![Err(Skip::AnsweredByAnother), Ok(Deed::Again)],
            ),
            (
                vec![Err(Skip::TooOld), goes()],
                vec![Err(Skip::TooOld), goes()],
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
    }
}
