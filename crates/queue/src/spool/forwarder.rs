//! Brings events from the spool to the broker: those that are to become the same in the order in which
//! they came, one at a time, each kind on its own, so that a broker that takes no dead letters is asked
//! to take jobs all the same.
//!
//! One at a time is also the throttle: of the many channels on which this process publishes, a long
//! spool takes one, and fresh events have the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Becomes, File, Shared, Stage};
use crate::event::Event;
use crate::sqlite::SpoolFile;
use crate::{BrokerError, StoreError, Stored};

/// What was forwarded is removed from the file at least this often.
const NOTE_EVERY: Duration = Duration::from_millis(250);
/// The most events that are removed in one transaction.
const NOTED_AT_ONCE: usize = 500;
/// How long to wait after the broker has not taken an event: first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(5);
/// So often the oldest event is tried before the one behind it shows whether the broker refuses that
/// one alone.
const TRIES: u32 = 3;
/// How long to wait before an event that is refused alone is tried again.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// How often the file is looked into though nothing is known to be new there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Forwards the events of one kind until the spool stops.
pub(super) async fn forward(shared: Arc<Shared>, kind: &'static str) {
    let mut files = shared.file.subscribe();
    loop {
        let Some(file) = shared.opened(&mut files).await else {
            return;
        };
        let lane = Lane {
            shared: &shared,
            kind,
            file,
            after: 0,
            taken: Vec::new(),
            told: false,
            asked: false,
            held: None,
            refused: BTreeSet::new(),
            passed: None,
            run: None,
        };
        if lane.run(&mut files).await == End::Stopped {
            return;
        }
    }
}

/// The events of one kind in one file.
struct Lane<'a> {
    shared: &'a Shared,
    kind: &'static str,
    file: SpoolFile,
    /// Up to this one they have been forwarded, or cannot be.
    after: i64,
    /// Those that the broker has, and that are still in the file.
    taken: Vec<i64>,
    /// Whether it has been said that they cannot be removed.
    told: bool,
    /// Whether the broker was asked how it is.
    asked: bool,
    /// The oldest one, if the broker has not taken it, and how often.
    held: Option<(i64, u32)>,
    /// Those that the broker has not taken while it took others.
    refused: BTreeSet<i64>,
    /// When the first of them was passed over.
    passed: Option<Instant>,
    /// Since when events go out, and how many so far.
    run: Option<(Instant, u64)>,
}

/// Why a lane has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// There is another file, or none.
    File,
    /// The spool stops.
    Stopped,
}

/// What came of a round.
enum Round {
    /// Nothing waits.
    Empty,
    /// There may be more.
    Forwarded,
    /// The broker did not take the next one.
    Held,
    /// The file could not be read or written.
    Failed,
}

