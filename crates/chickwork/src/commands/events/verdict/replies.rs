//! The replies that a story has: when each came into the room, in whichever round, and how that is known.

use chickwork_chatwork::id::MessageId;
use chickwork_queue::events::Story;
use chickwork_queue::outcome::{Outcome, What};
use jiff::Timestamp;

use super::received_at;
use crate::{telling, words};

pub(super) const ELSEWHERE: &str = "The event came from another deployment, and what was done about it there is not known; so the bot looks into the room before it posts.";

/// What is known of the replies in the room.
pub(super) struct Replied {
    /// Of the first one.
    pub(super) answer: String,
    /// What explains it, and the others.
    pub(super) because: Vec<String>,
}

/// The replies that are in the room, if there is one, in whichever round it was given.
pub(super) fn replied(story: &Story) -> Option<Replied> {
    let rounds = posts(story);
    let (first, others) = rounds.split_first()?;
    let because = [first.found(), said_instead(story, first.again)];
    let mut because: Vec<String> = because.into_iter().flatten().collect();
    for other in others {
        let message = with(other.reply);
        let how = match other.sent_at() {
            Some(at) => format!("did so at {}{message}", words::time(at)),
            None => format!("its reply was found at {}{message}", words::time(other.at)),
        };
        because.push(format!("It was asked to reply again, and {how}."));
        because.extend(other.found());
        because.extend(said_instead(story, other.again));
    }
    Some(Replied {
        answer: first.told(story),
        because,
    })
}

/// A reply in the room.
struct Post<'a> {
    again: Option<Timestamp>,
    reply: Option<&'a MessageId>,
    /// When that it is there was known.
    at: Timestamp,
    found: Option<Found>,
}

/// How a look found it.
enum Found {
    /// It was meant to be posted then, by the last who meant to.
    Begun(Timestamp),
    /// By whom it was posted nobody here knows.
    Elsewhere,
    /// Nothing that is known told that it was to be posted.
    Unannounced,
}

/// One for each round.
fn posts(story: &Story) -> Vec<Post<'_>> {
    let mut rounds: Vec<Post<'_>> = Vec::new();
    for (number, outcome) in story.outcomes.iter().enumerate() {
        let What::Posted {
            reply_message_id,
            found,
        } = &outcome.what
        else {
            continue;
        };
        let reply = reply_message_id.as_ref();
        // A result may be stored twice, once by who posted and once by who looked: the round is what counts.
        match rounds.iter_mut().find(|round| round.again == outcome.again) {
            None => rounds.push(Post {
                again: outcome.again,
                reply,
                at: outcome.at,
                found: found.then(|| began(&story.outcomes[..number], outcome.again)),
            }),
            Some(round) => {
                if round.found.is_some() && !found {
                    // Who posted it knows better when than who looked.
                    round.at = outcome.at;
                }
                round.found = round.found.take().filter(|_| *found);
                round.reply = round.reply.or(reply);
            }
        }
    }
    rounds
}

/// How the post of this round began, by what was told before it was found.
fn began(before: &[Outcome], again: Option<Timestamp>) -> Found {
    let last = before.iter().rev().find_map(|outcome| match &outcome.what {
        What::Intent { consumer } if outcome.again == again => Some((consumer, outcome.at)),
        _ => None,
    });
    match last {
        None => Found::Unannounced,
        Some((consumer, _)) if consumer == What::ELSEWHERE => Found::Elsewhere,
        Some((_, at)) => Found::Begun(at),
    }
}

impl Post<'_> {
    /// When it was sent, as far as that is known.
    fn sent_at(&self) -> Option<Timestamp> {
        match self.found {
            None => Some(self.at),
            Some(Found::Begun(at)) => Some(at),
            Some(Found::Elsewhere | Found::Unannounced) => None,
        }
    }

    fn told(&self, story: &Story) -> String {
        let message = with(self.reply);
        match (self.sent_at(), received_at(story)) {
            (Some(at), Some(received_at)) => {
                let after = telling::span(telling::between(received_at, at));
                let at = words::time(at);
                format!("The bot replied after {after}, at {at}{message}.")
            }
            (Some(at), None) => format!("The bot replied at {}{message}.", words::time(at)),
            (None, _) => format!(
                "The bot has replied{message}: its reply was found in the room at {}, when it was posted is not known.",
                words::time(self.at)
            ),
        }
    }

    /// What a look had to do with it.
    fn found(&self) -> Option<String> {
        match self.found.as_ref()? {
            Found::Begun(_) => Some(format!(
                "Whether the post had arrived was not known until {}, when the bot looked into the room and found its reply there.",
                words::time(self.at)
            )),
            Found::Elsewhere => Some(ELSEWHERE.to_owned()),
            Found::Unannounced => None,
        }
    }
}

/// Why the reply of this round has no words of SimSimi's, if it has none.
fn said_instead(story: &Story, again: Option<Timestamp>) -> Option<String> {
    let of_round = || {
        let outcomes = story.outcomes.iter();
        outcomes.filter(|outcome| outcome.again == again)
    };
    let asked = of_round().rev().find_map(|outcome| match &outcome.what {
        What::Asked { result, .. } => Some(result.as_str()),
        _ => None,
    });
    let is_stored = |outcome: &Outcome| matches!(outcome.what, What::ReplyStored { .. });
    let said = match asked {
        Some(What::NO_ANSWER) => {
            "SimSimi did not understand that, so the bot said a line of its own (CHICKWORK_FALLBACK)."
        }
        // Such lines may be lost, though those beside them seldom are.
        None if of_round().any(is_stored) => {
            "SimSimi was not asked, as far as is known: where nothing is left to ask, the bot says a line of its own (CHICKWORK_FALLBACK)."
        }
        _ => return None,
    };
    Some(said.to_owned())
}

fn with(message: Option<&MessageId>) -> String {
    message.map_or_else(String::new, |message| format!(", with message {message}"))
}
