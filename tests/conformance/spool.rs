//! The spool: what the broker does not take waits on the disk, whoever dies meanwhile, and gets there
//! once as what it was to become. The broker is away behind a door that is shut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use chickwork_queue::event::Event;
use chickwork_queue::job::{Cause, Settlement, Step, Work};
use chickwork_queue::outcome::What;
use chickwork_queue::spool::{Spool, SpoolError, SpoolOpenError, SpoolSettings, Spooled};
use chickwork_queue::{
    Claims, Declare, Entry, OpenError, Publisher, Queue, QueueError, Settings, Stored,
};
use chickwork_tests::door::Door;
use chickwork_tests::stage::{
    A_WHILE, Kind, SOON, Stage, an_event, dead_letters, next, nothing, open, settings, settle,
    soon, until, within,
};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use rusqlite::Connection;
use tempfile::TempDir;

use super::forgetting::bytes_of;
use super::tell;

const LIMIT: u16 = 16;
const MIB: u64 = 1024 * 1024;
/// The pause between looks at what nobody tells.
const AGAIN: Duration = Duration::from_millis(20);
/// Longer than the forwarder waits before it tries again, and than it takes to bring a thousand events to
/// the broker, one at a time.
const A_TRY: Duration = Duration::from_secs(120);

/// A broker that can be put out of reach, and a place for spools.
struct Scene {
    stage: Stage,
    door: Door,
    folder: TempDir,
}

/// What a process has that takes events.
struct Ingress {
    queue: Queue,
    spool: Spool,
    publisher: Publisher,
}

impl Scene {
    /// A queue whose objects somebody else manages, so that what is missing stays so, and a spool.
    async fn managed(&self) -> anyhow::Result<(Queue, Spool)> {
        let managed = Settings {
            declare: Declare::Passive,
            ..self.settings()?
        };
        let queue = Queue::open(managed).await?;
        soon("the queue can be used", async {
            while queue.check().await.is_err() {}
        })
        .await?;
        let settings = SpoolSettings {
            path: self.path(),
            max_bytes: MIB,
        };
        let spool = Spool::open(settings, &queue).await?;
        Ok((queue, spool))
    }

    async fn set(stage: Stage) -> anyhow::Result<Self> {
        let location = stage.location();
        let (_, host) = location.rsplit_once('@').context("a user")?;
        let (address, _) = host.split_once('/').context("a virtual host")?;
        let door = Door::to(address.parse::<SocketAddr>()?).await?;
        let scene = Self {
            stage,
            door,
            folder: tempfile::tempdir()?,
        };
        // With it the broker has its objects.
        open(&scene.location()?, scene.stage.namespace()).await?;
        Ok(scene)
    }

    /// Where the broker is, through the door.
    fn location(&self) -> anyhow::Result<String> {
        let location = self.stage.location();
        let (user, host) = location.rsplit_once('@').context("a user")?;
        let (_, path) = host.split_once('/').context("a virtual host")?;
        Ok(format!("{user}@{}/{path}", self.door.address()))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        settings(&self.location()?, self.stage.namespace())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("spool.db")
    }

    async fn ingress(&self) -> anyhow::Result<Ingress> {
        self.ingress_with(64 * MIB).await
    }

    async fn ingress_with(&self, max_bytes: u64) -> anyhow::Result<Ingress> {
        let queue = Queue::open(self.settings()?).await?;
        if self.door.is_open() {
            // Else the first event may go to the spool: to connect and to store takes longer than it has.
            until(SOON, "the broker takes events", async || {
                Ok(queue.check().await.is_ok().then_some(()))
            })
            .await?;
        }
        let spool = SpoolSettings {
            path: self.path(),
            max_bytes,
        };
        let spool = Spool::open(spool, &queue).await?;
        until(A_TRY, "the spool is open", async || {
            Ok(spool.look().await.is_ok().then_some(()))
        })
        .await?;
        let publisher = queue.publisher_with(&spool);
        Ok(Ingress {
            queue,
            spool,
            publisher,
        })
    }

    /// What was set aside, without the files beside it.
    fn set_aside(&self) -> anyhow::Result<Vec<PathBuf>> {
        self.called(".set-aside-")
    }

    /// What was set aside, once all that can be read of it has been saved.
    async fn until_set_aside(&self) -> anyhow::Result<PathBuf> {
        until(A_TRY, "it is set aside", async || {
            if let [aside] = &self.set_aside()?[..] {
                return Ok(Some(aside.clone()));
            }
            Ok(None)
        })
        .await
    }

