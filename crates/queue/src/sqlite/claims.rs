//! Claims as leases: whoever claims a job holds it for [`LEASE`] and renews it every
//! [`RENEW_EVERY`] until it is settled. Whoever dies stops renewing.
//!
//! A reply queue has a second lease, on the right to claim from it at all. An intent is stored in
//! a transaction that checks both, so a process that froze and woke cannot announce a post.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;
use uuid::Uuid;

use super::rows::{self, CONTENT};
use super::writer::{self, Answered};
use super::{LEASE, LOOK_EVERY, RENEW_EVERY, Store, StoreError, dead, records};
use crate::content::Content;
use crate::event::{BotName, Event, EventId};
use crate::job::{Attempt, Cause, Job, Settled, Settlement, Step, Tenure, Work};
use crate::outcome::Outcome;
use crate::reply_json::{self, NotAReply};
use crate::suspect::{Fate, fate, poison_error};

/// How long a settlement is tried.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// The pause between tries.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// The queue of events to ask about.
pub(super) const ASK: &str = "ask";

/// The queue of a bot's replies.
pub(super) fn post_queue(bot: &BotName) -> String {
    format!("post.{bot}")
}

/// Claims jobs of one queue.
#[derive(Debug)]
pub(crate) struct SqliteClaims {
    store: Store,
    claimant: Arc<Claimant>,
    /// What the writer was asked and has not answered yet.
    asked: Option<Answered<Found>>,
    written: watch::Receiver<u64>,
    /// Renews what is held; ends with this value and the last claim.
    _renewing: watch::Sender<()>,
}

/// Whoever holds the leases.
#[derive(Debug)]
struct Claimant {
    queue: String,
    step: Step,
    /// Unique to this value of [`SqliteClaims`].
    holder: String,
    /// What is being worked on, and so renewed. A claim that could not be settled is not: its
    /// lease ends, and the job comes back.
    live: Mutex<HashSet<Held>>,
}

/// A row, and which of its claims it is.
type Held = (i64, i64);

/// One claim of a job, by sequence number and claim count.
#[derive(Debug, Clone)]
struct Lease {
    seq: i64,
    claims: i64,
    claimant: Arc<Claimant>,
}

impl Lease {
    /// From now on it is renewed.
    fn keep_up(&self) {
        self.claimant.live().insert((self.seq, self.claims));
    }

    /// From now on it runs out, unless it was settled.
    fn let_go(&self) {
        self.claimant.live().remove(&(self.seq, self.claims));
    }

    /// Whether it is still this claimant's.
    fn is_held(&self, connection: &Connection) -> rusqlite::Result<bool> {
        connection
            .prepare_cached("SELECT 1 FROM jobs WHERE seq = ?1 AND claims = ?2 AND holder = ?3")?
            .exists(params![self.seq, self.claims, self.claimant.holder])
    }
}

impl Claimant {
    fn live(&self) -> MutexGuard<'_, HashSet<Held>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claimed job.
#[derive(Debug)]
pub(crate) struct SqliteClaim {
    store: Store,
    lease: Lease,
    content: Content,
    pub(crate) job: Job,
    pub(crate) tenure: Tenure,
    settled: bool,
}

/// What one look into the queue found.
#[derive(Debug)]
enum Found {
    Nothing,
    Job(Box<Row>),
    /// A suspect or poison was put out of the way; look again.
    Settled,
}

/// What a look into the queue came to.
enum Look {
    Claimed(Box<SqliteClaim>),
    NothingDue,
    /// Something is due, but somebody else may claim, or was faster.
    NotOurs,
}

#[derive(Debug)]
struct Row {
    seq: i64,
    claims: i64,
    attempts: u32,
    deaths: u32,
    tenure: u64,
    content: Content,
}

impl SqliteClaims {
    pub(crate) fn asks(store: &Store) -> Self {
        Self::new(store, ASK.to_owned(), Step::Ask)
    }

    pub(crate) fn posts(store: &Store, bot: &BotName) -> Self {
        Self::new(store, post_queue(bot), Step::Post)
    }

    fn new(store: &Store, queue: String, step: Step) -> Self {
        let holder = Uuid::now_v7().to_string();
        let claimant = Arc::new(Claimant {
            queue,
            step,
            holder,
            live: Mutex::default(),
        });
        let (renewing, ended) = watch::channel(());
        tokio::spawn(renew(store.clone(), Arc::downgrade(&claimant), ended));
        Self {
            written: store.written(),
            store: store.clone(),
            claimant,
            asked: None,
            _renewing: renewing,
        }
    }

