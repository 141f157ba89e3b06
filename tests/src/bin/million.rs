//! A queue of each kind with a million archived events and what became of them, and how long the
//! commands take that look into it, with the most memory that each took.
//!
//!     million [COUNT] [sqlite|rabbitmq] [stay]
//!
//! To be built with `--release --workspace`: the commands are those of the `chickwork` beside it. With
//! `stay` the queues remain until a line is read from the terminal, so that a person can look as well.
//! The events of a file are spread over a day. A broker dates what is written by its own clock, so there
//! most of them are minutes old, thousands in each second; the last come as slowly as in a busy company,
//! and these are asked for, as well as one that came in the rush.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_queue::event::EventId;
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;
use chickwork_tests::rabbitmq::Node;
use chickwork_tests::stage::{self, a_namespace};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};

/// Channels that fill a broker.
const CHANNELS: u64 = 8;
/// Events that one of them has in flight.
const WINDOW: u64 = 64;
/// Events that a file takes in one transaction.
const TRANSACTION: u64 = 20_000;
/// So many events come slowly into a broker, the last ones: for longer than the two minutes in which
/// commands look for the reports of processes.
const SLOW: u64 = 5_000;
/// The time from one of these to the next: three million a day.
const SLOWLY: Duration = Duration::from_millis(30);
/// How long what is in a file has been going on.
const SPREAD: Duration = Duration::from_secs(24 * 3600);

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

fn main() -> anyhow::Result<()> {
    let (mut count, mut kinds, mut stays) = (1_000_000, Vec::new(), false);
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "sqlite" | "rabbitmq" => kinds.push(word),
            "stay" => stays = true,
            _ => {
                count = word
                    .parse()
                    .context("usage: million [COUNT] [sqlite|rabbitmq] [stay]")?
            }
        }
    }
    let is_wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|word| word == kind);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if is_wanted("sqlite") {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("queue.db");
        let location = format!("sqlite:{}", path.display());
        let begun = Instant::now();
        let filled = runtime.block_on(fill_file(&location, &path, count))?;
        let bytes = std::fs::metadata(&path)?.len();
        say(format_args!(
            "{location}: {count} events in {:.0} s, {} MiB",
            begun.elapsed().as_secs_f64(),
            bytes >> 20
        ));
        measure(&location, "chickwork", &filled, "1h")?;
        wait_if(stays)?;
    }
    if is_wanted("rabbitmq") {
        let node = Node::start()?;
        let namespace = a_namespace();
        let folder = tempfile::tempdir()?;
        let begun = Instant::now();
        let filled = runtime.block_on(fill_broker(&node.url(), &namespace, count))?;
        let took = begun.elapsed();
        say(format_args!(
            "{} {namespace}: {count} events in {:.0} s",
            node.url(),
            took.as_secs_f64()
        ));
        let ingress = Ingress::start(&node.url(), &namespace, folder.path())?;
        measure(&node.url(), &namespace, &filled, "1m")?;
        drop(ingress);
        wait_if(stays)?;
    }
    Ok(())
}