    fn called(&self, word: &str) -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(self.folder.path())?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let paths: Vec<PathBuf> = paths.collect::<anyhow::Result<_>>()?;
        let is_aside = |path: &PathBuf| {
            let name = path.display().to_string();
            name.contains(word) && !name.ends_with("-wal") && !name.ends_with("-shm")
        };
        Ok(paths.into_iter().filter(is_aside).collect())
    }
}

impl Ingress {
    async fn look(&self) -> anyhow::Result<Spooled> {
        Ok(self.spool.look().await?)
    }

    /// Stores events that have to wait in the spool.
    async fn put_off(&self, events: &[Event]) -> anyhow::Result<()> {
        /// So many go into one commit. Of more the last would wait for several.
        const AT_ONCE: usize = 250;
        for some in events.chunks(AT_ONCE) {
            let storing = some.iter().map(|event| {
                until(A_TRY, "it is stored", async || {
                    // Where the disk is slow it is tried again: twice the same is once.
                    let stored = self.publisher.publish(event).await;
                    Ok(stored
                        .inspect_err(|error| log::info!("not yet: {error}"))
                        .ok())
                })
            });
            let stored = try_join_all(storing).await?;
            ensure!(stored.iter().all(|stored| *stored == Stored::Spool));
        }
        Ok(())
    }

    async fn until_empty(&self) -> anyhow::Result<()> {
        until(A_TRY, "the spool is empty", async || {
            Ok((self.look().await?.events == 0).then_some(()))
        })
        .await
    }
}

fn on_a_scene<F: Future<Output = anyhow::Result<()>>>(
    story: impl FnOnce(Scene) -> F,
) -> anyhow::Result<()> {
    tell(Stage::new(Kind::Rabbitmq), async |stage| {
        story(Scene::set(stage).await?).await
    })
}

/// The next event that is to be answered, which then is.
async fn answer(claims: &mut Claims) -> anyhow::Result<Event> {
    let claim = within(A_TRY, "there is an event", claims.next()).await?;
    let Work::Ask(event) = claim.job().work.clone() else {
        bail!("a reply: {:?}", claim.job())
    };
    settle(claim, Settlement::Done).await?;
    Ok(event)
}

fn events(numbers: std::ops::Range<u32>) -> Vec<Event> {
    numbers.map(an_event).collect()
}

#[test]
fn what_the_broker_does_not_take_waits_and_arrives_as_it_was_and_in_order() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        let ingress = scene.ingress().await?;
        let early = an_event(0);
        ensure!(ingress.publisher.publish(&early).await? == Stored::Broker);
        ensure!(ingress.look().await?.events == 0);
        scene.door.shut().await;
        let late = events(1..30);
        for event in &late {
            ensure!(ingress.publisher.publish(event).await? == Stored::Spool);
        }
        // Twice the same is once.
        ensure!(ingress.publisher.publish(&late[0]).await? == Stored::Spool);
        let spooled = ingress.look().await?;
        ensure!(spooled.events == 29, "{spooled:?}");
        ensure!(spooled.oldest == Some(late[0].received_at), "{spooled:?}");
        ensure!(spooled.bytes <= spooled.max_bytes, "{spooled:?}");

        let direct = scene.stage.queue().await?;
        let mut claims = direct.claim_asks(1);
        ensure!(answer(&mut claims).await? == early);
        nothing(&mut claims).await?;
        scene.door.open().await?;
        for event in &late {
            ensure!(answer(&mut claims).await? == *event);
        }
        nothing(&mut claims).await?;
        ingress.until_empty().await?;
        // The copies are not waited for.
        let archived = async {
            loop {
                let mut read = direct.archive().read(Timestamp::UNIX_EPOCH);
                let mut archived = Vec::new();
                while let Some(event) = read.next().await? {
                    archived.push(event);
                }
                if late.iter().all(|event| archived.contains(event)) {
                    return anyhow::Ok(());
                }
            }
        };
        soon("all are archived", archived).await?
    })
}

#[test]
fn what_was_forwarded_is_nowhere_in_the_bytes_of_the_spool() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        let ingress = scene.ingress().await?;
        scene.door.shut().await;
        for number in 0..30 {
            let event = Event {
                body: format!("a secret, {number}, {}", "and more ".repeat(1_000)).into(),
                ..an_event(number)
            };
            ensure!(ingress.publisher.publish(&event).await? == Stored::Spool);
        }
        let path = scene.path();
        ensure!(bytes_of(&path, b"a secret")?, "it is there to be forgotten");
        scene.door.open().await?;
        ingress.until_empty().await?;
        until(SOON, "it is forgotten", async || {
            Ok((!bytes_of(&path, b"a secret")?).then_some(()))
        })
        .await
    })
}

