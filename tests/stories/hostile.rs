//! What becomes of mentions when what comes from outside makes no sense: webhooks, messages that
//! somebody put into the broker by hand, answers of the two services, queue files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::RoomId;
use chickwork_chatwork::signature::Token;
use chickwork_queue::dead::{DeadLetter, Held};
use chickwork_queue::event::EventId;
use chickwork_queue::job::{Cause, Step};
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;
use chickwork_sandbox::fault::{Call, Fault, Service, Times};
use chickwork_sandbox::ledger::Called;
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::process::{Environment, Server, chickwork, free_port, http};
use chickwork_tests::said::{Said, run_within};
use chickwork_tests::stage::{Kind, SOON, until, within};
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use rusqlite::Connection;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// With what is tried again before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Webhooks that are signed and strange are kept and counted, once each, and the bot goes on.
pub(super) async fn strange_webhooks_are_counted_and_the_bot_goes_on(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let hook = a_hook("1", "hello").json();
    let hook = std::str::from_utf8(&hook)?;
    let with = |from: &str, to: &str| hook.replace(from, to).into_bytes();
    let malformed = [
        vec![b' '; 1024 * 1024],
        [b"[".repeat(10_000), b"]".repeat(10_000)].concat(),
        [
            b"{\"a\":".repeat(10_000),
            b"1".to_vec(),
            b"}".repeat(10_000),
        ]
        .concat(),
        with("\"room_id\":", "\"room_id\":1e30,\"no\":"),
        with(
            "\"message_id\":\"1\"",
            &format!("\"message_id\":\"{}\"", "1".repeat(10_000)),
        ),
        with("hello", "\\ud800"),
        [hook.as_bytes(), b"\xff"].concat(),
    ];
    let ignored = [with("mention_to_me", &"x".repeat(100_000))];
    // The sixty-four bits of a room are as good as any; the bot is just not in it.
    let stored = [
        with(
            &format!("\"room_id\":{ROOM}"),
            &format!("\"room_id\":{}", u64::MAX),
        ),
        with(
            "\"update_time\":0",
            &format!("\"update_time\":{}", i64::MAX),
        ),
    ];
    for body in malformed.iter().chain(&ignored).chain(&stored) {
        let signature = Token::parse(DEMO_WEBHOOK_TOKEN)?.sign(body);
        let post = http()?
            .post(bot.webhook_url())
            .header("x-chatworkwebhooksignature", signature)
            .body(body.clone());
        let answer = post.send().await?;
        ensure!(answer.status().as_u16() == 200, "{}", body.escape_ascii());
    }
    for (result, count) in [
        ("malformed", malformed.len()),
        ("ignored", ignored.len()),
        ("stored", stored.len()),
    ] {
        let series = format!("chickwork_webhooks_total{{result=\"{result}\"}}");
        assert_eq!(bot.front.figure(&series).await?, count as f64, "{result}");
    }
    let buried = until(SOON, "they are dead letters", async || {
        let found = Box::pin(dead_bodies(&bot)).await?;
        let is_found = |body| found.iter().any(|(_, found)| found == body);
        Ok(malformed.iter().all(is_found).then_some(found))
    });
    for (letter, _) in buried.await? {
        ensure!(
            letter.cause == Cause::Malformed || letter.cause == Cause::Refused,
            "{letter:?}"
        );
    }
    let message = bot.mention("echo still here").await?;
    assert_eq!(bot.answer(&message).await?, "still here");
    bot.end().await
}

/// All dead letters and their bytes.
async fn dead_bodies(bot: &Bot) -> anyhow::Result<Vec<(DeadLetter, Vec<u8>)>> {
    let letters = bot.queue().await?.dead_letters();
    let mut read = letters.read().await?;
    let mut bodies = Vec::new();
    while let Some(letter) = read.next().await? {
        let body = match letters.held(&letter).await?.context("nobody takes it")? {
            Held::Event(event) => event.body.to_vec(),
            Held::Unreadable(body) => body,
            Held::Reply(reply) => reply.text.into_bytes(),
        };
        bodies.push((letter, body));
    }
    Ok(bodies)
}

