//! Who the bot is: its account and its name, from Chatwork's `/me`.

use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_clients::chatwork::{Account, Answered, CallError, Chatwork};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::{Limiter, Slot, Told};

/// The name may be changed in Chatwork at any time.
const REFRESH: Duration = Duration::from_secs(3600);

/// The first wait after a failed call; it doubles.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after failed calls.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The bot's account and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its account.
    pub account: AccountId,
    /// Its display name, which people's clients write behind its To tag.
    pub name: String,
}

/// What is known about the bot.
pub(crate) type Known = Result<Me, String>;

/// Before Chatwork was asked for the first time.
pub(crate) fn unknown() -> Known {
    Err("Chatwork has not yet told whose the API token is".to_owned())
}

/// Learns who the bot is and keeps it up to date, for ever. What is known stays known while Chatwork is away.
pub(crate) async fn keep_asking(chatwork: Chatwork, limiter: Limiter, known: watch::Sender<Known>) {
    let mut wait = SHORTEST_WAIT;
    loop {
        let mut ticket = match limiter.read(Instant::now()) {
            Slot::Now(ticket) => ticket,
            Slot::At(at) => {
                tokio::time::sleep_until(at).await;
                continue;
            }
        };
        ticket.sent();
        let answer = timed(&chatwork).await;
        let (now, clock) = (Instant::now(), Timestamp::now());
        match answer {
            Ok(Answered { value, limits }) => {
                ticket.answered(&Told::new(&limits, clock), now);
                learn(&known, value);
                wait = SHORTEST_WAIT;
                tokio::time::sleep(REFRESH).await;
                continue;
            }
            Err(CallError::Refused {
                status: 401,
                ref said,
                ..
            }) => {
                ticket.unanswered(now);
                log::error!("Chatwork does not accept the API token: {said}");
                unlearned(
                    &known,
                    &format!("Chatwork does not accept the API token: {said}"),
                );
            }
            Err(CallError::Refused {
                status: 429,
                limits,
                ..
            }) => {
                ticket.refused_for_account(&Told::new(&limits, clock), now);
                unlearned(
                    &known,
                    "Chatwork's rate limit keeps us from asking whose the API token is",
                );
            }
            Err(error) => {
                ticket.unanswered(now);
                log::warn!("who the bot is could not be asked: {error}");
                unlearned(&known, &error.to_string());
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn timed(chatwork: &Chatwork) -> Result<Answered<Account>, CallError> {
    let begun = Instant::now();
    let answer = chatwork.me().await;
    crate::desk::called(
        "chatwork",
        crate::desk::chatwork_result(&answer),
        begun.elapsed(),
    );
    answer
}

fn learn(known: &watch::Sender<Known>, account: Account) {
    let me = Me {
        account: account.account_id,
        name: account.name,
    };
    known.send_if_modified(|known| {
        let news = known.as_ref() != Ok(&me);
        if news {
            log::info!(account:% = me.account; "Chatwork told who the bot is");
            *known = Ok(me);
        }
        news
    });
}

fn unlearned(known: &watch::Sender<Known>, why: &str) {
    known.send_if_modified(|known| match known {
        Ok(_) => false,
        Err(error) => {
            why.clone_into(error);
            true
        }
    });
}
