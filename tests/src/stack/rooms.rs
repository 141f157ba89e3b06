//! What people see in their rooms: the sandbox's ledger, read as it grows.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::MessageId;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Look, Stack, until};

/// So many are named when many are missing.
const NAMED: usize = 5;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Rooms {
    /// The newest entry that was read.
    last: u64,
    /// When each message was replied to; twice is too often.
    replies: HashMap<MessageId, Vec<Timestamp>>,
    /// Webhooks that were answered with anything but 200.
    refused: Vec<Value>,
    /// Questions that SimSimi has not answered.
    failed: usize,
}

impl Rooms {
    /// Reads what is new.
    pub async fn look(&mut self, stack: &Stack) -> anyhow::Result<()> {
        let since = self.last.to_string();
        let query = [("since", since.as_str())];
        let (status, body) = stack.get(stack.ports().sandbox, "ledger", &query).await?;
        ensure!(status == 200, "the ledger answers {status}: {body}");
        let ledger: Value = serde_json::from_str(&body)?;
        let totals = &ledger["totals"];
        ensure!(totals["dropped"] == 0, "the ledger has forgotten something");
        for posted in list(&ledger["posted"]) {
            let answers = posted["answers"].as_str();
            let answers = answers.with_context(|| format!("this is no reply: {posted}"))?;
            let time: Timestamp = serde_json::from_value(posted["time"].clone())?;
            let replies = self.replies.entry(MessageId::new(answers)?);
            replies.or_default().push(time);
        }
        let refused = |said: &&Value| said["webhook_status"] != 200;
        self.refused
            .extend(list(&ledger["said"]).filter(refused).cloned());
        let failed = |asked: &&Value| asked["status"] != 200;
        self.failed += list(&ledger["asked"]).filter(failed).count();
        self.last = totals["last"].as_u64().context("entries have numbers")?;
        Ok(())
    }

    /// Waits until all these messages have a reply.
    pub async fn until_answered(
        &mut self,
        stack: &Stack,
        limit: Duration,
        messages: &[MessageId],
    ) -> anyhow::Result<()> {
        let what = match messages {
            [message] => format!("{message} is answered"),
            _ => format!("{} mentions are answered", messages.len()),
        };
        until(limit, &what, async || {
            self.look(stack).await?;
            let open = |message: &&MessageId| !self.replies.contains_key(message);
            let open: Vec<_> = messages.iter().filter(open).collect();
            Ok(match open[..] {
                [] => Look::There(()),
                _ => Look::NotYet(format!(
                    "{} without a reply, such as {:?}",
                    open.len(),
                    &open[..open.len().min(NAMED)]
                )),
            })
        })
        .await
    }

    /// Waits until so many more messages have a reply.
    pub async fn until_more(
        &mut self,
        stack: &Stack,
        limit: Duration,
        more: usize,
    ) -> anyhow::Result<()> {
        self.look(stack).await?;
        let before = self.replies.len();
        until(limit, &format!("{more} more are answered"), async || {
            self.look(stack).await?;
            let found = self.replies.len() - before;
            Ok(match found >= more {
                true => Look::There(()),
                false => Look::NotYet(format!("{found} more")),
            })
        })
        .await
    }

    /// Waits until SimSimi has failed to answer a question.
    pub async fn until_failed(&mut self, stack: &Stack, limit: Duration) -> anyhow::Result<()> {
        let before = self.failed;
        until(limit, "SimSimi has failed", async || {
            self.look(stack).await?;
            Ok(match self.failed > before {
                true => Look::There(()),
                false => Look::NotYet("no question".to_owned()),
            })
        })
        .await
    }

    /// How many messages have a reply.
    pub fn answered(&self) -> usize {
        self.replies.len()
    }

    /// Messages with more than one reply.
    pub fn twice(&self) -> Vec<&MessageId> {
        let twice = self.replies.iter().filter(|(_, times)| times.len() > 1);
        twice.map(|(message, _)| message).collect()
    }

    /// Webhooks that were answered with anything but 200.
    pub fn refused(&self) -> &[Value] {
        &self.refused
    }

    /// The longest time without a reply between two moments.
    pub fn longest_silence(&self, from: Timestamp, to: Timestamp) -> Duration {
        let times = self.replies.values().flatten().copied();
        let mut times: Vec<_> = times.filter(|time| (from..to).contains(time)).collect();
        times.extend([from, to]);
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        gaps.max().unwrap_or_default().unsigned_abs()
    }
}

/// From now on SimSimi answers every question with 500, until the sandbox is started anew.
pub async fn break_simsimi(stack: &Stack) -> anyhow::Result<()> {
    let fault = json!({ "service": "simsimi", "status": 500, "next": "always" });
    stack.post(stack.ports().sandbox, "faults", &fault).await?;
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
