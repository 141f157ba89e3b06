//! The one writer of a queue file: a thread that takes tasks off a channel and commits them in
//! groups, so that a hundred events that arrive together cost one fsync.
//!
//! A task is answered after the commit that contains it, never before.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::StoreError;

/// The most tasks in one commit; bounds how long the first of them waits for the last.
const LARGEST_GROUP: usize = 256;
/// The most tasks that may wait for the writer. More means the disk has stopped.
const LONGEST_LINE: usize = 4096;
/// The longest that anybody waits for a write. What was not written by then may still be written.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Where the result of a task arrives.
pub(super) type Answered<T> = oneshot::Receiver<Result<T, StoreError>>;

/// What a task gives back once it has run: to be told whether its commit succeeded.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs in an open transaction, or is told why there is none.
type Task = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Answer + Send>;

/// Hands tasks to the writer thread; cheap to clone. The thread ends with its last handle.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    tasks: SyncSender<Task>,
}

impl Writer {
    /// Starts the thread on this connection. `written` is called after each commit.
    pub(super) fn start(
        connection: Connection,
        written: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tasks, line) = sync_channel(LONGEST_LINE);
        thread::Builder::new()
            .name("queue-writer".to_owned())
            .spawn(move || {
                run(&connection, &line, &written);
                // In this order: whoever waits for the end of the writes waits for a closed file.
                drop(connection);
                drop(written);
            })?;
        Ok(Self { tasks })
    }

    /// Runs the task inside the next commit and returns its result once that is on disk.
    pub(super) async fn write<T, F>(&self, task: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        wait(&mut self.begin(task)?).await
    }

    /// Hands in the task; its result, once on disk, is to be awaited with [`wait`]. For callers
    /// that may be cancelled and must not lose what they asked for.
    pub(super) fn begin<T, F>(&self, task: F) -> Result<Answered<T>, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.enqueue(task, move |result| {
            // An error here: nobody waits any more, the caller ran into its own limit.
            let _ = answer.send(result);
        })?;
        Ok(answered)
    }

    /// Runs the task inside one of the next commits; nobody waits for it.
    pub(super) fn write_later<F>(&self, task: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        self.enqueue(task, |result| {
            if let Err(error) = result {
                log::warn!("a record was not written: {error}");
            }
        })
    }

    fn enqueue<T, F, A>(&self, task: F, answer: A) -> Result<(), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        let task: Task = Box::new(move |transaction| {
            let result = transaction
                .and_then(|connection| in_savepoint(connection, task).map_err(StoreError::from));
            Box::new(move |committed: Result<(), StoreError>| answer(committed.and(result)))
        });
        self.tasks.try_send(task).map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Slow,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }
}

/// Waits for a task's result, for a limited time; cancel-safe, and may be called again after [`StoreError::Slow`].
pub(super) async fn wait<T>(answered: &mut Answered<T>) -> Result<T, StoreError> {
    match tokio::time::timeout(WRITE_LIMIT, answered).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(StoreError::Closed),
        Err(_) => Err(StoreError::Slow),
    }
}

fn run(connection: &Connection, line: &Receiver<Task>, written: &impl Fn()) {
    while let Ok(first) = line.recv() {
        let group = std::iter::once(first).chain(line.try_iter().take(LARGEST_GROUP - 1));
        commit(connection, group);
        written();
    }
}

/// One transaction around the whole group. A task that fails is undone alone.
fn commit(connection: &Connection, group: impl Iterator<Item = Task>) {
    let begun = connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(StoreError::from);
    let answers: Vec<Answer> = group
        .map(|task| match &begun {
            // A full disk may end the transaction early; outside of it statements would commit alone.
            Ok(()) if connection.is_autocommit() => task(Err(StoreError::Undone)),
            Ok(()) => task(Ok(connection)),
            Err(error) => task(Err(error.clone())),
        })
        .collect();
    let committed = begun.and_then(|()| {
        connection.execute_batch("COMMIT").map_err(|error| {
            // A commit that failed leaves the transaction open.
            let _ = connection.execute_batch("ROLLBACK");
            StoreError::from(error)
        })
    });
    for answer in answers {
        answer(committed.clone());
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    task: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT task")?;
    match task(connection) {
        Ok(done) => connection.execute_batch("RELEASE task").map(|()| done),
        Err(error) => {
            // Fails too where SQLite has ended the whole transaction; the error says why.
            let _ = connection.execute_batch("ROLLBACK TO task; RELEASE task");
            Err(error)
        }
    }
}
