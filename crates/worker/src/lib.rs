//! The worker: asks SimSimi what to answer, posts the answers to Chatwork, and decides what is to
//! become of each job when that does not work out. It knows no broker: it claims and settles.
//!
//! Read it in this order:
//!
//! - [`Worker`]: the two loops, start and stop;
//! - `ask` and `post`: the two steps, each from a claim to its settlement;
//! - `decide`: the policy, one pure function with its table of cases;
//! - `understand`: which messages are for us; `compose`: what is said to one, for the ask step and for
//!   [`Rehearsal`] alike; `look`: whether a reply is in its room;
//! - `history`: what was written down about earlier posts, by whomever, and so what must not be
//!   done again;
//! - `limits` and `pause`: when a service may be called at all; `who`: the bot's account and name;
//! - `desk`: what the steps share, and how a claim is settled.

mod ask;
mod compose;
mod decide;
mod desk;
mod history;
mod limits;
mod look;
mod pause;
mod post;
mod rehearse;
#[cfg(test)]
mod scratch;
mod understand;
mod who;
mod worker;

use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_queue::event::BotName;

pub use crate::limits::{Left, Limit};
pub use crate::pause::Paused;
pub use crate::rehearse::{End, Rehearsal, Rehearsed};
pub use crate::understand::is_for_us;
pub use crate::who::Me;
pub use crate::worker::{Broken, Readiness, State, Stopped, View, Worker};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bot it works for.
    pub bot: BotName,
    /// Asks in flight.
    pub concurrency: u16,
    /// Older than this, an event is not answered any more.
    pub max_age: Duration,
    /// Chatwork's limit on all calls of the account.
    pub account_limit: Limit,
    /// Chatwork's limit on posts in one room.
    pub room_limit: Limit,
    /// Answers per sender and room; what is beyond is ignored.
    pub sender_limit: Limit,
    /// Accounts that are never answered.
    pub ignore_accounts: Vec<AccountId>,
    /// Said when SimSimi does not understand, or nothing is left to ask; without it, silence.
    pub fallback: Option<String>,
    /// How long a stopping worker may finish what it holds.
    pub drain: Duration,
}
