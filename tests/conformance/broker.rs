//! What only a broker can do to us: lose a queue or a binding, hold objects with other arguments,
//! end connections, be several nodes.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chickwork_queue::dead::{DeadLetter, Held, Verdict};
use chickwork_queue::event::BotName;
use chickwork_queue::job::{Cause, Settlement, Step, Work};
use chickwork_queue::{Declare, Location, Queue, Settings};
use chickwork_tests::stage::{
    Kind, Plant, SOON, Stage, a_reply, an_event, dead_letters, next, nothing, outcome, retry,
    settle, soon, take, until, within,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};

use super::stories::{buried, nothing_until};
use super::tell;

const LIMIT: u16 = 16;

fn on_a_broker<F: Future<Output = anyhow::Result<()>>>(
    story: impl FnOnce(Stage) -> F,
) -> anyhow::Result<()> {
    tell(Stage::new(Kind::Rabbitmq), story)
}

/// The pause between tries of what fails until the broker is mended: the broker tells nobody when.
const AGAIN: Duration = Duration::from_millis(100);

/// Sets marks until one is stored.
async fn mark_until_set(queue: &Queue) -> anyhow::Result<()> {
    until(SOON, "a mark can be set", async || {
        Ok(queue.outcomes().mark().await.ok().map(drop))
    })
    .await
}

/// Publishes until it works again.
async fn publish_until_stored(
    queue: &Queue,
    number: u32,
) -> anyhow::Result<chickwork_queue::event::Event> {
    let event = an_event(number);
    until(SOON, "publishing works again", async || {
        Ok(queue.publisher().publish(&event).await.ok())
    })
    .await?;
    Ok(event)
}

#[test]
fn an_event_is_not_stored_while_the_ask_queue_is_gone_and_the_queue_comes_back()
-> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        stage.queue().await?;
        let queue = Queue::open(settings).await?;
        soon("it can be used", async {
            while queue.check().await.is_err() {}
        })
        .await?;
        let operator = stage.operator().await?;
        let ask = format!("{}.ask", stage.namespace());
        let channel = operator.create_channel().await?;
        channel
            .queue_delete(ask.as_str().into(), QueueDeleteOptions::default())
            .await?;
        // The archive still takes its copy, and the broker acks what it cannot route.
        for number in 0..20 {
            let stored = queue.publisher().publish(&an_event(number)).await;
            ensure!(stored.is_err(), "the event lies nowhere, and that is said");
        }
        // Whoever may declare heals it.
        let healing = stage.queue().await?;
        let event = publish_until_stored(&healing, 100).await?;
        let claim = next(&mut healing.claim_asks(LIMIT)).await?;
        ensure!(claim.job().work == Work::Ask(event));
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn a_binding_that_somebody_removed_is_noticed_and_comes_back() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let (ask, way_in) = (
            format!("{}.ask", stage.namespace()),
            format!("{}.in", stage.namespace()),
        );
        operator
            .queue_unbind(
                ask.as_str().into(),
                way_in.as_str().into(),
                "ask".into(),
                FieldTable::default(),
            )
            .await?;
        ensure!(
            queue.publisher().publish(&an_event(2)).await.is_err(),
            "an unroutable event is not stored"
        );
        publish_until_stored(&queue, 3).await?;
        Ok(())
    })
}

#[test]
fn an_exchange_that_somebody_deleted_comes_back() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        publish_until_stored(&queue, 1).await?;
        for name in ["in", "outcomes", "due"] {
            let operator = stage.operator().await?.create_channel().await?;
            let exchange = format!("{}.{name}", stage.namespace());
            operator
                .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
                .await?;
            publish_until_stored(&queue, 2).await?;
            mark_until_set(&queue).await?;
        }
        let mut claims = queue.claim_asks(LIMIT);
        let claim = next(&mut claims).await?;
        let later = Settlement::Later(Duration::ZERO, chickwork_queue::job::Attempt::Counted);
        settle(claim, later).await
    })
}

