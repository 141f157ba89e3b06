//! What must be true when a storm is over: every event that was acknowledged was replied to once,
//! ignored for a reason, or given up with a cause. The ledger of the outside world, the statuses of
//! the webhooks and `chickwork audit` have to agree on it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_queue::outcome::What;
use chickwork_sandbox::ledger::Ledger;
use serde_json::Value;

use super::{Sort, Storm, Told, say};
use crate::bot::Bot;
use crate::process::chickwork;
use crate::said::run_within;

/// An answer to a webhook takes no longer, whatever happens behind it: the ingress gives itself 4.5 s, and
/// Chatwork waits for 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// How long an audit may wait for what is under way; it does so to the end where something is lost.
const AUDIT_WAITS: Duration = Duration::from_secs(60);
const AUDIT_WAITS_FOR_THE_LOST: Duration = Duration::from_secs(15);
/// How long it may take on top of that.
const AUDIT_TAKES: Duration = Duration::from_secs(60);
/// How long to wait between two of them.
const AUDIT_AGAIN: Duration = Duration::from_secs(1);
/// So many are named when many are missing.
const NAMED: usize = 10;

/// The sums of a storm.
#[derive(Debug, Clone)]
pub struct Sums {
    /// Its seed.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// Webhooks that were sent.
    pub sent: usize,
    /// Those that were answered with 200.
    pub acked: usize,
    /// The slowest answer.
    pub slowest: Duration,
    /// 200s by where the event was stored, as the ingress counts them. Those of the last moments
    /// before a kill are missing.
    pub stored: BTreeMap<String, u64>,
    /// How often what failed.
    pub struck: BTreeMap<&'static str, u64>,
    /// Messages that have a reply in their room.
    pub answered: usize,
    /// Calls of SimSimi beyond one per message.
    pub asked_again: usize,
    /// What `chickwork audit` says.
    pub audit: Audit,
}

/// The first line of `chickwork audit --json`, and its exit code.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// Whether it found everything in order.
    pub clean: bool,
    /// All events.
    pub received: u64,
    /// Those that were replied to.
    pub answered: u64,
    /// Those that nothing is said to.
    pub ignored: u64,
    /// Those that were given up.
    pub dead: u64,
    /// Those that are under way.
    pub waiting: u64,
    /// Those that nobody knows anything about.
    pub unexplained: u64,
    /// Messages with more than one reply.
    pub twice: u64,
    /// The ignored by reason.
    pub ignored_by: BTreeMap<String, u64>,
    /// The dead by cause.
    pub dead_by: BTreeMap<String, u64>,
    /// The messages of the unexplained, where they are about one.
    pub lost: Vec<MessageId>,
}

impl Storm {
    /// Ends the storm and waits until everything has come to its end. An error if a sum does not
    /// match.
    pub async fn settle_the_sums(&mut self) -> anyhow::Result<Sums> {
        let settled = self.settle().await;
        settled.with_context(|| format!("the storm with the seed {}", self.seed))
    }

    async fn settle(&mut self) -> anyhow::Result<Sums> {
        self.calm().await?;
        for front in 0..self.fronts() {
            self.count_acks(front).await?;
        }
        let told = self.told();
        if self.robbed {
            // As somebody would do it who has read what the audit says.
            self.requeue().await?;
        }
        self.all_owed_are_paid(&told).await?;
        let mut audit = self.last_audit().await?;
        if !audit.clean && self.never_promised(&audit, &told) {
            // An event whose ingress died before it could say 200. Its copy was in the archive
            // already; nobody was promised anything, and a person may have it answered all the same.
            self.requeue().await?;
            audit = self.last_audit().await?;
        }
        let sums = self.sums(&told, audit);
        say(format_args!("{sums}"));
        self.check(&told, &sums)?;
        Ok(sums)
    }

