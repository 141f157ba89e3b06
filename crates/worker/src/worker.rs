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
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::desk::{Desk, PANIC, jobs};
use crate::limits::Left;
use crate::pause::{Pause, Paused};
use crate::who::{self, Known};
use crate::{Settings, ask, post};

/// Posts in flight. Few: the rate limits are tight, and each one is a doubt if this process dies.
const POSTS_IN_FLIGHT: u16 = 4;

/// How long giving back what is held may take. What is not given back by then comes back by itself,
/// and that counts as a death.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    readiness: Readiness,
    view: View,
    stage: watch::Sender<Stage>,
    drain: Duration,
    run: JoinHandle<bool>,
    /// What goes on for ever beside it.
    background: JoinSet<()>,
}

/// How a worker has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Everything that was held has been finished; otherwise some of it was given back.
    pub clean: bool,
}

/// A worker cannot go on: one of the tasks that it consists of has ended by itself, in a panic.
#[derive(Debug, thiserror::Error)]
#[error("a part of the worker has ended by itself")]
pub struct Broken(#[source] Option<JoinError>);

/// Whether a worker is able to do its job; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    known: watch::Receiver<Known>,
    caught_up: watch::Receiver<Result<(), String>>,
    /// Every task that the worker consists of.
    parts: Arc<[AbortHandle]>,
}

/// Shows what a worker is up to; cheap to clone.
#[derive(Debug, Clone)]
pub struct View(Arc<Desk>);

/// What a worker is up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// It is the one of all workers that posts, as far as it knows.
    pub posts: bool,
    /// The steps that pause here.
    pub pauses: Vec<Paused>,
    /// What is left of the account's calls. Who does not post sees only a part of them.
    pub left: Left,
    /// How many claims it works on.
    pub holds: u64,
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
        let (stage, _) = watch::channel(Stage::Working);
        let drain = settings.drain;

        let desk = Desk::new(settings, &queue, simsimi, chatwork, told.clone());
        let desk = Arc::new(desk);
        let caught_up = desk.history.caught_up();
        let mut background = JoinSet::new();
        let asking = who::keep_asking(desk.chatwork.clone(), desk.limiter.clone(), known);
        let mut parts = vec![
            background.spawn(Arc::clone(&desk.history).follow()),
            background.spawn(Arc::clone(&desk.history).keep_up()),
            background.spawn(asking),
        ];
        let run = tokio::spawn(run(Arc::clone(&desk), queue, stage.subscribe()));
        parts.push(run.abort_handle());
        Self {
            readiness: Readiness {
                known: told,
                caught_up,
                parts: parts.into(),
            },
            view: View(desk),
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

    /// A handle that shows what it is up to.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Waits until a part of the worker has ended by itself, which happens only if it panics. What
    /// is left of it may still be stopped.
    pub async fn ended(&mut self) -> Broken {
        tokio::select! {
            ended = &mut self.run => Broken(ended.err()),
            Some(ended) = self.background.join_next() => Broken(ended.err()),
        }
    }

    /// Claims no more, finishes what is in flight, and gives back what is left at the deadline, or
    /// when the time for draining is over.
    pub async fn stop(mut self, deadline: impl Future<Output = ()>) -> Stopped {
        // It has not been told to: see `ended`.
        if self.run.is_finished() {
            return Stopped { clean: false };
        }
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
        // The set ends the tasks that it holds.
        self.run.abort();
    }
}

impl Readiness {
    /// An error says in a sentence why it is not able to work.
    pub fn check(&self) -> Result<(), String> {
        if self.parts.iter().any(AbortHandle::is_finished) {
            return Err("the worker has stopped".to_owned());
        }
        self.known.borrow().as_ref().map_err(String::clone)?;
        self.caught_up.borrow().clone()
    }
}

impl View {
    /// What the worker is up to now.
    pub fn state(&self, now: Instant) -> State {
        let desk = &self.0;
        let pauses = [&desk.ask_pause, &desk.post_pause];
        State {
            posts: desk.standings.posts(),
            pauses: pauses.into_iter().filter_map(Pause::paused).collect(),
            left: desk.limiter.left(now),
            holds: Arc::strong_count(&desk.claimed) as u64 - 1,
        }
    }
}

/// The whole life; says whether it ended without giving anything back.
async fn run(desk: Arc<Desk>, queue: Queue, mut stage: watch::Receiver<Stage>) -> bool {
    tokio::select! {
        () = prepared(&desk) => {}
        () = reached(&mut stage, Stage::Draining) => return true,
    }
    let concurrency = desk.settings.concurrency.max(1);
    let asks = queue.claim_asks(concurrency);
    let posts = queue.claim_posts(&desk.settings.bot, POSTS_IN_FLIGHT);
    let ask = |claim| {
        let (desk, mut stage) = (Arc::clone(&desk), stage.clone());
        async move {
            let _claimed = Arc::clone(&desk.claimed);
            ask::ask(&desk, claim, reached(&mut stage, Stage::Leaving)).await;
        }
    };
    let post = |claim| {
        let (desk, mut stage) = (Arc::clone(&desk), stage.clone());
        async move {
            let _claimed = Arc::clone(&desk.claimed);
            post::post(&desk, claim, reached(&mut stage, Stage::Leaving)).await;
        }
    };
    let (asks, posts) = tokio::join!(
        work(Step::Ask, concurrency, asks, stage.clone(), ask),
        work(Step::Post, POSTS_IN_FLIGHT, posts, stage.clone(), post),
    );
    asks && posts
}