    pub(crate) async fn next(&mut self) -> SqliteClaim {
        loop {
            self.written.mark_unchanged();
            match self.fetch().await {
                Ok(Look::Claimed(claim)) => return *claim,
                Ok(Look::NothingDue) => {
                    // Woken by this process's own writes, or in time for those of others and for
                    // what becomes due.
                    let _ = tokio::time::timeout(LOOK_EVERY, self.written.changed()).await;
                }
                // Having asked was a write of our own, which must not wake us.
                Ok(Look::NotOurs) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => {
                    log::warn!(queue = self.claimant.queue; "jobs cannot be claimed: {error}");
                    tokio::time::sleep(RENEW_EVERY).await;
                }
            }
        }
    }

    /// Looks for one job.
    async fn fetch(&mut self) -> Result<Look, StoreError> {
        loop {
            if self.asked.is_none() {
                let queue = self.claimant.queue.clone();
                if !self
                    .store
                    .read(move |connection| is_due(connection, &queue))
                    .await?
                {
                    return Ok(Look::NothingDue);
                }
                let claimant = self.claimant.clone();
                self.asked = Some(
                    self.store
                        .inner
                        .writer
                        .begin(move |connection| claim(connection, &claimant))?,
                );
            }
            match self.answer().await? {
                Found::Nothing => return Ok(Look::NotOurs),
                Found::Settled => {}
                Found::Job(row) => {
                    if let Some(claim) = self.keep(*row).await {
                        return Ok(Look::Claimed(Box::new(claim)));
                    }
                }
            }
        }
    }

    /// The answer to what was asked of the writer; it stays to be had if this is cancelled.
    async fn answer(&mut self) -> Result<Found, StoreError> {
        let Some(asked) = &mut self.asked else {
            return Ok(Found::Nothing);
        };
        let answer = writer::wait(asked).await;
        if !matches!(answer, Err(StoreError::Slow)) {
            self.asked = None;
        }
        answer
    }

    /// Makes a claim of a row, unless this release cannot read it.
    async fn keep(&self, row: Row) -> Option<SqliteClaim> {
        let lease = Lease {
            seq: row.seq,
            claims: row.claims,
            claimant: self.claimant.clone(),
        };
        let work = match self.claimant.step {
            Step::Post => reply_json::decode(&row.content.body).map(Work::Post),
            Step::Ask | Step::Receive => Ok(Work::Ask(row.content.clone().into_event())),
        };
        match work {
            Ok(work) => {
                lease.keep_up();
                Some(SqliteClaim {
                    store: self.store.clone(),
                    lease,
                    content: row.content,
                    job: Job {
                        work,
                        attempts: row.attempts,
                        deaths: row.deaths,
                    },
                    tenure: Tenure(row.tenure),
                    settled: false,
                })
            }
            Err(problem) => {
                if let Err(error) = put_away(&self.store, lease, row, problem).await {
                    log::warn!("a reply that cannot be read was not put away: {error}");
                }
                None
            }
        }
    }

    /// Gives back what was fetched and lets somebody else claim.
    pub(crate) async fn stop(mut self) {
        let fetched = match self.answer().await {
            Ok(Found::Job(row)) => self.keep(*row).await,
            _ => None,
        };
        if let Some(claim) = fetched {
            let given_back = claim
                .settle(Settled {
                    settlement: Settlement::GiveBack,
                    outcomes: Vec::new(),
                })
                .await;
            if let Err(error) = given_back {
                log::warn!("a job was not given back and comes back later: {error}");
            }
        }
        let claimant = self.claimant.clone();
        let released = self
            .store
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE consumers SET expires = 0 WHERE queue = ?1 AND holder = ?2",
                    )?
                    .execute(params![claimant.queue, claimant.holder])
            })
            .await;
        if let Err(error) = released {
            log::warn!("the right to post was not handed on and runs out by itself: {error}");
        }
    }
}

impl SqliteClaim {
    /// Stores an intent while both leases are held.
    pub(crate) async fn intend(&self, intent: &Outcome) -> Result<(), StoreError> {
        let (lease, intent) = (self.lease.clone(), intent.clone());
        let stored = self
            .store
            .write(move |connection| {
                let now = Timestamp::now().as_millisecond();
                let held = connection
                    .prepare_cached(
                        "SELECT 1 FROM jobs, consumers
                         WHERE jobs.seq = ?1 AND jobs.claims = ?2 AND jobs.holder = ?3 AND jobs.due > ?4
                           AND consumers.queue = jobs.queue AND consumers.holder = ?3 AND consumers.expires > ?4",
                    )?
                    .exists(params![lease.seq, lease.claims, lease.claimant.holder, now])?;
                if held {
                    records::insert_outcome(connection, &intent)?;
                }
                Ok(held)
            })
            .await?;
        if stored {
            Ok(())
        } else {
            Err(StoreError::Lost)
        }
    }