impl Lane<'_> {
    async fn run(mut self, files: &mut watch::Receiver<File>) -> End {
        let mut written = self.file.written();
        let mut wait = RETRY_AFTER;
        loop {
            written.mark_unchanged();
            let round = self.round().await;
            if files.has_changed().unwrap_or(true) {
                return End::File;
            }
            let pause = match round {
                Round::Forwarded => {
                    wait = RETRY_AFTER;
                    if *self.shared.stage.borrow() == Stage::AtOnce {
                        return End::Stopped;
                    }
                    continue;
                }
                Round::Empty => {
                    self.say_that_it_is_empty();
                    self.file.leave_no_trace().await;
                    self.ask_how_the_broker_is().await;
                    LOOK_AGAIN
                }
                Round::Held | Round::Failed => {
                    let pause = wait;
                    wait = (wait * 2).min(RETRY_AFTER_AT_MOST);
                    pause
                }
            };
            if self.shared.is_draining() {
                return End::Stopped;
            }
            let something_new = async {
                match round {
                    // An error says that the file is closed, which is told below as well.
                    Round::Empty => drop(written.changed().await),
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = something_new => {}
                () = tokio::time::sleep(pause) => {}
                // Once more, then: what the broker takes now need not wait for the next ingress.
                () = self.shared.reached(Stage::Draining) => {}
                _ = files.changed() => return End::File,
            }
        }
    }

    /// Forwards some events and removes them.
    async fn round(&mut self) -> Round {
        let page = self.file.oldest(self.kind, self.after).await;
        let page = match self.shared.or_suspect(&self.file, page) {
            Ok(page) => page,
            Err(error) => {
                log::error!("the spool cannot be read: {error}");
                return Round::Failed;
            }
        };
        if page.is_empty() && self.taken.is_empty() {
            if self.passed.is_none_or(|at| at.elapsed() < REFUSED_AGAIN) {
                return Round::Empty;
            }
            (self.after, self.passed) = (0, None);
            return Round::Forwarded;
        }
        let begun = Instant::now();
        let before = self.taken.len();
        let mut round = Round::Forwarded;
        // One that the broker did not take again and again, if the next one is to show why.
        let mut doubtful: Option<(i64, Event, Becomes)> = None;
        for waiting in page {
            match waiting.event {
                Some((event, becomes)) => match self.bring(&event, &becomes).await {
                    Some(Ok(())) => {
                        self.shared.breakers.of(self.kind).close();
                        self.take(waiting.seq, begun);
                        if let Some((seq, event, becomes)) = doubtful.take() {
                            // A broker that has just come back has refused nothing.
                            match self.bring(&event, &becomes).await {
                                Some(Ok(())) => self.take(seq, begun),
                                Some(Err(error)) => self.pass_over(seq, Some(&error)),
                                None => {
                                    round = Round::Held;
                                    break;
                                }
                            }
                        }
                    }
                    Some(Err(_)) if self.refused.contains(&waiting.seq) => {
                        self.pass_over(waiting.seq, None);
                    }
                    Some(Err(error)) => {
                        self.shared.breakers.of(self.kind).open(&error);
                        if doubtful.is_none() && self.holds(waiting.seq) >= TRIES {
                            doubtful = Some((waiting.seq, event, becomes));
                            continue;
                        }
                        round = Round::Held;
                        break;
                    }
                    None => {
                        round = Round::Held;
                        break;
                    }
                },
                None => log::error!(
                    "an event in the spool {} cannot be read (row {}); it is passed over, and stays there",
                    self.shared.path.display(),
                    waiting.seq
                ),
            }
            if doubtful.is_none() {
                self.after = waiting.seq;
            }
            if begun.elapsed() > NOTE_EVERY || *self.shared.stage.borrow() == Stage::AtOnce {
                break;
            }
        }
        if doubtful.is_some() {
            round = Round::Held;
        }
        match self.note().await {
            Ok(()) => {
                self.told = false;
                round
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    log::error!(
                        "what the broker has taken cannot be removed from the spool, and will be forwarded again if this process ends: {error}"
                    );
                }
                // The others need not wait for that.
                let brought = self.taken.len() > before;
                if brought { round } else { Round::Failed }
            }
        }
    }

    /// Brings one event to the broker; `None`: the spool is to stop at once.
    async fn bring(&self, event: &Event, becomes: &Becomes) -> Option<Result<(), BrokerError>> {
        tokio::select! {
            result = becomes.at(&self.shared.broker, event) => {
                if result.is_ok() {
                    let now = Some(Timestamp::now());
                    self.shared.broker.received(event, Stored::Spool, now);
                }
                Some(result)
            }
            // It may be there by now; then it is forwarded a second time, under the same id.
            () = self.shared.reached(Stage::AtOnce) => None,
        }
    }

    /// The broker has this one.
    fn take(&mut self, seq: i64, begun: Instant) {
        self.refused.remove(&seq);
        self.taken.push(seq);
        self.run.get_or_insert((begun, 0)).1 += 1;
    }

    /// The oldest one was not taken; how often by now.
    fn holds(&mut self, oldest: i64) -> u32 {
        let times = match self.held {
            Some((seq, times)) if seq == oldest => times + 1,
            _ => 1,
        };
        self.held = Some((oldest, times));
        times
    }

    /// Leaves one that the broker refuses in the file, for later; it is told of when that is news.
    fn pass_over(&mut self, seq: i64, news: Option<&BrokerError>) {
        self.passed.get_or_insert_with(Instant::now);
        self.refused.insert(seq);
        if let Some(error) = news {
            log::error!(
                kind = self.kind;
                "the broker refuses an event in the spool {} and takes others (row {seq}): {error}; it is passed over, stays there, and is tried again every {REFUSED_AGAIN:?}",
                self.shared.path.display()
            );
        }
    }

    /// Where no event shows it the broker is asked: at first, and for as long as it is known to be away.
    async fn ask_how_the_broker_is(&mut self) {
        let breaker = self.shared.breakers.of(self.kind);
        let is_known = std::mem::replace(&mut self.asked, true) && !breaker.is_open();
        if is_known || self.kind != Becomes::ASK {
            return;
        }
        tokio::select! {
            asked = self.shared.broker.check() => match asked {
                Ok(()) => breaker.close(),
                Err(error) => breaker.open(&error),
            },
            () = self.shared.reached(Stage::Draining) => {}
        }
    }

    /// Removes what the broker has from the file.
    async fn note(&mut self) -> Result<(), StoreError> {
        while !self.taken.is_empty() {
            let some = self.taken.len().min(NOTED_AT_ONCE);
            let noted = self.file.forget(self.taken[..some].to_vec()).await;
            self.shared.or_suspect(&self.file, noted)?;
            self.taken.drain(..some);
        }
        Ok(())
    }

    fn say_that_it_is_empty(&mut self) {
        if let Some((since, events)) = self.run.take() {
            let but = match self.refused.len() {
                0 => String::new(),
                refused => format!(" but {refused} that it refuses"),
            };
            log::info!(
                kind = self.kind;
                "the broker has taken all that waited in the spool{but}: {events} events in {:.1?}",
                since.elapsed()
            );
        }
    }
}