#[test]
fn any_number_of_refused_publishes_leaves_a_handle_that_works() -> anyhow::Result<()> {
    /// More than a connection has channels; each refusal costs one.
    const REFUSALS: usize = 4_500;
    on_a_broker(async |stage: Stage| {
        let healer = stage.queue().await?;
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        let queue = Queue::open(settings).await?;
        soon("it can be used", async {
            while queue.check().await.is_err() {}
        })
        .await?;
        let operator = stage.operator().await?.create_channel().await?;
        let exchange = format!("{}.outcomes", stage.namespace());
        operator
            .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
            .await?;
        let refused = async {
            let outcomes = queue.outcomes();
            for _ in 0..REFUSALS / 3 {
                let marks = tokio::join!(outcomes.mark(), outcomes.mark(), outcomes.mark());
                let (first, second, third) = marks;
                ensure!(
                    first.is_err() && second.is_err() && third.is_err(),
                    "there is no exchange"
                );
            }
            Ok(())
        };
        within(Duration::from_secs(180), "all are refused", refused).await??;
        let healed = mark_until_set(&healer).await;
        healed.context("somebody heals it")?;
        let works_again = mark_until_set(&queue).await;
        works_again.context("and the handle works again")
    })
}

#[test]
fn claims_go_on_when_their_queue_was_deleted_under_way() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut claims).await?, Settlement::Done).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let ask = format!("{}.ask", stage.namespace());
        operator
            .queue_delete(ask.as_str().into(), QueueDeleteOptions::default())
            .await?;
        let (publisher, event) = (queue.clone(), an_event(2));
        let again = async {
            loop {
                tokio::select! {
                    claim = claims.next() => return claim,
                    // Trying is how one finds out: see `AGAIN`.
                    () = tokio::time::sleep(AGAIN) => {
                        let _ = publisher.publisher().publish(&event).await;
                    }
                }
            }
        };
        let claim = within(Duration::from_secs(30), "claims come again", again).await?;
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn claims_and_publishes_go_on_when_connections_are_closed_from_outside() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        nothing(&mut posts).await?;
        for number in 0..3 {
            let event = publish_until_stored(&queue, number).await?;
            let claim = next(&mut claims).await?;
            ensure!(claim.job().work == Work::Ask(event));
            settle(claim, Settlement::Done).await?;
            tokio::task::block_in_place(|| {
                stage
                    .node()?
                    .control(&["close_all_connections", "by an operator"])
            })?;
        }
        publish_until_stored(&queue, 9).await?;
        settle(next(&mut claims).await?, Settlement::Done).await
    })
}

#[test]
fn passive_mode_needs_the_objects_to_be_there_and_says_what_to_do() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        let queue = Queue::open(settings.clone()).await?;
        let error = queue
            .check()
            .await
            .err()
            .context("nothing is there yet")?
            .to_string();
        ensure!(
            error.contains("chickwork topology") && error.contains("CHICKWORK_DECLARE"),
            "{error}"
        );
        stage.queue().await?;
        let queue = Queue::open(settings).await?;
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_queue_that_breaks_a_promise_is_refused_with_the_cure() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let operator = stage.operator().await?.create_channel().await?;
        let ask = format!("{}.ask", stage.namespace());
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
        operator
            .queue_declare(
                ask.as_str().into(),
                QueueDeclareOptions::durable(),
                arguments,
            )
            .await?;
        let queue = Queue::open(stage.settings()?).await?;
        let error = queue
            .check()
            .await
            .err()
            .context("five deliveries are too few")?
            .to_string();
        ensure!(
            error.contains(&ask) && error.contains("CHICKWORK_NAMESPACE"),
            "{error}"
        );
        Ok(())
    })
}

#[test]
fn a_stream_that_is_kept_for_another_time_is_used_with_a_warning() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            archive_keep: Duration::from_secs(3 * 24 * 3600),
            ..stage.settings()?
        };
        let first = Queue::open(settings).await?;
        soon("it can be used", async {
            while first.check().await.is_err() {}
        })
        .await?;
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_node_that_is_away_is_passed_over() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let Location::Amqp(urls) = stage.settings()?.location else {
            bail!("a broker")
        };
        let away = "amqp://guest:guest@127.0.0.1:1/%2f".to_owned();
        let location = Location::Amqp([vec![away.clone()], urls, vec![away]].concat());
        let queue = Queue::open(Settings {
            location,
            ..stage.settings()?
        })
        .await?;
        publish_until_stored(&queue, 1).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_broker_that_is_away_is_said_to_be_within_two_seconds() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let location = Location::Amqp(vec!["amqp://guest:guest@127.0.0.1:1/%2f".to_owned()]);
        let queue = Queue::open(Settings {
            location,
            ..stage.settings()?
        })
        .await?;
        let (publisher, event) = (queue.publisher(), an_event(1));
        let refused = within(
            Duration::from_secs(3),
            "it says no",
            publisher.publish(&event),
        );
        ensure!(refused.await?.is_err());
        Ok(())
    })
}