/// Waits until it is known who the bot is and what has happened so far.
async fn prepared(desk: &Desk) {
    let (mut caught_up, mut known) = (desk.history.caught_up(), desk.known.clone());
    let both = async {
        caught_up.wait_for(Result::is_ok).await?;
        known.wait_for(Result::is_ok).await?;
        Ok::<_, watch::error::RecvError>(())
    };
    // Who tells these lives in tasks that never end: an error means that the worker is going down.
    if both.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Claims and works: the permit first, then the claim, then the work in a task of its own. A task
/// that panics takes neither the permit nor the claim with it: both are given back as it unwinds.
async fn work<Working>(
    step: Step,
    most: u16,
    mut claims: Claims,
    mut stage: watch::Receiver<Stage>,
    on: impl Fn(Claim) -> Working,
) -> bool
where
    Working: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(usize::from(most)));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = reached(&mut stage, Stage::Draining) => break,
            Some(ended) = tasks.join_next() => report(step, ended),
            (permit, claim) = next(&permits, &mut claims) => {
                let working = on(claim);
                tasks.spawn(async move {
                    working.await;
                    drop(permit);
                });
            }
        }
    }
    // Beside what is still worked on, and with the same time at the end: what was fetched and not
    // given back comes back as if it had killed somebody.
    tasks.spawn(claims.stop());
    let held = || usize::from(most) - permits.available_permits();
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => match ended {
                Some(ended) => report(step, ended),
                // The last of them may just have given back what it held.
                None => return *stage.borrow() < Stage::Leaving,
            },
            () = reached(&mut stage, Stage::Leaving) => break,
        }
    }
    log::warn!(step = step.as_str(), held = held(); "stopping now: what is held is given back");
    // Each of them does that itself, as it has been told too.
    let given_back = async {
        while let Some(ended) = tasks.join_next().await {
            report(step, ended);
        }
    };
    if tokio::time::timeout(GIVE_BACK, given_back).await.is_err() {
        log::warn!(step = step.as_str(), held = held(); "not given back in time: it comes back by itself");
        tasks.shutdown().await;
    }
    false
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
        jobs(step, PANIC).increment(1);
        // The panic hook has told what happened; the job comes back and its deaths are counted.
        log::error!(step = step.as_str(); "a job made its step panic; it was given back");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::scratch::{PATIENCE, Scratch, mention, services, settings};

    #[tokio::test]
    async fn a_step_that_panics_loses_neither_its_claim_nor_its_permit() {
        let scratch = Scratch::new().await;
        let publisher = scratch.queue.publisher();
        publisher.publish(&mention()).await.expect("an event");
        let (stage, told) = watch::channel(Stage::Working);
        let deaths = Arc::new(Mutex::new(Vec::new()));
        let on = |claim: Claim| {
            let (deaths, stage) = (Arc::clone(&deaths), stage.clone());
            async move {
                let job = claim.job().clone();
                deaths.lock().expect("not poisoned").push(job.deaths);
                assert!(job.deaths > 0, "the first time it panics");
                let settled = chickwork_queue::job::Settled {
                    settlement: chickwork_queue::job::Settlement::Done,
                    outcomes: Vec::new(),
                };
                claim.settle(settled).await.expect("settled");
                stage.send_replace(Stage::Draining);
            }
        };
        let claims = scratch.queue.claim_asks(1);
        let clean = tokio::time::timeout(PATIENCE, work(Step::Ask, 1, claims, told, on)).await;
        assert_eq!(clean, Ok(true));
        assert_eq!(*deaths.lock().expect("not poisoned"), [0, 1]);
    }

    #[tokio::test]
    async fn a_worker_that_has_lost_a_part_says_so_and_can_still_be_stopped() {
        let scratch = Scratch::new().await;
        for lose_all in [true, false] {
            let (simsimi, chatwork) = services();
            let mut worker = Worker::start(settings(), scratch.queue.clone(), simsimi, chatwork);
            let ended = tokio::time::timeout(Duration::from_millis(50), worker.ended());
            assert!(ended.await.is_err(), "it works");
            if lose_all {
                worker.run.abort();
            } else {
                worker.background.spawn(async { panic!("a part panics") });
            }
            let ended = tokio::time::timeout(PATIENCE, worker.ended());
            let broken = ended.await.expect("it has lost a part");
            assert!(std::error::Error::source(&broken).is_some());
            if lose_all {
                let why = worker.readiness().check().expect_err("it is not ready");
                assert_eq!(why, "the worker has stopped");
            }
            let stopped = tokio::time::timeout(PATIENCE, worker.stop(std::future::pending()));
            let stopped = stopped.await.expect("it stops");
            assert_eq!(stopped.clean, !lose_all);
        }
    }
}
