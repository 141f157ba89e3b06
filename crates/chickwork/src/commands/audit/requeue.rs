//! `chickwork audit --requeue`: what nothing explains is put back, after a preview and with consent, one
//! by one and not too fast.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::Queue;
use chickwork_queue::audit::{Audit, PutBack, Unexplained};
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::outcome::By;
use clap::{ArgMatches, Command};
use jiff::Timestamp;

use crate::command_line::switch;
use crate::consent::Consent;
use crate::pace::Pace;
use crate::reason;
use crate::run::{Halt, Run};
use crate::words;

/// What stands in the outcomes unless a reason is given.
const USUAL_REASON: &str = "audit --requeue";
/// How long the event at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// So many bytes of events are in memory at most, and one event: the archive is read for one batch
/// after the other, as reading it must not take as long as putting back does.
const LARGEST_BATCH: usize = 64 * 1024 * 1024;

/// How what is unexplained is put back.
#[derive(Debug)]
pub(super) struct Requeue {
    reason: String,
    pace: Pace,
    consent: Consent,
}

impl Requeue {
    /// The command with the flags that have to do with it.
    pub(super) fn flags(command: Command) -> Command {
        command
            .arg(switch(
                "requeue",
                "Puts what is unexplained back to be asked about",
            ))
            .arg(reason::flag(USUAL_REASON).requires("requeue"))
            .arg(Pace::flag().requires("requeue"))
            .arg(Consent::flag().requires("requeue"))
    }

    /// What the flags say; `None`: nothing is to be put back.
    pub(super) fn of(flags: &ArgMatches) -> Option<Self> {
        flags.get_flag("requeue").then(|| Self {
            reason: reason::of(flags),
            pace: Pace::of(flags),
            consent: Consent::of(flags),
        })
    }

    /// An error if it could not be done whatever is unexplained.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.consent.check()
    }

    /// Does it. True when everything was put back.
    pub(super) async fn run(
        &self,
        queue: &Queue,
        audit: &Audit,
        since: Timestamp,
    ) -> anyhow::Result<bool> {
        let all = audit.unexplained.len() as u64;
        if all == 0 {
            words::tell("There is nothing to put back.");
            return Ok(true);
        }
        let left: HashMap<EventId, &Unexplained> = audit
            .unexplained
            .iter()
            .filter(|event| event.archived)
            .map(|event| (event.id, event))
            .collect();
        let archived = left.len() as u64;
        let again = left.values().filter(|event| event.open_round.is_some());
        let again = again.count() as u64;
        for sentence in preview(archived, again, all - archived, audit.told_apart) {
            words::tell(sentence);
        }
        if archived == 0 {
            return Ok(false);
        }
        let these = words::count(archived, "event");
        if !self.consent.to(format!("Put {these} back?")).await? {
            words::tell("Nothing was changed.");
            return Ok(false);
        }
        let done = self.put_back(queue, left, since).await?;
        Ok(done == all)
    }

    /// Puts back what can be; returns how many that were.
    async fn put_back(
        &self,
        queue: &Queue,
        left: HashMap<EventId, &Unexplained>,
        since: Timestamp,
    ) -> anyhow::Result<u64> {
        let total = left.len() as u64;
        let mut run = Run::begin(total, self.pace, FINISH_LIMIT)?;
        let put_back = self.put_all_back(queue, left, since, &mut run).await;
        let left = run.end(put_back, "put back", |left| {
            format!("the archive has forgotten {left}")
        });
        Ok(total - left?)
    }

    async fn put_all_back(
        &self,
        queue: &Queue,
        mut left: HashMap<EventId, &Unexplained>,
        since: Timestamp,
        run: &mut Run,
    ) -> Result<(), Halt> {
        loop {
            let batch = run.prepare(next_batch(queue, &left, since)).await??;
            if batch.is_empty() {
                return Ok(());
            }
            for event in batch {
                // An event may be in the archive twice.
                let Some(known) = left.remove(&event.id) else {
                    continue;
                };
                run.turn().await?;
                let put_back = PutBack {
                    replay: known.replay,
                    reason: &self.reason,
                    by: By::AUDIT,
                    // Else a reply of an earlier round would stand for the one that is missing.
                    again: known.open_round,
                };
                let put_back = run.finish(queue.put_back(event, put_back));
                put_back.await?.context("the queue does not take them")?;
                run.step(Ok(()))?;
            }
        }
    }
}

/// The next ones of those that are left, as far as memory allows.
async fn next_batch(
    queue: &Queue,
    left: &HashMap<EventId, &Unexplained>,
    since: Timestamp,
) -> anyhow::Result<Vec<Event>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    if left.is_empty() {
        return Ok(batch);
    }
    let mut archived = queue.archive().read(since);
    while bytes < LARGEST_BATCH
        && let Some(event) = archived.next().await?
    {
        if left.contains_key(&event.id) {
            bytes += event.body.len();
            batch.push(event);
        }
    }
    Ok(batch)
}

/// What will happen, in sentences: to those of the archive, among which some are to be answered again,
/// and to others.
fn preview(archived: u64, again: u64, others: u64, told_apart: bool) -> Vec<String> {
    let mut sentences = Vec::new();
    if archived > 0 {
        sentences.push(format!(
            "{} to be put back; SimSimi may be asked again {}. What turns out to be answered is not answered twice.",
            words::count(archived, "event"),
            words::count(archived, "time"),
        ));
    }
    if again > 0 {
        sentences.push(format!(
            "{} of them still to be answered AGAIN, as a person asked: their rooms will hear a SECOND REPLY.",
            match again {
                1 => "1 event is".to_owned(),
                many => format!("{many} events are"),
            }
        ));
    }
    if archived > 0 && !told_apart {
        sentences.push(
            "Some of them still wait: those may be asked about twice, and are answered once."
                .to_owned(),
        );
    }
    if others > 0 {
        sentences.push(format!(
            "{} not in the archive, and cannot be put back.",
            match others {
                1 => "1 event is".to_owned(),
                many => format!("{many} events are"),
            }
        ));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_happen_is_said_before() {
        let said = preview(3, 0, 0, true);
        let expected = "3 events to be put back; SimSimi may be asked again 3 times. What turns out to be answered is not answered twice.";
        assert_eq!(said, [expected]);
        let said = preview(3, 1, 0, true);
        assert!(said[1].starts_with("1 event is"), "{said:?}");
        let said = preview(1, 0, 1, false);
        assert!(said[1].contains("still wait"), "{said:?}");
        assert_eq!(
            said[2],
            "1 event is not in the archive, and cannot be put back."
        );
        assert_eq!(preview(0, 0, 2, false).len(), 1);
    }
}
