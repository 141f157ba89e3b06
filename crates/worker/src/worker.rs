//! The worker's life: find out who the bot is and what has happened so far, then claim and work in
//! two loops, until told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chickwork_clients::chatwork::Chatwork;
use chickwork_clients::simsimi::SimSimi;
use chickwork_queue::job::Step;
use chickwork_queue::{Claim, Claims, Queue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::desk::Desk;
use crate::who::{self, Known};
use crate::{Settings, ask, post};

/// Posts in flight. Few: the rate limits are tight, and each one is a doubt if this process dies.
const POSTS_IN_FLIGHT: u16 = 4;

/// The first wait after the outcomes could not be read; it doubles.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after the outcomes could not be read.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    readiness: Readiness,
    stage: watch::Sender<Stage>,
    drain: Duration,
    run: JoinHandle<bool>,
    /// What goes on for ever beside it.
    background: Vec<JoinHandle<()>>,
}

/// How a worker has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Everything that was held has been finished; otherwise some of it was given back.
    pub clean: bool,
}

/// Whether a worker is able to do its job; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    known: watch::Receiver<Known>,
    caught_up: watch::Receiver<Result<(), String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Working,
    /// No new claims.
    Draining,
    /// Whatever is still held is given back.
    Leaving,
}

impl Worker {
    /// Starts working; the runtime must be running.
    pub fn start(settings: Settings, queue: Queue, simsimi: SimSimi, chatwork: Chatwork) -> Self {
        let (known, told) = watch::channel(who::unknown());
        let waiting = "the outcomes of earlier events are being read".to_owned();
        let (caught_up, reading) = watch::channel(Err(waiting));
        let (stage, _) = watch::channel(Stage::Working);
        let drain = settings.drain;

        let desk = Desk::new(settings, &queue, simsimi, chatwork, told.clone());
        let background = vec![
            tokio::spawn(Arc::clone(&desk.history).follow()),
            tokio::spawn(who::keep_asking(
                desk.chatwork.clone(),
                desk.limiter.clone(),
                known,
            )),
        ];
        let run = tokio::spawn(run(Arc::new(desk), queue, caught_up, stage.subscribe()));
        Self {
            readiness: Readiness {
                known: told,
                caught_up: reading,
            },
            stage,
            drain,
            run,
            background,
        }
    }

    /// A handle that tells whether it is able to work.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Claims no more, finishes what is in flight, and gives back what is left at the deadline, or
    /// when the time for draining is over.
    pub async fn stop(mut self, deadline: impl Future<Output = ()>) -> Stopped {
        self.stage.send_replace(Stage::Draining);
        let in_time = tokio::select! {
            clean = &mut self.run => Some(clean),
            () = deadline => None,
            () = tokio::time::sleep(self.drain) => None,
        };
        let clean = match in_time {
            Some(clean) => clean,
            None => {
                self.stage.send_replace(Stage::Leaving);
                (&mut self.run).await
            }
        };
        Stopped {
            clean: clean.unwrap_or(false),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.run.abort();
        for task in &self.background {
            task.abort();
        }
    }
}

impl Readiness {
    /// An error says in a sentence why it is not able to work.
    pub fn check(&self) -> Result<(), String> {
        // Whoever tells these lives as long as the worker does.
        if self.known.has_changed().is_err() || self.caught_up.has_changed().is_err() {
            return Err("the worker has stopped".to_owned());
        }
        self.known.borrow().as_ref().map_err(String::clone)?;
        self.caught_up.borrow().clone()
    }
}

/// The whole life; says whether it ended without giving anything back.
async fn run(
    desk: Arc<Desk>,
    queue: Queue,
    caught_up: watch::Sender<Result<(), String>>,
    mut stage: watch::Receiver<Stage>,
) -> bool {
    tokio::select! {
        () = prepare(&desk, &caught_up) => {}
        () = reached(&mut stage, Stage::Draining) => return true,
    }
    let asks = queue.claim_asks(desk.settings.concurrency.max(1));
    let posts = queue.claim_posts(&desk.settings.bot, POSTS_IN_FLIGHT);
    let (asks, posts) = tokio::join!(
        work(Step::Ask, &desk, asks, stage.clone()),
        work(Step::Post, &desk, posts, stage),
    );
    asks && posts
}

/// Waits until it is known who the bot is and what has happened so far.
async fn prepare(desk: &Desk, caught_up: &watch::Sender<Result<(), String>>) {
    let mut wait = SHORTEST_WAIT;
    while let Err(error) = desk.history.barrier().await {
        log::warn!("not ready: {error}");
        let not_yet = Err(error.to_string());
        caught_up.send_modify(|caught_up| *caught_up = not_yet);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    caught_up.send_modify(|caught_up| *caught_up = Ok(()));
    let mut known = desk.known.clone();
    // The sender lives in a task that never ends: an error means that the process is going down.
    if known.wait_for(Result::is_ok).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Claims and works: the permit first, then the claim, then the work in a task of its own. A task
/// that panics takes neither the permit nor the claim with it: both are given back as it unwinds.
async fn work(
    step: Step,
    desk: &Arc<Desk>,
    mut claims: Claims,
    mut stage: watch::Receiver<Stage>,
) -> bool {
    let permits = match step {
        Step::Post => POSTS_IN_FLIGHT,
        Step::Receive | Step::Ask => desk.settings.concurrency.max(1),
    };
    let permits = Arc::new(Semaphore::new(usize::from(permits)));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = reached(&mut stage, Stage::Draining) => break,
            Some(ended) = tasks.join_next() => report(step, ended),
            (permit, claim) = next(&permits, &mut claims) => {
                let desk = Arc::clone(desk);
                tasks.spawn(async move {
                    match step {
                        Step::Post => post::post(&desk, claim).await,
                        Step::Receive | Step::Ask => ask::ask(&desk, claim).await,
                    }
                    drop(permit);
                });
            }
        }
    }
    tokio::select! {
        () = claims.stop() => {}
        () = reached(&mut stage, Stage::Leaving) => {}
    }
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => match ended {
                Some(ended) => report(step, ended),
                None => return true,
            },
            () = reached(&mut stage, Stage::Leaving) => {
                log::warn!(step = step.as_str(), held = tasks.len(); "stopping now: what is held is given back");
                tasks.shutdown().await;
                return false;
            }
        }
    }
}

async fn next(permits: &Arc<Semaphore>, claims: &mut Claims) -> (OwnedSemaphorePermit, Claim) {
    let permit = Arc::clone(permits).acquire_owned().await;
    let permit = permit.expect("this semaphore is never closed");
    (permit, claims.next().await)
}

async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    // The sender is gone only when the worker was dropped; then it is time to leave as well.
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

fn report(step: Step, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::counter!("chickwork_jobs_total", "step" => step.as_str(), "outcome" => "panic")
            .increment(1);
        // The panic hook has told what happened; the job comes back and its deaths are counted.
        log::error!(step = step.as_str(); "a job made its step panic; it was given back");
    }
}
