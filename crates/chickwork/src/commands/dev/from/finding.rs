//! What was said held against what would be said today. Pure.

use chickwork_worker::{End, Rehearsal, Rehearsed};
use serde::Serialize;

use crate::recorded::{Before, NoAnswer, Recorded};

/// Why the ingress keeps an event from the worker, whose own word for such a one is another.
const UNKNOWN_TYPE: &str = "unknown_type";

/// What came of a comparison. The words are those of `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Finding {
    /// The same words, or silence for the same reason.
    Same,
    /// Other words.
    Differs,
    /// Something was said, and nothing would be.
    NowSilent,
    /// Nothing was said, and something would be.
    NowAnswers,
    /// SimSimi would be asked something else; nobody knows what it would say.
    QuestionChanged,
    /// Silence, then and now, for another reason.
    OtherReason,
    /// It cannot be compared.
    NotCompared(Missing),
}

/// What is missing for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Missing {
    /// Nothing had become of it when it was exported.
    NotWorkedOn,
    /// It was given up before it was answered.
    GivenUp,
    /// Why nothing was said depends on the moment, and not on the event.
    OfTheMoment,
    /// SimSimi's answer, or the reply, was not written down.
    NotRecorded,
}

impl Finding {
    /// What there is to say about an event that was and would be so.
    pub(super) fn of(recorded: &Recorded, played: &Rehearsed<NoAnswer>) -> Self {
        match (&recorded.before, &played.end) {
            (Before::Open, _) => Self::NotCompared(Missing::NotWorkedOn),
            (Before::SaidSomething, End::Ignored(_) | End::Malformed(_)) => Self::NowSilent,
            (Before::SaidSomething, _) => Self::NotCompared(Missing::NotRecorded),

            (Before::Said(then), End::Said(now)) if then == now => Self::Same,
            (Before::Said(_), End::Said(_)) => Self::Differs,
            (Before::Said(_), End::Ignored(_) | End::Malformed(_)) => Self::NowSilent,

            (Before::Ignored(then), End::Ignored(now)) if then == now || then == UNKNOWN_TYPE => {
                Self::Same
            }
            (Before::Dead("malformed"), End::Malformed(_)) => Self::Same,
            (Before::Ignored(_) | Before::Dead(_), End::Ignored(_) | End::Malformed(_)) => {
                Self::OtherReason
            }

            (Before::Ignored(then), _) if Rehearsal::of_the_moment().contains(&then.as_str()) => {
                Self::NotCompared(Missing::OfTheMoment)
            }
            (Before::Ignored(_) | Before::Dead("malformed"), End::Said(_)) => Self::NowAnswers,
            (Before::Dead("malformed"), End::Unanswered(_)) => Self::NowAnswers,
            (Before::Dead(_), _) => Self::NotCompared(Missing::GivenUp),

            (_, End::Unanswered(NoAnswer::NotRecorded)) => Self::NotCompared(Missing::NotRecorded),
            // Somebody had been asked about it, and was silent.
            (Before::Ignored(_), End::Unanswered(_)) if recorded.asked.is_none() => {
                Self::NowAnswers
            }
            (_, End::Unanswered(NoAnswer::AnotherQuestion)) => Self::QuestionChanged,
        }
    }

    /// Whether somebody in the room would notice.
    pub(super) fn is_difference(self) -> bool {
        match self {
            Self::Differs | Self::NowSilent | Self::NowAnswers | Self::QuestionChanged => true,
            Self::Same | Self::OtherReason | Self::NotCompared(_) => false,
        }
    }

    /// For people.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Same => "the same",
            Self::Differs => "differs",
            Self::NowSilent => "would now be silent",
            Self::NowAnswers => "would now answer",
            Self::QuestionChanged => "would ask SimSimi anew",
            Self::OtherReason => "silent for another reason",
            Self::NotCompared(missing) => missing.says(),
        }
    }
}

impl Missing {
    /// For people, after "not compared: ".
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::NotWorkedOn => "had not ended",
            Self::GivenUp => "given up before there was an answer",
            Self::OfTheMoment => {
                "not said because of the moment (a flood, a duplicate, a closed room)"
            }
            Self::NotRecorded => "the answer was not written down",
        }
    }
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::webhook::Malformed;
    use chickwork_queue::job::Cause;

    use super::*;
    use crate::recorded::tests::{asked, dead, ignored, outcomes, stored};

    #[test]
    fn every_case_has_its_finding() {
        let chirp = || vec![asked("answered", Some("hi"), Some("chíp")), stored("chíp")];
        let said = |words: &str| End::Said(format!("[rp aid=1 to=2-3]\n{words}"));
        let malformed = || End::Malformed(Malformed::Missing { member: "x" });
        let anew = || End::Unanswered(NoAnswer::AnotherQuestion);
        let not_compared = Finding::NotCompared;
        let table = [
            (chirp(), said("chíp"), Finding::Same),
            (chirp(), said("chip"), Finding::Differs),
            (chirp(), End::Ignored("own"), Finding::NowSilent),
            (chirp(), malformed(), Finding::NowSilent),
            (chirp(), anew(), Finding::QuestionChanged),
            // Nobody had been asked: the friendly line.
            (vec![stored("what?")], anew(), Finding::QuestionChanged),
            (vec![ignored("own")], End::Ignored("own"), Finding::Same),
            (
                vec![ignored("own")],
                End::Ignored("not_addressed"),
                Finding::OtherReason,
            ),
            (
                vec![ignored("unknown_type")],
                End::Ignored("not_addressed"),
                Finding::Same,
            ),
            (vec![ignored("own")], said("chíp"), Finding::NowAnswers),
            (vec![ignored("own")], anew(), Finding::NowAnswers),
            (
                vec![
                    asked("no_answer", Some("hi"), None),
                    ignored("nothing_to_say"),
                ],
                said("what?"),
                Finding::NowAnswers,
            ),
            (
                vec![
                    asked("no_answer", Some("ho"), None),
                    ignored("nothing_to_say"),
                ],
                anew(),
                Finding::QuestionChanged,
            ),
            (
                vec![ignored("flood")],
                anew(),
                not_compared(Missing::OfTheMoment),
            ),
            (
                vec![ignored("duplicate")],
                said("chíp"),
                not_compared(Missing::OfTheMoment),
            ),
            (
                vec![ignored("flood")],
                End::Ignored("own"),
                Finding::OtherReason,
            ),
            (vec![dead(Cause::Malformed)], malformed(), Finding::Same),
            (vec![dead(Cause::Malformed)], anew(), Finding::NowAnswers),
            (
                vec![dead(Cause::Expired)],
                anew(),
                not_compared(Missing::GivenUp),
            ),
            (
                vec![dead(Cause::Expired)],
                said("what?"),
                not_compared(Missing::GivenUp),
            ),
            (
                vec![dead(Cause::Expired)],
                End::Ignored("own"),
                Finding::OtherReason,
            ),
            (vec![], said("what?"), not_compared(Missing::NotWorkedOn)),
        ];
        for (whats, end, expected) in table {
            let recorded = Recorded::of(&outcomes(whats));
            let played = Rehearsed {
                question: None,
                end,
            };
            let finding = Finding::of(&recorded, &played);
            assert_eq!(finding, expected, "{recorded:?} {played:?}");
        }
    }
}