    /// Tries for as long as the claim is ours: giving up means that SimSimi is asked again.
    pub(crate) async fn settle(mut self, settled: Settled) -> Result<(), StoreError> {
        self.settled = true;
        let settled = Arc::new(settled);
        let since = Instant::now();
        let result = loop {
            match self.try_settle(&settled, since).await {
                Ok(true) => break Ok(()),
                Ok(false) => break Err(StoreError::Lost),
                Err(error) if since.elapsed() < SETTLE_LIMIT => {
                    log::warn!(id:% = self.content.id; "a settlement is not stored yet: {error}");
                    tokio::time::sleep(SETTLE_AGAIN).await;
                }
                Err(error) => break Err(error),
            }
        };
        self.lease.let_go();
        result
    }

    /// False: the claim is somebody else's by now.
    async fn try_settle(&self, settled: &Arc<Settled>, since: Instant) -> Result<bool, StoreError> {
        let (lease, content) = (self.lease.clone(), self.content.clone());
        let (job, settled) = (self.job.clone(), settled.clone());
        let mut answered = self.store.inner.writer.begin(move |connection| {
            let held = settle(connection, &lease, &content, &job, &settled.settlement)?;
            // A result of a post is true whoever holds the claim by now.
            for outcome in settled
                .outcomes
                .iter()
                .filter(|outcome| held || outcome.is_result())
            {
                records::insert_outcome(connection, outcome)?;
            }
            Ok(held)
        })?;
        loop {
            match writer::wait(&mut answered).await {
                // It is on its way and must not be asked for twice.
                Err(StoreError::Slow) if since.elapsed() < SETTLE_LIMIT => {
                    log::warn!(id:% = self.content.id; "the disk is slow");
                }
                answer => return answer,
            }
        }
    }
}

impl Drop for SqliteClaim {
    fn drop(&mut self) {
        self.lease.let_go();
        if self.settled {
            return;
        }
        // Its worker died without settling it. Due at once, but still held: so it counts as a death.
        let lease = self.lease.clone();
        let queued = self.store.inner.writer.write_later(move |connection| {
            connection.execute(
                "UPDATE jobs SET due = ?1 WHERE seq = ?2 AND claims = ?3 AND holder = ?4",
                params![
                    Timestamp::now().as_millisecond(),
                    lease.seq,
                    lease.claims,
                    lease.claimant.holder
                ],
            )?;
            Ok(())
        });
        if let Err(error) = queued {
            log::warn!("an unsettled job was not given back and comes back later: {error}");
        }
    }
}

fn is_due(connection: &Connection, queue: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM jobs WHERE queue = ?1 AND due <= ?2 LIMIT 1")?
        .exists(params![queue, Timestamp::now().as_millisecond()])
}

