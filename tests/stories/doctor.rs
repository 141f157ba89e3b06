//! What `chickwork doctor` says: nothing is wrong where nothing is; else what, and what to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use chickwork_queue::Stored;
use chickwork_queue::event::Event;
use chickwork_queue::spool::{Spool, SpoolSettings};
use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN, Sandbox, town};
use chickwork_tests::bot::Plan;
use chickwork_tests::process::{Environment, chickwork, choose_crypto, free_port};
use chickwork_tests::said::{Said, run, text};
use chickwork_tests::stage::{self, Kind, SOON, Stage, an_event, until};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

/// An API token as Chatwork's look.
const AN_API_TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// A webhook token as Chatwork's look.
const A_WEBHOOK_TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A bot that is set up and does not run.
struct Patient {
    sandbox: Sandbox,
    stage: Stage,
    environment: Environment,
    folder: TempDir,
}

/// What the doctor said.
struct Visit {
    exit: Option<i32>,
    said: String,
}

impl Patient {
    async fn on(kind: Kind) -> anyhow::Result<Self> {
        choose_crypto();
        let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
        let sandbox = Sandbox::start(chickwork_sandbox::Settings::demo()).await?;
        let listen = |port| format!("127.0.0.1:{port}");
        let environment = [
            ("CHICKWORK_QUEUE", stage.location()),
            ("CHICKWORK_LISTEN", listen(free_port()?)),
            ("CHICKWORK_ADMIN_LISTEN", listen(free_port()?)),
            ("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN.to_owned()),
            ("CHATWORK_API_TOKEN", DEMO_API_TOKEN.to_owned()),
            ("CHATWORK_API_URL", sandbox.chatwork_url()),
            ("SIMSIMI_API_KEY", DEMO_API_KEY.to_owned()),
            ("SIMSIMI_API_URL", sandbox.simsimi_url()),
        ];
        let mut environment: Environment = environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if kind == Kind::Rabbitmq {
            let namespace = stage.namespace().to_owned();
            environment.insert("CHICKWORK_NAMESPACE".to_owned(), namespace);
        }
        Ok(Self {
            sandbox,
            stage,
            environment,
            folder: tempfile::tempdir()?,
        })
    }

    /// Calls the doctor; with these settings and flags besides.
    async fn visit(&self, changes: &[(&str, &str)], flags: &[&str]) -> anyhow::Result<Visit> {
        let mut command = chickwork("doctor")?;
        command
            .current_dir(&self.folder)
            .envs(&self.environment)
            .envs(changes.iter().copied())
            .args(flags);
        for (name, value) in changes {
            if value.is_empty() {
                command.env_remove(name);
            }
        }
        Visit::of(run(command).await?)
    }
}

impl Visit {
    fn of(said: Said) -> anyhow::Result<Self> {
        for secret in [
            DEMO_WEBHOOK_TOKEN,
            DEMO_API_TOKEN,
            DEMO_API_KEY,
            AN_API_TOKEN,
            A_WEBHOOK_TOKEN,
            "hush",
        ] {
            ensure!(
                !said.out.contains(secret) && !said.err.contains(secret),
                "a secret is told: {said:?}"
            );
        }
        ensure!(said.err.is_empty(), "{said:?}");
        Ok(Self {
            exit: said.code,
            said: said.out,
        })
    }

    /// Sees that one thing is wrong in these words, with this cure. The visit is one in JSON.
    fn wrong(&self, says: &str, cure: &str) -> anyhow::Result<()> {
        let findings = self.said.lines().map(serde_json::from_str::<Value>);
        let findings = findings.collect::<Result<Vec<_>, _>>()?;
        let it_is = findings.iter().any(|finding| {
            finding["grade"] == "wrong"
                && text(finding, "says").contains(says)
                && text(finding, "cure").contains(cure)
        });
        ensure!(it_is, "{says:?} with {cure:?} is not in:\n{}", self.said);
        Ok(())
    }

