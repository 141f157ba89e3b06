//! Whether a reply may be in the room of which nobody knows.

use chickwork_queue::events::Story;
use chickwork_queue::outcome::{Outcome, What};
use jiff::Timestamp;

use super::replies::ELSEWHERE;

/// Whether a reply may be in the room of which nobody knows, outcome by outcome; in the latest round.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    again: Option<Timestamp>,
    pub(super) of: Option<Of>,
    /// When that was begun.
    begun: Option<Timestamp>,
}

/// What nobody has told the end of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A post that was begun.
    Post,
    /// What was done by another deployment.
    Elsewhere,
}

impl Doubt {
    pub(super) fn after(story: &Story) -> Self {
        let mut doubt = Self::default();
        for outcome in &story.outcomes {
            doubt.hear(outcome);
        }
        doubt
    }

    /// Takes in the next outcome.
    pub(crate) fn hear(&mut self, outcome: &Outcome) {
        // A time is more than none.
        if outcome.again > self.again {
            (self.again, self.of) = (outcome.again, None);
        }
        if outcome.again != self.again {
            return;
        }
        match &outcome.what {
            What::Intent { consumer } => {
                self.begun = Some(outcome.at);
                self.of = Some(if consumer == What::ELSEWHERE {
                    Of::Elsewhere
                } else {
                    Of::Post
                });
            }
            // Late, it says nothing of what a successor has begun.
            What::NotPosted {
                intended_at: Some(intended_at),
                ..
            } if Some(*intended_at) != self.begun => {}
            What::NotPosted {
                intended_at: None,
                overrules_until: Some(until),
                ..
            } if self.begun > Some(*until) => {}
            What::NotPosted { .. } | What::Posted { .. } => self.of = None,
            What::Looked { result, .. } if result == What::ABSENT => self.of = None,
            _ => {}
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.of.is_some()
    }

    /// Where it comes from, if that takes a sentence.
    pub(super) fn explained(&self) -> Option<String> {
        (self.of == Some(Of::Elsewhere)).then(|| ELSEWHERE.to_owned())
    }
}