#[test]
fn while_an_alarm_blocks_publishing_nothing_is_acked_and_nothing_is_lost() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        let waiting = an_event(1);
        queue.publisher().publish(&waiting).await?;
        let held = next(&mut claims).await?;
        tokio::task::block_in_place(|| {
            stage
                .node()?
                .control(&["set_vm_memory_high_watermark", "absolute", "1MB"])
        })?;
        let blocked = async { while queue.publisher().publish(&an_event(2)).await.is_ok() {} };
        soon("the broker takes no more", blocked).await?;
        // A worker that has to publish waits, and does not lose its claim over it.
        let settling = tokio::spawn(settle(
            held,
            Settlement::Later(
                Duration::from_secs(1),
                chickwork_queue::job::Attempt::Counted,
            ),
        ));
        tokio::task::block_in_place(|| {
            stage
                .node()?
                .control(&["set_vm_memory_high_watermark", "absolute", "1GB"])
        })?;
        publish_until_stored(&queue, 3).await?;
        within(Duration::from_secs(30), "the claim is settled", settling).await???;
        let back = async {
            loop {
                let claim = claims.next().await;
                let is_it = matches!(&claim.job().work, Work::Ask(event) if event.id == waiting.id);
                let attempts = claim.job().attempts;
                settle(claim, Settlement::Done).await?;
                if is_it {
                    return anyhow::Ok(attempts);
                }
            }
        };
        ensure!(within(Duration::from_secs(30), "the job is back", back).await?? == 1);
        Ok(())
    })
}

#[test]
fn an_intent_that_meets_an_alarm_is_refused_and_takes_no_other_claim_along() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut asks = queue.claim_asks(LIMIT);
        for number in 0..2 {
            let event = publish_until_stored(&queue, number).await?;
            settle(next(&mut asks).await?, Settlement::Next(a_reply(&event))).await?;
        }
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        let (one, other) = (next(&mut posts).await?, next(&mut posts).await?);
        let tenure = one.tenure();
        let alarm = |level: &str| {
            let arguments = ["set_vm_memory_high_watermark", "absolute", level];
            tokio::task::block_in_place(|| stage.node()?.control(&arguments))
        };
        alarm("1MB")?;
        let blocked = async { while queue.publisher().publish(&an_event(9)).await.is_ok() {} };
        soon("the broker takes no more", blocked).await?;
        let intent = |claim: &chickwork_queue::Claim| {
            let Work::Post(reply) = &claim.job().work else {
                unreachable!("these are replies")
            };
            let consumer = "a test".to_owned();
            outcome(
                reply.id,
                chickwork_queue::outcome::What::Intent { consumer },
            )
        };
        ensure!(
            one.intend(&intent(&one)).await.is_err(),
            "nobody confirms it"
        );
        alarm("1GB")?;
        ensure!(
            other.intend(&intent(&other)).await.is_err(),
            "one that is unconfirmed is enough"
        );
        let later = || Settlement::Later(Duration::ZERO, chickwork_queue::job::Attempt::NotCounted);
        let settled = async {
            settle(one, later()).await?;
            settle(other, later()).await
        };
        within(Duration::from_secs(60), "both are settled", settled).await??;
        for _ in 0..2 {
            let claim = within(Duration::from_secs(60), "both are back", posts.next()).await?;
            ensure!(claim.tenure() > tenure, "under a new tenure");
            ensure!(claim.job().deaths == 0, "nobody died");
            claim.intend(&intent(&claim)).await?;
            settle(claim, Settlement::Done).await?;
        }
        Ok(())
    })
}

/// Lists dead letters until there are so many: copies for their log may be on their way.
async fn listed(queue: &Queue, count: usize) -> anyhow::Result<Vec<DeadLetter>> {
    until(SOON, "they are listed", async || {
        let letters = dead_letters(queue).await?;
        Ok((letters.len() == count).then_some(letters))
    })
    .await
}