    fn expect(&self, exit: i32, words: &[&str]) -> anyhow::Result<()> {
        let missing: Vec<_> = words
            .iter()
            .filter(|words| !self.said.contains(**words))
            .collect();
        ensure!(
            self.exit == Some(exit) && missing.is_empty(),
            "exit {:?} for {exit}, and {missing:?} not in:\n{}",
            self.exit,
            self.said
        );
        Ok(())
    }
}

fn is_empty(folder: &Path) -> anyhow::Result<bool> {
    Ok(std::fs::read_dir(folder)?.next().is_none())
}

/// Where everything is right, it says so, spends nothing and leaves nothing.
pub(super) async fn the_doctor_finds_nothing_where_nothing_is_wrong(
    kind: Kind,
) -> anyhow::Result<()> {
    let patient = Patient::on(kind).await?;
    for role in ["serve", "ingress", "worker"] {
        let visit = patient.visit(&[], &["--role", role]).await?;
        visit.expect(0, &["Nothing is wrong"])?;
    }
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(
        0,
        &[
            "The API token is that of Chickwork, account 1000001",
            "clock: It agrees with Chatwork's",
            "is free to listen on",
            "SimSimi was not asked",
        ],
    )?;
    assert_eq!(patient.sandbox.ledger().asked.len(), 0);
    let visit = patient.visit(&[], &["--ask"]).await?;
    visit.expect(0, &["It answers in vn"])?;
    assert_eq!(patient.sandbox.ledger().asked.len(), 1);

    ensure!(is_empty(patient.folder.path())?, "something was created");
    match patient.stage.location().strip_prefix("sqlite:") {
        Some(file) => ensure!(!Path::new(file).exists(), "a queue was created"),
        None => {
            let channel = patient.stage.operator().await?.create_channel().await?;
            let ask = format!("{}.ask", patient.stage.namespace());
            let passive = lapin::options::QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let declared = channel.queue_declare(ask.into(), passive, Default::default());
            ensure!(declared.await.is_err(), "a queue was created");
        }
    }
    Ok(())
}

/// A running bot may be looked at as well.
pub(super) async fn the_doctor_visits_a_bot_at_work(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let mut command = chickwork("doctor")?;
    command.envs(bot.front.environment()).args([
        "--role",
        if bot.workers.is_empty() {
            "serve"
        } else {
            "ingress"
        },
    ]);
    Visit::of(run(command).await?)?.expect(
        0,
        &[
            "ok    CHICKWORK_LISTEN: Chickwork is listening on",
            "ok    CHICKWORK_ADMIN_LISTEN: Chickwork is listening on",
            "Nothing is wrong",
        ],
    )?;
    // Another process cannot have its ports.
    let environment = bot.front.environment();
    let webhooks = &environment["CHICKWORK_LISTEN"];
    let mut command = chickwork("doctor")?;
    command
        .envs(environment)
        .env("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN)
        .env("CHICKWORK_LISTEN", bot.front.admin_address())
        .env("CHICKWORK_ADMIN_LISTEN", webhooks)
        .args(["--role", "ingress", "--json"]);
    let visit = Visit::of(run(command).await?)?;
    visit.wrong("has its admin port on", "another port")?;
    visit.wrong("takes webhooks on", "another port")?;
    if let Some(worker) = bot.workers.first() {
        let mut command = chickwork("doctor")?;
        command
            .envs(worker.environment())
            .args(["--role", "worker"]);
        let note =
            "note  CHICKWORK_ADMIN_LISTEN: A running `chickwork worker` has its admin port on";
        Visit::of(run(command).await?)?.expect(0, &[note])?;
    }
    if kind == Kind::Rabbitmq {
        let mut command = chickwork("doctor")?;
        command
            .envs(bot.front.environment())
            .args(["--role", "ingress", "--strict"]);
        let spool = &bot.front.environment()["CHICKWORK_SPOOL"];
        let process = format!("{spool} is in order; process {}", bot.front.id()?);
        let visit = Visit::of(run(command).await?)?;
        for words in [&process, " uses it, and nothing waits in it."] {
            ensure!(visit.said.contains(words), "{words} in:\n{}", visit.said);
        }
    }
    let message = bot.mention("echo still well").await?;
    assert_eq!(bot.answer(&message).await?, "still well");
    bot.end().await
}

/// A mistake: the settings, the flags, what the doctor says, and the cure.
struct Row {
    changes: Vec<(&'static str, String)>,
    flags: &'static [&'static str],
    says: &'static str,
    cure: &'static str,
}

fn row(changes: &[(&'static str, &str)], says: &'static str, cure: &'static str) -> Row {
    Row {
        changes: changes
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        flags: &[],
        says,
        cure,
    }
}

fn asking(row: Row) -> Row {
    Row {
        flags: &["--ask"],
        ..row
    }
}

async fn all_wrong(patient: &Patient, rows: Vec<Row>) -> anyhow::Result<()> {
    for Row {
        changes,
        flags,
        says,
        cure,
    } in rows
    {
        let changes: Vec<_> = changes
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let visit = patient
            .visit(&changes, &[&["--json"], flags].concat())
            .await?;
        let told = visit.expect(1, &[]).and_then(|()| visit.wrong(says, cure));
        told.with_context(|| format!("{:?}", changes.first()))?;
    }
    Ok(())
}

/// Every mistake in the settings and every trouble with a service has a sentence and a cure.
pub(super) async fn what_is_wrong_is_told_with_its_cure() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Sqlite).await?;
    let no_queue = patient.folder.path().join("notes.txt");
    std::fs::write(
        &no_queue,
        "this is no queue, but somebody's notes\n".repeat(100),
    )?;
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let elsewhere = format!("http://{}/v3", patient.sandbox.address());
    let rows = vec![
        row(
            &[("CHATWORK_WEBHOOK_TOKEN", "hush, no token")],
            "is not standard Base64",
            "from the edit screen of the webhook",
        ),
        row(
            &[("CHATWORK_API_TOKEN", "")],
            "CHATWORK_API_TOKEN is not set",
            "copy the API token from its service integration",
        ),
        row(
            &[("CHATWORK_API_TOKEN", AN_API_TOKEN)],
            "Chatwork answered 401: Invalid API token",
            "copy the API token again",
        ),
        row(
            &[
                ("CHATWORK_API_TOKEN", A_WEBHOOK_TOKEN),
                ("CHATWORK_WEBHOOK_TOKEN", AN_API_TOKEN),
            ],
            "CHATWORK_API_TOKEN looks like the token of a webhook",
            "Were the two swapped?",
        ),
        row(
            &[
                ("CHATWORK_API_TOKEN", AN_API_TOKEN),
                ("SIMSIMI_API_KEY", AN_API_TOKEN),
            ],
            "CHATWORK_API_TOKEN is the same as SIMSIMI_API_KEY",
            "one was pasted where the other belongs",
        ),
        row(
            &[("SIMSIMI_LANG", "vi")],
            "did you mean `vn`?",
            "Vietnamese is vn",
        ),
        row(
            &[("CHICKWORK_MAX_AGE", "60")],
            "did you mean `60s`?",
            "unset it for its default",
        ),
        row(
            &[("CHATWORK_API_URL", &nobody)],
            "Chatwork is not reachable",
            "HTTPS_PROXY",
        ),
        row(
            &[("CHATWORK_API_URL", &elsewhere)],
            "Chatwork answered 404",
            "https://api.chatwork.com/v2",
        ),
        row(
            &[
                ("SIMSIMI_API_KEY", ""),
                ("SIMSIMI_API_KEY_FILE", "/nowhere/key"),
            ],
            "SIMSIMI_API_KEY_FILE=/nowhere/key: cannot be read",
            "Write the value into that file",
        ),
        row(
            &[("SIMSIMI_API_KEY_FILE", "/nowhere/key")],
            "SIMSIMI_API_KEY and SIMSIMI_API_KEY_FILE are both set",
            "Unset one of the two",
        ),
        row(
            &[
                ("CHICKWORK_LISTEN", "127.0.0.1:7070"),
                ("CHICKWORK_ADMIN_LISTEN", "0.0.0.0:7070"),
            ],
            "both want port 7070",
            "another port",
        ),
        row(
            &[("CHICKWORK_LISTEN", "192.0.2.1:7070")],
            "192.0.2.1:7070 is not an address of this machine",
            "0.0.0.0:7070",
        ),
        row(
            &[("CHICKWORK_QUEUE", &format!("sqlite:{}", no_queue.display()))],
            "notes.txt is not a Chickwork queue",
            "Move it away",
        ),
        asking(row(
            &[("SIMSIMI_API_KEY", "hush")],
            "SimSimi does not accept the key",
            "Copy the key of your project",
        )),
        asking(row(
            &[("SIMSIMI_API_URL", &nobody)],
            "SimSimi is not reachable",
            "firewall",
        )),
    ];
    all_wrong(&patient, rows).await?;
    assert_eq!(
        std::fs::read_to_string(&no_queue)?.lines().next(),
        Some("this is no queue, but somebody's notes")
    );

    let quota = r#"{"status":429,"statusMessage":"Limit Exceeded"}"#;
    patient
        .sandbox
        .break_down(Fault::nothing(Service::Simsimi).with_body(quota));
    let row = row(&[], "SimSimi's quota is used up", "Buy calls");
    all_wrong(&patient, vec![asking(row)]).await
}

/// A clock that is far off makes every event too old, or none.
pub(super) async fn a_wrong_clock_is_found_by_chatworks() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Sqlite).await?;
    let at = |ahead: i64| {
        let theirs = Timestamp::now() + SignedDuration::from_secs(ahead);
        let date = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Fault::nothing(Service::Chatwork)
            .on(Call::Me)
            .with_header("date", date)
    };
    patient.sandbox.break_down(at(3600));
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(1, &["This machine's clock is", "s slow", "NTP"])?;
    patient.sandbox.break_down(at(-60));
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(0, &["note", "s fast, by Chatwork's", "NTP"])
}

