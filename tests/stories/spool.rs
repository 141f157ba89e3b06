//! While the broker is away: webhooks are taken all the same and answered later, by themselves. Nobody
//! restarts anything, and nobody is told twice.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_sandbox::webhook::Sent;
use chickwork_tests::bot::{Bot, Plan, a_hook};
use chickwork_tests::door::Door;
use chickwork_tests::process::{Server, http};
use chickwork_tests::stage::{Kind, SOON, Stage, soon, until, within};
use futures_util::future::join_all;

/// An answer to a webhook takes less, whatever happens.
const DEADLINE: u64 = 8_000;
/// Who takes longer has waited for a broker that says nothing.
const WAITED: u64 = 2_000;
/// How long what was put off may take, on a machine with much to do.
const A_MINUTE: Duration = Duration::from_secs(60);
/// The pause between looks at what nobody tells.
const AGAIN: Duration = Duration::from_millis(50);

const IN_THE_BROKER: &str = "chickwork_acks_total{stored=\"broker\"}";
const IN_THE_SPOOL: &str = "chickwork_acks_total{stored=\"spool\"}";
const WAITING: &str = "chickwork_spool_events";

/// A bot whose broker is behind a door.
pub(super) async fn behind_a_door() -> anyhow::Result<(Plan, Door)> {
    let location = Stage::new(Kind::Rabbitmq)?.location();
    let (user, host) = location.rsplit_once('@').context("a user")?;
    let (address, path) = host.split_once('/').context("a virtual host")?;
    let door = Door::to(address.parse::<SocketAddr>()?).await?;
    let through_the_door = format!("{user}@{}/{path}", door.address());
    let plan = Plan::on(Kind::Rabbitmq)?.unlimited();
    Ok((plan.with("CHICKWORK_QUEUE", through_the_door), door))
}

/// Delivers a webhook that is taken in time; the message that it tells of.
async fn taken(bot: &Bot, number: u32) -> anyhow::Result<MessageId> {
    Ok(taken_after(bot, number).await?.0)
}

/// The same, and after how many milliseconds.
async fn taken_after(bot: &Bot, number: u32) -> anyhow::Result<(MessageId, u64)> {
    let hook = a_hook(&number.to_string(), &format!("echo {number}"));
    let sent = bot.deliver(&hook).await?;
    assert_eq!(sent.status, Some(200), "{sent:?}");
    assert!(sent.millis < DEADLINE, "{sent:?}");
    Ok((hook.message_id, sent.millis))
}

/// The same for some, one after the other.
async fn all_taken(bot: &Bot, numbers: Range<u32>) -> anyhow::Result<Vec<MessageId>> {
    let mut messages = Vec::new();
    for number in numbers {
        messages.push(taken(bot, number).await?);
    }
    Ok(messages)
}

/// The same for some at once.
async fn taken_together(bot: &Bot, numbers: Range<u32>) -> anyhow::Result<Vec<MessageId>> {
    let all = join_all(numbers.map(|number| taken(bot, number))).await;
    all.into_iter().collect()
}

/// The broker is killed under traffic, stays away for a while and comes back.
pub(super) async fn a_broker_that_is_killed_costs_no_webhook() -> anyhow::Result<()> {
    let plan = Plan::on(Kind::Rabbitmq)?.alone().unlimited();
    let mut bot = plan.start().await?;
    let mut messages = all_taken(&bot, 1..4).await?;
    bot.answer(&messages[0]).await?;
    assert_eq!(bot.front.figure(IN_THE_BROKER).await?, 3.0);
    // Queues younger than a second do not survive a kill of their only node, whose clock this is.
    tokio::time::sleep(Duration::from_secs(3)).await;

    let killing = async {
        tokio::task::block_in_place(|| bot.stage().node()?.kill())?;
        all_taken(&bot, 100..120).await
    };
    let (killed, talked) = tokio::join!(killing, all_taken(&bot, 200..230));
    messages.extend(killed?);
    messages.extend(talked?);
    bot.front.ready().await?;
    let spooled = bot.front.figure(IN_THE_SPOOL).await?;
    assert!(spooled >= 20.0, "{spooled} were stored in the spool");
    let stored = bot.front.figure(IN_THE_BROKER).await? + spooled;
    assert_eq!(stored, messages.len() as f64, "each has its place");
    assert_eq!(bot.front.figure(WAITING).await?, spooled);
    assert!(bot.front.figure("chickwork_spool_oldest_seconds").await? > 0.0);

    tokio::task::block_in_place(|| bot.stage().node()?.start_again())?;
    bot.all_answered_once(A_MINUTE, &messages).await?;
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    // The broker takes them itself again.
    messages.push(taken(&bot, 300).await?);
    assert!(bot.front.figure(IN_THE_BROKER).await? > stored - spooled);
    bot.all_answered_once(A_MINUTE, &messages).await?;
    let log = bot.front.log();
    // A broker that is just starting may take one and not the next; but it is not said of each.
    for says in [
        "the broker takes no events",
        "the broker takes events again",
    ] {
        let said = log.lines().filter(|line| line.contains(says)).count();
        assert!((1..=3).contains(&said), "{says}: {said} times");
    }
    bot.end().await
}