/// Whoever floods the ingress with large heads and bodies, by the hundred and at the same time, takes
/// little of its memory and keeps nobody from being answered.
pub(super) async fn floods_take_little_memory_and_keep_nobody_waiting() -> anyhow::Result<()> {
    /// At the same time.
    const CLIENTS: usize = 300;
    /// Those who send all but the end of a body of a mebibyte take that, and what reading it takes; of
    /// gigabytes that are sent this is little. In MiB.
    const MEMORY: f64 = 300.0;
    let bot = Plan::on(Kind::Sqlite)?.start().await?;
    let url = bot.webhook_url();
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/webhook");
    let head = "POST /webhook HTTP/1.1\r\nhost: x\r\n";
    let floods = [
        format!(
            "{head}content-length: {}\r\n\r\n{}",
            10 << 20,
            "x".repeat(10 << 20)
        ),
        format!(
            "{head}transfer-encoding: chunked\r\n\r\n{}",
            "100000\r\n".repeat(1 << 17)
        ),
        format!("{head}x: {}\r\n\r\n", "y".repeat(10 << 20)),
        format!("{head}{}\r\n", "x: y\r\n".repeat(1 << 20)),
        // The largest body that is taken, but for its end.
        format!(
            "{head}content-length: {}\r\n\r\n{}",
            1 << 20,
            "x".repeat((1 << 20) - 1)
        ),
    ]
    .map(Arc::<str>::from);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = TcpStream::connect(address).await?;
        let flood = floods[number % floods.len()].clone();
        clients.spawn(async move {
            // Told off or cut off, whoever it is cannot finish.
            let _ = client.write_all(flood.as_bytes()).await;
            client
        });
    }
    let message = bot.mention("echo in the middle of it").await?;
    assert_eq!(bot.answer(&message).await?, "in the middle of it");
    let all_sent = async { while clients.join_next().await.is_some() {} };
    within(PATIENCE, "all have sent theirs", all_sent).await?;
    let taken = bot.front.resident_mib()?;
    ensure!(taken < MEMORY, "{taken} MiB");
    let message = bot.mention("echo after it").await?;
    assert_eq!(bot.answer(&message).await?, "after it");
    bot.end().await
}

/// What a person in the room hears after SimSimi has said something.
enum Hears {
    /// These words.
    Words(String),
    /// The friendly line.
    Fallback,
    /// What SimSimi says when it is asked again.
    TheNextAnswer,
}

