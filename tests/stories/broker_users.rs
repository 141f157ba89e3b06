//! Brokers that somebody else manages: with what `chickwork topology` prints, the bot and its operator
//! work as users who may do what their role needs and nothing else.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::signature::Token;
use chickwork_queue::job::Cause;
use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::ledger::Ledger;
use chickwork_sandbox::{DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN, Say, webhook};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, mentioning};
use chickwork_tests::process::chickwork;
use chickwork_tests::said::{Said, run, typed};
use chickwork_tests::stage::{Kind, SOON, Stage, a_namespace, until, within};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;

/// How long a broker that was away may take until all is well again.
const BACK: Duration = Duration::from_secs(60);
/// How a broker says no.
const REFUSED: &str = "ACCESS_REFUSED";

/// The setting that gives a role's user its password, and the password.
fn password(role: &str) -> (String, String) {
    let name = format!("CHICKWORK_{}_BROKER_PASSWORD", role.to_uppercase());
    (name, format!("hush-{role}"))
}

/// What `chickwork topology` prints for this namespace, with all users.
async fn definitions(namespace: &str) -> anyhow::Result<String> {
    let mut command = chickwork("topology")?;
    command
        .env("CHICKWORK_NAMESPACE", namespace)
        .envs(["ingress", "worker", "operator"].map(password));
    let said = run(command).await?.succeeded()?;
    ensure!(!said.out.contains("hush"));
    Ok(said.out)
}

/// A stage whose node was given the definitions before its first start.
async fn defined() -> anyhow::Result<Stage> {
    let namespace = a_namespace();
    let definitions = definitions(&namespace).await?;
    tokio::task::block_in_place(|| Stage::defined(&namespace, &definitions))
}

/// A stage whose node was given them while it ran.
async fn imported() -> anyhow::Result<Stage> {
    let stage = tokio::task::block_in_place(|| Stage::alone(Kind::Rabbitmq))?;
    let definitions = definitions(stage.namespace()).await?;
    tokio::task::block_in_place(|| stage.node()?.import(&definitions))?;
    Ok(stage)
}

/// The broker's address for the user of a role.
fn address(stage: &Stage, role: &str) -> anyhow::Result<String> {
    let user = format!("{}-{role}", stage.namespace());
    Ok(stage.node()?.url_of(&user, &password(role).1))
}

/// A bot whose processes are those users, and create nothing; it does not run yet.
async fn bot_on(stage: Stage) -> anyhow::Result<Bot> {
    let addresses = (address(&stage, "ingress")?, address(&stage, "worker")?);
    let mut bot = Plan::on(Kind::Rabbitmq)?
        .staged(stage)
        .with("CHICKWORK_DECLARE", "passive")
        .prepare()
        .await?;
    bot.front.set("CHICKWORK_QUEUE", addresses.0);
    bot.worker().set("CHICKWORK_QUEUE", addresses.1);
    Ok(bot)
}

async fn started(mut bot: Bot) -> anyhow::Result<Bot> {
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    Ok(bot)
}

fn control(bot: &Bot, arguments: &[&str]) -> anyhow::Result<String> {
    tokio::task::block_in_place(|| bot.stage().node()?.control(arguments))
}

/// What a command says to the operator's user.
async fn operator(bot: &Bot, words: &[&str]) -> anyhow::Result<Said> {
    let (command, words) = words.split_first().context("no command")?;
    let mut command = typed(bot.stage(), command, words)?;
    command
        .env("CHICKWORK_QUEUE", address(bot.stage(), "operator")?)
        // For those that speak to the services as the bot.
        .env("CHATWORK_API_TOKEN", DEMO_API_TOKEN)
        .env("CHATWORK_API_URL", bot.sandbox.chatwork_url());
    let said = run(command).await?;
    ensure!(!said.err.contains(REFUSED), "{said:?}");
    Ok(said)
}