/// Fetches all messages of a queue by hand; they go back when the connection closes.
async fn fetched(
    operator: &lapin::Connection,
    queue: &str,
) -> anyhow::Result<Vec<BasicGetMessage>> {
    let channel = operator.create_channel().await?;
    let mut messages = Vec::new();
    while let Some(message) = channel
        .basic_get(queue.into(), BasicGetOptions::default())
        .await?
    {
        messages.push(message);
    }
    Ok(messages)
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// Publishes a message by hand, as some other release or program might.
async fn publish_by_hand(
    stage: &Stage,
    exchange: &str,
    key: &str,
    headers: &[(&str, AMQPValue)],
    properties: BasicProperties,
    body: &[u8],
) -> anyhow::Result<()> {
    let connection = stage.operator().await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    let exchange = format!("{}.{exchange}", stage.namespace());
    channel
        .basic_publish(
            exchange.as_str().into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties.with_delivery_mode(2).with_headers(table),
        )
        .await?
        .await?;
    connection.close(200, "published".into()).await?;
    Ok(())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn drop_it() -> Verdict {
    Verdict::Drop {
        reason: "a test said so".to_owned(),
    }
}

#[test]
fn reading_dead_letters_raises_no_delivery_count() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        for number in 0..3 {
            queue.publisher().bury(&an_event(number), "none").await?;
        }
        let letters = listed(&queue, 3).await?;
        for _ in 0..3 {
            let other = stage.queue().await?;
            ensure!(dead_letters(&other).await? == letters);
            other.dead_letters().held(&letters[1]).await?;
        }
        let operator = stage.operator().await?;
        let dead = format!("{}.dead", stage.namespace());
        let messages = fetched(&operator, &dead).await?;
        ensure!(messages.len() == 3);
        for message in messages {
            ensure!(!message.delivery.redelivered, "seen for the first time");
            let count = header(&message.delivery.properties, "x-delivery-count");
            let is_zero = count.is_none_or(|count| *count == AMQPValue::LongLongInt(0));
            ensure!(is_zero, "{count:?}");
        }
        Ok(())
    })
}

#[test]
fn after_the_dead_queue_was_purged_the_list_is_right_and_the_next_one_costs_nothing()
-> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        for number in 0..3 {
            queue.publisher().bury(&an_event(number), "none").await?;
        }
        listed(&queue, 3).await?;
        let operator = stage.operator().await?;
        let dead = format!("{}.dead", stage.namespace());
        let channel = operator.create_channel().await?;
        channel
            .queue_purge(dead.as_str().into(), QueuePurgeOptions::default())
            .await?;
        ensure!(dead_letters(&queue).await?.is_empty());
        let event = an_event(4);
        queue.publisher().bury(&event, "none").await?;
        let letters = listed(&queue, 1).await?;
        ensure!(letters[0].id == event.id);
        ensure!(dead_letters(&stage.queue().await?).await? == letters);
        let held = queue.dead_letters().held(&letters[0]).await?;
        ensure!(held == Some(Held::Event(event)));
        let messages = fetched(&operator, &dead).await?;
        // Whether the log was put right before this letter came or with it is a matter of when the broker
        // counts.
        let count = header(&messages[0].delivery.properties, "x-delivery-count");
        let is_once_at_most =
            count.is_none_or(|count| (0..=1).any(|once| *count == AMQPValue::LongLongInt(once)));
        ensure!(is_once_at_most, "looked through more than once: {count:?}");
        Ok(())
    })
}

#[test]
fn a_dead_letter_of_an_older_release_is_listed_and_shown_and_retried() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let (event, buried_at) = (an_event(1), Timestamp::now());
        let headers = [
            ("version", AMQPValue::LongLongInt(1)),
            ("bot", text("bot")),
            ("event-type", text(event.event_type)),
            ("received-at", text(&event.received_at.to_string())),
            ("room-id", text("3")),
            ("attempt", AMQPValue::LongLongInt(4)),
            ("step", text("ask")),
            ("cause", text("exhausted")),
            ("error", text("tried for an hour")),
            ("buried-at", text(&buried_at.to_string())),
        ];
        let properties = BasicProperties::default()
            .with_message_id(event.id.to_string().into())
            .with_type(event.event_type.into());
        publish_by_hand(&stage, "dead", "ask", &headers, properties, &event.body).await?;
        let newer = an_event(2);
        queue.publisher().bury(&newer, "none").await?;
        let letters = listed(&queue, 2).await?;
        let letter = &letters[0];
        ensure!((letter.id, letter.buried_at) == (event.id, buried_at));
        ensure!((letter.step, letter.cause, letter.attempts) == (Step::Ask, Cause::Exhausted, 4));
        ensure!(letter.error == "tried for an hour" && letters[1].id == newer.id);
        ensure!(dead_letters(&queue).await? == letters, "and so it goes on");
        let Some(Held::Event(held)) = queue.dead_letters().held(letter).await? else {
            bail!("it holds an event")
        };
        ensure!(held.id == event.id && held.body == event.body);
        ensure!(retry(&queue, vec![letter.clone()]).await?.len() == 1);
        let claim = next(&mut queue.claim_asks(LIMIT)).await?;
        ensure!(matches!(&claim.job().work, Work::Ask(again) if again.id == event.id));
        settle(claim, Settlement::Done).await?;
        ensure!(dead_letters(&queue).await? == letters[1..]);
        Ok(())
    })
}