#[test]
fn what_was_forwarded_tells_when_it_was_received_and_when_the_broker_took_it() -> anyhow::Result<()>
{
    on_a_scene(async |mut scene: Scene| {
        let ingress = scene.ingress().await?;
        let straight = an_event(0);
        ensure!(ingress.publisher.publish(&straight).await? == Stored::Broker);
        scene.door.shut().await;
        let waited = an_event(1);
        ensure!(ingress.publisher.publish(&waited).await? == Stored::Spool);
        let back = Timestamp::now();
        scene.door.open().await?;
        let direct = scene.stage.queue().await?;
        let mut follow = direct.outcomes().follow(Timestamp::UNIX_EPOCH);
        let told = soon("both are told of", async {
            let mut told = Vec::new();
            while told.len() < 2 {
                if let Entry::Outcome(outcome) = follow.next().await {
                    told.push(outcome);
                }
            }
            told
        });
        for outcome in told.await? {
            let What::Received {
                stored,
                forwarded_at,
            } = outcome.what
            else {
                bail!("{outcome:?}")
            };
            let (event, expected) = match stored {
                Stored::Spool => (&waited, true),
                _ => (&straight, false),
            };
            ensure!((outcome.id, outcome.at) == (event.id, event.received_at));
            ensure!(
                forwarded_at.is_some_and(|at| at >= back) == expected,
                "{forwarded_at:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn what_waits_becomes_what_it_was_to_become() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        let ingress = scene.ingress().await?;
        scene.door.shut().await;
        let [ask, malformed, ignored] = [1, 2, 3].map(an_event);
        let publisher = &ingress.publisher;
        ensure!(publisher.bury(&malformed, "no JSON").await? == Stored::Spool);
        ensure!(publisher.archive(&ignored, "unknown_type").await? == Stored::Spool);
        ensure!(publisher.publish(&ask).await? == Stored::Spool);
        // A spool can be looked into as a queue file.
        let path = scene.path().display().to_string();
        let spool = Queue::open_existing(settings(&format!("sqlite:{path}"), "")?).await?;
        let mut read = spool.archive().read(Timestamp::UNIX_EPOCH);
        for event in [&malformed, &ignored, &ask] {
            ensure!(read.next().await?.as_ref() == Some(event));
        }
        ensure!(read.next().await?.is_none());
        drop((read, spool));

        scene.door.open().await?;
        ingress.until_empty().await?;
        let direct = scene.stage.queue().await?;
        let mut claims = direct.claim_asks(LIMIT);
        ensure!(answer(&mut claims).await? == ask);
        nothing(&mut claims).await?;
        let letters = dead_letters(&direct).await?;
        let [letter] = &letters[..] else {
            bail!("one is buried: {letters:?}")
        };
        let (cause, step) = (letter.cause, letter.step);
        ensure!((letter.id, cause, step) == (malformed.id, Cause::Malformed, Step::Receive));
        ensure!(letter.error == "no JSON");
        let mut follow = direct.outcomes().follow(Timestamp::UNIX_EPOCH);
        let told = soon("it is ignored", async {
            loop {
                if let Entry::Outcome(outcome) = follow.next().await
                    && let What::Ignored { reason } = outcome.what
                {
                    return (outcome.id, reason);
                }
            }
        });
        ensure!(told.await? == (ignored.id, "unknown_type".to_owned()));
        Ok(())
    })
}

#[test]
fn what_waits_outlives_its_process_and_the_next_one_forwards_it() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let waiting = events(0..20);
        let ingress = scene.ingress().await?;
        ingress.put_off(&waiting).await?;
        // As a process ends that is killed: nobody tells it to stop.
        drop(ingress);
        let ingress = scene.ingress().await?;
        ensure!(ingress.look().await?.events == 20);
        scene.door.open().await?;
        let mut claims = scene.stage.queue().await?.claim_asks(1);
        let mut arrived = Vec::new();
        for _ in &waiting {
            arrived.push(answer(&mut claims).await?.id);
        }
        arrived.sort();
        ensure!(arrived.iter().eq(waiting.iter().map(|event| &event.id)));
        nothing(&mut claims).await
    })
}