/// The same for one that succeeds and has nothing to complain about; its lines as JSON.
async fn operated(bot: &Bot, words: &[&str]) -> anyhow::Result<Vec<Value>> {
    let said = operator(bot, words).await?.succeeded();
    said.with_context(|| format!("{words:?}"))?.lines()
}

/// Chatwork sends a webhook with this body.
async fn deliver(bot: &Bot, body: &str) -> anyhow::Result<()> {
    let token = Token::parse(DEMO_WEBHOOK_TOKEN)?;
    let sent = webhook::send(&bot.webhook_url(), &token, body.to_owned().into()).await?;
    ensure!(sent.status == Some(200), "{sent:?}");
    Ok(())
}

/// Waits until an audit has seen so many events, and everything is explained.
async fn adds_up(bot: &Bot, received: u64) -> anyhow::Result<Value> {
    until(BACK, "all is received and explained", async || {
        let said = operator(bot, &["audit", "--json", "--wait", "0"]).await?;
        let sums = said.lines()?.into_iter().next().context("the sums")?;
        if sums["received"] == received && said.code == Some(0) {
            return Ok(Some(sums));
        }
        Ok(None)
    })
    .await
}

/// Nothing was refused to the processes of the bot.
fn nothing_was_refused(bot: &Bot) -> anyhow::Result<()> {
    for server in bot.servers() {
        let log = server.log();
        ensure!(!log.contains(REFUSED), "{log}");
    }
    Ok(())
}

/// A node that finds definitions at its first start has their users and no other; the bot does all
/// its work as these, through a restart of the broker, and whoever looks after it sees that.
pub(super) async fn a_bot_and_its_broker_need_nobody_but_the_users_of_the_roles()
-> anyhow::Result<()> {
    let bot = bot_on(defined().await?).await?;
    let namespace = bot.stage().namespace();
    let users = control(&bot, &["list_users"])?;
    for role in ["ingress", "worker", "operator"] {
        let user = format!("{namespace}-{role}");
        assert!(users.contains(&user), "{user} in {users}");
    }
    assert!(!users.contains("guest"), "{users}");
    let mut bot = started(bot).await?;

    let first = bot.mention("echo first").await?;
    assert_eq!(bot.answer(&first).await?, "first");
    // By way of the delay levels.
    for _ in 0..3 {
        bot.sandbox.break_down(Fault::status(Service::Simsimi, 500));
    }
    let second = bot.mention("echo second").await?;
    assert_eq!(bot.answer(&second).await?, "second");
    bot.sandbox
        .break_down(Fault::status(Service::Chatwork, 503).on(Call::Post));
    let third = bot.mention("echo third").await?;
    assert_eq!(bot.answer_within(BACK, &third).await?, "third");
    deliver(
        &bot,
        r#"{"webhook_setting_id":"1","webhook_event_type":"room_painted","webhook_event_time":1,"webhook_event":{"colour":"yellow"}}"#,
    )
    .await?;
    deliver(&bot, "no JSON").await?;

    tokio::task::block_in_place(|| bot.stage().node()?.stop())?;
    let fourth = bot.mention("echo fourth").await?;
    tokio::task::block_in_place(|| bot.stage().node()?.start_again())?;
    assert_eq!(bot.answer_within(BACK, &fourth).await?, "fourth");
    bot.posted(BACK, &fourth).await?;
    bot.ready().await?;

    let sums = adds_up(&bot, 6).await?;
    assert_eq!(
        (&sums["answered"], &sums["ignored"], &sums["dead"]),
        (&Value::from(4), &Value::from(1), &Value::from(1)),
        "{sums}"
    );
    until(SOON, "the status is that it works", async || {
        Ok((operated(&bot, &["status", "--json"]).await?[0]["works"] == true).then_some(()))
    })
    .await?;
    for (role, server) in [("ingress", &bot.front), ("worker", &bot.workers[0])] {
        let mut doctor = chickwork("doctor")?;
        doctor.envs(server.environment()).args(["--role", role]);
        let said = run(doctor).await?;
        assert_eq!(said.code, Some(0), "{said:?}");
        let words = "broker permissions: This user may";
        assert!(said.out.contains(words), "{said:?}");
    }
    nothing_was_refused(&bot)?;
    bot.end().await
}