/// A broker that cannot be used as it should.
pub(super) async fn what_is_wrong_with_the_broker_is_told_with_its_cure() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Rabbitmq).await?;
    let url = patient.stage.location();
    let address = url
        .rsplit_once('@')
        .and_then(|(_, rest)| rest.split_once('/'))
        .map(|(address, _)| address.to_owned())
        .context("the node has an address")?;
    let nobody = format!("amqp://guest:hush@127.0.0.1:{}/%2f", free_port()?);
    let rows = vec![
        row(
            &[("CHICKWORK_QUEUE", &nobody)],
            "cannot be reached",
            "whether host, port",
        ),
        row(
            &[(
                "CHICKWORK_QUEUE",
                &format!("amqp://guest:hush@{address}/%2f"),
            )],
            "It refuses the user or the password",
            "Correct them in CHICKWORK_QUEUE",
        ),
        row(
            &[(
                "CHICKWORK_QUEUE",
                &format!("amqp://guest:guest@{}/%2f", patient.sandbox.address()),
            )],
            "what answers there does not speak AMQP",
            "whether host, port",
        ),
        row(
            &[(
                "CHICKWORK_QUEUE",
                &format!("amqp://guest:guest@{address}/nowhere"),
            )],
            "The virtual host does not exist",
            "rabbitmqctl add_vhost",
        ),
    ];
    all_wrong(&patient, rows).await?;

    // Somebody has made one of the queues for something else.
    let connection = patient.stage.operator().await?;
    let channel = connection.create_channel().await?;
    let ask = format!("{}.ask", patient.stage.namespace());
    let durable = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(ask.as_str().into(), durable, Default::default())
        .await?;
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(
        1,
        &["WRONG", &ask, "It exists with other arguments", "delete it"],
    )?;
    channel
        .queue_delete(ask.as_str().into(), Default::default())
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// How much the spools of these stories may hold: the least that is possible.
const SPOOL_MAX_BYTES: u64 = 1024 * 1024;

