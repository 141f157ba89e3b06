//! Where events wait on this machine's disk while the broker is away, and the forwarder that brings
//! them there once it is back.
//!
//! An event goes to the broker first. When that fails, the *breaker* opens: the event goes to the spool,
//! and so does at once every later one, until the forwarder, which goes on trying with the oldest event
//! there is, has brought one through, or has asked where none waits. Then fresh events go straight to
//! the broker again, beside those that still wait. An event keeps its id on every way, so one that went
//! two of them is answered once.
//!
//! - `breaker` knows whether the broker takes events;
//! - `place` takes the file for this process, and sets aside what cannot be used;
//! - `rescue` brings what can be read of a damaged one into the new one;
//! - `forwarder` brings events from the file to the broker.

mod breaker;
mod forwarder;
pub(crate) mod place;
mod rescue;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::breaker::Breakers;
use self::place::{Lock, Trouble};
use crate::amqp::Broker;
use crate::event::Event;
use crate::sqlite::{Put, SpoolFile};
use crate::{Backend, BrokerError, Queue, QueueError, StoreError, Stored, figures};

/// How long the disk has for an event. Together with what the broker has it is less than the ingress has.
const PUT_LIMIT: Duration = Duration::from_secs(2);
/// How long a check of the spool may take before the broker is asked instead.
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// How long looking at what waits may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// The same for whoever collects figures, and does not wait long.
const MEASURE_LIMIT: Duration = Duration::from_secs(2);
/// How long an ingress waits for its spool before it begins without.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// How often a spool that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(3);
/// How long the forwarder may take to note what it has forwarded once it has to end at once.
const LAST_NOTE_LIMIT: Duration = Duration::from_secs(1);
/// How long a last look at what stays may take.
const LAST_LOOK_LIMIT: Duration = Duration::from_millis(1500);
/// How long closing the file may take before that is said.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// When so much of the room is used, somebody should know.
pub(crate) const NEARLY_FULL_PERCENT: u64 = 80;

/// Where the spool is: `CHICKWORK_SPOOL` and `CHICKWORK_SPOOL_MAX_BYTES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Its file.
    pub path: PathBuf,
    /// How large the file may become.
    pub max_bytes: u64,
}

/// The spool cannot be used, and waiting would not help.
#[derive(Debug, thiserror::Error)]
pub enum SpoolOpenError {
    /// The queue is a file itself: whatever keeps events out of it would keep them out of a spool.
    #[error("a queue in a file has no spool")]
    NotNeeded,
    /// Another process has it.
    #[error(
        "{} is in use by {holder}: give each ingress a CHICKWORK_SPOOL of its own",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Which process, as far as is known.
        holder: String,
    },
    /// Somebody works on it as a queue.
    #[error(
        "{} is a queue, and renaming it would lose its events: name another file for the spool",
        .0.display()
    )]
    Queue(PathBuf),
    /// It cannot be there.
    #[error("{} cannot be created: {reason}. Create its folder, or name another file", path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// This user may not write there.
    #[error(
        "{} cannot be written to: {reason}. Give this user write access to it and to its folder, or name another file",
        path.display()
    )]
    Protected {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is something else than a file on this machine.
    #[error("{} cannot be used: {reason}. Name a file on a disk of this machine", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Why the spool takes no event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// So many bytes are all that it may have.
    #[error("the spool is full (CHICKWORK_SPOOL_MAX_BYTES={max_bytes})")]
    Full {
        /// How many.
        max_bytes: u64,
    },
    /// There is room in the spool, but none on its disk.
    #[error("the spool's disk is full ({0})")]
    DiskFull(StoreError),
    /// The disk did not take it in time.
    #[error("the spool's disk is too slow")]
    Slow,
    /// It cannot be read or written.
    #[error("the spool cannot be used: {0}")]
    Store(StoreError),
    /// It is not open at the moment.
    #[error("the spool cannot be opened: {0}")]
    NotOpen(String),
}

impl From<StoreError> for SpoolError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Slow => Self::Slow,
            error if error.is_full_disk() => Self::DiskFull(error),
            error => Self::Store(error),
        }
    }
}