/// The file stays as it is as long as nothing else changes, and a broker that is told to skips it then.
/// What has changed it imports, also after it was killed.
pub(super) async fn a_broker_imports_its_definitions_again_when_they_have_changed()
-> anyhow::Result<()> {
    let stage = defined().await?;
    let namespace = stage.namespace().to_owned();
    let file = stage.node()?.definitions();
    let write = async |worker: &str| {
        let mut command = chickwork("topology")?;
        command
            .env("CHICKWORK_NAMESPACE", &namespace)
            .envs(["ingress", "worker", "operator"].map(password))
            .env(password("worker").0, worker)
            .arg("--output")
            .arg(&file);
        anyhow::Ok(run(command).await?.succeeded()?.err)
    };
    let worker = format!("{namespace}-worker");
    let logs_in = |password: &str| {
        let arguments = ["authenticate_user", &worker, password];
        tokio::task::block_in_place(|| stage.node()?.control(&arguments))
    };
    let (_, first) = password("worker");
    logs_in(&first)?;

    let said = write(&first).await?;
    assert!(said.contains("is as it was"), "{said}");
    tokio::task::block_in_place(|| {
        let mut node = stage.node()?;
        // An import would undo this.
        node.control(&["change_password", &worker, "by-hand"])?;
        node.stop()?;
        node.start_again()
    })?;
    logs_in("by-hand")?;

    let said = write("hush-second").await?;
    assert!(!said.contains("is as it was"), "{said}");
    tokio::task::block_in_place(|| {
        let mut node = stage.node()?;
        node.kill()?;
        node.start_again()
    })?;
    logs_in("hush-second")?;
    Ok(())
}