#[test]
fn a_stopped_spool_forwards_what_it_can_and_keeps_the_rest() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress().await?;
        ingress.put_off(&events(0..1_000)).await?;
        let stopped = ingress.spool.stop(std::future::pending());
        soon("it stops though the broker is away", stopped).await?;

        scene.door.open().await?;
        let ingress = scene.ingress().await?;
        let connected = async { while ingress.queue.check().await.is_err() {} };
        soon("the broker takes events", connected).await?;
        let stopped = ingress.spool.stop(std::future::pending());
        within(A_TRY, "it stops once all is forwarded", stopped).await?;
        let mut claims = scene.stage.queue().await?.claim_asks(LIMIT);
        for _ in 0..1_000 {
            answer(&mut claims).await?;
        }
        scene.door.shut().await;
        ensure!(scene.ingress().await?.look().await?.events == 0);
        Ok(())
    })
}

#[test]
fn while_an_alarm_blocks_the_broker_events_wait_in_the_spool() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage| {
        let scene = Scene::set(stage).await?;
        let ingress = scene.ingress().await?;
        ensure!(ingress.publisher.publish(&an_event(0)).await? == Stored::Broker);
        let alarm = |level: &str| {
            let arguments = ["set_vm_memory_high_watermark", "absolute", level];
            tokio::task::block_in_place(|| scene.stage.node()?.control(&arguments))
        };
        alarm("1MB")?;
        let mut waiting = Vec::new();
        let blocked = async {
            for number in 1.. {
                let event = an_event(number);
                match ingress.publisher.publish(&event).await? {
                    Stored::Spool => return anyhow::Ok(event),
                    _ => waiting.push(event),
                }
            }
            bail!("all of these events are stored")
        };
        let first = soon("an event has to wait", blocked).await??;
        let before = 1 + waiting.len();
        let mut spooled = vec![first];
        spooled.extend(events(1_000..1_050));
        ingress.put_off(&spooled[1..]).await?;
        let direct = Queue::open(scene.stage.settings()?).await?;
        let mut claims = direct.claim_asks(1);
        for _ in 0..before {
            answer(&mut claims).await?;
        }
        nothing(&mut claims).await?;
        ensure!(ingress.look().await?.events == 51);
        alarm("1GB")?;
        // What was waiting for the broker when it was blocked may get there as well: then twice.
        let mut missing: Vec<_> = spooled.iter().map(|event| event.id).collect();
        while !missing.is_empty() {
            let arrived = answer(&mut claims).await?;
            missing.retain(|id| *id != arrived.id);
        }
        ingress.until_empty().await
    })
}

#[test]
fn fresh_events_do_not_wait_behind_a_long_spool() -> anyhow::Result<()> {
    /// All that wait may have gone out before this test has looked, if it had to stand still meanwhile.
    const TRIES: usize = 5;
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress().await?;
        for _ in 0..TRIES {
            scene.door.shut().await;
            ingress.put_off(&events(0..1_000)).await?;
            scene.door.open().await?;
            let fresh = async {
                for number in 10_000.. {
                    if ingress.publisher.publish(&an_event(number)).await? == Stored::Broker {
                        return anyhow::Ok(ingress.look().await?.events);
                    }
                    // The broker tells nobody that it is back.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bail!("all of these events are stored")
            };
            let behind = within(A_TRY, "one goes straight to the broker", fresh).await??;
            if behind > 0 {
                return ingress.until_empty().await;
            }
        }
        bail!("in {TRIES} tries none went straight to the broker while others still waited")
    })
}

#[test]
fn a_full_spool_says_so_and_has_room_again_when_it_is_emptied() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress_with(MIB).await?;
        let large = |number| Event {
            body: Bytes::from(vec![b'x'; 10_000]),
            ..an_event(number)
        };
        let mut stored = 0;
        let refused = async {
            loop {
                match ingress.publisher.publish(&large(stored)).await {
                    Ok(_) => stored += 1,
                    Err(error) => return error,
                }
            }
        };
        let refused = within(A_TRY, "it is full", refused).await?;
        ensure!((50..110).contains(&stored), "{stored} events of 10 kB");
        let QueueError::Nowhere { spool, .. } = &refused else {
            bail!("{refused}")
        };
        ensure!(
            matches!(spool, SpoolError::Full { max_bytes: MIB }),
            "{spool}"
        );
        let says = refused.to_string();
        ensure!(says.contains("CHICKWORK_SPOOL_MAX_BYTES=1048576"), "{says}");
        ensure!(says.contains("broker"), "both are told of: {says}");
        ensure!(ingress.publisher.check().await.is_err(), "not ready");
        ensure!(std::fs::metadata(scene.path())?.len() <= MIB);
        ensure!(ingress.look().await?.events == u64::from(stored));

        scene.door.open().await?;
        ingress.until_empty().await?;
        ingress.publisher.check().await?;
        scene.door.shut().await;
        ensure!(ingress.publisher.publish(&large(stored)).await? == Stored::Spool);
        Ok(())
    })
}

