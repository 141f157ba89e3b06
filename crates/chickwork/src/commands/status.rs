//! `chickwork status`: how the bot is, in plain words, from what its processes say of themselves and
//! from what lies in the queue. Nothing is changed by looking.

mod picture;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chickwork_queue::examine::look_at_spool;
use chickwork_queue::{BrokerError, Location, OpenError, Queue, QueueError, Settings};
use clap::Command;
use jiff::Timestamp;

use self::picture::{Picture, Place, SpoolFile};
use super::operator::usable;
use crate::command_line::switch;
use crate::commands::{Call, Order};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{MAX_AGE, OperatorSettings, Role, SPOOL, SPOOL_MAX_BYTES};
use crate::{command_line, output, reporting};

const ROLES: &[Role] = &[Role::Operator, Role::Status];
/// How long each look into the queue may take. Events of an hour may be many.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How long the connections may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Exits 0 when the queue can be used, an ingress and a worker are ready, and nothing is paused;
else 1, also when nothing can be told of the bot because there is no such queue or this user
may not look. Dead letters do not count: they wait for a person, and the bot goes on.

While the broker cannot be used, events wait in the spools of the ingresses. The one that
CHICKWORK_SPOOL names is looked into then, if it is there. How full it is can be told only if
its ingress has said how much it may hold, or CHICKWORK_SPOOL_MAX_BYTES does. CHICKWORK_QUEUE
may also lead to a spool (sqlite:spool.db): then it exits 0 when nothing waits in it.

--json prints one object with these fields; null is what is not known:
  queue            the file, or the nodes of the broker
  up               whether it can be used
  works            what the exit code says
  troubles         sentences: why it does not work
  processes        each that reported in the last 30 s: process, host, pid, release, since,
                   roles, ready, not_ready (why), stopping, posting, last_webhook_at,
                   reported_at
  waiting          events and replies that are ready to be worked on, and events in spools;
                   those of later are not among them, as they are in what `audit` calls waiting
  oldest_seconds   since when the oldest of them has been here
  later            those that are put off
  dead             dead letters
  unfinished       events of the last CHICKWORK_MAX_AGE that have not come to an end
  unfinished_oldest_seconds
  spools           each spool: process, host, pid (the ingress that tells of it), path (where it
                   was looked into on this machine), events, oldest_seconds, bytes, max_bytes
  queues           each queue: queue, jobs, consumers
  account_limit    of the worker that posts: calls, left, until
  pauses           step, reason, until
  last_webhook_at  when the last webhook came in
Times are RFC 3339.";

pub(crate) fn command() -> Command {
    command_line::command(
        "status",
        "Says how the bot is: processes, what waits, pauses, limits, the last webhook",
        ROLES,
    )
    .arg(switch("json", "Prints one JSON object"))
    .after_help(AFTER_HELP)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let settings = OperatorSettings::read(&mut reader);
    let max_age = reader.get(&MAX_AGE);
    let spool = reader.get(&SPOOL).zip(reader.get(&SPOOL_MAX_BYTES));
    let read = settings.zip(max_age.zip(spool));
    let (settings, (max_age, (path, max_bytes))) = reader.finish(read)?;
    // Its default may not be what the ingress was given.
    let max_bytes = Some(max_bytes).filter(|_| call.given.says(&SPOOL_MAX_BYTES.about));
    let spool = SpoolGiven { path, max_bytes };
    let OperatorSettings { logging, queue } = settings;
    let json = call.flags.get_flag("json");
    Ok(Order {
        logging,
        work: Box::pin(run(queue, spool, max_age, json)),
    })
}

/// Where a spool may be on this machine, and how much it may hold, if that was given.
#[derive(Debug)]
struct SpoolGiven {
    path: PathBuf,
    max_bytes: Option<u64>,
}

