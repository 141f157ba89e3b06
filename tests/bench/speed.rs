//! How fast it is, as ratios against ceilings measured in the same run: these machines are noisy,
//! and the broker, the load and the bot share their cores.
//!
//! `cargo bench -p chickwork-tests` runs everything; a word runs what has it in its name. Nothing
//! is asserted: a person reads the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chickwork_chatwork::signature::Token;
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;
use chickwork_sandbox::webhook::Hook;
use chickwork_tests::bot::{Bot, Plan, a_hook, mentioning};
use chickwork_tests::process::http;
use chickwork_tests::stage::{Kind, Stage, an_event};
use futures_util::future::{join_all, try_join_all};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};

/// Webhooks sent per measurement.
const WEBHOOKS: usize = 20_000;
/// Connections that send them.
const CLIENTS: usize = 64;
/// Mentions answered per measurement.
const MENTIONS: usize = 800;
/// How long each service takes when the worker is measured.
const SERVICE: Duration = Duration::from_millis(300);
/// The worker's concurrency.
const CONCURRENCY: usize = 16;

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if is_wanted("ingress") {
            ingress(Kind::Rabbitmq, bare_publisher().await?).await?;
            ingress(Kind::Sqlite, bare_http().await?).await?;
        }
        if is_wanted("worker") {
            worker(Kind::Sqlite).await?;
            worker(Kind::Rabbitmq).await?;
        }
        if is_wanted("overhead") {
            overhead(Kind::Sqlite).await?;
            overhead(Kind::Rabbitmq).await?;
        }
        Ok(())
    })
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// What the broker takes from a bare client that stores the same two copies, confirmed, in windows.
async fn bare_publisher() -> anyhow::Result<(&'static str, f64)> {
    const WINDOW: usize = 256;
    let stage = Stage::alone(Kind::Rabbitmq)?;
    let connection = stage.operator().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    for (name, kind) in [("bare.in", "quorum"), ("bare.archive", "stream")] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel
            .queue_declare(name.into(), QueueDeclareOptions::durable(), arguments)
            .await?;
        channel
            .queue_bind(
                name.into(),
                "amq.direct".into(),
                name.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    let body = an_event(1).body;
    let begun = Instant::now();
    for _ in 0..WEBHOOKS / WINDOW {
        let mut confirms = Vec::with_capacity(2 * WINDOW);
        for _ in 0..WINDOW {
            for name in ["bare.in", "bare.archive"] {
                let options = BasicPublishOptions {
                    mandatory: true,
                    ..Default::default()
                };
                let properties = lapin::BasicProperties::default().with_delivery_mode(2);
                confirms.push(
                    channel
                        .basic_publish("amq.direct".into(), name.into(), options, &body, properties)
                        .await?,
                );
            }
        }
        try_join_all(confirms).await?;
    }
    Ok((
        "a bare pipelined publisher of two copies",
        rate(WEBHOOKS / WINDOW * WINDOW, begun.elapsed()),
    ))
}

/// What an HTTP server that does nothing takes from the same clients.
async fn bare_http() -> anyhow::Result<(&'static str, f64)> {
    let bot = Plan::on(Kind::Sqlite)?.workers(0).start().await?;
    let url = bot.webhook_url().replace("/webhook", "/healthz");
    let client = http()?;
    let begun = Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    join_all((0..CLIENTS).map(|_| {
        let (client, url, sent) = (client.clone(), url.clone(), sent.clone());
        tokio::spawn(async move {
            while sent.fetch_add(1, Ordering::Relaxed) < WEBHOOKS {
                let _ = client.get(&url).send().await;
            }
        })
    }))
    .await;
    let rate = rate(WEBHOOKS, begun.elapsed());
    bot.end().await?;
    Ok(("bare actix-web", rate))
}

/// Sends signed webhooks from many clients, all of them at full speed or paced; returns how long
/// each answer took, sorted.
async fn load(
    bot: &Bot,
    count: usize,
    per_second: Option<f64>,
) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let token = Arc::new(Token::parse(DEMO_WEBHOOK_TOKEN)?);
    let client = http()?;
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let (client, token, next, url) = (
            client.clone(),
            token.clone(),
            next.clone(),
            bot.webhook_url(),
        );
        tokio::spawn(async move {
            let mut took = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(took);
                }
                if let Some(per_second) = per_second {
                    let at =
                        Duration::from_secs_f64(f64::from(u32::try_from(number)?) / per_second);
                    // The pace is what is measured here, not something to wait for.
                    tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
                }
                let hook: Hook = a_hook(
                    &format!("18{number:017}"),
                    &mentioning("echo how fast are you?"),
                );
                let body = hook.json();
                let signature = token.sign(body.as_ref());
                let asked = Instant::now();
                let answer = client
                    .post(&url)
                    .header("x-chatworkwebhooksignature", signature)
                    .body(body)
                    .send()
                    .await?;
                ensure!(answer.status() == 200, "{}", answer.status());
                took.push(asked.elapsed());
            }
        })
    });
    let mut took = Vec::with_capacity(count);
    for client in join_all(clients).await {
        took.extend(client??);
    }
    took.sort();
    Ok((begun.elapsed(), took))
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get(sorted.len() * percent / 100)
        .copied()
        .unwrap_or_default()
}