/// A broker that ran before is given the users later. Its operator lists, shows, retries and drops dead
/// letters, and puts back what was taken out by hand.
pub(super) async fn an_operator_needs_nobody_but_the_operators_user() -> anyhow::Result<()> {
    let mut bot = started(bot_on(imported().await?).await?).await?;
    for _ in 0..2 {
        bot.sandbox
            .break_down(Fault::status(Service::Chatwork, 400).on(Call::Post));
    }
    let retried = bot.mention("echo retried").await?;
    bot.buried(BACK, &retried).await?;
    let dropped = bot.mention("echo dropped").await?;
    bot.buried(BACK, &dropped).await?;
    deliver(&bot, "no JSON").await?;

    let letters = until(SOON, "three letters are listed", async || {
        let letters = operated(&bot, &["dead", "list", "--json"]).await?;
        if letters.len() == 3 {
            return Ok(Some(letters));
        }
        Ok(None)
    })
    .await?;
    let id = |message: &str| {
        let mut fitting = letters
            .iter()
            .filter(|letter| letter["message_id"] == message);
        let id = fitting.next().and_then(|letter| letter["id"].as_str());
        id.map(str::to_owned).context("a letter of this message")
    };
    let malformed = |letter: &Value| letter["cause"] == Cause::Malformed.as_str();
    assert!(letters.iter().any(malformed), "{letters:?}");
    let shown = operated(&bot, &["dead", "show", &id(retried.as_str())?, "--json"]).await?;
    assert_eq!(shown[0]["cause"], Cause::Refused.as_str(), "{shown:?}");
    let retry = ["dead", "retry", &id(retried.as_str())?, "--yes"];
    let said = operator(&bot, &retry).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(bot.answer(&retried).await?, "retried");
    bot.posted(BACK, &retried).await?;
    let drop = ["dead", "drop", &id(dropped.as_str())?, "--yes"];
    let said = operator(&bot, &drop).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    let left = operated(&bot, &["dead", "list", "--json"]).await?;
    assert!(left.len() == 1 && malformed(&left[0]), "{left:?}");
    adds_up(&bot, 3).await?;

    bot.worker().kill().await?;
    let taken = bot.mention("echo taken out").await?;
    let channel = bot.stage().operator().await?.create_channel().await?;
    let ask = format!("{}.ask", bot.stage().namespace());
    until(
        SOON,
        "the broker has it back from the dead worker",
        async || {
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let look = channel.queue_declare(ask.as_str().into(), passive, FieldTable::default());
            let look = look.await?;
            Ok(((look.message_count(), look.consumer_count()) == (1, 0)).then_some(()))
        },
    )
    .await?;
    let purge = channel.queue_purge(ask.as_str().into(), QueuePurgeOptions::default());
    assert_eq!(purge.await?, 1);
    bot.worker().start()?;
    bot.ready().await?;
    until(BACK, "it is put back and answered", async || {
        let requeue = ["audit", "--wait", "0", "--requeue", "--yes"];
        operator(&bot, &requeue).await?;
        if bot.answers(&taken) > 0 {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await?;
    assert_eq!(bot.answer(&taken).await?, "taken out");
    bot.posted(BACK, &taken).await?;
    adds_up(&bot, 4).await?;
    nothing_was_refused(&bot)?;
    bot.end().await
}

/// What came in and what becomes of it again: each command of the kind, by the operator's user.
pub(super) async fn what_came_in_is_shown_replayed_recovered_and_forgotten_by_the_operators_user()
-> anyhow::Result<()> {
    let mut bot = started(bot_on(imported().await?).await?).await?;
    let answered = bot.mention("echo answered").await?;
    bot.posted(SOON, &answered).await?;
    bot.sandbox
        .break_down(Fault::status(Service::Chatwork, 400).on(Call::Post));
    let buried = bot.mention("echo buried").await?;
    bot.buried(BACK, &buried).await?;
    // The archive's copies are written some time after the events.
    let listed = until(SOON, "both are archived", async || {
        let listed = operated(&bot, &["events", "list", "--json"]).await?;
        Ok((listed.len() >= 2).then_some(listed))
    })
    .await?;
    assert_eq!(listed.len(), 2, "{listed:?}");
    let id = listed[0]["id"].as_str().context("an id")?.to_owned();
    operated(&bot, &["events", "show", &id, "--json"]).await?;
    assert_eq!(operated(&bot, &["events", "export"]).await?.len(), 2);

    // From the dead letters, and what was answered once more from the archive.
    for replay in [
        &["replay", "--from", "dead", "--all", "--yes"][..],
        &[
            "replay",
            "--state",
            "answered",
            "--message",
            answered.as_str(),
            "--again",
            "--yes",
        ],
    ] {
        let said = operator(&bot, replay).await?;
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    assert_eq!(bot.answer_within(BACK, &buried).await?, "buried");
    let twice = |ledger: &Ledger| ledger.answers_to(&answered).len() == 2;
    assert!(bot.sandbox.until(BACK, twice).await, "answered again");

    // Nobody hears of this one.
    bot.front.kill().await?;
    let text = mentioning("echo missed");
    let missed = bot.sandbox.say(Say::new(ROOM, SOMEBODY, text)).await;
    let said = operator(&bot, &["recover", "--since", "1h", "--yes"]).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    let missed = missed.message_id;
    assert_eq!(bot.answer_within(BACK, &missed).await?, "missed");
    bot.posted(BACK, &missed).await?;
    // It is archived as if it had come in.
    let listed = operated(&bot, &["events", "list", "--json"]).await?;
    assert_eq!(listed.len(), 3, "{listed:?}");

    let room = ROOM.to_string();
    let purge = ["events", "purge", "--room", &room, "--yes"];
    let said = operator(&bot, &purge).await?;
    assert_eq!(said.code, Some(1), "the streams remain: {said:?}");
    bot.front.start()?;
    bot.ready().await?;
    nothing_was_refused(&bot)?;
    bot.end().await
}

/// A user of the broker who tries things that are none of its business.
struct Intruder {
    connection: Connection,
}

impl Intruder {
    async fn of(stage: &Stage, role: &str) -> anyhow::Result<Self> {
        let address = address(stage, role)?;
        let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
        Ok(Self { connection })
    }

    /// Sees that the broker refuses this. On a channel of its own, as a refusal closes it.
    async fn is_refused<T>(
        &self,
        what: &str,
        request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> anyhow::Result<()> {
        let channel = self.connection.create_channel().await?;
        let Err(error) = within(SOON, what, request(&channel)).await? else {
            anyhow::bail!("this was allowed: {what}");
        };
        ensure!(error.to_string().contains(REFUSED), "{what}: {error}");
        Ok(())
    }

    async fn may_not_publish_to(&self, exchange: &str, key: &str) -> anyhow::Result<()> {
        let what = format!("a publish to {exchange:?} with {key:?}");
        self.is_refused(&what, async |channel| publish(channel, exchange, key).await)
            .await
    }

    async fn may_not_read(&self, queue: &str) -> anyhow::Result<()> {
        self.is_refused(&format!("a get from {queue}"), async |channel| {
            let options = BasicGetOptions::default();
            channel.basic_get(queue.into(), options).await.map(drop)
        })
        .await?;
        self.is_refused(&format!("a consumer of {queue}"), async |channel| {
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let arguments = FieldTable::default();
            let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments);
            consumer.await?.next().await.transpose().map(drop)
        })
        .await
    }

    async fn may_not_change(&self, queue: &str) -> anyhow::Result<()> {
        self.is_refused(&format!("to declare {queue}"), async |channel| {
            let options = QueueDeclareOptions::default();
            let arguments = FieldTable::default();
            let declared = channel.queue_declare(queue.into(), options, arguments);
            declared.await.map(drop)
        })
        .await?;
        self.is_refused(&format!("to delete {queue}"), async |channel| {
            let options = QueueDeleteOptions::default();
            channel.queue_delete(queue.into(), options).await.map(drop)
        })
        .await
    }
}

/// Publishes, and waits for what the broker says.
async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await?;
    let (exchange, key) = (exchange.into(), key.into());
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let published = channel.basic_publish(exchange, key, options, b"", properties);
    published.await?.await.map(drop)
}

/// Each user can do what its role needs, as the other stories see, and nothing else, neither here nor
/// under names that only look alike.
pub(super) async fn no_user_of_a_role_may_do_more_than_the_role_needs() -> anyhow::Result<()> {
    let stage = defined().await?;
    let namespace = stage.namespace();
    let object = |name: &str| format!("{namespace}.{name}");
    let definitions: Value = serde_json::from_str(&definitions(namespace).await?)?;
    let names = |kind: &str| -> Vec<String> {
        let list = definitions[kind].as_array().into_iter().flatten();
        let names = list.filter_map(|object| object["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let (queues, exchanges) = (names("queues"), names("exchanges"));
    assert!(queues.len() > 12 && exchanges.len() > 12);

    // What others call theirs.
    let look_alikes = [
        format!("{namespace}.in.2"),
        format!("x{namespace}.in"),
        format!("{namespace}-in"),
    ];
    let others = stage.operator().await?;
    let channel = others.create_channel().await?;
    for exchange in &look_alikes {
        let options = ExchangeDeclareOptions::default();
        let (kind, arguments) = (ExchangeKind::Fanout, FieldTable::default());
        channel
            .exchange_declare(exchange.as_str().into(), kind, options, arguments)
            .await?;
    }

    for (role, writes, reads) in [
        (
            "ingress",
            &["in", "events", "outcomes", "dead", "letters"][..],
            &[][..],
        ),
        (
            "worker",
            &["in", "post", "due", "delay", "outcomes", "dead", "letters"],
            &["ask", "post", "outcomes"],
        ),
        (
            "operator",
            &["in", "events", "due", "outcomes", "letters"],
            &["dead", "letters", "archive", "outcomes"],
        ),
    ] {
        let intruder = Intruder::of(&stage, role).await?;
        // `delay.3` and `post.bot` are one of several.
        let is_among = |names: &[&str], object: &str| {
            let name = object.rsplit_once(namespace).map(|(_, name)| name);
            let first = name.and_then(|name| name.split('.').nth(1));
            first.is_some_and(|first| names.contains(&first))
        };
        for exchange in exchanges.iter().filter(|name| !is_among(writes, name)) {
            intruder.may_not_publish_to(exchange, "ask").await?;
        }
        for exchange in &look_alikes {
            intruder.may_not_publish_to(exchange, "").await?;
        }
        // The default exchange leads to every queue.
        intruder.may_not_publish_to("", &object("ask")).await?;
        for queue in queues.iter().filter(|name| !is_among(reads, name)) {
            intruder.may_not_read(queue).await?;
        }
        for queue in queues.iter().chain([&object("new")]) {
            intruder.may_not_change(queue).await?;
        }
        let (in_, ask) = (object("in"), object("ask"));
        intruder
            .is_refused("to delete an exchange", async |channel| {
                let options = ExchangeDeleteOptions::default();
                channel.exchange_delete(in_.as_str().into(), options).await
            })
            .await?;
        intruder
            .is_refused("to bind a queue", async |channel| {
                let (queue, exchange) = (ask.as_str().into(), in_.as_str().into());
                let options = QueueBindOptions::default();
                let arguments = FieldTable::default();
                channel
                    .queue_bind(queue, exchange, "more".into(), options, arguments)
                    .await
            })
            .await?;
        intruder
            .connection
            .close(200, "it was tried".into())
            .await?;
    }
    others.close(200, "it was seen".into()).await?;
    Ok(())
}

/// Waits until a log says all this on one line.
async fn says(log: impl Fn() -> String, words: &[&str]) -> anyhow::Result<()> {
    let all = |line: &str| words.iter().all(|words| line.contains(words));
    let said = until(BACK, &format!("it says {words:?}"), async || {
        Ok(log().lines().any(all).then_some(()))
    })
    .await;
    said.with_context(log)
}

/// Who lacks a right is told which, for what, and what to do; nothing is lost meanwhile.
pub(super) async fn who_lacks_a_right_is_told_which() -> anyhow::Result<()> {
    let mut bot = bot_on(imported().await?).await?;
    let namespace = bot.stage().namespace().to_owned();
    let [ingress, worker] = ["ingress", "worker"].map(|role| format!("{namespace}-{role}"));
    let way_in = format!("'{namespace}.in'");
    let ask = format!("'{namespace}.ask'");
    control(&bot, &["set_permissions", &ingress, "^$", "^$", "^$"])?;
    let all = format!("^{namespace}\\.");
    control(&bot, &["set_permissions", &worker, "^$", &all, "outcomes$"])?;
    for server in bot.servers_mut() {
        server.start()?;
    }
    says(
        || bot.front.log(),
        &[
            &way_in,
            "the right to write to this exchange",
            "chickwork topology",
        ],
    )
    .await?;
    let front = bot.front.log();
    assert!(!front.contains("cannot be reached"), "{front}");
    says(
        || bot.workers[0].log(),
        &[&ask, "the right to read this queue", "chickwork topology"],
    )
    .await?;
    let mut doctor = chickwork("doctor")?;
    doctor
        .envs(bot.front.environment())
        .args(["--role", "ingress"]);
    let said = run(doctor).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in ["may not write", &way_in, "chickwork topology"] {
        assert!(said.out.contains(words), "{words} in {said:?}");
    }

    bot.front.ready().await?;
    let message = bot.mention("echo granted").await?;
    let definitions = definitions(&namespace).await?;
    tokio::task::block_in_place(|| bot.stage().node()?.import(&definitions))?;
    assert_eq!(bot.answer_within(BACK, &message).await?, "granted");

    bot.worker().kill().await?;
    control(&bot, &["change_password", &worker, "another"])?;
    bot.worker().start()?;
    says(
        || bot.workers[0].log(),
        &["correct the user and the password in CHICKWORK_QUEUE"],
    )
    .await?;
    bot.end().await
}