/// A spool with these events, as an ingress leaves it that has found no broker.
async fn a_spool(path: PathBuf, events: &[Event]) -> anyhow::Result<Spool> {
    let nowhere = format!("amqp://guest:hush@127.0.0.1:{}/%2f", free_port()?);
    let queue = chickwork_queue::Queue::open(stage::settings(&nowhere, "spools")?).await?;
    let max_bytes = SPOOL_MAX_BYTES;
    let spool = Spool::open(SpoolSettings { path, max_bytes }, &queue).await?;
    let publisher = queue.publisher_with(&spool);
    for event in events {
        assert_eq!(publisher.publish(event).await?, Stored::Spool);
    }
    Ok(spool)
}

/// Stops it, and waits for the end of what that leaves to others after a while: its file is closed.
async fn stopped(spool: Spool) -> anyhow::Result<()> {
    spool.stop(std::future::ready(())).await;
    let path = PathBuf::from(spool.describe());
    drop(spool);
    closed(&path).await
}

/// Waits until nobody has this file of SQLite's open: the last one removes what was kept beside it.
async fn closed(path: &Path) -> anyhow::Result<()> {
    until(SOON, "the file is closed", async || {
        let beside = ["-wal", "-shm"].map(|ending| format!("{}{ending}", path.display()));
        let is_closed = !beside.iter().any(|beside| Path::new(beside).exists());
        Ok(is_closed.then_some(()))
    })
    .await
}