#[test]
fn what_a_newer_release_wrote_goes_back_as_it_was_and_waits_for_it_anew() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        nothing(&mut claims).await?;
        let long_ago = Timestamp::now() - Duration::from_secs(2 * 3600);
        let headers = [
            ("version", AMQPValue::LongLongInt(99)),
            ("mood", text("good")),
        ];
        let properties = BasicProperties::default()
            .with_message_id("a name of a newer kind".into())
            .with_content_type("application/x-newer".into())
            .with_timestamp(long_ago.as_second().unsigned_abs());
        publish_by_hand(&stage, "in", "ask", &headers, properties, b"\xffnewer").await?;
        let letters = nothing_until(&mut claims, listed(&queue, 1)).await?;
        ensure!((letters[0].cause, letters[0].step) == (Cause::Newer, Step::Ask));
        let held = queue.dead_letters().held(&letters[0]).await?;
        ensure!(held == Some(Held::Unreadable(b"\xffnewer".to_vec())));
        // It waits for its hour again, a minute at a time.
        retry(&queue, letters).await?;
        let operator = stage.operator().await?;
        let put_off = until(SOON, "it is put off", async || {
            let mut waiting = Vec::new();
            for level in [2, 3, 4, 5] {
                let name = format!("{}.delay.{level}", stage.namespace());
                waiting.extend(fetched(&operator, &name).await?);
            }
            Ok((!waiting.is_empty()).then_some(waiting))
        });
        let waiting = nothing_until(&mut claims, put_off).await?;
        ensure!(dead_letters(&queue).await?.is_empty());
        ensure!(waiting.len() == 1, "once");
        let delivery = &waiting[0].delivery;
        ensure!(delivery.data == b"\xffnewer");
        let properties = &delivery.properties;
        ensure!(header(properties, "mood") == Some(&text("good")));
        ensure!(header(properties, "version") == Some(&AMQPValue::LongLongInt(99)));
        ensure!(header(properties, "put-back-at").is_some());
        for added in ["letter", "queue", "step", "cause", "error", "buried-at"] {
            ensure!(
                header(properties, added).is_none(),
                "{added} was of the burial"
            );
        }
        let id = properties.message_id().as_ref().map(|id| id.as_str());
        ensure!(id == Some("a name of a newer kind"));
        let content_type = properties.content_type().as_ref();
        ensure!(content_type.is_some_and(|kind| kind.as_str() == "application/x-newer"));
        Ok(())
    })
}

#[test]
fn a_reply_of_a_newer_release_goes_back_to_be_posted_by_it() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        nothing(&mut posts).await?;
        let reply = a_reply(&an_event(1));
        let reply = chickwork_queue::job::Reply {
            received_at: reply.received_at - Duration::from_secs(2 * 3600),
            ..reply
        };
        let body = br#"{"v":99,"of":"a newer release"}"#.to_vec();
        let plant = Plant {
            work: Work::Post(reply.clone()),
            deaths: 0,
            body: Some(body.clone()),
        };
        stage.plant(plant).await?;
        let letters = nothing_until(&mut posts, listed(&queue, 1)).await?;
        ensure!((letters[0].id, letters[0].cause) == (reply.id, Cause::Newer));
        posts.stop().await;
        retry(&queue, letters).await?;
        let operator = stage.operator().await?;
        let channel = operator.create_channel().await?;
        let mut consumer = channel
            .basic_consume(
                format!("{}.post.bot", stage.namespace()).as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let delivery = soon("it is there", consumer.next()).await?;
        ensure!(delivery.context("a reply")??.data == body);
        Ok(())
    })
}

