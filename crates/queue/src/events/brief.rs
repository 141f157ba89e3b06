//! Where an event stands, by what became of it and by what waits.

use chickwork_chatwork::id::MessageId;
use jiff::{SignedDuration, Timestamp};

use super::{Standing, Waits};
use crate::course::{Course, Reasons, State};
use crate::dead::DeadLetter;
use crate::event::{Event, EventId};
use crate::outcome::{Outcome, What};

/// What workers hold they tell a little late, so an event without an end that something was heard of
/// this recently is not called unexplained, though nothing seems to wait.
pub(super) const JUST_NOW: SignedDuration = SignedDuration::from_secs(30);

/// What the outcomes of one event come to.
#[derive(Debug)]
pub(super) struct Brief {
    /// `None`: it has come to no end.
    end: Option<Standing>,
    said_to_wait_until: Option<Timestamp>,
    pub(super) why: Option<String>,
    pub(super) reply_message_id: Option<MessageId>,
    pub(super) replay: u32,
    pub(super) open_round: Option<Timestamp>,
    pub(super) last: Option<(&'static str, Timestamp)>,
}

impl Brief {
    pub(super) fn of(outcomes: &[Outcome], letter: Option<&DeadLetter>) -> Self {
        let mut reasons = Reasons::default();
        let mut course = Course::default();
        let mut brief = Self {
            end: None,
            said_to_wait_until: None,
            why: None,
            reply_message_id: None,
            replay: 0,
            open_round: None,
            last: None,
        };
        let mut dropped = None;
        for outcome in outcomes {
            course.apply(outcome, &mut reasons);
            // It may be told late, and then it is no news.
            if matches!(outcome.what, What::Received { .. }) && brief.last.is_some() {
                continue;
            }
            brief.last = Some((outcome.what.name(), outcome.at));
            brief.said_to_wait_until = None;
            match &outcome.what {
                What::Posted {
                    reply_message_id: Some(reply),
                    ..
                } => brief.reply_message_id = Some(reply.clone()),
                What::Replayed { replay, .. } => {
                    brief.replay = brief.replay.max(*replay);
                    brief.said_to_wait_until = Some(Timestamp::MAX);
                }
                What::Later { reason, until, .. } => {
                    brief.why = Some(reason.clone());
                    brief.said_to_wait_until = Some(*until);
                }
                What::Dropped { reason } => dropped = Some(reason.clone()),
                _ => {}
            }
        }
        brief.open_round = course.open_round();
        (brief.end, brief.why) = match course.state(letter.map(|letter| letter.cause)) {
            State::Answered => (Some(Standing::Answered), None),
            State::Ignored(reason) => {
                let reason = reasons.name(reason).to_owned();
                (Some(Standing::Ignored), Some(reason))
            }
            State::Dead(cause) => (Some(Standing::Dead), Some(cause.as_str().to_owned())),
            State::Dropped => (Some(Standing::Dropped), dropped),
            // Why it was put off, while that is the last word.
            State::Open if brief.said_to_wait_until.is_some() => (None, brief.why),
            State::Open => (None, None),
        };
        brief
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Where it stands, when so many events as young as it, or younger, have come to no end.
    pub(super) fn standing(
        &self,
        event: &Event,
        waits: &Waits,
        open: u64,
        now: Timestamp,
    ) -> Standing {
        self.standing_of(event.id, event.received_at, waits, open, now)
    }

    pub(super) fn standing_of(
        &self,
        id: EventId,
        received_at: Timestamp,
        waits: &Waits,
        open: u64,
        now: Timestamp,
    ) -> Standing {
        if let Some(end) = self.end {
            return end;
        }
        match waits {
            Waits::These(ids) if ids.contains(&id) => Standing::Waiting,
            Waits::These(_) => Standing::Unexplained,
            Waits::SoMany(0) => {
                let heard = self.last.map_or(received_at, |(_, at)| at.max(received_at));
                if now.duration_since(heard) < JUST_NOW {
                    Standing::Open
                } else {
                    Standing::Unexplained
                }
            }
            Waits::SoMany(jobs) if open <= *jobs => Standing::Waiting,
            // It was put off, or a person put it back: those wait before any other does.
            Waits::SoMany(_) if self.said_to_wait_until.is_some_and(|until| until >= now) => {
                Standing::Waiting
            }
            Waits::SoMany(_) => Standing::Open,
        }
    }
}