/// The files in a folder, with what is in them.
fn files(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.insert(entry.path(), std::fs::read(entry.path())?);
        }
    }
    Ok(files)
}

/// A spool that cannot be used, or that an ingress would set aside; nothing is done to it.
pub(super) async fn what_is_wrong_with_the_spool_is_told_with_its_cure() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Rabbitmq).await?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes);
    std::fs::create_dir(path("folder"))?;
    write("notes.txt", "somebody's notes\n".repeat(100).as_bytes())?;
    let queue = format!("sqlite:{}", path("queue.db").display());
    let queue = stage::open(&queue, "-").await?;
    queue.close(SOON).await;
    drop(queue);
    closed(&path("queue.db")).await?;
    let event = an_event(1);
    let spool = a_spool(path("good.db"), std::slice::from_ref(&event)).await?;
    stopped(spool).await?;
    let good = std::fs::read(path("good.db"))?;
    // SQLite keeps the version of a file in these bytes.
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    write("newer.db", &newer)?;
    let mut damaged = good;
    for page in damaged.chunks_mut(4096).skip(1) {
        page[..100].fill(0xa5);
    }
    write("damaged.db", &damaged)?;
    let before = files(folder.path())?;

    let spool_row = |name: &str, says, cure| {
        row(
            &[("CHICKWORK_SPOOL", &path(name).display().to_string())],
            says,
            cure,
        )
    };
    let rows = vec![
        spool_row("folder", "is no file, but a folder", "Name a file"),
        spool_row("nowhere/spool.db", "cannot be there", "Create the folder"),
        spool_row(
            "notes.txt",
            "is not a Chickwork file; an ingress would set it aside",
            "Name another file in CHICKWORK_SPOOL",
        ),
        spool_row(
            "queue.db",
            "is a queue in its own right",
            "Name another file in CHICKWORK_SPOOL",
        ),
        spool_row(
            "newer.db",
            "has version 2",
            "an ingress of the newer release",
        ),
        spool_row("damaged.db", "is damaged", "brings there what can be read"),
        row(
            &[("CHICKWORK_SPOOL_MAX_BYTES", "1000")],
            "CHICKWORK_SPOOL_MAX_BYTES=1000",
            "unset it for its default",
        ),
        row(
            &[(
                "CHICKWORK_QUEUE",
                &format!("sqlite:{}", path("good.db").display()),
            )],
            "is no queue, but the spool of an ingress, with 1 event for a broker",
            "Name another file in CHICKWORK_QUEUE",
        ),
    ];
    all_wrong(&patient, rows).await?;
    ensure!(files(folder.path())? == before, "something was changed");
    Ok(())
}

/// What waits in a spool is told, with who is to bring it to the broker.
pub(super) async fn what_waits_in_a_spool_is_a_note() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Rabbitmq).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("spool.db");
    let named = path.display().to_string();
    let max_bytes = SPOOL_MAX_BYTES.to_string();
    let settings = [
        ("CHICKWORK_SPOOL", named.as_str()),
        ("CHICKWORK_SPOOL_MAX_BYTES", &max_bytes),
    ];
    let visit = async || patient.visit(&settings, &["--role", "ingress"]).await;
    let none_yet = format!("ok    spool: There is none yet; {named} will be created.");
    visit().await?.expect(0, &[&none_yet])?;

    let spool = a_spool(path.clone(), &[an_event(1), an_event(2)]).await?;
    let by_us = format!("and process {} since ", std::process::id());
    visit().await?.expect(
        0,
        &[
            "note  spool: 2 events wait in ",
            &by_us,
            "They go to the broker by themselves",
        ],
    )?;
    stopped(spool).await?;
    let before = files(folder.path())?;
    visit().await?.expect(
        0,
        &[
            "note  spool: 2 events wait in ",
            "and no process uses it just now",
            "Start an ingress with this CHICKWORK_SPOOL",
        ],
    )?;
    ensure!(files(folder.path())? == before, "something was changed");

    let large = Event {
        body: Bytes::from(vec![b' '; 850_000]),
        ..an_event(3)
    };
    let spool = a_spool(path.clone(), &[large]).await?;
    visit().await?.expect(
        0,
        &[
            "note  spool: 3 events wait in ",
            "large webhooks may be refused already",
        ],
    )?;
    stopped(spool).await?;

    // What an ingress has set aside waits for a person, who does something else about each kind.
    let good = std::fs::read(&path)?;
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let mut damaged = good;
    for page in damaged.chunks_mut(4096).skip(1) {
        page[..100].fill(0xa5);
    }
    let foreign = "this is no spool any more\n".repeat(100).into_bytes();
    for unusable in [newer, damaged, foreign] {
        std::fs::write(&path, unusable)?;
        let spool = a_spool(path.clone(), &[]).await?;
        stopped(spool).await?;
    }
    visit().await?.expect(
        0,
        &[
            "nothing waits in it",
            "note  spool: Set aside in ",
            "spool.db.set-aside-",
            "A newer release has made it, and its events have not reached the broker",
            // Whether its rescue has ended by now is for the disk to say.
            "It is damaged",
            "It is not a Chickwork file",
        ],
    )
}