/// What a spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spooled {
    /// How many events wait in it.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// How much of the file is in use. A file does not become smaller when events leave it.
    pub bytes: u64,
    /// How much may be in use: `CHICKWORK_SPOOL_MAX_BYTES`, in whole pages.
    pub max_bytes: u64,
}

/// What an event is to become where events are worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// A job: it is to be answered.
    Ask,
    /// A dead letter: it is none that can be understood.
    Malformed { error: String },
    /// A record: nobody answers its type.
    Ignored { reason: String },
}

impl Becomes {
    /// The words for them, which stand in the file.
    pub(crate) const KINDS: [&'static str; 3] = [Self::ASK, Self::MALFORMED, Self::IGNORED];
    const ASK: &'static str = "ask";
    const MALFORMED: &'static str = "malformed";
    const IGNORED: &'static str = "ignored";

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Ask => Self::ASK,
            Self::Malformed { .. } => Self::MALFORMED,
            Self::Ignored { .. } => Self::IGNORED,
        }
    }

    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Ask => "",
            Self::Malformed { error } => error,
            Self::Ignored { reason } => reason,
        }
    }

    pub(crate) fn read(kind: &str, why: String) -> Option<Self> {
        match kind {
            Self::ASK => Some(Self::Ask),
            Self::MALFORMED => Some(Self::Malformed { error: why }),
            Self::IGNORED => Some(Self::Ignored { reason: why }),
            _ => None,
        }
    }

    /// Makes it so, at the broker.
    pub(crate) async fn at(&self, broker: &Broker, event: &Event) -> Result<(), BrokerError> {
        match self {
            Self::Ask => broker.publish(event).await,
            Self::Malformed { error } => broker.bury(event, error).await,
            Self::Ignored { reason } => broker.archive(event, reason).await,
        }
    }
}

/// Events on this machine's disk that the broker has not taken yet, and the forwarder that brings
/// them there. Cheap to clone; all of it ends with the last handle.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// The forwarder, and who opens the file again.
    tasks: Mutex<JoinSet<()>>,
}

/// What the tasks work with. They end with [`Inner`], which they must not keep.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    max_bytes: u64,
    broker: Broker,
    breakers: Breakers,
    file: watch::Sender<File>,
    /// Says that the file is ours; held for as long as this lives.
    lock: Mutex<Option<Arc<Lock>>>,
    nearly_full: AtomicBool,
    stage: watch::Sender<Stage>,
}

/// The file, or why there is none.
#[derive(Debug, Clone)]
enum File {
    Open(SpoolFile),
    /// It has turned out to be damaged; nobody uses it any more.
    Damaged(SpoolFile, String),
    Closed(String),
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    AtOnce,
}

impl Spool {
    /// How long after its deadline [`Spool::stop`] may take.
    pub const LEAVES_WITHIN: Duration = LAST_NOTE_LIMIT
        .saturating_add(LAST_LOOK_LIMIT)
        .saturating_add(CLOSE_LIMIT);