async fn ingress(kind: Kind, (ceiling, most): (&str, f64)) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.alone().workers(0).start().await?;
    load(&bot, 500, None).await?;
    let few = bot.front.resident_mib()?;
    let (took, answers) = load(&bot, WEBHOOKS, None).await?;
    let full = rate(WEBHOOKS, took);
    say(format_args!(
        "ingress to {kind:?}: {full:.0} webhooks/s, {:.2} of {ceiling} ({most:.0}/s); p50 {:.1?}, p99 {:.1?} at full load",
        full / most,
        percentile(&answers, 50),
        percentile(&answers, 99),
    ));
    let (_, answers) = load(&bot, WEBHOOKS / 4, Some(full / 2.0)).await?;
    say(format_args!(
        "  at half of that: p50 {:.1?}, p99 {:.1?}, slowest {:.1?}; resident {few:.0} MiB after 500, {:.0} MiB after {}",
        percentile(&answers, 50),
        percentile(&answers, 99),
        answers.last().copied().unwrap_or_default(),
        bot.front.resident_mib()?,
        WEBHOOKS + WEBHOOKS / 4 + 500,
    ));
    bot.end().await
}

/// Mentions lie in the queue; how long does a worker take for them when the services take their time?
async fn worker(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .alone()
        .workers(1)
        .unlimited()
        .with("CHICKWORK_CONCURRENCY", CONCURRENCY.to_string())
        .world(|world| {
            world.simsimi_takes = SERVICE;
            world.chatwork_takes = Duration::from_millis(5);
        })
        .prepare()
        .await?;
    bot.front.start()?;
    bot.front.ready().await?;
    load(&bot, MENTIONS, None).await?;
    bot.workers[0].start()?;
    bot.sandbox
        .until(Duration::from_secs(60), |ledger| !ledger.asked.is_empty())
        .await
        .then_some(())
        .context("nobody asks")?;
    let begun = Instant::now();
    let asked = bot
        .sandbox
        .until(Duration::from_secs(120), |ledger| {
            ledger.asked.len() >= MENTIONS
        })
        .await;
    let took = begun.elapsed();
    ensure!(asked, "not everything was asked");
    bot.sandbox
        .until(Duration::from_secs(120), |ledger| {
            ledger.posted.len() >= MENTIONS
        })
        .await
        .then_some(())
        .context("not everything was posted")?;
    let posted = begun.elapsed();
    let ideal = rate(CONCURRENCY, SERVICE);
    let asking = rate(MENTIONS - CONCURRENCY, took);
    say(format_args!(
        "worker on {kind:?}: {asking:.1} asked/s, {:.3} of concurrency / latency ({ideal:.1}/s); last of {MENTIONS} posted after {posted:.1?}; resident {:.0} MiB",
        asking / ideal,
        bot.workers[0].resident_mib()?,
    ));
    bot.end().await
}

/// One mention at a time, services that answer at once: what is left is our own time.
async fn overhead(kind: Kind) -> anyhow::Result<()> {
    const TIMES: usize = 200;
    let bot = Plan::on(kind)?.alone().unlimited().start().await?;
    let mut took = Vec::with_capacity(TIMES);
    for number in 0..TIMES {
        let mut posts = bot.sandbox.posts();
        let begun = Instant::now();
        bot.mention(&format!("echo {number}")).await?;
        posts.recv().await?;
        took.push(begun.elapsed());
    }
    took.sort();
    say(format_args!(
        "overhead on {kind:?}: from the webhook sent to the reply in the room p50 {:.1?}, p99 {:.1?} (two calls of the sandbox included)",
        percentile(&took, 50),
        percentile(&took, 99),
    ));
    bot.end().await
}