/// The broker takes connections and says nothing: those that find out wait for it, the others do not.
pub(super) async fn a_broker_that_hangs_makes_few_webhooks_wait() -> anyhow::Result<()> {
    let plan = Plan::on(Kind::Rabbitmq)?.alone().unlimited();
    let mut bot = plan.start().await?;
    let mut messages = all_taken(&bot, 1..2).await?;
    bot.answer(&messages[0]).await?;
    // One that has just started may have been too slow for the first.
    let before = bot.front.figure(IN_THE_SPOOL).await?;
    bot.stage().node()?.freeze()?;
    messages.extend(taken_together(&bot, 10..15).await?);
    let mut waited = 0;
    for number in 20..40 {
        let (message, millis) = taken_after(&bot, number).await?;
        messages.push(message);
        waited += usize::from(millis >= WAITED);
    }
    assert!(waited < 5, "{waited} of 20 waited for the broker");
    assert_eq!(bot.front.figure(IN_THE_SPOOL).await? - before, 25.0);
    bot.front.ready().await?;
    bot.stage().node()?.thaw()?;
    bot.all_answered_once(A_MINUTE, &messages).await?;
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    bot.end().await
}

/// The ingress does not need its broker to start, nor a spool that somebody has spoilt.
pub(super) async fn an_ingress_starts_without_its_broker_and_with_a_spoilt_spool()
-> anyhow::Result<()> {
    let (plan, mut door) = behind_a_door().await?;
    let mut bot = plan.prepare().await?;
    door.shut().await;
    let spool = bot.front.environment()["CHICKWORK_SPOOL"].clone();
    std::fs::write(&spool, "Dear diary, ".repeat(1000))?;
    bot.front.start()?;
    bot.front.ready().await?;
    until(SOON, "it says that its broker is away", async || {
        Ok(bot
            .front
            .log()
            .contains("the broker takes no events")
            .then_some(()))
    })
    .await?;
    let messages = all_taken(&bot, 1..11).await?;
    assert_eq!(bot.front.figure(IN_THE_SPOOL).await?, 10.0);
    let log = bot.front.log();
    assert!(!log.contains("copies wait"), "there are none");
    let told = log.lines().find(|line| line.contains("set aside as"));
    let aside = told
        .and_then(|line| line.split("set aside as ").nth(1)?.split(',').next())
        .with_context(|| log.clone())?;
    assert!(std::fs::read_to_string(aside)?.starts_with("Dear diary"));
    assert!(
        log.contains(&format!("spool: {spool}")),
        "its place is told"
    );

    door.open().await?;
    bot.worker().start()?;
    bot.all_answered_once(A_MINUTE, &messages).await?;
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    bot.end().await
}

/// Killed or stopped with events in its spool, the ingress forwards them in its next life.
pub(super) async fn what_waits_survives_its_ingress() -> anyhow::Result<()> {
    let (plan, mut door) = behind_a_door().await?;
    let mut bot = plan.start().await?;
    let mut messages = all_taken(&bot, 1..2).await?;
    bot.answer(&messages[0]).await?;
    door.shut().await;
    messages.extend(taken_together(&bot, 10..30).await?);
    bot.front.kill().await?;

    bot.front.start()?;
    bot.front.ready().await?;
    assert_eq!(bot.front.figure(WAITING).await?, 20.0);
    messages.extend(all_taken(&bot, 30..33).await?);
    bot.front.terminate()?;
    assert_eq!(bot.front.exit_code().await?, Some(0));
    let log = bot.front.log();
    assert!(log.contains("23 events wait in the spool"), "it is said");
    assert!(!log.contains("may be missing"), "nothing is");

    door.open().await?;
    bot.front.start()?;
    bot.ready().await?;
    bot.all_answered_once(A_MINUTE, &messages).await?;
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    bot.end().await
}

