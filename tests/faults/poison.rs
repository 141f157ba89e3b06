//! An event at which its worker dies, again and again: it is buried, and those that were worked on
//! beside it are answered.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::job::{Cause, Work};
use chickwork_tests::bot::{Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::process::free_port;
use chickwork_tests::stage::{Kind, Plant, within};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::crash_points::all_is_explained;

/// What no worker survives.
const POISON: &str = "echo drink me";
/// Deaths that it has behind it. The rest of the ten are seen here.
const DEATHS_BEFORE: u32 = 8;
const DEATHS_HERE: usize = 2;
/// Events that are worked on beside it each time.
const NEIGHBOURS: usize = 3;
/// A lease runs out, a suspect is put off by up to 30 s, and two cores are shared.
const COMES_BACK: Duration = Duration::from_secs(75);

/// A worker that asks the poisoned question dies before it has the answer, whoever starts it again.
/// Its neighbours die with it and are answered, once.
pub(super) async fn what_kills_its_worker_is_buried_and_its_neighbours_are_answered(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .workers(1)
        .unlimited()
        // Long enough for all of them to be under way at the same time.
        .world(|world| world.simsimi_takes = Duration::from_secs(2))
        .prepare()
        .await?;
    let listener = Listener::before(bot.sandbox.address()).await?;
    let simsimi = format!("http://{}/190410", listener.address);
    bot.worker().set("SIMSIMI_API_URL", simsimi);
    bot.front.start()?;
    bot.front.ready().await?;

    let poison = MessageId::new("1700000000000000001")?;
    let event = Event {
        id: EventId::fresh(),
        bot: BotName::default(),
        event_type: "mention_to_me",
        room_id: Some(ROOM),
        message_id: Some(poison.clone()),
        received_at: Timestamp::now(),
        put_back_at: None,
        replay: 0,
        again: None,
        body: Bytes::from(a_hook(poison.as_str(), POISON).json()),
    };
    let plant = Plant {
        work: Work::Ask(event),
        deaths: DEATHS_BEFORE,
        body: None,
    };
    // An ingress that has a spool is ready before its broker is.
    bot.queue().await?;
    bot.stage().plant(plant).await?;
    bot.worker().start()?;
    bot.worker().ready().await?;

    let mut neighbours = Vec::new();
    for death in 0..DEATHS_HERE {
        listener.hears(POISON, death + 1).await?;
        let questions: Vec<_> = (0..NEIGHBOURS)
            .map(|number| format!("echo neighbour {number} of death {death}"))
            .collect();
        // At once: the poisoned question is given up after 10 s, and then it was only a failed try.
        let rooms = (300_200_000..).map(RoomId);
        let mentions = rooms.zip(&questions);
        let mentions = mentions.map(|(room, question)| bot.mention_in(room, SOMEBODY, question));
        let messages = try_join_all(mentions).await?;
        neighbours.extend(questions.iter().cloned().zip(messages));
        for question in &questions {
            listener.hears(question, 1).await?;
        }
        bot.worker().kill().await?;
        bot.worker().start()?;
    }

    let letter = bot.buried(COMES_BACK, &poison).await?;
    assert_eq!(letter.cause, Cause::Poison);
    assert_eq!(bot.answers(&poison), 0);
    assert_eq!(
        listener.heard(POISON),
        DEATHS_HERE,
        "buried, it is not asked any more"
    );
    for (question, message) in &neighbours {
        bot.posted(COMES_BACK, message).await?;
        assert_eq!(bot.answers(message), 1, "{question}");
        let asked = listener.heard(question);
        // Once for each death that it saw, and once for the answer.
        ensure!(
            asked <= DEATHS_HERE + 1,
            "{question} was asked {asked} times"
        );
    }
    assert_eq!(bot.dead_letters().await?.len(), 1);
    all_is_explained(&bot).await?;
    bot.end().await
}

/// Stands between a worker and SimSimi, hears every question, and lets no answer to the poisoned one
/// through.
struct Listener {
    address: SocketAddr,
    heard: Arc<Heard>,
    keeper: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    all: Mutex<String>,
    more: Notify,
}

impl Listener {
    async fn before(simsimi: SocketAddr) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let heard = Arc::<Heard>::default();
        let keeper = tokio::spawn(listen(
            TcpListener::bind(address).await?,
            simsimi,
            heard.clone(),
        ));
        Ok(Self {
            address,
            heard,
            keeper,
        })
    }

    /// How often this was asked.
    fn heard(&self, question: &str) -> usize {
        let all = self.heard.all.lock();
        all.unwrap_or_else(PoisonError::into_inner)
            .matches(question)
            .count()
    }

    /// Waits until this has been asked so often.
    async fn hears(&self, question: &str, times: usize) -> anyhow::Result<()> {
        let hearing = async {
            loop {
                let more = self.heard.more.notified();
                if self.heard(question) >= times {
                    return;
                }
                more.await;
            }
        };
        within(COMES_BACK, &format!("{question:?} is asked"), hearing).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn listen(listener: TcpListener, simsimi: SocketAddr, heard: Arc<Heard>) {
    let mut calls = JoinSet::new();
    while let Ok((worker, _)) = listener.accept().await {
        let heard = heard.clone();
        calls.spawn(async move {
            // However it ends, both are gone after it.
            let _ = call(worker, simsimi, &heard).await;
        });
        while calls.try_join_next().is_some() {}
    }
}

/// One connection, question by question.
async fn call(mut worker: TcpStream, simsimi: SocketAddr, heard: &Heard) -> std::io::Result<()> {
    let mut service = TcpStream::connect(simsimi).await?;
    let (mut question, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut poisoned = false;
    loop {
        tokio::select! {
            length = worker.read(&mut question) => {
                let words = &question[..length?];
                if words.is_empty() {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(words);
                poisoned |= text.contains(POISON);
                heard.all.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                heard.more.notify_waiters();
                service.write_all(words).await?;
            }
            length = service.read(&mut answer) => {
                let words = &answer[..length?];
                if words.is_empty() {
                    return Ok(());
                }
                if !poisoned {
                    worker.write_all(words).await?;
                }
            }
        }
    }
}