    /// Takes the file for this process alone, opens it and starts the forwarder into this queue. Waits
    /// for a predecessor that is just stopping. A file that is damaged or somebody else's is set
    /// aside, never deleted, loudly, and what can be read of a damaged one is saved. Where the disk
    /// takes long, or cannot be written to just now, the spool begins without its file and has it later.
    ///
    /// # Errors
    /// Something is not set up as it has to be, and the error says what.
    pub async fn open(settings: SpoolSettings, queue: &Queue) -> Result<Self, SpoolOpenError> {
        let Backend::Amqp(broker) = &queue.0 else {
            return Err(SpoolOpenError::NotNeeded);
        };
        let max_bytes = settings.max_bytes;
        let named = settings.path.clone();
        let resolving = place::apart(move || place::resolved(&named));
        let path = tokio::time::timeout(OPEN_LIMIT, resolving).await;
        let path = path.unwrap_or(settings.path);
        let (mut lock, mut opening) = (None, None);
        let opened = async {
            let ours = lock.insert(place::lock(&path, OPEN_LIMIT).await?).clone();
            let opening = opening.insert(place::begin(ours, &path, max_bytes));
            let opened = tokio::time::timeout(OPEN_LIMIT, place::ended(opening)).await;
            opened.unwrap_or_else(|_| Err(Trouble::Passing("it is still being checked".to_owned())))
        };
        let file = match opened.await {
            Ok(file) => File::Open(file),
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::Passing(reason)) => {
                log::error!(
                    "the spool {} cannot be used yet ({reason}): until it can, nothing can be stored that the broker does not take",
                    path.display()
                );
                File::Closed(reason)
            }
        };
        // One that has ended has been waited for.
        let opening = opening.filter(|opening| !opening.is_finished());
        let shared = Arc::new(Shared {
            path,
            max_bytes,
            broker: broker.clone(),
            breakers: Breakers::default(),
            file: watch::Sender::new(file),
            lock: Mutex::new(lock),
            nearly_full: AtomicBool::new(false),
            stage: watch::Sender::new(Stage::Running),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(place::keep_open(shared.clone(), opening));
        tasks.spawn(rescue::rescue(shared.clone()));
        for kind in Becomes::KINDS {
            tasks.spawn(forwarder::forward(shared.clone(), kind));
        }
        let tasks = Mutex::new(tasks);
        Ok(Self(Arc::new(Inner { shared, tasks })))
    }

    /// The absolute path of the file.
    pub fn describe(&self) -> String {
        self.0.shared.path.display().to_string()
    }

    /// What it holds.
    pub async fn look(&self) -> Result<Spooled, QueueError> {
        Ok(self.0.shared.look(LOOK_LIMIT).await?)
    }

    /// Records what it holds as figures.
    pub async fn measure(&self) {
        let looked = self.0.shared.look(MEASURE_LIMIT).await;
        if let Err(error) = &looked {
            log::warn!("the spool cannot be measured: {error}");
        }
        figures::spooled(looked.as_ref().ok(), Timestamp::now());
    }

    /// Ends the forwarder, after it has forwarded what the broker takes without delay, at the deadline
    /// in any case; says what stays, and closes the file. It is then for another process to use.
    pub async fn stop(&self, deadline: impl Future<Output = ()>) {
        let shared = &self.0.shared;
        let mut tasks = {
            let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        shared.stage.send_replace(Stage::Draining);
        let mut ended = Box::pin(async move { while tasks.join_next().await.is_some() {} });
        tokio::select! {
            () = &mut ended => {}
            () = deadline => {
                shared.stage.send_replace(Stage::AtOnce);
                // What is not noted by then is forwarded a second time, under the same id.
                let _ = tokio::time::timeout(LAST_NOTE_LIMIT, &mut ended).await;
            }
        }
        // With it end those that have not.
        drop(ended);
        shared.say_what_stays().await;
        shared.close().await;
    }

    /// Makes an event safe, at the broker or in the spool.
    pub(crate) async fn keep(
        &self,
        event: &Event,
        becomes: &Becomes,
    ) -> Result<Stored, QueueError> {
        self.0.shared.keep(event, becomes).await
    }

    /// Whether an event could be made safe right now.
    pub(crate) async fn check(&self) -> Result<(), QueueError> {
        let shared = &self.0.shared;
        let spool = match tokio::time::timeout(CHECK_LIMIT, shared.check()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_elapsed) => SpoolError::Slow,
        };
        let broker = shared.broker.check().await;
        broker.map_err(|broker| QueueError::Nowhere { broker, spool })
    }
}

impl Shared {
    async fn keep(&self, event: &Event, becomes: &Becomes) -> Result<Stored, QueueError> {
        let breaker = self.breakers.of(becomes.kind());
        if breaker.is_open() {
            let Err(spool) = self.put(event, becomes).await else {
                return Ok(Stored::Spool);
            };
            // The broker may be back, for all we know.
            match becomes.at(&self.broker, event).await {
                Ok(()) => {
                    self.broker.received(event, Stored::Broker, None);
                    breaker.close();
                    Ok(Stored::Broker)
                }
                Err(broker) => Err(QueueError::Nowhere { broker, spool }),
            }
        } else {
            let Err(broker) = becomes.at(&self.broker, event).await else {
                self.broker.received(event, Stored::Broker, None);
                return Ok(Stored::Broker);
            };
            breaker.open(&broker);
            match self.put(event, becomes).await {
                Ok(()) => Ok(Stored::Spool),
                Err(spool) => Err(QueueError::Nowhere { broker, spool }),
            }
        }
    }