#[test]
fn without_room_in_the_spool_a_broker_that_is_back_is_found_at_once() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress_with(MIB).await?;
        let too_large = Event {
            body: Bytes::from(vec![b'x'; 1_000_000]),
            ..an_event(1)
        };
        ensure!(ingress.publisher.publish(&too_large).await.is_err());
        ensure!(ingress.publisher.check().await.is_ok(), "others have room");
        scene.door.open().await?;
        let stored = async {
            loop {
                if let Ok(stored) = ingress.publisher.publish(&too_large).await {
                    return stored;
                }
                // The broker tells nobody that it is back.
                tokio::time::sleep(AGAIN).await;
            }
        };
        ensure!(soon("it is stored", stored).await? == Stored::Broker);
        Ok(())
    })
}

#[test]
fn what_the_broker_has_no_place_for_holds_up_nothing_else() -> anyhow::Result<()> {
    on_a_scene(async |scene: Scene| {
        let (queue, spool) = scene.managed().await?;
        let publisher = queue.publisher_with(&spool);
        let operator = scene.stage.operator().await?.create_channel().await?;
        let dead = format!("{}.dead", scene.stage.namespace());
        operator
            .queue_delete(dead.into(), QueueDeleteOptions::default())
            .await?;
        let malformed = an_event(0);
        ensure!(publisher.bury(&malformed, "no JSON").await? == Stored::Spool);
        let mut claims = scene.stage.queue().await?.claim_asks(LIMIT);
        for event in events(1..10) {
            ensure!(publisher.publish(&event).await? == Stored::Broker);
            ensure!(answer(&mut claims).await? == event);
        }
        // Whoever opened the queue to look for them has declared what was missing.
        let buried = async {
            while spool.look().await?.events > 0 {
                // Looking is how one finds out: nobody tells.
                tokio::time::sleep(AGAIN).await;
            }
            dead_letters(&queue).await
        };
        let letters = within(A_TRY, "it is buried", buried).await??;
        ensure!(letters.iter().any(|letter| letter.id == malformed.id));
        Ok(())
    })
}

#[test]
fn what_cannot_be_told_of_is_tried_again_without_a_trace() -> anyhow::Result<()> {
    on_a_scene(async |scene: Scene| {
        let (queue, spool) = scene.managed().await?;
        let operator = scene.stage.operator().await?.create_channel().await?;
        let outcomes = format!("{}.outcomes", scene.stage.namespace());
        operator
            .exchange_delete(outcomes.into(), ExchangeDeleteOptions::default())
            .await?;
        let [malformed, ignored] = [1, 2].map(an_event);
        let direct = queue.publisher();
        for _ in 0..10 {
            let buried = direct.bury(&malformed, "no JSON").await;
            let archived = direct.archive(&ignored, "unknown_type").await;
            ensure!(buried.is_err() && archived.is_err(), "nobody can be told");
        }
        let publisher = queue.publisher_with(&spool);
        ensure!(publisher.bury(&malformed, "no JSON").await? == Stored::Spool);
        ensure!(publisher.archive(&ignored, "unknown_type").await? == Stored::Spool);

        // Whoever may declare mends it.
        let healing = open(&scene.location()?, scene.stage.namespace()).await?;
        until(A_TRY, "the spool is empty", async || {
            Ok((spool.look().await?.events == 0).then_some(()))
        })
        .await?;
        let letters = dead_letters(&healing).await?;
        let letters: Vec<_> = letters.iter().map(|letter| letter.id).collect();
        ensure!(letters == [malformed.id], "{letters:?}");
        let archived = async {
            loop {
                let mut read = healing.archive().read(Timestamp::UNIX_EPOCH);
                let mut archived = Vec::new();
                while let Some(event) = read.next().await? {
                    archived.push(event.id);
                }
                // The letter's copy comes some time later.
                if archived.contains(&malformed.id) {
                    archived.retain(|id| *id == ignored.id);
                    return anyhow::Ok(archived);
                }
            }
        };
        let archived = soon("all are archived", archived).await??;
        ensure!(archived == [ignored.id], "{archived:?}");
        Ok(())
    })
}