/// A spool belongs to one ingress: another one says who has it, and waits for a while. It can be stopped
/// meanwhile like any other.
pub(super) async fn a_spool_that_is_taken_is_waited_for_and_not_shared() -> anyhow::Result<()> {
    let bot = Plan::on(Kind::Rabbitmq)?.start().await?;
    let holder = format!("is in use by process {}", bot.front.id()?);
    let folder = tempfile::tempdir()?;
    let another = || -> anyhow::Result<Server> {
        let mut environment = bot.front.environment().clone();
        environment.insert("CHICKWORK_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        let mut server = Server::new("ingress", environment, folder.path())?;
        server.start()?;
        Ok(server)
    };
    let (mut stopped, mut patient) = (another()?, another()?);
    until(SOON, "it says who has the spool", async || {
        Ok(stopped.log().contains(&holder).then_some(()))
    })
    .await?;
    stopped.terminate()?;
    assert_eq!(stopped.exit_code().await?, Some(0));
    let log = stopped.log();
    assert!(log.contains("SIGTERM: stopping"), "{log}");
    assert!(log.contains("stopped") && !log.contains("ERROR"), "{log}");

    assert_eq!(patient.exit_code().await?, Some(1));
    let log = patient.log();
    assert!(log.contains(&format!("{holder} since")), "{log}");
    assert!(log.contains("a CHICKWORK_SPOOL of its own"), "{log}");
    let message = bot.mention("echo still here").await?;
    assert_eq!(bot.answer(&message).await?, "still here");
    bot.end().await
}

/// One process that does it all is ready for webhooks while its worker can do nothing, even when it is
/// started then.
pub(super) async fn serve_stays_in_service_while_its_spool_takes_everything() -> anyhow::Result<()>
{
    let (plan, mut door) = behind_a_door().await?;
    let mut bot = plan.serve().start().await?;
    let mut messages = all_taken(&bot, 1..2).await?;
    bot.answer(&messages[0]).await?;
    door.shut().await;
    messages.extend(all_taken(&bot, 2..5).await?);
    ensure!(is_in_service(&bot).await?);
    bot.front.terminate()?;
    assert_eq!(bot.front.exit_code().await?, Some(0));
    bot.front.start()?;
    until(SOON, "it is in service again", async || {
        Ok(is_in_service(&bot).await.unwrap_or(false).then_some(()))
    })
    .await?;
    messages.extend(all_taken(&bot, 5..8).await?);
    assert_eq!(bot.front.figure("chickwork_spool_up").await?, 1.0);
    assert_eq!(bot.front.figure(WAITING).await?, 6.0);
    door.open().await?;
    bot.all_answered_once(A_MINUTE, &messages).await?;
    bot.end().await
}

/// What a load balancer sees.
async fn is_in_service(bot: &Bot) -> anyhow::Result<bool> {
    let url = format!("http://{}/healthz", bot.webhook_address());
    Ok(http()?.get(url).send().await?.status() == 200)
}

/// Only while neither broker nor spool takes it, Chatwork is told so, quickly and loudly; afterwards
/// all goes on by itself.
pub(super) async fn without_broker_and_spool_the_ingress_says_503_and_recovers()
-> anyhow::Result<()> {
    let (plan, mut door) = behind_a_door().await?;
    let plan = plan.with("CHICKWORK_SPOOL_MAX_BYTES", "1MiB");
    let mut bot = plan.start().await?;
    let message = bot.mention("echo before").await?;
    assert_eq!(bot.answer(&message).await?, "before");

    door.shut().await;
    // Large ones until none of them has room, then small ones.
    let mut taken = Vec::new();
    let mut number = 1;
    for size in [100_000, 1] {
        let filled = async {
            loop {
                number += 1;
                let hook = a_hook(&number.to_string(), &format!("echo {}", "x".repeat(size)));
                let sent = bot.deliver(&hook).await?;
                match sent.status {
                    Some(200) => taken.push(hook.message_id),
                    _ => return anyhow::Ok(sent),
                }
            }
        };
        let refused = within(A_MINUTE, "the spool is full", filled).await??;
        assert_eq!(refused.status, Some(503));
    }
    for _ in 0..3 {
        number += 1;
        let sent: Sent = bot
            .deliver(&a_hook(&number.to_string(), "echo lost"))
            .await?;
        assert_eq!(sent.status, Some(503));
        assert!(sent.millis < DEADLINE, "{sent:?}");
    }
    let unavailable = "chickwork_webhooks_total{result=\"unavailable\"}";
    assert_eq!(bot.front.figure(unavailable).await?, 5.0);
    let why = "the last webhook could not be stored";
    bot.front.not_ready(why).await?;
    let log = bot.front.log();
    for says in [
        "an authentic webhook could not be stored",
        "the spool is full (CHICKWORK_SPOOL_MAX_BYTES=1048576)",
        "80 % of the spool are used",
    ] {
        assert!(log.contains(says), "{says}");
    }

    door.open().await?;
    bot.ready().await?;
    let again = async {
        loop {
            number += 1;
            let hook = a_hook(&number.to_string(), "echo after");
            if bot.deliver(&hook).await?.status == Some(200) {
                return anyhow::Ok(hook.message_id);
            }
            // Nobody tells when the broker is back.
            tokio::time::sleep(AGAIN).await;
        }
    };
    taken.push(soon("webhooks are taken again", again).await??);
    bot.all_answered_once(A_MINUTE, &taken).await?;
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    bot.end().await
}
