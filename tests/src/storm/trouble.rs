//! What fails in a storm. Each trouble begins, lasts, and is over when its function returns; only
//! what is wrong with the two services stays until [`Storm::heal`].

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use lapin::options::QueueDeleteOptions;
use serde_json::json;

use super::Storm;
use crate::rabbitmq::Node;
use crate::stage::Kind;

/// A quorum queue that is younger than about a second does not survive a kill of its only node.
const OLD_ENOUGH: Duration = Duration::from_secs(3);
/// Longer than either client waits for an answer, and shorter than a look waits.
const TOO_SLOW: Duration = Duration::from_secs(11);
/// Memory that no node gets along with; and what it has otherwise.
const MEMORY: [&str; 2] = ["1MB", "1GB"];

/// Something that can go wrong with one of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Some calls fail with 500, and some of those take effect all the same.
    Failing,
    /// Some calls are dropped before they have an effect.
    Deaf,
    /// Some calls have an effect, and their answer gets lost.
    Mute,
    /// A few calls are answered later than anybody waits, their effect before or after.
    Slow,
    /// Some answers are garbage.
    Babbling,
    /// A few calls are refused with 429.
    Refusing,
}

impl Mood {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Failing,
        Self::Deaf,
        Self::Mute,
        Self::Slow,
        Self::Babbling,
        Self::Refusing,
    ];
}

impl Storm {
    /// One more trouble of this name.
    pub fn strike(&mut self, trouble: &'static str) {
        *self.struck.entry(trouble).or_default() += 1;
    }

    /// Kills the broker, and starts it again after so long.
    pub async fn kill_the_broker(&mut self, away: Duration) -> anyhow::Result<()> {
        self.strike("broker killed");
        let old_enough = OLD_ENOUGH.saturating_sub(self.begun.elapsed());
        // The broker's own clock is waited for.
        tokio::time::sleep(old_enough).await;
        self.node(Node::kill)?;
        self.rage(away).await;
        self.node(Node::start_again)
    }

    /// Stops the broker and starts it again.
    pub fn restart_the_broker(&mut self) -> anyhow::Result<()> {
        self.strike("broker restarted");
        self.node(Node::stop)?;
        self.node(Node::start_again)
    }

    /// The broker runs out of memory for so long: whoever publishes has to wait.
    pub async fn block_the_broker(&mut self, time: Duration) -> anyhow::Result<()> {
        self.strike("broker out of memory");
        let [none, enough] = MEMORY;
        let memory = |amount| ["set_vm_memory_high_watermark", "absolute", amount];
        self.node(|node| node.control(&memory(none)))?;
        self.rage(time).await;
        self.node(|node| node.control(&memory(enough)))?;
        Ok(())
    }

    /// The broker stands still for so long.
    pub async fn freeze_the_broker(&mut self, time: Duration) -> anyhow::Result<()> {
        self.strike("broker frozen");
        self.node(|node| node.freeze())?;
        self.rage(time).await;
        self.node(|node| node.thaw())
    }

    /// Somebody closes all connections to the broker.
    pub fn close_all_connections(&mut self) -> anyhow::Result<()> {
        self.strike("connections closed");
        self.node(|node| node.control(&["close_all_connections", "by an operator"]))?;
        Ok(())
    }

    /// Somebody deletes the queue of events to answer. How many were in it.
    pub async fn delete_the_ask_queue(&mut self) -> anyhow::Result<u32> {
        self.strike("ask queue deleted");
        self.robbed = true;
        let operator = self.bot.stage().operator().await?;
        let channel = operator.create_channel().await?;
        let ask = format!("{}.ask", self.bot.stage().namespace());
        let deleted = channel
            .queue_delete(ask.into(), QueueDeleteOptions::default())
            .await?;
        operator.close(200, "done".into()).await?;
        Ok(deleted)
    }

    /// Does something to the broker, which has to be this storm's own.
    fn node<T>(&self, deed: impl FnOnce(&mut Node) -> anyhow::Result<T>) -> anyhow::Result<T> {
        tokio::task::block_in_place(|| deed(&mut *self.bot.stage().node()?))
    }

    /// How many processes there are: those that take webhooks first.
    pub fn processes(&self) -> usize {
        self.bot.servers().count()
    }

    /// How many of them take webhooks.
    pub fn fronts(&self) -> usize {
        1 + self.bot.more_fronts.len()
    }

    /// Kills a process, and starts it again after so long.
    pub async fn kill(&mut self, number: usize, away: Duration) -> anyhow::Result<()> {
        self.strike("process killed");
        self.before_its_end(number).await?;
        self.server(number)?.kill().await?;
        self.rage(away).await;
        self.server(number)?.start()
    }

    /// Kills all processes, and starts them again.
    pub async fn kill_everything(&mut self) -> anyhow::Result<()> {
        self.strike("everything killed");
        for number in 0..self.processes() {
            self.before_its_end(number).await?;
            self.server(number)?.kill().await?;
        }
        for server in self.bot.servers_mut() {
            server.start()?;
        }
        Ok(())
    }