/// Claims the job that has been due for longest, if this claimant may claim at all.
fn claim(connection: &Connection, claimant: &Claimant) -> rusqlite::Result<Found> {
    let now = Timestamp::now();
    let lease_end = millis_after(now, LEASE);
    let tenure = match claimant.step {
        Step::Post => match hold_queue(connection, claimant, now, lease_end)? {
            Some(tenure) => tenure,
            None => return Ok(Found::Nothing),
        },
        Step::Ask | Step::Receive => 0,
    };
    let row = connection
        .prepare_cached(&format!(
            "SELECT seq, claims, attempts, deaths, holder IS NOT NULL, {CONTENT}
             FROM jobs WHERE queue = ?1 AND due <= ?2 ORDER BY due, seq LIMIT 1"
        ))?
        .query_row(params![claimant.queue, now.as_millisecond()], |row| {
            let returns = u32::from(row.get::<_, bool>(4)?);
            let deaths: u32 = row.get(3)?;
            let row = Row {
                seq: row.get(0)?,
                claims: row.get::<_, i64>(1)? + 1,
                attempts: row.get(2)?,
                deaths: deaths + returns,
                tenure,
                content: rows::read_content(row, 5)?,
            };
            Ok((row, returns))
        })
        .optional();
    let (row, returns) = match row {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Found::Nothing),
        Err(error @ rusqlite::Error::FromSqlConversionFailure(..)) => {
            bury_unreadable(connection, claimant, now, &error.to_string())?;
            return Ok(Found::Settled);
        }
        Err(error) => return Err(error),
    };
    match fate(returns, row.deaths) {
        Fate::Work => {
            connection
                .prepare_cached("UPDATE jobs SET due = ?1, holder = ?2, claims = ?3, deaths = ?4 WHERE seq = ?5")?
                .execute(params![lease_end, claimant.holder, row.claims, row.deaths, row.seq])?;
            Ok(Found::Job(Box::new(row)))
        }
        Fate::PutOff(delay) => {
            connection
                .prepare_cached("UPDATE jobs SET due = ?1, holder = NULL, claims = ?2, deaths = ?3 WHERE seq = ?4")?
                .execute(params![millis_after(now, delay), row.claims, row.deaths, row.seq])?;
            Ok(Found::Settled)
        }
        Fate::Bury => {
            let error = poison_error(row.deaths);
            bury(
                connection,
                row.seq,
                claimant,
                Cause::Poison,
                &error,
                row.attempts,
                &row.content,
            )?;
            let outcome = row.content.dead(claimant.step, Cause::Poison, error, now);
            records::insert_outcome(connection, &outcome)?;
            crate::figures::dead(Cause::Poison);
            Ok(Found::Settled)
        }
    }
}

/// Takes or renews the right to claim from a reply queue. A new tenure begins whenever the right
/// may have been somebody else's in between.
fn hold_queue(
    connection: &Connection,
    claimant: &Claimant,
    now: Timestamp,
    lease_end: i64,
) -> rusqlite::Result<Option<u64>> {
    let held: Option<(String, i64, i64)> = connection
        .prepare_cached("SELECT holder, expires, tenure FROM consumers WHERE queue = ?1")?
        .query_row([&claimant.queue], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let tenure = match held {
        None => 1,
        // A lease that ends later than any can was written before the clock was set back.
        Some((holder, expires, tenure))
            if expires > now.as_millisecond() && expires <= lease_end =>
        {
            if holder != claimant.holder {
                return Ok(None);
            }
            tenure
        }
        Some((_, _, tenure)) => tenure + 1,
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO consumers (queue, holder, expires, tenure) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![claimant.queue, claimant.holder, lease_end, tenure])?;
    Ok(Some(tenure.cast_unsigned()))
}

/// Ends a claim. False: it was not this holder's any more, and nothing has changed.
fn settle(
    connection: &Connection,
    lease: &Lease,
    content: &Content,
    job: &Job,
    settlement: &Settlement,
) -> rusqlite::Result<bool> {
    let now = Timestamp::now();
    if !lease.is_held(connection)? {
        return Ok(false);
    }
    match settlement {
        Settlement::Done => remove(connection, lease.seq)?,
        Settlement::Next(reply) => {
            rows::insert_job(
                connection,
                &post_queue(&reply.bot),
                &Content::of_reply(reply),
                now,
            )?;
            remove(connection, lease.seq)?;
        }
        Settlement::Later(delay, attempt) => {
            let due = millis_after(now, crate::whole_seconds(*delay));
            let tries = u32::from(*attempt == Attempt::Counted);
            put_off(connection, lease.seq, due, tries)?;
            if *attempt == Attempt::Counted {
                // It was tried and settled, so it does not kill its worker.
                connection
                    .prepare_cached("UPDATE jobs SET deaths = 0 WHERE seq = ?1")?
                    .execute([lease.seq])?;
            }
        }
        Settlement::Bury { cause, error } => {
            let error = crate::shortened(error, Settlement::LONGEST_ERROR);
            bury(
                connection,
                lease.seq,
                &lease.claimant,
                *cause,
                &error,
                job.attempts,
                content,
            )?;
        }
        Settlement::GiveBack => put_off(connection, lease.seq, now.as_millisecond(), 0)?,
    }
    Ok(true)
}

fn put_off(connection: &Connection, seq: i64, due: i64, tries: u32) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE jobs SET due = ?1, holder = NULL, attempts = attempts + ?2 WHERE seq = ?3",
        )?
        .execute(params![due, tries, seq])?;
    Ok(())
}