    /// Stores an event in the file. After [`SpoolError::Slow`] it may still get there.
    async fn put(&self, event: &Event, becomes: &Becomes) -> Result<(), SpoolError> {
        let file = self.file()?;
        let put = tokio::time::timeout(PUT_LIMIT, file.put(event, becomes)).await;
        let put = put.unwrap_or(Err(StoreError::Slow));
        self.look_at_room(self.or_suspect(&file, put)?)
    }

    async fn check(&self) -> Result<(), SpoolError> {
        let file = self.file()?;
        let checked = file.check().await;
        self.look_at_room(self.or_suspect(&file, checked)?)
    }

    async fn look(&self, limit: Duration) -> Result<Spooled, SpoolError> {
        let file = self.file()?;
        let looked = tokio::time::timeout(limit, file.look()).await;
        let looked = looked.unwrap_or(Err(StoreError::Slow));
        Ok(self.or_suspect(&file, looked)?)
    }

    /// That there was no room is an error, and that little is left a warning.
    fn look_at_room(&self, put: Put) -> Result<(), SpoolError> {
        let max_bytes = self.max_bytes;
        let Put::Stored { bytes } = put else {
            return Err(SpoolError::Full { max_bytes });
        };
        let nearly_full = bytes >= max_bytes / 100 * NEARLY_FULL_PERCENT;
        if nearly_full && !self.nearly_full.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{NEARLY_FULL_PERCENT} % of the spool are used (CHICKWORK_SPOOL_MAX_BYTES={max_bytes}): once it is full, webhooks that the broker does not take are answered with errors"
            );
        } else if !nearly_full {
            self.nearly_full.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn file(&self) -> Result<SpoolFile, SpoolError> {
        match &*self.file.borrow() {
            File::Open(file) => Ok(file.clone()),
            File::Damaged(_, reason) | File::Closed(reason) => {
                Err(SpoolError::NotOpen(reason.clone()))
            }
        }
    }

    /// Waits until there is a file; `None`: the spool stops.
    async fn opened(&self, files: &mut watch::Receiver<File>) -> Option<SpoolFile> {
        tokio::select! {
            opened = files.wait_for(|file| matches!(file, File::Open(_))) => match opened.as_deref() {
                Ok(File::Open(file)) => Some(file.clone()),
                _ => None,
            },
            () = self.reached(Stage::Draining) => None,
        }
    }

    /// Passes on what came of using the file, and lets go of the file if that shows it to be damaged.
    fn or_suspect<T>(
        &self,
        used: &SpoolFile,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error) = &result
            && error.is_damage()
        {
            self.file.send_if_modified(|file| match file {
                File::Open(open) if open.is(used) => {
                    *file = File::Damaged(open.clone(), error.to_string());
                    true
                }
                _ => false,
            });
        }
        result
    }

    /// Whether the forwarder is to end when nothing goes out any more.
    fn is_draining(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // An error is impossible: the sender is `self`.
        let _ = stages.wait_for(|current| *current >= stage).await;
    }

    async fn say_what_waits(&self, file: SpoolFile) {
        // What cannot be read will be found to be damaged by whoever works on it.
        if let Ok(Ok(Spooled {
            events: events @ 1..,
            ..
        })) = tokio::time::timeout(LOOK_LIMIT, file.look()).await
        {
            log::info!(
                "{events} events wait in the spool {} for the broker",
                self.path.display()
            );
        }
    }

    async fn say_what_stays(&self) {
        match self.look(LAST_LOOK_LIMIT).await {
            Ok(Spooled { events: 0, .. }) => {}
            Ok(Spooled { events, .. }) => log::warn!(
                "{events} events wait in the spool {} for the broker; the next ingress with this spool forwards them",
                self.path.display()
            ),
            Err(error) => log::warn!(
                "what waits in the spool {} is not known: {error}",
                self.path.display()
            ),
        }
    }

    async fn close(&self) {
        let stopped = File::Closed("the process is stopping".to_owned());
        if let File::Open(file) = self.file.send_replace(stopped) {
            // Whoever still uses it keeps it; the end of the process closes it then.
            let _ = tokio::time::timeout(CLOSE_LIMIT, file.closed()).await;
        }
        drop(
            self.lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}