fn wait_if(stays: bool) -> anyhow::Result<()> {
    if stays {
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

/// What to ask for.
#[derive(Debug, Default)]
struct Filled {
    middle: Option<Made>,
    last: Option<Made>,
}

impl Filled {
    fn take_note(&mut self, number: u64, count: u64, made: &Made) {
        if number == count / 2 {
            self.middle = Some(made.clone());
        } else if number == count - 1 {
            self.last = Some(made.clone());
        }
    }
}

/// One event and its outcomes, as they are stored.
#[derive(Debug, Clone)]
struct Made {
    id: EventId,
    room: u64,
    message: String,
    at: Timestamp,
    body: String,
    outcomes: Vec<String>,
}

impl Made {
    fn event(number: u64, at: Timestamp) -> Self {
        let millis = at.as_millisecond();
        let seconds = u64::try_from(at.as_second()).unwrap_or_default();
        let nanoseconds = u32::try_from(at.subsec_nanosecond()).unwrap_or_default();
        let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanoseconds);
        let id = EventId(uuid::Uuid::new_v7(time));
        let room = 1_000 + number % 50;
        let sent = u64::try_from(millis - MessageId::SEEMS_TO_BEGIN).unwrap_or_default();
        let message = ((sent << 22) | (number & 0x3f_ffff)).to_string();
        let text = "một câu hỏi dài vừa phải cho chú gà con, ".repeat(2 + (number % 3) as usize);
        let body = format!(
            r#"{{"webhook_setting_id":"1","webhook_event_type":"mention_to_me","webhook_event_time":{seconds},"webhook_event":{{"from_account_id":{},"to_account_id":2,"room_id":{room},"message_id":"{message}","body":"[To:2] {text} {number}","send_time":{seconds},"update_time":0}}}}"#,
            1 + number % 1_000
        );
        let mut made = Self {
            id,
            room,
            message,
            at,
            body,
            outcomes: Vec::new(),
        };
        made.tell(number, &text);
        made
    }

    fn tell(&mut self, number: u64, text: &str) {
        let reply = format!("9{}", self.message);
        self.says(r#""what":"received","stored":"broker""#);
        match number % 100 {
            0..5 => self.says(r#""what":"ignored","reason":"flood""#),
            // Nothing more is known of some few.
            5 if number.is_multiple_of(10_000) => {}
            kind => {
                self.says(&format!(
                    r#""what":"asked","millis":321,"result":"answered","sender":{},"question":"{text}","answer":"Chíp chíp!""#,
                    1 + number % 1_000
                ));
                self.says(r#""what":"reply_stored","text":"[rp aid=1 to=3-1] Chíp chíp!""#);
                if kind == 5 {
                    self.says(r#""what":"dead","step":"post","cause":"refused","error":"no such room","status":404"#);
                } else {
                    self.says(r#""what":"intent","consumer":"somebody""#);
                    self.says(&format!(
                        r#""what":"posted","reply_message_id":"{reply}","found":false"#
                    ));
                }
            }
        }
    }

    fn says(&mut self, what: &str) {
        let Self {
            id,
            room,
            message,
            at,
            ..
        } = self;
        let line = format!(
            r#"{{"v":1,"at":"{at}","id":"{id}","bot":"bot","room_id":{room},"message_id":"{message}",{what}}}"#
        );
        self.outcomes.push(line);
    }
}

async fn fill_file(location: &str, path: &Path, count: u64) -> anyhow::Result<Filled> {
    // Its tables.
    let queue = stage::open(location, "chickwork").await?;
    queue.close(Duration::from_secs(10)).await;
    drop(queue);
    let mut file = rusqlite::Connection::open(path)?;
    file.busy_timeout(Duration::from_secs(30))?;
    file.pragma_update(None, "synchronous", "OFF")?;
    let begin = Timestamp::now() - SPREAD;
    let mut filled = Filled::default();
    let mut number = 0;
    while number < count {
        let transaction = file.transaction()?;
        let mut event = transaction.prepare(
            "INSERT INTO archive (id, bot, event_type, room_id, message_id, received_at, body)
             VALUES (?1, 'bot', 'mention_to_me', ?2, ?3, ?4, ?5)",
        )?;
        let mut outcome =
            transaction.prepare("INSERT INTO outcomes (at, id, outcome) VALUES (?1, ?2, ?3)")?;
        for _ in 0..TRANSACTION.min(count - number) {
            let micros = SPREAD.as_micros() as u64 / count * number;
            let made = Made::event(number, begin + Duration::from_micros(micros));
            let (id, at) = (made.id.to_string(), made.at.as_millisecond());
            event.execute(rusqlite::params![
                id,
                i64::try_from(made.room)?,
                made.message,
                at,
                made.body.as_bytes()
            ])?;
            for line in &made.outcomes {
                outcome.execute(rusqlite::params![at, id, line])?;
            }
            filled.take_note(number, count, &made);
            number += 1;
        }
        drop((event, outcome));
        transaction.commit()?;
    }
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(filled)
}

async fn fill_broker(url: &str, namespace: &str, count: u64) -> anyhow::Result<Filled> {
    // Its objects.
    let queue = stage::open(url, namespace).await?;
    queue.close(Duration::from_secs(10)).await;
    let connection =
        lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
    let parts = (0..CHANNELS).map(|part| fill_part(&connection, namespace, count, part));
    let mut filled = Filled::default();
    for part in try_join_all(parts).await? {
        filled.middle = filled.middle.or(part.middle);
        filled.last = filled.last.or(part.last);
    }
    // Everything is confirmed; channels that are still being closed may make an error of this.
    let _ = connection.close(200, "filled".into()).await;
    Ok(filled)
}

/// Every [`CHANNELS`]th event.
async fn fill_part(
    connection: &lapin::Connection,
    namespace: &str,
    count: u64,
    part: u64,
) -> anyhow::Result<Filled> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let (events, outcomes) = (
        format!("{namespace}.events"),
        format!("{namespace}.outcomes"),
    );
    let mut filled = Filled::default();
    let mut number = part;
    let slow_from = count.saturating_sub(SLOW);
    while number < count {
        let mut confirms = Vec::new();
        for _ in 0..WINDOW {
            if number >= count {
                break;
            }
            if number >= slow_from {
                // This is their pace, not a wait for anything.
                tokio::time::sleep(SLOWLY * u32::try_from(CHANNELS)?).await;
            }
            let made = Made::event(number, Timestamp::now());
            let key = format!("bot.mention_to_me.{}", made.room);
            let published = channel.basic_publish(
                events.as_str().into(),
                key.as_str().into(),
                BasicPublishOptions::default(),
                made.body.as_bytes(),
                properties(&made),
            );
            confirms.push(published.await?);
            for line in &made.outcomes {
                let told = lapin::BasicProperties::default()
                    .with_message_id(made.id.to_string().into())
                    .with_type("outcome".into())
                    .with_timestamp(made.at.as_second().unsigned_abs())
                    .with_content_type("application/json".into())
                    .with_app_id("chickwork".into())
                    .with_delivery_mode(2);
                let published = channel.basic_publish(
                    outcomes.as_str().into(),
                    "bot".into(),
                    BasicPublishOptions::default(),
                    line.as_bytes(),
                    told,
                );
                confirms.push(published.await?);
            }
            filled.take_note(number, count, &made);
            number += CHANNELS;
        }
        try_join_all(confirms).await?;
    }
    Ok(filled)
}

fn properties(made: &Made) -> lapin::BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("bot", "bot".to_owned()),
        ("event-type", "mention_to_me".to_owned()),
        ("received-at", made.at.to_string()),
        ("room-id", made.room.to_string()),
        ("message-id", made.message.clone()),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    for (name, value) in [("version", 1), ("replay", 0), ("attempt", 0), ("deaths", 0)] {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    lapin::BasicProperties::default()
        .with_message_id(made.id.to_string().into())
        .with_type("mention_to_me".into())
        .with_timestamp(made.at.as_second().unsigned_abs())
        .with_content_type("application/json".into())
        .with_app_id("chickwork".into())
        .with_delivery_mode(2)
        .with_headers(headers)
}

/// Something that runs and says so, as in every deployment: that nobody is there takes a while to see.
#[derive(Debug)]
struct Ingress(Child);

impl Ingress {
    fn start(location: &str, namespace: &str, folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(beside("chickwork")?);
        command
            .arg("ingress")
            .env("CHICKWORK_QUEUE", location)
            .env("CHICKWORK_NAMESPACE", namespace)
            .env("CHICKWORK_SPOOL", folder.join("spool.db"))
            .env("CHICKWORK_LISTEN", "127.0.0.1:0")
            .env("CHICKWORK_ADMIN_LISTEN", "127.0.0.1:0")
            .env("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN)
            .env("RUST_LOG", "warn")
            .process_group(0);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(location: &str, namespace: &str, filled: &Filled, last: &str) -> anyhow::Result<()> {
    let (middle, end) = (
        filled.middle.as_ref().context("there is a middle")?,
        filled.last.as_ref().context("there is an end")?,
    );
    let look = |words: &[&str]| look(location, namespace, words);
    let (middle_id, end_id) = (middle.id.to_string(), end.id.to_string());
    look(&["events", "list", "--json", "--limit", "50"])?;
    look(&[
        "events", "list", "--json", "--since", last, "--room", "1007",
    ])?;
    look(&[
        "events",
        "list",
        "--json",
        "--since",
        last,
        "--text",
        "gà con, 7",
    ])?;
    look(&[
        "events", "list", "--json", "--since", last, "--state", "dead",
    ])?;
    look(&[
        "events", "list", "--json", "--limit", "50", "--state", "dead",
    ])?;
    look(&["events", "show", &middle_id])?;
    look(&["events", "show", &end_id])?;
    look(&["events", "show", &middle.room.to_string(), &middle.message])?;
    look(&["events", "export"])?;
    look(&["audit", "--since", "25h", "--json"])?;
    Ok(())
}

/// Runs a command to its end.
#[expect(unsafe_code, reason = "std does not tell what a child has used")]
fn look(location: &str, namespace: &str, words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(beside("chickwork")?);
    command
        .args(words)
        .env("CHICKWORK_QUEUE", location)
        .env("CHICKWORK_NAMESPACE", namespace)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let mut lines = 0;
    let output = child.stdout.take().context("its output was asked for")?;
    for line in std::io::BufRead::lines(std::io::BufReader::new(output)) {
        line?;
        lines += 1;
    }
    let took = begun.elapsed();
    let process = i32::try_from(child.id())?;
    let (mut status, mut used) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both are places for what is told, and the process is a child that nobody has waited for.
    let waited = unsafe { libc::wait4(process, &raw mut status, 0, used.as_mut_ptr()) };
    ensure!(waited == process, "the command could not be waited for");
    // SAFETY: zeroes are a valid value, and the call has succeeded.
    let used = unsafe { used.assume_init() };
    say(format_args!(
        "  {:<60} {:>7.2} s  {:>5} MiB  {lines} lines, exit {}",
        words.join(" "),
        took.as_secs_f64(),
        used.ru_maxrss / 1024,
        libc::WEXITSTATUS(status)
    ));
    Ok(())
}

fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing: build the workspace",
        path.display()
    );
    Ok(path)
}