    /// Stops a process as an operator would, and starts it again.
    pub async fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        self.strike("process restarted");
        self.before_its_end(number).await?;
        let server = self.server(number)?;
        // Who has just been started may not know yet that it can be told to stop.
        server.ready().await?;
        server.terminate()?;
        let code = server.exit_code().await?;
        ensure!(code == Some(0), "a clean stop ended with {code:?}");
        self.server(number)?.start()
    }

    /// A process stands still for so long.
    pub async fn freeze(&mut self, number: usize, time: Duration) -> anyhow::Result<()> {
        self.strike("process frozen");
        // Who stands still in the middle of a transaction keeps everybody from writing to the file.
        self.front_froze |= number < self.fronts() || self.bot.kind() == Kind::Sqlite;
        self.server(number)?.freeze()?;
        self.rage(time).await;
        self.server(number)?.thaw()
    }

    /// What it has counted goes with it.
    async fn before_its_end(&mut self, number: usize) -> anyhow::Result<()> {
        if number >= self.fronts() {
            return Ok(());
        }
        self.front_died = true;
        self.count_acks(number).await
    }

    /// Nobody reaches Chatwork for so long, and whoever talks to it is cut off.
    pub async fn shut_chatwork(&mut self, time: Duration) -> anyhow::Result<()> {
        self.strike("chatwork out of reach");
        self.chatwork.shut().await;
        self.rage(time).await;
        self.chatwork.open().await
    }

    /// Nobody reaches SimSimi for so long, and whoever talks to it is cut off.
    pub async fn shut_simsimi(&mut self, time: Duration) -> anyhow::Result<()> {
        self.strike("simsimi out of reach");
        self.simsimi.shut().await;
        self.rage(time).await;
        self.simsimi.open().await
    }

    /// From now on something is wrong with SimSimi.
    pub fn spoil_simsimi(&mut self, mood: Mood) {
        let talk = Fault::nothing(Service::Simsimi).on(Call::Talk);
        let seed = self.random.u64(..);
        let (name, fault) = match mood {
            Mood::Failing => ("simsimi failing", talk.with_status(500).percent(30, seed)),
            Mood::Deaf => (
                "simsimi deaf",
                dropped(talk, When::Before).percent(20, seed),
            ),
            Mood::Mute => ("simsimi mute", dropped(talk, When::After).percent(20, seed)),
            Mood::Slow => ("simsimi slow", late(talk).times(12)),
            Mood::Babbling => (
                "simsimi babbling",
                talk.with_status(200).with_body("<html>").percent(30, seed),
            ),
            // The pauses that follow take a minute and more.
            Mood::Refusing => ("simsimi refusing", talk.with_status(429)),
        };
        self.strike(name);
        self.bot.sandbox.break_down(fault);
    }

    /// From now on something is wrong with Chatwork. Looks fail as well; no garbage comes with a 2xx
    /// to a post, as that is an answer that the bot has to believe.
    pub fn spoil_chatwork(&mut self, mood: Mood) {
        let chatwork = Fault::nothing(Service::Chatwork);
        let post = chatwork.clone().on(Call::Post);
        let look = chatwork.on(Call::Messages);
        let [seed, another] = [(); 2].map(|()| self.random.u64(..));
        let room = super::traffic::rooms().next();
        let (name, faults) = match mood {
            Mood::Failing => (
                "chatwork failing",
                vec![
                    Fault {
                        effect: true,
                        ..post.clone().with_status(500).percent(10, another)
                    },
                    post.with_status(500).percent(10, seed),
                    look.with_status(503).percent(20, another),
                ],
            ),
            Mood::Deaf => (
                "chatwork deaf",
                vec![
                    dropped(post, When::Before).percent(8, seed),
                    dropped(look, When::Before).percent(20, another),
                ],
            ),
            Mood::Mute => (
                "chatwork mute",
                vec![
                    dropped(post, When::After).percent(10, seed),
                    dropped(look, When::After).percent(20, another),
                ],
            ),
            Mood::Slow => (
                "chatwork slow",
                vec![
                    late(post.clone()).times(2),
                    Fault {
                        before: true,
                        ..late(post)
                    }
                    .times(2),
                    late(look),
                ],
            ),
            Mood::Babbling => (
                "chatwork babbling",
                vec![
                    post.with_status(502).with_body("<html>").percent(10, seed),
                    look.with_status(200)
                        .with_body("no list")
                        .percent(30, another),
                ],
            ),
            Mood::Refusing => {
                let reset = jiff::Timestamp::now().as_second() + 3;
                let limited = post.with_status(429);
                let words =
                    json!({ "errors": ["Rate limit for message posting per room exceeded."] });
                let of_a_room = limited.clone().with_body(words);
                (
                    "chatwork refusing",
                    vec![
                        limited
                            .clone()
                            .with_header("x-ratelimit-reset", reset)
                            .times(3),
                        match room {
                            Some(room) => of_a_room.in_room(room).times(2),
                            None => of_a_room,
                        },
                        limited,
                    ],
                )
            }
        };
        self.strike(name);
        for fault in faults {
            self.bot.sandbox.break_down(fault);
        }
    }

    /// Adds what a process has counted, as it is about to end or the storm is.
    pub(super) async fn count_acks(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.bot.servers().nth(number);
        let server = server.with_context(|| format!("there is no process {number}"))?;
        // One that has just been started has counted nothing.
        let figures = server.figures().await.unwrap_or_default();
        for line in figures.lines() {
            let labelled = line.strip_prefix("chickwork_acks_total{stored=\"");
            if let Some((stored, count)) = labelled.and_then(|rest| rest.split_once("\"} ")) {
                *self.acks.entry(stored.to_owned()).or_default() += count.parse::<u64>()?;
            }
        }
        Ok(())
    }
}

fn dropped(fault: Fault, when: When) -> Fault {
    Fault {
        drop: Some(when),
        ..fault
    }
}

fn late(fault: Fault) -> Fault {
    Fault {
        delay_ms: Fault::delay(fault.service, TOO_SLOW).delay_ms,
        ..fault
    }
}