fn remove(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM jobs WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

fn bury(
    connection: &Connection,
    seq: i64,
    claimant: &Claimant,
    cause: Cause,
    error: &str,
    attempts: u32,
    content: &Content,
) -> rusqlite::Result<()> {
    let now = Timestamp::now();
    dead::insert(
        connection,
        &claimant.queue,
        claimant.step,
        cause,
        error,
        attempts,
        content,
        now,
    )?;
    remove(connection, seq)
}

/// The row that is due has a column that is none of ours: somebody wrote into the file. It must not
/// stand in everybody's way.
fn bury_unreadable(
    connection: &Connection,
    claimant: &Claimant,
    now: Timestamp,
    error: &str,
) -> rusqlite::Result<()> {
    let (seq, content) = connection
        .prepare_cached(
            "SELECT seq, id, body FROM jobs WHERE queue = ?1 AND due <= ?2 ORDER BY due, seq LIMIT 1",
        )?
        .query_row(params![claimant.queue, now.as_millisecond()], |row| {
            let id = row.get::<_, String>(1).ok();
            let content = Content {
                id: id.and_then(|id| id.parse().ok()).unwrap_or_else(EventId::fresh),
                bot: BotName::default(),
                event_type: Event::OTHER.to_owned(),
                room_id: None,
                message_id: None,
                received_at: now,
                put_back_at: None,
                again: None,
                replay: 0,
                body: row.get(2)?,
            };
            Ok((row.get(0)?, content))
        })?;
    let error = crate::shortened(error, Settlement::LONGEST_ERROR);
    bury(
        connection,
        seq,
        claimant,
        Cause::Malformed,
        &error,
        0,
        &content,
    )?;
    records::insert_outcome(
        connection,
        &content.dead(claimant.step, Cause::Malformed, error, now),
    )?;
    crate::figures::dead(Cause::Malformed);
    Ok(())
}

/// A reply of a newer release waits for one, a minute at a time; garbage is buried.
async fn put_away(
    store: &Store,
    lease: Lease,
    row: Row,
    problem: NotAReply,
) -> Result<(), StoreError> {
    let (cause, error) = match problem {
        NotAReply::Newer(version) => (
            Cause::Newer,
            format!("written in version {version} by a newer release"),
        ),
        NotAReply::Malformed(error) => (Cause::Malformed, error),
    };
    store
        .write(move |connection| {
            if !lease.is_held(connection)? {
                return Ok(());
            }
            let now = Timestamp::now();
            let age = now.duration_since(row.content.aged_from());
            if cause == Cause::Newer && age < crate::NEWER_WAITS_AT_MOST {
                return put_off(
                    connection,
                    lease.seq,
                    millis_after(now, crate::NEWER_WAITS),
                    0,
                );
            }
            bury(
                connection,
                lease.seq,
                &lease.claimant,
                cause,
                &error,
                row.attempts,
                &row.content,
            )?;
            crate::figures::dead(cause);
            records::insert_outcome(
                connection,
                &row.content.dead(lease.claimant.step, cause, error, now),
            )
        })
        .await
}

/// Renews what is being worked on, and the right to claim, until the claimant is gone.
async fn renew(store: Store, claimant: std::sync::Weak<Claimant>, mut ended: watch::Receiver<()>) {
    let mut claiming = true;
    loop {
        if claiming {
            // The sender is dropped when no more is claimed; what is held goes on being renewed.
            claiming = tokio::time::timeout(RENEW_EVERY, ended.changed())
                .await
                .is_err();
        } else {
            tokio::time::sleep(RENEW_EVERY).await;
        }
        let Some(claimant) = claimant.upgrade() else {
            return;
        };
        let live: Vec<Held> = claimant.live().iter().copied().collect();
        let renewed = store
            .write(move |connection| {
                let now = Timestamp::now();
                let (now, lease_end) = (now.as_millisecond(), millis_after(now, LEASE));
                let mut renew_job = connection.prepare_cached(
                    "UPDATE jobs SET due = ?1 WHERE seq = ?2 AND claims = ?3 AND holder = ?4 AND due > ?5",
                )?;
                for (seq, claims) in live {
                    renew_job.execute(params![lease_end, seq, claims, claimant.holder, now])?;
                }
                if claiming {
                    connection
                        .prepare_cached(
                            "UPDATE consumers SET expires = ?1 WHERE queue = ?2 AND holder = ?3 AND expires > ?4",
                        )?
                        .execute(params![lease_end, claimant.queue, claimant.holder, now])?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = renewed {
            log::warn!("claims were not renewed: {error}");
        }
    }
}

fn millis_after(now: Timestamp, delay: Duration) -> i64 {
    now.as_millisecond() + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2)
}