#[test]
fn an_event_that_the_broker_refuses_for_itself_is_in_nobodys_way() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage| {
        let mut scene = Scene::set(stage).await?;
        scene.door.shut().await;
        let ingress = scene.ingress().await?;
        let largest = |bytes: u32| {
            // RabbitMQ 3.10 looks into its settings each time, 4 into what it has made of them at its start.
            let set = format!(
                "application:set_env(rabbit, max_message_size, {bytes}), \
                 persistent_term:put(max_message_size, {bytes})."
            );
            tokio::task::block_in_place(|| scene.stage.node()?.control(&["eval", &set]))
        };
        largest(100_000)?;
        let too_large = Event {
            body: Bytes::from(vec![b'x'; 200_000]),
            ..an_event(0)
        };
        ensure!(ingress.publisher.publish(&too_large).await? == Stored::Spool);
        let behind = an_event(1);
        ensure!(ingress.publisher.publish(&behind).await? == Stored::Spool);
        scene.door.open().await?;
        let mut claims = scene.stage.queue().await?.claim_asks(1);
        ensure!(answer(&mut claims).await? == behind);
        until(SOON, "the other one is removed", async || {
            Ok((ingress.look().await?.events <= 1).then_some(()))
        })
        .await?;
        let fresh = an_event(2);
        ensure!(ingress.publisher.publish(&fresh).await? == Stored::Broker);
        ensure!(answer(&mut claims).await? == fresh);

        largest(1_000_000)?;
        let claim = within(2 * A_TRY, "it is tried again", claims.next()).await?;
        ensure!(claim.job().work == Work::Ask(too_large));
        settle(claim, Settlement::Done).await?;
        ingress.until_empty().await
    })
}

#[test]
fn a_row_that_nobody_can_read_is_kept_and_in_nobodys_way() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress().await?;
        let waiting = events(0..3);
        for event in &waiting {
            ingress.publisher.publish(event).await?;
        }
        ingress.spool.stop(std::future::ready(())).await;
        let id = waiting[1].id.to_string();
        Connection::open(scene.path())?
            .execute("UPDATE archive SET bot = 'NO BOT' WHERE id = ?1", [&id])?;
        let ingress = scene.ingress().await?;
        scene.door.open().await?;
        let mut claims = scene.stage.queue().await?.claim_asks(1);
        ensure!(answer(&mut claims).await? == waiting[0]);
        ensure!(answer(&mut claims).await? == waiting[2]);
        nothing(&mut claims).await?;
        ensure!(ingress.look().await?.events == 1);
        Ok(())
    })
}

/// Makes of a good file one that cannot be used.
type Spoil<'a> = &'a dyn Fn(Vec<u8>) -> anyhow::Result<Vec<u8>>;

#[test]
fn a_file_that_cannot_be_used_is_set_aside_and_another_one_begun() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let path = scene.path();
        let used = async || {
            let ingress = scene.ingress().await?;
            ingress.put_off(&events(0..500)).await?;
            ingress.spool.stop(std::future::ready(())).await;
            Ok::<_, anyhow::Error>(std::fs::read(&path)?)
        };
        let spoilt: [(&str, Spoil<'_>); 5] = [
            ("text", &|_| Ok("Dear diary, ".repeat(1000).into_bytes())),
            ("foreign", &|_| {
                let folder = tempfile::tempdir()?;
                let path = folder.path().join("recipes.db");
                Connection::open(&path)?.execute_batch("CREATE TABLE recipes (name TEXT)")?;
                Ok(std::fs::read(&path)?)
            }),
            ("newer", &|mut bytes| {
                bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
                Ok(bytes)
            }),
            ("a page of rubbish", &|mut bytes| {
                let middle = bytes.len() / 4096 / 2 * 4096;
                bytes[middle..middle + 4096].fill(b'x');
                Ok(bytes)
            }),
            ("cut off", &|mut bytes| {
                bytes.truncate(bytes.len() / 2);
                Ok(bytes)
            }),
        ];
        for (what, spoil) in spoilt {
            let bytes = spoil(used().await?)?;
            std::fs::write(&path, &bytes)?;
            let ingress = scene.ingress().await.context(what)?;
            if what == "a page of rubbish" {
                // What does not lie on it is saved.
                until(A_TRY, "the others are saved", async || {
                    Ok((ingress.look().await?.events >= 250).then_some(()))
                })
                .await?;
            }
            let event = an_event(1);
            ensure!(ingress.publisher.publish(&event).await? == Stored::Spool);
            let aside = scene.until_set_aside().await.context(what)?;
            ensure!(std::fs::read(&aside)? == bytes, "{what} is left as it was");
            ensure!(scene.called(".saving-")?.is_empty(), "{what}");
            std::fs::remove_file(aside)?;
            ingress.spool.stop(std::future::ready(())).await;
            std::fs::remove_file(&path)?;
        }
        Ok(())
    })
}