#[test]
fn what_is_no_message_of_ours_is_listed_and_dropped() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        for body in [b"one", b"two"] {
            publish_by_hand(&stage, "dead", "", &[], BasicProperties::default(), body).await?;
        }
        let letters = listed(&queue, 2).await?;
        ensure!(letters[0].id != letters[1].id);
        let again = dead_letters(&stage.queue().await?).await?;
        ensure!(again == letters, "under the same ids");
        let mut taken = take(&queue, letters.clone(), drop_it()).await?;
        taken.sort_by_key(|letter| letter.id);
        let mut expected = letters;
        expected.sort_by_key(|letter| letter.id);
        ensure!(taken == expected);
        ensure!(dead_letters(&queue).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_dead_letter_whose_headers_are_nonsense_is_listed_and_in_nobodys_way() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let nonsense = [
            ("bot", AMQPValue::LongInt(1)),
            ("cause", AMQPValue::LongInt(7)),
            ("step", text("dance")),
            ("error", AMQPValue::FieldTable(FieldTable::default())),
            ("attempt", text("many")),
            ("buried-at", text("yesterday")),
            ("letter", AMQPValue::Boolean(true)),
            ("queue", text("post.#")),
            ("version", AMQPValue::LongLongInt(i64::MAX)),
            ("x-death", AMQPValue::Boolean(true)),
        ];
        let properties = BasicProperties::default()
            .with_message_id("no id".into())
            .with_type("reply".into());
        let body = b"\xff no message";
        publish_by_hand(&stage, "dead", "", &nonsense, properties, body).await?;
        let event = an_event(1);
        queue.publisher().publish(&event).await?;
        let refused = Settlement::Bury {
            cause: Cause::Refused,
            error: "no".to_owned(),
        };
        settle(next(&mut queue.claim_asks(LIMIT)).await?, refused).await?;

        let letters = listed(&queue, 2).await?;
        let (ours, strange): (Vec<_>, Vec<_>) = letters
            .into_iter()
            .partition(|letter| letter.id == event.id);
        let [letter] = strange.as_slice() else {
            bail!("{strange:?} beside {ours:?}");
        };
        ensure!(!letter.error.is_empty(), "{letter:?}");
        let held = match queue.dead_letters().held(letter).await? {
            Some(Held::Event(event)) => event.body.to_vec(),
            Some(Held::Unreadable(body)) => body,
            held => bail!("{held:?}"),
        };
        ensure!(held == body);
        // Ours goes back past it, and it goes when somebody says so.
        ensure!(retry(&queue, ours).await?.len() == 1);
        let claim = next(&mut queue.claim_asks(LIMIT)).await?;
        settle(claim, Settlement::Done).await?;
        ensure!(take(&queue, strange, drop_it()).await?.len() == 1);
        ensure!(dead_letters(&queue).await?.is_empty());
        Ok(())
    })
}

#[test]
fn what_is_buried_as_it_came_does_not_expire() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        // Later than it is buried.
        let soon_over = BasicProperties::default().with_expiration("60000".into());
        publish_by_hand(&stage, "in", "ask", &[], soon_over, b"garbage").await?;
        let mut claims = queue.claim_asks(LIMIT);
        nothing_until(&mut claims, listed(&queue, 1)).await?;
        let (operator, dead) = (
            stage.operator().await?,
            format!("{}.dead", stage.namespace()),
        );
        for message in fetched(&operator, &dead).await? {
            ensure!(message.delivery.properties.expiration().is_none());
        }
        Ok(())
    })
}

#[test]
fn while_somebody_takes_dead_letters_they_are_listed_and_the_next_one_waits() -> anyhow::Result<()>
{
    on_a_broker(async |stage: Stage| {
        let (one, other) = (stage.queue().await?, stage.queue().await?);
        for number in 0..4 {
            one.publisher().bury(&an_event(number), "none").await?;
        }
        let letters = listed(&one, 4).await?;
        let mut taking = one.dead_letters().take(letters[2..].to_vec(), drop_it());
        ensure!(taking.next().await?.as_ref() == Some(&letters[2]));
        let left = [&letters[..2], &letters[3..]].concat();
        until(SOON, "the others see all that is left", async || {
            let listed = dead_letters(&other).await?;
            // That one of them is gone may be told a moment later, but never that all are.
            ensure!(listed == left || listed == letters, "{listed:?}");
            Ok((listed == left).then_some(()))
        })
        .await?;
        let waiting = take(&other, letters[..1].to_vec(), drop_it());
        let (first, second) = tokio::join!(waiting, async {
            while taking.next().await?.is_some() {}
            anyhow::Ok(())
        });
        second?;
        ensure!(first? == letters[..1], "it was not taken for gone");
        ensure!(listed(&other, 1).await? == letters[1..2]);
        Ok(())
    })
}

#[test]
fn taking_dead_letters_goes_on_when_connections_are_closed_from_outside() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        for number in 0..20 {
            queue.publisher().bury(&an_event(number), "none").await?;
        }
        let letters = listed(&queue, 20).await?;
        let mut taking = queue.dead_letters().take(letters[5..].to_vec(), drop_it());
        let mut taken = vec![taking.next().await?.context("there are fifteen")?];
        tokio::task::block_in_place(|| {
            stage
                .node()?
                .control(&["close_all_connections", "by an operator"])
        })?;
        while let Some(letter) = taking.next().await? {
            taken.push(letter);
        }
        // What is given back does not keep its order.
        taken.sort_by_key(|letter| letter.buried_at);
        ensure!(taken == letters[5..], "each once");
        ensure!(listed(&queue, 5).await? == letters[..5]);
        Ok(())
    })
}