    /// Waits until every message that was acknowledged has its reply, or an end that is forgiven.
    async fn all_owed_are_paid(&self, told: &[Told]) -> anyhow::Result<()> {
        let owed: HashSet<MessageId> = told
            .iter()
            .filter(|told| told.acked() && told.sort.is_owed_a_reply())
            .filter_map(|told| told.message.clone())
            .collect();
        let begun = Instant::now();
        loop {
            let rest = self.patience.saturating_sub(begun.elapsed());
            // While ends are forgiven, others than those in the rooms have to be looked for.
            let limit = match self.forgiven.is_empty() {
                true => rest,
                false => rest.min(Duration::from_secs(2)),
            };
            let all = |ledger: &Ledger| {
                owed.len() <= ledger.posted.len() && unpaid(&owed, ledger).is_empty()
            };
            if self.bot.sandbox.until(limit, all).await {
                return Ok(());
            }
            let unpaid = unpaid(&owed, &self.bot.sandbox.ledger());
            let became = self.became(&unpaid).await?;
            let is_forgiven = |message: &MessageId| {
                let last = became.get(message).and_then(|steps| steps.last());
                last.is_some_and(|last| self.forgiven.contains(&end_of(last)))
            };
            if unpaid.iter().all(is_forgiven) {
                return Ok(());
            }
            if begun.elapsed() >= self.patience {
                let named: Vec<_> = unpaid
                    .iter()
                    .filter(|message| !is_forgiven(message))
                    .take(NAMED)
                    .map(|message| (message, became.get(message)))
                    .collect();
                bail!(
                    "{} of {} messages that were acknowledged have no reply after {:?}; the first became {named:#?}",
                    unpaid.len(),
                    owed.len(),
                    self.patience
                );
            }
        }
    }

    /// What became of messages, by the outcomes.
    async fn became(
        &self,
        messages: &HashSet<MessageId>,
    ) -> anyhow::Result<HashMap<MessageId, Vec<What>>> {
        let mut became: HashMap<_, Vec<What>> = HashMap::new();
        for outcome in self.bot.outcomes().await? {
            if let Some(message) = outcome.message_id
                && messages.contains(&message)
            {
                became.entry(message).or_default().push(outcome.what);
            }
        }
        Ok(became)
    }

    /// Whether all that is wrong are events that nobody has said 200 to.
    fn never_promised(&self, audit: &Audit, told: &[Told]) -> bool {
        let acked: HashSet<_> = told
            .iter()
            .filter(|told| told.acked())
            .filter_map(|told| told.message.as_ref())
            .collect();
        let ours = |message: &MessageId| !acked.contains(message);
        (self.front_died || self.front_froze)
            && audit.twice == 0
            && audit.waiting == 0
            && audit.unexplained == audit.lost.len() as u64
            && audit.lost.iter().all(ours)
    }

    /// What the audit says when nothing waits any more: webhooks about a message that is answered are
    /// put off for seconds before they are found to be of no use.
    async fn last_audit(&self) -> anyhow::Result<Audit> {
        let begun = Instant::now();
        loop {
            let audit = self.audit(AUDIT_WAITS, &[]).await?;
            if !audit.clean || audit.waiting == 0 || begun.elapsed() >= self.patience {
                return Ok(audit);
            }
            // Somebody else's queue has nothing to be told by.
            tokio::time::sleep(AUDIT_AGAIN).await;
        }
    }

    /// Has the audit put back in what it cannot explain.
    pub async fn requeue(&mut self) -> anyhow::Result<Audit> {
        self.put_back = true;
        self.audit(AUDIT_WAITS_FOR_THE_LOST, &["--requeue", "--yes"])
            .await
    }

    /// What the audit says where events are lost: that they are is only certain after a while.
    pub async fn audit_of_the_lost(&self) -> anyhow::Result<Audit> {
        self.audit(AUDIT_WAITS_FOR_THE_LOST, &[]).await
    }

    /// Runs `chickwork audit` on the bot's queue.
    async fn audit(&self, wait: Duration, more: &[&str]) -> anyhow::Result<Audit> {
        Audit::of(&self.bot, wait, more).await
    }

    fn sums(&self, told: &[Told], audit: Audit) -> Sums {
        let ledger = self.bot.sandbox.ledger();
        let answered: HashSet<_> = ledger
            .posted
            .iter()
            .filter_map(|posted| posted.answers.clone())
            .collect();
        let asked: HashSet<_> = ledger.asked.iter().map(|asked| &asked.utext).collect();
        Sums {
            seed: self.seed,
            took: self.begun.elapsed(),
            sent: told.len(),
            acked: told.iter().filter(|told| told.acked()).count(),
            slowest: told.iter().map(|told| told.took).max().unwrap_or_default(),
            stored: self.acks.clone(),
            struck: self.struck.clone(),
            answered: answered.len(),
            asked_again: ledger.asked.len() - asked.len(),
            audit,
        }
    }