/// Whatever SimSimi says, there is one reply in the room, and it is clean.
pub(super) async fn whatever_simsimi_says_the_room_hears_one_clean_reply(
    kind: Kind,
) -> anyhow::Result<()> {
    use Hears::{Fallback, TheNextAnswer, Words};
    let bot = Plan::on(kind)?.unlimited().start().await?;
    let said = |atext: &str| {
        let body = serde_json::json!({"status": 200, "statusMessage": "Ok", "atext": atext});
        Fault::nothing(Service::Simsimi).with_body(body)
    };
    let body = |body: &str| Fault::nothing(Service::Simsimi).with_body(body);
    let repeated = |text: &str, repeat: Times| Fault {
        repeat: Some(repeat),
        ..body(text)
    };
    let cases = [
        (said(&"😀".repeat(256)), Words("😀".repeat(256))),
        (
            said("[toall][To:1][rp aid=1 to=2-3]"),
            Words("［toall]［To:1]［rp aid=1 to=2-3]".to_owned()),
        ),
        (
            said("a\0b\u{1b}[31m\u{202e}c\r\n\u{7f}d"),
            Words("ab［31mc\nd".to_owned()),
        ),
        (said("\u{1}\u{7}\u{1b}\0"), Fallback),
        (said("\u{200b}\u{202e} \u{feff}\n"), Fallback),
        (body(r#"{"status":200,"statusMessage":"Ok"}"#), Fallback),
        (body(r#"{"status":200,"atext":["a"]}"#), Fallback),
        (body("<!DOCTYPE html><h1>It works!</h1>"), TheNextAnswer),
        (body("{}"), TheNextAnswer),
        (body("\u{0}"), TheNextAnswer),
        (
            body("moved")
                .with_status(302)
                .with_header("location", "http://127.0.0.1:1/"),
            TheNextAnswer,
        ),
        (
            repeated("0123456789", Times::Exactly(1024 * 1024)),
            TheNextAnswer,
        ),
        (repeated("0123456789", Times::Always), TheNextAnswer),
    ];
    let mut mentions = Vec::new();
    for (fault, hears) in cases {
        let shown = format!("{fault:?}");
        bot.sandbox.break_down(fault);
        let message = bot.mention("echo the next answer").await?;
        let answer = bot.answer_within(PATIENCE, &message).await;
        let answer = answer.with_context(|| shown.clone())?;
        match hears {
            Words(words) => ensure!(answer == words, "{answer:?}: {shown}"),
            Fallback => ensure!(answer.starts_with("Chíp chíp!"), "{answer:?}: {shown}"),
            TheNextAnswer => ensure!(answer == "the next answer", "{answer:?}: {shown}"),
        }
        mentions.push(message);
    }
    bot.all_answered_once(PATIENCE, &mentions).await?;
    bot.end().await
}

/// Whatever Chatwork answers to a post that it takes, the reply is posted once and the next one is
/// not kept waiting.
pub(super) async fn whatever_chatwork_answers_to_a_post_the_next_one_goes_on(
    kind: Kind,
) -> anyhow::Result<()> {
    // A limit in the headers is believed for one window; this one is short.
    let bot = Plan::on(kind)?
        .unlimited()
        .with("CHATWORK_ACCOUNT_LIMIT", "300/3s")
        .start()
        .await?;
    let ok = |body: &str, repeat: Option<Times>| Fault {
        repeat,
        ..Fault::status(Service::Chatwork, 200).with_body(body)
    };
    let limits = |limit: &str, remaining: &str, reset: &str| {
        Fault::nothing(Service::Chatwork)
            .with_header("x-ratelimit-limit", limit)
            .with_header("x-ratelimit-remaining", remaining)
            .with_header("x-ratelimit-reset", reset)
    };
    /// What becomes of the reply.
    #[derive(Debug, PartialEq)]
    enum Becomes {
        /// It is in the room.
        Heard,
        /// Chatwork said that it took it.
        Posted,
        /// It is a dead letter.
        Refused,
    }
    use Becomes::{Heard, Posted, Refused};
    let redirect = |status: u16| {
        ok("elsewhere", None)
            .with_status(status)
            .with_header("location", "http://127.0.0.1:1/")
    };
    let cases = [
        (ok("\0\u{1b}[2J<html>", None), Posted),
        (ok("[1,2,3]", None), Posted),
        (ok("0123456789", Some(Times::Exactly(1024 * 1024))), Posted),
        (ok("0123456789", Some(Times::Always)), Posted),
        (redirect(307), Refused),
        (redirect(301), Refused),
        (limits("0", "-5", "0"), Heard),
        (limits("-1", "99999999999999999999", "-1"), Heard),
        (limits("many", "some", "soon"), Heard),
        (limits("1", "0", "9999999999999"), Heard),
        (limits("300", "0", "4102444799"), Heard),
        (
            limits("18446744073709551615", "0", "9223372036854775807"),
            Heard,
        ),
    ];
    let mut rooms = Vec::new();
    for (number, (fault, becomes)) in (1..).zip(cases) {
        let shown = format!("{fault:?}");
        let room = RoomId(300_000_000 + number);
        rooms.push(room);
        bot.sandbox.break_down(fault.on(Call::Post).in_room(room));
        let message = bot.mention_in(room, SOMEBODY, "echo first").await?;
        if becomes == Refused {
            let letter = bot.buried(SOON, &message).await?;
            ensure!(
                (letter.cause, letter.step) == (Cause::Refused, Step::Post),
                "{shown}"
            );
        } else {
            let found = bot.posted(SOON, &message).await;
            ensure!(
                !found.with_context(|| shown.clone())?,
                "it was seen to be posted"
            );
        }
        let next = bot.mention_in(room, SOMEBODY, "echo second").await?;
        let answer = bot.answer_within(SOON, &next).await;
        ensure!(
            answer.with_context(|| shown.clone())? == "second",
            "{shown}"
        );
        // What only the answer to the post was wrong about is there as well.
        let heard = usize::from(becomes == Heard);
        ensure!(bot.answers(&message) == heard, "{shown}");
    }
    // Nobody was in doubt: nobody looked, and nobody posted anything twice.
    let ledger = bot.sandbox.ledger();
    let looked = |call: &Called| call.call == Some(Call::Messages);
    assert!(!ledger.calls.iter().any(looked));
    for room in rooms {
        let posted = |call: &&Called| call.call == Some(Call::Post) && call.room_id == Some(room);
        let posts = ledger.calls.iter().filter(posted).count();
        ensure!(posts <= 2, "{posts} posts for two mentions in {room}");
    }
    bot.end().await
}

/// Lines among the outcomes that nobody can read keep no worker from starting, nor from posting.
pub(super) async fn garbage_among_the_outcomes_is_passed_over(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    let message = bot.mention("echo before").await?;
    assert_eq!(bot.answer(&message).await?, "before");
    match kind {
        Kind::Sqlite => spoil_outcomes(&file_of(&bot)?)?,
        Kind::Rabbitmq => {
            let by_type = |kind: &str| BasicProperties::default().with_type(kind.into());
            let garbage = [
                (BasicProperties::default(), &b""[..]),
                (by_type("outcome"), b"no JSON"),
                (by_type("outcome"), b"\xff\xfe"),
                (by_type("outcome"), br#"{"v":99,"what":"else"}"#),
                (by_type("mark"), b""),
                (by_type("mark").with_message_id("no id".into()), b""),
                (by_type("outcome"), &[b'['; 1024 * 1024]),
            ];
            for (properties, body) in garbage {
                put(&bot, "outcomes", properties, body).await?;
            }
        }
    }
    // While it reads, and when it begins to.
    let message = bot.mention("echo meanwhile").await?;
    assert_eq!(bot.answer(&message).await?, "meanwhile");
    bot.worker().kill().await?;
    bot.worker().start()?;
    bot.ready().await?;
    let message = bot.mention("echo after").await?;
    assert_eq!(bot.answer(&message).await?, "after");
    assert!(!bot.posted(SOON, &message).await?);
    bot.end().await
}

fn spoil_outcomes(file: &Path) -> anyhow::Result<()> {
    let file = Connection::open(file)?;
    file.busy_timeout(SOON)?;
    let now = jiff::Timestamp::now().as_millisecond();
    for outcome in [
        "''",
        "'no JSON'",
        "'{\"v\":99}'",
        "NULL",
        "CAST(x'22ff22' AS TEXT)",
    ] {
        file.execute(
            &format!("INSERT INTO outcomes (at, id, outcome) VALUES (?1, 'no id', {outcome})"),
            [now],
        )?;
    }
    file.execute(
        "INSERT INTO outcomes (at, mark) VALUES (?1, 'no mark')",
        [now],
    )?;
    Ok(())
}

fn file_of(bot: &Bot) -> anyhow::Result<PathBuf> {
    let location = bot.stage().location();
    let path = location.strip_prefix("sqlite:").context("a file")?;
    Ok(PathBuf::from(path))
}

/// Puts a message into a queue of the bot as somebody with a broker's tool would.
async fn put(
    bot: &Bot,
    queue: &str,
    properties: BasicProperties,
    body: &[u8],
) -> anyhow::Result<()> {
    let connection = bot.stage().operator().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    // The default exchange leads to any queue by its name.
    let name = format!("{}.{queue}", bot.stage().namespace());
    let published =
        channel.basic_publish("".into(), name.as_str().into(), options, body, properties);
    let confirmation = published.await?.await?;
    let returned = confirmation.is_nack() || confirmation.take_message().is_some();
    ensure!(!returned, "nothing was put into {queue}");
    connection.close(200, "put".into()).await?;
    Ok(())
}

/// The headers of a message of ours, of a version, to be changed.
fn headers(version: i64) -> FieldTable {
    let mut headers = FieldTable::default();
    let now = jiff::Timestamp::now().to_string();
    for (name, value) in [
        ("bot", "bot"),
        ("event-type", "mention_to_me"),
        ("received-at", &now),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    headers.insert("version".into(), AMQPValue::LongLongInt(version));
    headers
}

fn properties(id: &str, headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(id.into())
        .with_headers(headers)
}

/// A message that is none of ours, and why.
struct Strange {
    why: &'static str,
    queue: &'static str,
    properties: BasicProperties,
    body: Vec<u8>,
}

/// Messages to be buried as malformed.
fn strange_messages() -> Vec<Strange> {
    let id = || EventId::fresh().to_string();
    let with = |name: &str, value: AMQPValue| {
        let mut headers = headers(1);
        headers.insert(name.into(), value);
        properties(&id(), headers)
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let good = || properties(&id(), headers(1));
    let mention = || a_hook("77", "echo never said").json();
    let mut all = Vec::new();
    let mut strange = |why, queue, properties, body: Vec<u8>| {
        // Different bytes each, to be found again by.
        let body = [body, format!("\n{}", all.len()).into_bytes()].concat();
        all.push(Strange {
            why,
            queue,
            properties,
            body,
        });
    };
    for queue in ["ask", "post.bot"] {
        strange(
            "no properties",
            queue,
            BasicProperties::default(),
            mention(),
        );
        strange(
            "no message id",
            queue,
            BasicProperties::default().with_headers(headers(1)),
            mention(),
        );
        strange(
            "no headers",
            queue,
            BasicProperties::default().with_message_id(id().as_str().into()),
            mention(),
        );
        strange(
            "an id that is none",
            queue,
            properties("seventeen", headers(1)),
            mention(),
        );
        strange(
            "a bot that is a number",
            queue,
            with("bot", AMQPValue::LongInt(1)),
            mention(),
        );
        strange(
            "a bot that has no name",
            queue,
            with("bot", text("#.*")),
            mention(),
        );
        strange(
            "a type that is a list",
            queue,
            with("event-type", AMQPValue::FieldTable(headers(1))),
            mention(),
        );
        strange(
            "a time that is true",
            queue,
            with("received-at", AMQPValue::Boolean(true)),
            mention(),
        );
        strange(
            "a time that is none",
            queue,
            with("received-at", text("yesterday")),
            mention(),
        );
        strange("garbage", queue, good(), b"\xff\xfe garbage".to_vec());
        strange("nothing", queue, good(), Vec::new());
        strange("deep", queue, good(), b"[".repeat(10_000));
        strange("a megabyte", queue, good(), vec![b'x'; 1024 * 1024]);
        strange("five megabytes", queue, good(), vec![b'x'; 5 * 1024 * 1024]);
        let long = with("event-type", text(&"x".repeat(300)));
        strange("a long type", queue, long, b"garbage".to_vec());
        strange(
            "a long room",
            queue,
            with("room-id", text(&"9".repeat(300))),
            b"garbage".to_vec(),
        );
        strange(
            "a long message",
            queue,
            with("message-id", text(&"9".repeat(300))),
            b"garbage".to_vec(),
        );
        strange(
            "before all times",
            queue,
            with("received-at", text("-009999-01-02T01:59:59Z")),
            b"garbage".to_vec(),
        );
        strange(
            "after all times",
            queue,
            with("received-at", text("9999-12-30T22:00:00Z")),
            b"garbage".to_vec(),
        );
        strange(
            "many headers",
            queue,
            many_headers(&id()),
            b"garbage".to_vec(),
        );
    }
    strange(
        "a reply without its members",
        "post.bot",
        good(),
        br#"{"v":1}"#.to_vec(),
    );
    strange(
        "a reply of version 0.5",
        "post.bot",
        good(),
        br#"{"v":0.5}"#.to_vec(),
    );
    strange(
        "a reply of minus one",
        "post.bot",
        good(),
        br#"{"v":-1}"#.to_vec(),
    );
    all
}

fn many_headers(id: &str) -> BasicProperties {
    let mut headers = headers(1);
    for number in 0..1000 {
        headers.insert(
            format!("other-{number}").into(),
            AMQPValue::LongLongInt(number),
        );
    }
    for (name, value) in [("attempt", -1), ("deaths", i64::MAX), ("replay", i64::MIN)] {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    properties(id, headers)
}

/// What nobody can read is buried with its bytes, what a newer release wrote waits for one, and
/// neither holds anybody up.
pub(super) async fn what_somebody_put_into_the_broker_holds_nobody_up() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Rabbitmq)?.unlimited().start().await?;
    let strange = strange_messages();
    for message in &strange {
        put(
            &bot,
            message.queue,
            message.properties.clone(),
            &message.body,
        )
        .await?;
    }
    // A newer release's, an event and a reply; and an event of a bot that nobody here works for.
    let newer = [
        (
            "ask",
            properties(&EventId::fresh().to_string(), headers(2)),
            &b"a newer event"[..],
        ),
        (
            "post.bot",
            properties(&EventId::fresh().to_string(), headers(1)),
            br#"{"v":2,"of":"a newer reply"}"#,
        ),
    ];
    for (queue, properties, body) in &newer {
        put(&bot, queue, properties.clone(), body).await?;
    }
    let mut of_another = headers(1);
    of_another.insert("bot".into(), AMQPValue::LongString("another".into()));
    let another = a_hook("88", "echo whose am I?").json();
    put(
        &bot,
        "ask",
        properties(&EventId::fresh().to_string(), of_another),
        &another,
    )
    .await?;

    let message = bot.mention("echo after all that").await?;
    assert_eq!(bot.answer(&message).await?, "after all that");

    let missing = |dead: &[(DeadLetter, Vec<u8>)]| {
        strange
            .iter()
            .filter(|strange| !dead.iter().any(|(_, body)| *body == strange.body))
            .map(|strange| format!("{} in {}", strange.why, strange.queue))
            .collect::<Vec<_>>()
    };
    let mut dead = Vec::new();
    let all_buried = until(SOON, "all are buried", async || {
        dead = Box::pin(dead_bodies(&bot)).await?;
        Ok(missing(&dead).is_empty().then_some(()))
    });
    let all_buried = all_buried.await;
    all_buried.with_context(|| format!("not there: {:?}", missing(&dead)))?;
    assert_eq!(dead.len(), strange.len(), "and nothing else");
    for strange in &strange {
        let letter = dead.iter().find(|(_, body)| *body == strange.body);
        let (letter, _) = letter.context("it was there")?;
        let step = match strange.queue {
            "ask" => Step::Ask,
            _ => Step::Post,
        };
        assert_eq!(
            (letter.cause, letter.step),
            (Cause::Malformed, step),
            "{}",
            strange.why
        );
        assert!(
            !letter.error.is_empty() && letter.error.len() < 1000,
            "{}",
            letter.error
        );
    }
    // What is put off lies in the delay levels just as it came, and nothing counts it as tried.
    let waiting = until(SOON, "they are put off", async || {
        let waiting = put_off(&bot).await?;
        Ok((waiting.len() > newer.len()).then_some(waiting))
    });
    let waiting = waiting.await?;
    for (_, properties, body) in &newer {
        let found = waiting.iter().find(|(_, found)| found == body);
        let (found, _) = found.context("a newer one is put off")?;
        assert_eq!(found.message_id(), properties.message_id());
        let ours = |properties: &BasicProperties| {
            let headers = properties.headers().clone().unwrap_or_default();
            let ours = headers
                .inner()
                .iter()
                .filter(|(name, _)| !name.as_str().starts_with("x-"));
            ours.map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ours(found), ours(properties), "as it came");
    }
    assert!(waiting.iter().any(|(_, body)| *body == another));
    assert_eq!(bot.asked(), ["echo after all that"]);
    // The worker lives, and is the same one.
    bot.worker().still_runs()?;
    let message = bot.mention("echo still here").await?;
    assert_eq!(bot.answer(&message).await?, "still here");
    bot.end().await
}

/// What lies in the delay levels; it goes back with the connection.
async fn put_off(bot: &Bot) -> anyhow::Result<Vec<(BasicProperties, Vec<u8>)>> {
    let connection = bot.stage().operator().await?;
    let channel = connection.create_channel().await?;
    let mut waiting = Vec::new();
    for level in 0..12 {
        let queue = format!("{}.delay.{level}", bot.stage().namespace());
        let options = BasicGetOptions::default;
        while let Some(message) = channel.basic_get(queue.as_str().into(), options()).await? {
            waiting.push((message.delivery.properties, message.delivery.data));
        }
    }
    connection.close(200, "seen".into()).await?;
    Ok(waiting)
}

/// A queue file that cannot be used is said to be so in a sentence, with its path and what to do,
/// and stays as it is.
pub(super) async fn an_unusable_queue_file_is_named_and_left_alone() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let used = used_queue_file(folder.path()).await?;

    std::fs::write(at("diary"), "Dear diary, ".repeat(1000))?;
    let foreign = Connection::open(at("recipes"))?;
    foreign.execute_batch("CREATE TABLE recipes (name TEXT); PRAGMA application_id = 7")?;
    drop(foreign);
    std::fs::copy(&used, at("newer"))?;
    Connection::open(at("newer"))?.pragma_update(None, "user_version", 99)?;
    let whole = std::fs::read(&used)?;
    std::fs::write(at("truncated"), &whole[..whole.len() / 2])?;
    let mut spoilt = whole;
    spoilt[100..4096].fill(b'x');
    std::fs::write(at("spoilt"), spoilt)?;
    std::fs::create_dir(at("folder"))?;
    for table in ["jobs", "consumers", "dead", "archive", "outcomes"] {
        let path = at(&format!("without-{table}"));
        std::fs::copy(&used, &path)?;
        Connection::open(path)?.execute_batch(&format!("DROP TABLE {table}"))?;
    }

    let cases = [
        ("diary", "is not a Chickwork queue"),
        ("recipes", "is not a Chickwork queue"),
        ("newer", "use the newer release"),
        ("truncated", "malformed"),
        ("spoilt", "malformed"),
        ("folder", "cannot be opened"),
        ("diary/below", "cannot be opened"),
        ("nowhere/queue.db", "cannot be opened"),
        ("without-jobs", "its table jobs is missing"),
        ("without-consumers", "its table consumers is missing"),
        ("without-dead", "its table dead is missing"),
        ("without-archive", "its table archive is missing"),
        ("without-outcomes", "its table outcomes is missing"),
    ];
    for (name, says) in cases {
        let path = at(name);
        let before = std::fs::read(&path).ok();
        let said = serve_on(&path).await?;
        ensure!(said.code == Some(1), "{name}: {said:?}");
        let error = said.err.lines().find(|line| line.starts_with("error: "));
        let error = error.with_context(|| format!("{name}: {said:?}"))?;
        let place = path.display().to_string();
        ensure!(error.contains(&place), "{name}: {error}");
        ensure!(error.contains(says), "{name}: {error}");
        ensure!(!said.err.contains("panicked"), "{name}: {said:?}");
        ensure!(
            std::fs::read(&path).ok() == before,
            "{name} is left as it was"
        );
    }
    Ok(())
}

/// Runs `serve` on this file until it gives up.
async fn serve_on(path: &Path) -> anyhow::Result<Said> {
    run_within(SOON, chickwork("serve")?.envs(settings_on(path)?)).await
}

/// All that `serve` needs on this file.
fn settings_on(path: &Path) -> anyhow::Result<Environment> {
    let [listen, admin] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let settings = [
        ("CHICKWORK_QUEUE", format!("sqlite:{}", path.display())),
        ("CHICKWORK_LISTEN", listen),
        ("CHICKWORK_ADMIN_LISTEN", admin),
        ("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN.to_owned()),
        ("CHATWORK_API_TOKEN", "a-token".to_owned()),
        ("SIMSIMI_API_KEY", "a-key".to_owned()),
        // Nobody is there.
        ("CHATWORK_API_URL", "http://127.0.0.1:1/v2".to_owned()),
        ("SIMSIMI_API_URL", "http://127.0.0.1:1/190410".to_owned()),
    ];
    let settings = settings.into_iter();
    Ok(settings
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// A queue file with something in it, that nobody uses any more. It began as an empty file, which is
/// as good as none.
async fn used_queue_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("used.db");
    std::fs::write(&path, "")?;
    let mut server = Server::new("serve", settings_on(&path)?, folder)?;
    server.start()?;
    server.not_ready("Chatwork").await?;
    server.terminate()?;
    server.exit_code().await?;
    let file = Connection::open(&path)?;
    // All of it in the one file.
    file.execute_batch("PRAGMA journal_mode = DELETE")?;
    let many = (0..500).map(|number| format!("(1, '{number}')"));
    file.execute_batch(&format!(
        "INSERT INTO outcomes (at, mark) VALUES {}",
        many.collect::<Vec<_>>().join(", ")
    ))?;
    Ok(path)
}