#[test]
fn a_file_that_is_damaged_under_way_is_replaced_without_a_restart() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let ingress = scene.ingress().await?;
        ingress.put_off(&events(0..3_000)).await?;
        // Everything is in the file, nothing beside it.
        let operator = Connection::open(scene.path())?;
        operator.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        drop(operator);
        spoil(&scene.path())?;
        scene.door.open().await?;
        scene.until_set_aside().await?;
        scene.door.shut().await;
        let stored = async {
            for number in 10_000.. {
                // The broker takes none, and for a moment the spool does not either.
                if let Ok(Stored::Spool) = ingress.publisher.publish(&an_event(number)).await {
                    return;
                }
                // Looking is how one finds out: nobody tells.
                tokio::time::sleep(AGAIN).await;
            }
        };
        within(A_TRY, "events can wait again", stored).await?;
        ensure!(ingress.look().await?.events >= 1);
        ensure!(scene.path().exists());
        Ok(())
    })
}

#[test]
fn a_rescue_waits_for_room_and_goes_on_in_the_next_process() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let large = |number| Event {
            body: Bytes::from(vec![b'x'; 10_000]),
            ..an_event(number)
        };
        let waiting: Vec<_> = (0..300).map(large).collect();
        let ingress = scene.ingress().await?;
        ingress.put_off(&waiting).await?;
        ingress.spool.stop(std::future::ready(())).await;
        let mut bytes = std::fs::read(scene.path())?;
        let middle = bytes.len() / 4096 / 2 * 4096;
        bytes[middle..middle + 4096].fill(b'x');
        std::fs::write(scene.path(), bytes)?;

        // In this one a part of them has room.
        let small = scene.ingress_with(MIB).await?;
        until(A_TRY, "the new spool is full", async || {
            Ok(small
                .publisher
                .publish(&large(1_000))
                .await
                .is_err()
                .then_some(()))
        })
        .await?;
        ensure!(small.look().await?.events < 200);
        small.spool.stop(std::future::ready(())).await;
        ensure!(scene.set_aside()?.is_empty(), "it is not done");
        ensure!(scene.called(".saving-")?.len() == 1, "and is to go on");

        let next = scene.ingress().await?;
        scene.until_set_aside().await?;
        ensure!(scene.called(".saving-")?.is_empty(), "it is done");
        let events = next.look().await?.events;
        ensure!(events > 250, "{events} are saved");
        Ok(())
    })
}

#[test]
fn a_journal_whose_file_is_gone_is_kept() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let journal = PathBuf::from(format!("{}-wal", scene.path().display()));
        for is_empty in [true, false] {
            let ingress = scene.ingress().await?;
            ingress.put_off(&events(0..20)).await?;
            let kept = std::fs::read(&journal)?;
            ingress.spool.stop(std::future::ready(())).await;
            if is_empty {
                std::fs::write(scene.path(), "")?;
            } else {
                std::fs::remove_file(scene.path())?;
            }
            std::fs::write(&journal, &kept)?;
            let as_a_queue = settings(&format!("sqlite:{}", scene.path().display()), "")?;
            let refused = Queue::open(as_a_queue).await.err();
            ensure!(
                matches!(refused, Some(OpenError::JournalOnly(_))),
                "{refused:?}"
            );

            let ingress = scene.ingress().await?;
            ingress.put_off(&events(0..1)).await?;
            let aside = scene.until_set_aside().await?;
            let beside = PathBuf::from(format!("{}-wal", aside.display()));
            ensure!(std::fs::read(&beside)? == kept);
            std::fs::remove_file(aside)?;
            std::fs::remove_file(beside)?;
            ingress.spool.stop(std::future::ready(())).await;
        }
        Ok(())
    })
}