    fn check(&self, told: &[Told], sums: &Sums) -> anyhow::Result<()> {
        self.check_the_rooms(told)?;
        self.check_the_answers(told, sums)?;
        self.check_the_audit(told, sums)
    }

    /// In the rooms: one reply to a message at most, and only to those that are owed one.
    fn check_the_rooms(&self, told: &[Told]) -> anyhow::Result<()> {
        let owed: HashSet<_> = told
            .iter()
            .filter(|told| told.sort.is_owed_a_reply() || self.is_young_again(told))
            .filter_map(|told| told.message.as_ref())
            .collect();
        let mut replied = HashSet::new();
        for posted in &self.bot.sandbox.ledger().posted {
            let message = posted.answers.clone();
            let message = message.with_context(|| format!("this is no reply: {posted:?}"))?;
            ensure!(
                owed.contains(&message),
                "nobody waited for a reply to {message}"
            );
            ensure!(
                replied.insert(message.clone()),
                "{message} was answered twice"
            );
        }
        Ok(())
    }

    /// Whether it may be answered although it was too old: what a person has put back is aged from
    /// that moment.
    fn is_young_again(&self, told: &Told) -> bool {
        self.put_back && told.sort == Sort::LongAgo
    }

    /// At the ingress: nobody was refused or kept waiting, and it knows where everything lies.
    fn check_the_answers(&self, told: &[Told], sums: &Sums) -> anyhow::Result<()> {
        let counted: u64 = sums.stored.values().sum();
        if !self.front_froze {
            ensure!(
                sums.slowest < ANSWER_LIMIT,
                "a webhook was answered after {:?}",
                sums.slowest
            );
        }
        if self.front_died || self.front_froze {
            return Ok(());
        }
        if let Some(failed) = told.iter().find(|told| !told.acked()) {
            bail!("a webhook was not taken: {failed:?}");
        }
        ensure!(
            counted == sums.acked as u64,
            "{} webhooks were answered with 200, and {counted} were counted: {:?}",
            sums.acked,
            sums.stored
        );
        Ok(())
    }

    /// In the audit: everything is explained, and as the world has seen it.
    fn check_the_audit(&self, told: &[Told], sums: &Sums) -> anyhow::Result<()> {
        let audit = &sums.audit;
        ensure!(audit.clean, "the audit found something: {audit:?}");
        ensure!(
            (audit.waiting, audit.unexplained, audit.twice) == (0, 0, 0),
            "{audit:?}"
        );
        ensure!(
            audit.received == audit.answered + audit.ignored + audit.dead,
            "{audit:?}"
        );
        let of = |sorts: &[Sort]| -> RangeInclusive<u64> {
            let sent = || told.iter().filter(|told| sorts.contains(&told.sort));
            let acked = sent().filter(|told| told.acked()).count();
            // What was not acknowledged may have been stored all the same.
            acked as u64..=sent().count() as u64
        };
        let ignored = |reason: &str| audit.ignored_by.get(reason).copied().unwrap_or(0);
        let dead = |cause: &str| audit.dead_by.get(cause).copied().unwrap_or(0);
        let rejuvenated: HashSet<_> = told
            .iter()
            .filter(|told| self.is_young_again(told))
            .filter_map(|told| told.message.as_ref())
            .collect();
        let ledger = self.bot.sandbox.ledger();
        let posted = ledger
            .posted
            .iter()
            .filter_map(|posted| posted.answers.as_ref());
        let rejuvenated = posted
            .filter(|message| rejuvenated.contains(message))
            .count() as u64;
        let forgiven = self.forgiven.iter();
        let forgiven: u64 = forgiven.map(|end| ignored(end) + dead(end)).sum();
        ensure!(
            audit.answered == sums.answered as u64,
            "{} messages have a reply, and the audit knows of {}: {audit:?}",
            sums.answered,
            audit.answered
        );
        let all = [
            (
                "mentions",
                of(&[Sort::Mention, Sort::FromTheFuture]),
                audit.answered - rejuvenated + ignored("duplicate") + forgiven,
            ),
            (
                "talk of people",
                of(&[Sort::Chatter]),
                ignored("not_addressed"),
            ),
            ("unknown", of(&[Sort::Unknown]), ignored("unknown_type")),
            ("malformed", of(&[Sort::Malformed]), dead("malformed")),
            (
                "too old",
                of(&[Sort::LongAgo]),
                dead("expired") + rejuvenated,
            ),
        ];
        for (what, expected, found) in &all {
            ensure!(
                expected.contains(found),
                "{what}: {found} were found, not {expected:?}: {audit:?}"
            );
        }
        let accounted: u64 = all.iter().map(|(_, _, found)| found).sum();
        ensure!(
            accounted == audit.received,
            "{} events have an end that nobody expected: {audit:?}",
            audit.received.abs_diff(accounted)
        );
        Ok(())
    }
}