#[test]
fn passive_mode_does_without_the_log_of_dead_letters() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        stage.queue().await?;
        without_log(&stage).await?;
        let since = Timestamp::now() - Duration::from_secs(1);
        let queue = Queue::open(Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        })
        .await?;
        let event = publish_until_stored(&queue, 1).await?;
        let bury = Settlement::Bury {
            cause: Cause::Refused,
            error: "none".to_owned(),
        };
        settle(next(&mut queue.claim_asks(LIMIT)).await?, bury).await?;
        let listed = listed(&queue, 1).await?;
        ensure!(listed[0].id == event.id);
        let held = queue.dead_letters().held(&listed[0]).await?;
        ensure!(held == Some(Held::Event(event.clone())));
        ensure!(retry(&queue, listed).await?.len() == 1);
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await?;
        let archived = async {
            while queue.archive().read(since).next().await?.is_none() {}
            anyhow::Ok(())
        };
        soon("the other copies are not held up", archived).await??;
        Ok(())
    })
}

/// Deletes the log of dead letters.
async fn without_log(stage: &Stage) -> anyhow::Result<()> {
    let operator = stage.operator().await?.create_channel().await?;
    let letters = format!("{}.letters", stage.namespace());
    operator
        .exchange_delete(letters.as_str().into(), ExchangeDeleteOptions::default())
        .await?;
    operator
        .queue_delete(letters.as_str().into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}

/// A handle as an operator's command has it.
async fn an_operators(stage: &Stage) -> anyhow::Result<Queue> {
    Ok(Queue::open_existing(Settings {
        declare: Declare::Nothing,
        ..stage.settings()?
    })
    .await?)
}

#[test]
fn a_command_that_takes_dead_letters_is_not_held_up_where_they_have_no_log() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        /// More than are written at a time.
        const COUNT: u32 = 600;
        let queue = stage.queue().await?;
        let count = buried(&queue, COUNT).await?.len();
        without_log(&stage).await?;
        let operators = an_operators(&stage).await?;
        let all = async {
            let letters = dead_letters(&operators).await?;
            ensure!(letters.len() == count);
            let taken = take(&operators, letters, drop_it()).await?;
            ensure!(taken.len() == count);
            Ok(())
        };
        within(Duration::from_secs(60), "all are taken", all).await??;
        // It may take longer, and does not: nothing is left to be written.
        let closed = operators.close(Duration::from_secs(60));
        within(Duration::from_secs(15), "it is closed", closed).await
    })
}

#[test]
fn a_user_whose_rights_are_of_an_older_release_does_without_the_log_of_dead_letters()
-> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let old = format!(
            "^{}\\.(in|events|ask|post|post\\..*|due|delay\\..*|dead|archive|outcomes)$",
            stage.namespace()
        );
        tokio::task::block_in_place(|| {
            let node = stage.node()?;
            node.control(&["add_user", "chick", "s3cret"])?;
            node.control(&["set_permissions", "chick", &old, &old, &old])
        })?;
        let url = stage.location().replace("guest:guest", "chick:s3cret");
        let queue = Queue::open(Settings {
            location: Location::Amqp(vec![url]),
            ..stage.settings()?
        })
        .await?;
        publish_until_stored(&queue, 1).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await?;
        for number in 0..3 {
            queue.publisher().bury(&an_event(number), "none").await?;
        }
        let letters = listed(&queue, 3).await?;
        ensure!(take(&queue, letters[..2].to_vec(), drop_it()).await? == letters[..2]);
        ensure!(
            take(&queue, letters.clone(), drop_it()).await? == letters[2..],
            "the others are not there any more"
        );
        ensure!(listed(&queue, 0).await?.is_empty());
        Ok(())
    })
}

#[test]
fn somebody_elses_objects_in_the_place_of_the_log_of_dead_letters_are_left_alone()
-> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let operator = stage.operator().await?.create_channel().await?;
        let letters = format!("{}.letters", stage.namespace());
        let options = QueueDeclareOptions::durable();
        operator
            .queue_declare(letters.as_str().into(), options, FieldTable::default())
            .await?;
        operator
            .basic_publish(
                "".into(),
                letters.as_str().into(),
                BasicPublishOptions::default(),
                b"theirs",
                BasicProperties::default(),
            )
            .await?;
        let queue = stage.queue().await?;
        let event = an_event(1);
        queue.publisher().bury(&event, "none").await?;
        for queue in [queue, an_operators(&stage).await?] {
            let letters = listed(&queue, 1).await?;
            let held = queue.dead_letters().held(&letters[0]).await?;
            ensure!(held == Some(Held::Event(event.clone())));
        }
        let theirs = fetched(&stage.operator().await?, &letters).await?;
        ensure!(theirs.len() == 1 && theirs[0].delivery.data == b"theirs");
        Ok(())
    })
}