/// What works and somebody should know does not fail, unless asked for.
pub(super) async fn what_somebody_should_know_is_a_note() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Sqlite).await?;
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(0, &["may read but not write", "Thông báo お知らせ"])?;
    assert!(!visit.said.contains("contact requests"), "{}", visit.said);

    patient.sandbox.request_contact(town::HANA);
    let unknown = [("CHICKWORK_CONCURENCY", "3")];
    let visit = patient.visit(&unknown, &[]).await?;
    visit.expect(
        0,
        &[
            "One person waits to be the bot's contact",
            "佐藤 花",
            "did you mean CHICKWORK_CONCURRENCY?",
            "Nothing is wrong; there are",
        ],
    )?;
    patient
        .visit(&[], &["--strict"])
        .await?
        .expect(1, &["note"])?;

    patient.sandbox.break_down(
        Fault::nothing(Service::Chatwork)
            .times(3)
            .with_header("x-ratelimit-remaining", 7),
    );
    let visit = patient.visit(&[], &[]).await?;
    visit.expect(0, &["Only 7 of 300 calls are left"])
}

/// One object a line, for the machine that starts containers.
pub(super) async fn the_doctor_speaks_json() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Sqlite).await?;
    let visit = patient
        .visit(&[("SIMSIMI_LANG", "vi")], &["--json"])
        .await?;
    assert_eq!(visit.exit, Some(1));
    let mut wrong = Vec::new();
    for line in visit.said.lines() {
        let finding: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let fields: Vec<&String> = finding.as_object().context("an object")?.keys().collect();
        assert_eq!(fields, ["cure", "grade", "says", "subject"]);
        let grade = text(&finding, "grade").to_owned();
        ensure!(["ok", "note", "wrong"].contains(&grade.as_str()), "{line}");
        if grade == "wrong" {
            wrong.push(finding["subject"].clone());
        }
    }
    assert_eq!(wrong, ["SIMSIMI_LANG"]);
    Ok(())
}

/// The preflight of a container that is given one role's settings only.
pub(super) async fn a_role_is_asked_for_its_own_settings_only() -> anyhow::Result<()> {
    let patient = Patient::on(Kind::Sqlite).await?;
    let of_others = [
        ("CHATWORK_API_TOKEN", ""),
        ("SIMSIMI_API_KEY", ""),
        ("SIMSIMI_LANG", "vi"),
    ];
    let visit = patient.visit(&of_others, &["--role", "ingress"]).await?;
    visit.expect(0, &["Nothing is wrong"])?;
    assert!(!visit.said.contains("SimSimi"), "{}", visit.said);
    assert_eq!(patient.sandbox.ledger().calls.len(), 0);
    let of_ingress = [("CHATWORK_WEBHOOK_TOKEN", "")];
    let visit = patient.visit(&of_ingress, &["--role", "worker"]).await?;
    visit.expect(0, &["Nothing is wrong"])?;
    let visit = patient.visit(&of_ingress, &[]).await?;
    visit.expect(1, &["CHATWORK_WEBHOOK_TOKEN is not set"])?;

    let cook = run(chickwork("doctor")?.args(["--role", "cook"])).await?;
    assert_eq!(cook.code, Some(2));
    Ok(())
}