/// Those that have no reply yet.
fn unpaid(owed: &HashSet<MessageId>, ledger: &Ledger) -> HashSet<MessageId> {
    let mut unpaid = owed.clone();
    for posted in &ledger.posted {
        if let Some(message) = &posted.answers {
            unpaid.remove(message);
        }
    }
    unpaid
}

/// The word for an end: a reason or a cause.
fn end_of(what: &What) -> &str {
    match what {
        What::Ignored { reason } => reason,
        What::Dead { cause, .. } => cause.as_str(),
        _ => "",
    }
}

impl Audit {
    /// Runs `chickwork audit` on a bot's queue, which looks again for so long.
    pub async fn of(bot: &Bot, wait: Duration, more: &[&str]) -> anyhow::Result<Self> {
        let environment = bot.front.environment();
        let mut command = chickwork("audit")?;
        for name in ["CHICKWORK_QUEUE", "CHICKWORK_NAMESPACE"] {
            command.env(name, environment.get(name).context("every process has it")?);
        }
        command
            .args(["--json", "--wait", &format!("{}s", wait.as_secs())])
            .args(more);
        let said = run_within(wait + AUDIT_TAKES, command).await?;
        Self::read(&said.out, said.code).with_context(|| format!("chickwork audit: {said:?}"))
    }

    /// Reads what the command printed, and the code that it ended with.
    pub fn read(text: &str, code: Option<i32>) -> anyhow::Result<Self> {
        ensure!(matches!(code, Some(0 | 1)), "it did not come to a result");
        let mut lines = text.lines().map(serde_json::from_str::<Value>);
        let first = lines.next().context("it says nothing")??;
        let number = |name: &str| {
            let number = first[name].as_u64();
            number.with_context(|| format!("there is no number {name:?}"))
        };
        let numbers = |name: &str| -> anyhow::Result<BTreeMap<String, u64>> {
            Ok(serde_json::from_value(first[name].clone())?)
        };
        let mut audit = Self {
            clean: code == Some(0),
            received: number("received")?,
            answered: number("answered")?,
            ignored: number("ignored")?,
            dead: number("dead")?,
            waiting: number("waiting")?,
            unexplained: number("unexplained")?,
            twice: number("twice")?,
            ignored_by: numbers("ignored_by")?,
            dead_by: numbers("dead_by")?,
            lost: Vec::new(),
        };
        for line in lines {
            let line = line?;
            if line["unexplained"] == true
                && let Some(message) = line["message_id"].as_str()
            {
                audit.lost.push(MessageId::new(message)?);
            }
        }
        Ok(audit)
    }
}

/// One line for people.
impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { audit, stored, .. } = self;
        write!(
            f,
            "seed {}: {:.0} s, {} sent, {} acknowledged (",
            self.seed,
            self.took.as_secs_f64(),
            self.sent,
            self.acked
        )?;
        list(f, stored)?;
        write!(f, "), failures: ")?;
        list(f, &self.struck)?;
        write!(
            f,
            "; slowest answer {} ms; {} answered, {} ignored, {} dead, asked again {} times",
            self.slowest.as_millis(),
            audit.answered,
            audit.ignored,
            audit.dead,
            self.asked_again
        )
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, counts: &BTreeMap<T, u64>) -> fmt::Result {
    for (number, (name, count)) in counts.iter().filter(|(_, count)| **count > 0).enumerate() {
        let comma = if number > 0 { ", " } else { "" };
        write!(f, "{comma}{count} {name}")?;
    }
    Ok(())
}