#[test]
fn what_was_listed_and_is_not_there_is_not_listed_for_ever() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        for number in 0..2 {
            queue.publisher().bury(&an_event(number), "none").await?;
        }
        let ghosts = listed(&queue, 2).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let dead = format!("{}.dead", stage.namespace());
        operator
            .queue_purge(dead.as_str().into(), QueuePurgeOptions::default())
            .await?;
        for body in [b"one", b"two"] {
            publish_by_hand(&stage, "dead", "", &[], BasicProperties::default(), body).await?;
        }
        ensure!(
            take(&queue, ghosts.clone(), drop_it()).await?.is_empty(),
            "they are gone"
        );
        until(SOON, "those that are there are listed", async || {
            let letters = dead_letters(&queue).await?;
            let is_there = |ghost| letters.contains(ghost);
            Ok((letters.len() == 2 && !ghosts.iter().any(is_there)).then_some(()))
        })
        .await
    })
}

#[test]
fn a_long_dead_letter_is_shown_from_its_queue() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let long = chickwork_queue::event::Event {
            body: vec![b'x'; 100_000].into(),
            ..an_event(1)
        };
        let short = an_event(2);
        queue.publisher().bury(&long, "none").await?;
        queue.publisher().bury(&short, "none").await?;
        let letters = listed(&queue, 2).await?;
        ensure!(letters[0].id == long.id);
        for (letter, event) in letters.iter().zip([long, short]) {
            let held = queue.dead_letters().held(letter).await?;
            ensure!(held == Some(Held::Event(event)));
        }
        ensure!(take(&queue, letters[..1].to_vec(), drop_it()).await? == letters[..1]);
        ensure!(queue.dead_letters().held(&letters[0]).await?.is_none());
        Ok(())
    })
}

#[test]
fn a_letter_that_cannot_be_put_back_remains_and_holds_up_no_other() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        let claim = next(&mut queue.claim_asks(LIMIT)).await?;
        settle(claim, Settlement::Next(a_reply(&an_event(1)))).await?;
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        let bury = Settlement::Bury {
            cause: Cause::Refused,
            error: "no".to_owned(),
        };
        settle(next(&mut posts).await?, bury).await?;
        posts.stop().await;
        queue.publisher().bury(&an_event(2), "none").await?;
        let letters = listed(&queue, 2).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let post = format!("{}.post.bot", stage.namespace());
        operator
            .queue_delete(post.as_str().into(), QueueDeleteOptions::default())
            .await?;

        let operators = an_operators(&stage).await?;
        let verdict = Verdict::Retry {
            reason: "a test said so".to_owned(),
            again: false,
            by: chickwork_queue::outcome::By::DEAD_RETRY,
        };
        let mut taking = operators.dead_letters().take(letters.clone(), verdict);
        ensure!(taking.next().await?.as_ref() == Some(&letters[1]));
        let error = taking.next().await.err().context("one remains")?;
        let error = error.to_string();
        ensure!(error.contains("remain: 1 (no queue is bound"), "{error}");
        ensure!(taking.next().await?.is_none());
        ensure!(listed(&operators, 1).await? == letters[..1]);
        let healed = stage.queue().await?;
        ensure!(retry(&healed, letters).await?.len() == 1);
        let claim = next(&mut healed.claim_posts(&BotName::default(), LIMIT)).await?;
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn a_command_that_only_looks_declares_nothing() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            declare: Declare::Nothing,
            ..stage.settings()?
        };
        let queue = Queue::open_existing(settings).await?;
        for error in [
            queue.check().await.err().context("nothing is there")?,
            dead_letters(&queue)
                .await
                .err()
                .context("nothing is there")?
                .downcast()?,
        ] {
            let error = error.to_string();
            ensure!(error.contains("CHICKWORK_NAMESPACE"), "{error}");
        }
        let operator = stage.operator().await?.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let ask = format!("{}.ask", stage.namespace());
        let there = operator
            .queue_declare(ask.as_str().into(), options, FieldTable::default())
            .await;
        ensure!(there.is_err(), "and nothing was created");
        Ok(())
    })
}
