//! What happened, in order: who said what, what SimSimi was asked, which calls Chatwork had, what
//! the bot posted. Tests read the truth here, and demos show it.
//!
//! Bounded: of each list only the newest entries are kept; the totals count all.

use std::collections::VecDeque;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use jiff::Timestamp;
use serde::Serialize;

use crate::fault::Call;
use crate::webhook::Kind;

/// Entries kept per list.
const KEPT: usize = 100_000;

/// A person's message, and what became of its webhook.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// Number of the entry in the ledger, from 1.
    pub n: u64,
    /// When.
    pub time: Timestamp,
    /// Where.
    pub room_id: RoomId,
    /// Who.
    pub account_id: AccountId,
    /// The message's id.
    pub message_id: MessageId,
    /// The type of the webhook.
    pub kind: Kind,
    /// The raw text.
    pub body: String,
    /// The status that the webhook was answered with, if it was.
    pub webhook_status: Option<u16>,
    /// How long that took, in milliseconds.
    pub webhook_millis: u64,
    /// Why there was no answer.
    pub webhook_error: Option<String>,
}

/// A call of SimSimi.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// Number of the entry in the ledger, from 1.
    pub n: u64,
    /// When.
    pub time: Timestamp,
    /// What was asked; `None` if the request had no such text.
    pub utext: Option<String>,
    /// Its length in characters; SimSimi's limit is 100.
    pub length: usize,
    /// In which language.
    pub lang: Option<String>,
    /// The status that was answered: SimSimi's own if it got that far, else that of HTTP. `None`:
    /// no answer.
    pub status: Option<u16>,
    /// What was answered, if anything was said.
    pub atext: Option<String>,
}

/// A call of Chatwork.
#[derive(Debug, Clone, Serialize)]
pub struct Called {
    /// Number of the entry in the ledger, from 1.
    pub n: u64,
    /// When.
    pub time: Timestamp,
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// Which call that is; `None` if there is no such call.
    pub call: Option<Call>,
    /// The room, if the call has one.
    pub room_id: Option<RoomId>,
    /// The status that was answered. `None`: no answer.
    pub status: Option<u16>,
}

/// A message by the bot.
#[derive(Debug, Clone, Serialize)]
pub struct Posted {
    /// Number of the entry in the ledger, from 1.
    pub n: u64,
    /// When.
    pub time: Timestamp,
    /// Where.
    pub room_id: RoomId,
    /// Who: the bot.
    pub account_id: AccountId,
    /// The message's id.
    pub message_id: MessageId,
    /// The raw text.
    pub body: String,
    /// The message that it answers, by its reply tag.
    pub answers: Option<MessageId>,
}

/// How much happened altogether.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Messages by people.
    pub said: u64,
    /// Calls of SimSimi.
    pub asked: u64,
    /// Calls of Chatwork.
    pub calls: u64,
    /// Messages by the bot.
    pub posted: u64,
    /// Entries that were dropped to stay bounded.
    pub dropped: u64,
    /// The number of the newest entry; with `?since=` it gives what is newer.
    pub last: u64,
}

/// The ledger.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ledger {
    /// Messages by people, oldest first.
    pub said: VecDeque<Said>,
    /// Calls of SimSimi, oldest first.
    pub asked: VecDeque<Asked>,
    /// Calls of Chatwork, oldest first.
    pub calls: VecDeque<Called>,
    /// Messages by the bot, oldest first.
    pub posted: VecDeque<Posted>,
    /// How much happened altogether.
    pub totals: Totals,
}

impl Ledger {
    /// Only the entries with a greater number than `n`.
    pub fn since(&self, n: u64) -> Self {
        fn newer<T: Clone>(entries: &VecDeque<T>, n: u64, of: impl Fn(&T) -> u64) -> VecDeque<T> {
            let first = entries.partition_point(|entry| of(entry) <= n);
            entries.range(first..).cloned().collect()
        }
        Self {
            said: newer(&self.said, n, |entry| entry.n),
            asked: newer(&self.asked, n, |entry| entry.n),
            calls: newer(&self.calls, n, |entry| entry.n),
            posted: newer(&self.posted, n, |entry| entry.n),
            totals: self.totals.clone(),
        }
    }

    /// The bot's messages that answer a message.
    pub fn answers_to(&self, message_id: &MessageId) -> Vec<&Posted> {
        let answers = |posted: &&Posted| posted.answers.as_ref() == Some(message_id);
        self.posted.iter().filter(answers).collect()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn said(&mut self, mut said: Said) -> Said {
        self.totals.said += 1;
        said.n = self.totals.next();
        keep(&mut self.said, said.clone(), &mut self.totals);
        said
    }

    pub(crate) fn asked(&mut self, mut asked: Asked) {
        self.totals.asked += 1;
        asked.n = self.totals.next();
        keep(&mut self.asked, asked, &mut self.totals);
    }

    pub(crate) fn called(&mut self, mut called: Called) {
        self.totals.calls += 1;
        called.n = self.totals.next();
        keep(&mut self.calls, called, &mut self.totals);
    }

    pub(crate) fn posted(&mut self, mut posted: Posted) -> Posted {
        self.totals.posted += 1;
        posted.n = self.totals.next();
        keep(&mut self.posted, posted.clone(), &mut self.totals);
        posted
    }
}

impl Totals {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

fn keep<T>(entries: &mut VecDeque<T>, entry: T, totals: &mut Totals) {
    entries.push_back(entry);
    if entries.len() > KEPT {
        entries.pop_front();
        totals.dropped += 1;
    }
}

/// The message that a text answers: the one its first reply tag, `[rp aid=… to=ROOM-MESSAGE]`,
/// points to.
pub(crate) fn answered_by(body: &str) -> Option<MessageId> {
    let (_, tag) = body.split_once("[rp aid=")?;
    let (tag, _) = tag.split_once(']')?;
    let (_, target) = tag.split_once(" to=")?;
    let (_, message) = target.split_once('-')?;
    MessageId::new(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_tag_tells_what_is_answered() {
        let answers = |body| answered_by(body).map(|id| id.to_string());
        assert_eq!(answers("[rp aid=1 to=2-33]\nHi"), Some("33".to_owned()));
        for none in [
            "Hi",
            "[rp aid=1]",
            "[rp aid=1 to=2]",
            "[rp aid=1 to=2-]",
            "[To:1] a",
        ] {
            assert_eq!(answers(none), None, "{none}");
        }
    }
}