#[test]
fn an_ingress_begins_without_a_spool_that_takes_long_to_open() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        let ingress = scene.ingress().await?;
        ingress.spool.stop(std::future::ready(())).await;
        // As long as somebody works on it, it cannot be read.
        let operator = Connection::open(scene.path())?;
        operator.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")?;
        let queue = Queue::open(scene.settings()?).await?;
        let settings = SpoolSettings {
            path: scene.path(),
            max_bytes: MIB,
        };
        let spool = within(A_TRY, "it begins", Spool::open(settings, &queue)).await??;
        let publisher = queue.publisher_with(&spool);
        ensure!(spool.look().await.is_err(), "the spool is not open");
        until(SOON, "the broker takes events", async || {
            Ok(publisher.publish(&an_event(1)).await.is_ok().then_some(()))
        })
        .await?;
        scene.door.shut().await;
        drop(operator);
        until(A_TRY, "it opens by itself", async || {
            Ok(publisher.publish(&an_event(2)).await.is_ok().then_some(()))
        })
        .await?;
        ensure!(spool.look().await?.events == 1);
        Ok(())
    })
}

/// Overwrites all of the file but its first page.
fn spoil(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(path)?;
    let rubbish = vec![b'x'; usize::try_from(file.metadata()?.len())? - 4096];
    Ok(file.write_all_at(&rubbish, 4096)?)
}

#[test]
fn a_queue_is_no_spool_and_a_spool_no_queue() -> anyhow::Result<()> {
    on_a_scene(async |scene: Scene| {
        let as_a_queue = settings(&format!("sqlite:{}", scene.path().display()), "")?;
        let queue = Queue::open(as_a_queue.clone()).await?;
        queue.publisher().publish(&an_event(1)).await?;
        let refused = scene.ingress().await.err().context("it is a queue")?;
        let refused = refused.downcast::<SpoolOpenError>()?;
        ensure!(matches!(refused, SpoolOpenError::Queue(_)), "{refused}");
        ensure!(scene.set_aside()?.is_empty(), "it stays where it is");
        next(&mut queue.claim_asks(LIMIT)).await?;
        ensure!(matches!(
            Spool::open(
                SpoolSettings {
                    path: scene.folder.path().join("another.db"),
                    max_bytes: MIB
                },
                &queue
            )
            .await,
            Err(SpoolOpenError::NotNeeded)
        ));

        let other = Scene::set(Stage::new(Kind::Rabbitmq)?).await?;
        let ingress = other.ingress().await?;
        let as_a_queue = settings(&format!("sqlite:{}", other.path().display()), "")?;
        let refused = Queue::open(as_a_queue).await.err();
        ensure!(matches!(refused, Some(OpenError::Spool(_))), "{refused:?}");
        ensure!(ingress.look().await?.events == 0);
        Ok(())
    })
}

#[test]
fn a_place_that_cannot_be_used_is_refused_with_the_cure() -> anyhow::Result<()> {
    on_a_scene(async |scene: Scene| {
        let queue = Queue::open(scene.settings()?).await?;
        let at = |name: &str| scene.folder.path().join(name);
        std::fs::create_dir(at("folder"))?;
        std::fs::write(at("file"), "text")?;
        for (name, cure) in [
            ("nowhere/spool.db", "Create its folder"),
            ("file/spool.db", "Create its folder"),
            ("folder", "Name a file"),
        ] {
            let settings = SpoolSettings {
                path: at(name),
                max_bytes: MIB,
            };
            let refused = Spool::open(settings, &queue).await.err().context(name)?;
            let says = refused.to_string();
            ensure!(says.contains(cure) && says.contains(name), "{says}");
        }
        Ok(())
    })
}

#[test]
fn a_spool_belongs_to_one_process_and_passes_to_its_successor() -> anyhow::Result<()> {
    on_a_scene(async |mut scene: Scene| {
        scene.door.shut().await;
        let first = scene.ingress().await?;
        first.put_off(&events(0..3)).await?;
        let refused = within(Duration::from_secs(60), "it gives up", scene.ingress());
        let refused = refused.await?.err().context("it is in use")?;
        let says = refused.to_string();
        let process = format!("process {} since", std::process::id());
        ensure!(says.contains(&process), "{says}");
        ensure!(says.contains("CHICKWORK_SPOOL of its own"), "{says}");

        let mut successor = std::pin::pin!(scene.ingress());
        let waits = tokio::time::timeout(A_WHILE, &mut successor).await;
        ensure!(waits.is_err(), "it waits");
        first.spool.stop(std::future::ready(())).await;
        let successor = soon("it has it", successor).await??;
        ensure!(successor.look().await?.events == 3);
        Ok(())
    })
}