async fn run(
    settings: Settings,
    spool: SpoolGiven,
    max_age: Duration,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let picture = match pointed_at_a_spool(&settings.location, spool.max_bytes).await {
        Some(picture) => picture,
        None => Box::pin(look_at_all(settings, &spool, max_age)).await,
    };
    let mut out = io::stdout().lock();
    let written = if json {
        output::json(&picture.json(), &mut out)
    } else {
        let mut lines = picture.lines().into_iter();
        lines.try_for_each(|line| writeln!(out, "{line}"))
    };
    let code = if picture.troubles().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    output::end(written, code)
}

/// What is to be told of a spool that was given in the place of the queue.
async fn pointed_at_a_spool(location: &Location, max_bytes: Option<u64>) -> Option<Picture> {
    let Location::Sqlite(path) = location else {
        return None;
    };
    // What is no spool is looked at as a queue, which tells what is wrong with it.
    let Place::Spool(file) = look_at_place(path, max_bytes).await else {
        return None;
    };
    Some(Picture {
        now: Timestamp::now(),
        queue: Some(file.path.clone()),
        place: Some(Place::Spool(file)),
        of_spool_alone: true,
        ..Picture::default()
    })
}

/// What is where a spool may be.
async fn look_at_place(path: &Path, max_bytes: Option<u64>) -> Place {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let path = absolute.display().to_string();
    match look_at_spool(&absolute).await {
        Ok(Some(seen)) => Place::Spool(SpoolFile {
            path,
            host: reporting::host(),
            seen,
            max_bytes,
        }),
        Ok(None) => Place::Empty(path),
        Err(no_spool) => Place::Other(no_spool.to_string()),
    }
}

async fn look_at_all(settings: Settings, spool: &SpoolGiven, max_age: Duration) -> Picture {
    let on_broker = matches!(settings.location, Location::Amqp(_));
    let picture = match Queue::open_existing(settings).await {
        Ok(queue) => {
            let picture = Box::pin(look(&queue, max_age)).await;
            queue.close(CLOSE_LIMIT).await;
            picture
        }
        Err(error) => Picture {
            now: Timestamp::now(),
            down: Some(error.to_string()),
            // What is left is wrong with the file, whoever opens it.
            looked_in_vain: !matches!(
                error,
                OpenError::Damaged { .. } | OpenError::Failing { .. } | OpenError::JournalOnly(_)
            ),
            ..Picture::default()
        },
    };
    if picture.down.is_none() || !on_broker {
        return picture;
    }
    Picture {
        place: Some(look_at_place(&spool.path, spool.max_bytes).await),
        ..picture
    }
}

/// Looks at everything once.
async fn look(queue: &Queue, max_age: Duration) -> Picture {
    let now = Timestamp::now();
    let picture = Picture {
        now,
        queue: Some(queue.describe()),
        max_age,
        ..Picture::default()
    };
    if let Err(error) = usable(queue).await {
        return Picture {
            down: Some(error.to_string()),
            // Other users may be let in.
            looked_in_vain: matches!(error, QueueError::Amqp(BrokerError::Refused { .. })),
            ..picture
        };
    }
    let since = now.saturating_sub(max_age).unwrap_or(now);
    let (reports, depths, unfinished, last_event) = tokio::join!(
        seen("what the processes say", queue.reports()),
        seen("the depths", queue.depths()),
        seen("what has not come to an end", queue.unfinished(since)),
        seen("the last event", queue.last_event()),
    );
    // Once more: a broker that takes nothing, because of an alarm, tells a new connection so only after
    // the first message on it.
    let down = queue.check().await.err().map(|error| error.to_string());
    Picture {
        down,
        reports,
        depths,
        unfinished,
        last_event,
        ..picture
    }
}

/// What was seen. What could not be seen is told on stderr, and the rest is worth having without it.
async fn seen<T>(what: &str, looking: impl Future<Output = Result<T, QueueError>>) -> Option<T> {
    match tokio::time::timeout(LOOK_LIMIT, looking).await {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(error)) => {
            log::warn!("{what} could not be seen: {error}");
            None
        }
        Err(_elapsed) => {
            log::warn!("{what} could not be seen within {LOOK_LIMIT:?}");
            None
        }
    }
}
