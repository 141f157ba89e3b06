//! The stack of `docker-compose.yml`, started for real, as one story: it becomes healthy and answers, lets
//! nobody in who has no business there, loses nothing and says nothing twice while it is scaled, restarted and
//! killed under traffic, can be watched, and stops cleanly. Ends at the first promise that is broken.
//!
//!     stack [--keep]
//!
//! `tests/compose` builds the image first. With `--keep` the stack is left running at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_chatwork::signature::Token;
use chickwork_tests::stack::rooms::{self, Rooms};
use chickwork_tests::stack::talk::{Talk, Told, Traffic, Way};
use chickwork_tests::stack::{
    self, Container, Look, OURS, QUICK, SERVICES, STARTING, Stack, prometheus, until,
};
use chickwork_tests::storm::Audit;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// What our image may add to its base, in bytes.
const IMAGE_ADDS: u64 = 40 * 1024 * 1024;
/// The user of the image.
const USER: &str = "65532";
/// The right that Caddy keeps: to listen on a port below 1024.
const ONE_RIGHT: &str = "NET_BIND_SERVICE";
/// All that one of the broker's users may make: the operator, the queue that says that somebody goes
/// through the dead letters.
const ONE_TO_MAKE: &str = r"^chickwork\.(dead\.pass)$";
/// How many mentions a second people say in the rooms, and how many webhooks come through Caddy.
const PACE: [f64; 2] = [6.0, 2.0];
/// So many replies, or webhooks, show that it goes on.
const SOME: usize = 20;
/// How long it may take that it goes on; whoever posts has to be followed by another, which may take 20 s.
const GOES_ON: Duration = Duration::from_secs(60);
/// How long the last reply may take after everything: a post in doubt is looked for after 15 s.
const LAST_REPLY: Duration = Duration::from_secs(120);
/// A webhook is answered by the ingress itself within this time, whatever happens behind it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long Chatwork waits: the limit where Caddy has to hold a webhook for an ingress that is away.
const CHATWORK_WAITS: Duration = Duration::from_secs(10);
/// How long a container may take to stop before it is killed.
const GRACE: Duration = Duration::from_secs(35);
/// Seconds after which the broker is killed if it has not stopped by then, which is not what is tested here.
const BROKER_STOPS: &str = "15";
/// How long the audit may look until what is under way has come to an end, and how long with that it takes.
const AUDIT_WAITS: &str = "60s";
const AUDIT_TAKES: Duration = Duration::from_secs(120);
/// How long until Prometheus has seen something; it looks every few seconds.
const SCRAPED: Duration = Duration::from_secs(60);
/// Alerts that this story gives reason to: processes that came and went.
const EXPLAINED: [&str; 1] = ["ChickworkReplicaDown"];

#[tokio::main]
async fn main() -> ExitCode {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => false,
        [ref flag] if flag == "--keep" => true,
        _ => {
            say("usage: stack [--keep]");
            return ExitCode::from(2);
        }
    };
    let mut tally = Tally::begin();
    match run(keep, &mut tally).await {
        Ok(()) => {
            tally.show_figures();
            say(format_args!("{} passed, 0 failed", tally.passed));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(format_args!("\nbroken after {}: {error:#}", tally.clock()));
            say(format_args!("{} passed, 1 failed", tally.passed));
            ExitCode::FAILURE
        }
    }
}

/// Tells the story, and leaves nothing behind, however it ends.
async fn run(keep: bool, tally: &mut Tally) -> anyhow::Result<()> {
    let stack = Stack::prepare()?;
    // What an earlier run has left that was killed.
    stack.remove().await?;
    let told = tokio::select! {
        interrupted = interrupted() => interrupted,
        told = Box::pin(story(&stack, tally)) => {
            if told.is_err() {
                show_logs(&stack).await;
            }
            told
        }
    };
    if keep {
        let ports = stack.ports();
        say(format_args!(
            "\nleft running: the sandbox on port {}, the webhook on port {}, Prometheus on port {}; `docker compose -p {} down -v --remove-orphans` removes it",
            ports.sandbox,
            ports.ingress,
            ports.prometheus,
            stack::PROJECT
        ));
        return told;
    }
    match (told, stack.remove().await) {
        (told, Ok(())) => told,
        (Ok(()), Err(left)) => Err(left.context("the stack could not be removed")),
        (Err(error), Err(left)) => bail!("{error:#}; and the stack could not be removed: {left:#}"),
    }
}

async fn show_logs(stack: &Stack) {
    match stack.logs().await {
        Ok(logs) => say(format_args!("\n== the last lines of the logs\n{logs}")),
        Err(error) => say(format_args!("\nno logs to be had: {error:#}")),
    }
}

async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}

async fn story(stack: &Stack, tally: &mut Tally) -> anyhow::Result<()> {
    tally.chapter("the image");
    the_image_is_small_and_has_no_root(stack, tally).await?;

    tally.chapter("up");
    stack.name_image().await?;
    stack.fetch_images().await?;
    let mut story = Story::start(stack, tally).await?;

    story.tally.chapter("who may do what");
    story.only_what_is_meant_is_published().await?;
    story.no_process_may_more_than_it_needs().await?;
    story.the_broker_knows_three_users_with_few_rights().await?;

    story.tally.chapter("the webhook endpoint");
    story.a_webhook_needs_its_signature().await?;
    story.caddy_passes_on_webhooks_and_nothing_else().await?;

    story.tally.chapter("under traffic");
    let rooms = story.talk.begin(Way::Sandbox, PACE[0]);
    let outside = story.talk.begin(Way::Caddy, PACE[1]);
    for workers in [4, 1, 2] {
        story.there_are_workers(workers).await?;
    }
    story.the_broker_restarts().await?;
    story.the_broker_is_killed().await?;
    // Those in the rooms talk to the ingress itself, and nobody holds their webhooks while it is away.
    rooms.stop().await?;
    story.the_ingress_is_replaced().await?;
    story.everything_is_upgraded().await?;
    story.an_upgrade_with_nothing_new_replaces_nothing().await?;
    story
        .an_upgrade_with_a_wrong_setting_changes_nothing()
        .await?;
    story.the_traffic_ends(outside).await?;

    story.tally.chapter("the sums");
    let moment = Timestamp::now();
    story.every_mention_has_one_reply().await?;
    story.the_operator_finds_the_same().await?;

    story.tally.chapter("what can be seen");
    story.everything_is_watched().await?;
    story.every_panel_shows_something(moment).await?;
    story.no_alert_lacks_a_reason().await?;

    story.tally.chapter("stop and start");
    story.what_waits_outlives_a_stop().await
}

/// A stack that runs, and what was said and seen so far.
struct Story<'a> {
    stack: &'a Stack,
    tally: &'a mut Tally,
    talk: Arc<Talk>,
    rooms: Rooms,
}

async fn the_image_is_small_and_has_no_root(
    stack: &Stack,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let image = stack::image();
    let facts = stack.facts_of_image(&image).await?;
    let base = stack.facts_of_image(&base_image()?).await?;
    let size = |facts: &Value| facts["Size"].as_u64().context("an image has a size");
    let (size, adds) = (size(&facts)?, size(&facts)?.saturating_sub(size(&base)?));
    ensure!(
        adds <= IMAGE_ADDS,
        "{image} has {} beyond its base, more than {}",
        mib(adds),
        mib(IMAGE_ADDS)
    );
    tally.kept(format_args!(
        "{image} has {}, {} beyond its base",
        mib(size),
        mib(adds)
    ));
    tally.figure(
        "image, and beyond its base",
        format!("{}, {}", mib(size), mib(adds)),
    );

    let config = &facts["Config"];
    let user = config["User"].as_str().unwrap_or_default();
    ensure!(
        user.split(':').next() == Some(USER),
        "the image's user is {user:?}, not {USER}"
    );
    tally.kept(format_args!("its user is {user}"));

    ensure!(
        config["Entrypoint"] == json!(["/usr/local/bin/chickwork"])
            && config["Healthcheck"]["Test"][0] == "CMD",
        "the image starts or is asked by way of a shell: {} {}",
        config["Entrypoint"],
        config["Healthcheck"]["Test"]
    );
    let version = [
        "run",
        "--rm",
        "--read-only",
        "--network",
        "none",
        "--cap-drop",
        "ALL",
        &image,
        "--version",
    ];
    let version = stack.docker(QUICK, &version).await?;
    tally.kept(format_args!(
        "it runs without a shell, a network, a right or a place to write: {}",
        version.trim()
    ));
    Ok(())
}

impl<'a> Story<'a> {
    /// Brings everything up, and says the first mention as soon as somebody is there to hear it.
    async fn start(stack: &'a Stack, tally: &'a mut Tally) -> anyhow::Result<Self> {
        let talk = Talk::new(stack)?;
        let mut rooms = Rooms::default();
        let begun = Instant::now();
        let up = [&["up", "--detach", "--wait"][..], &SERVICES].concat();
        let healthy = async {
            stack.compose(STARTING, &up).await?;
            anyhow::Ok(begun.elapsed())
        };
        let answered = async {
            until(STARTING, "the webhook endpoint answers", async || {
                let answer = stack.get(stack.ports().ingress, "healthz", &[]).await;
                Ok(match answer {
                    Ok((200, _)) => Look::There(()),
                    other => Look::NotYet(format!("{other:?}")),
                })
            })
            .await?;
            let first = talk.mention(Way::Sandbox).await?;
            ensure!(first.taken(), "the first webhook was not taken: {first:?}");
            rooms
                .until_answered(stack, STARTING, &[first.message])
                .await?;
            Ok(begun.elapsed())
        };
        let (healthy, answered) = tokio::try_join!(healthy, answered)?;
        tally.kept(format_args!(
            "everything is healthy after {}",
            seconds(healthy)
        ));
        tally.figure("until everything is healthy", seconds(healthy));
        tally.kept(format_args!(
            "the first reply came after {}",
            seconds(answered)
        ));
        tally.figure("until the first reply", seconds(answered));
        Ok(Self {
            stack,
            tally,
            talk,
            rooms,
        })
    }

    async fn only_what_is_meant_is_published(&mut self) -> anyhow::Result<()> {
        let ports = self.stack.ports();
        let expected = BTreeSet::from([
            format!("127.0.0.1:{}", ports.ingress),
            format!("127.0.0.1:{}", ports.sandbox),
            format!("127.0.0.1:{}", ports.prometheus),
            format!(":{}", ports.http),
            format!(":{}", ports.https),
        ]);
        let containers = self.stack.containers().await?;
        let found: BTreeSet<_> = containers.iter().flat_map(Container::published).collect();
        ensure!(
            found == expected,
            "published is {found:?}, not {expected:?}"
        );
        self.tally.kept(format_args!(
            "published are, on this machine alone, webhooks, sandbox and Prometheus, and to everybody Caddy"
        ));
        Ok(())
    }

    async fn no_process_may_more_than_it_needs(&mut self) -> anyhow::Result<()> {
        let mut processes = 0;
        for container in self.stack.containers().await? {
            let Container {
                service,
                name,
                facts,
            } = &container;
            let host = &facts["HostConfig"];
            ensure!(
                host["ReadonlyRootfs"] == true && host["Privileged"] == false,
                "{name} may write to its image"
            );
            ensure!(
                host["CapDrop"] == json!(["ALL"])
                    && (host["CapAdd"].is_null() || host["CapAdd"] == json!([ONE_RIGHT]))
                    && host["SecurityOpt"]
                        .to_string()
                        .contains("no-new-privileges"),
                "{name} has rights: without {}, with {}, {}",
                host["CapDrop"],
                host["CapAdd"],
                host["SecurityOpt"]
            );
            if container.exit_code().is_some() {
                continue;
            }
            let top = ["top", name, "-eo", "pid,uid,args"];
            let top = self.stack.docker(QUICK, &top).await?;
            for process in top.lines().skip(1) {
                let user = process.split_whitespace().nth(1).unwrap_or_default();
                let as_meant = match service.as_str() {
                    ours if OURS.contains(&ours) => user == USER,
                    "rabbitmq" => user != "0",
                    // Images of others choose for themselves; root is nobody without its rights.
                    _ => true,
                };
                ensure!(as_meant, "{name} has a process of {user}'s: {process}");
                processes += 1;
            }
        }
        self.tally.kept(format_args!(
            "none of {processes} processes may write to its image or gain rights; ours are {USER}'s, and the broker's not root's"
        ));
        Ok(())
    }

    async fn the_broker_knows_three_users_with_few_rights(&mut self) -> anyhow::Result<()> {
        let users = self.rabbitmqctl("list_users").await?;
        let mut names: Vec<_> = users.iter().map(|user| text(user, "user")).collect();
        names.sort_unstable();
        ensure!(
            names
                == [
                    "chickwork-ingress",
                    "chickwork-operator",
                    "chickwork-worker"
                ],
            "the broker's users are {names:?}"
        );
        let administrator = users
            .iter()
            .find(|user| user["tags"].to_string().contains("administrator"));
        ensure!(
            administrator.is_none(),
            "an administrator: {administrator:?}"
        );
        self.tally.kept(format_args!(
            "the broker knows {}, and no guest",
            names.join(", ")
        ));

        let permissions = self.rabbitmqctl("list_permissions").await?;
        ensure!(permissions.len() == names.len(), "{permissions:?}");
        for rights in &permissions {
            let user = text(rights, "user");
            for right in ["configure", "write", "read"] {
                let pattern = text(rights, right);
                let nothing = matches!(pattern, "" | "^$");
                let may_be_something = match user {
                    "chickwork-ingress" => right == "write",
                    "chickwork-worker" => right != "configure",
                    _ => right != "configure" || pattern == ONE_TO_MAKE,
                };
                let is_of_the_bot = pattern.starts_with('^')
                    && pattern.ends_with('$')
                    && pattern.contains("chickwork")
                    && !pattern.contains(".*");
                ensure!(
                    nothing || may_be_something && is_of_the_bot,
                    "{user} may {right} {pattern:?}"
                );
            }
        }
        self.tally.kept(format_args!(
            "the ingress may only write, the worker write and read, the operator make one queue, nobody anything that is not the bot's"
        ));
        Ok(())
    }

    /// Asks the broker's own tool for a list.
    async fn rabbitmqctl(&self, list: &str) -> anyhow::Result<Vec<Value>> {
        let ask = [
            "exec",
            "-T",
            "rabbitmq",
            "rabbitmqctl",
            "--quiet",
            list,
            "--formatter",
            "json",
        ];
        let answer = self.stack.compose(QUICK, &ask).await?;
        serde_json::from_str(&answer).with_context(|| format!("{list}: {answer}"))
    }

    async fn a_webhook_needs_its_signature(&mut self) -> anyhow::Result<()> {
        let authority = "/data/caddy/pki/authorities/local/root.crt";
        let authority = ["exec", "-T", "caddy", "cat", authority];
        let authority = self.stack.compose(QUICK, &authority).await?;
        self.talk.trust(&authority)?;

        let body = b"{}".to_vec();
        let forged = Token::parse("Zm9yZ2VkLWJ5LXNvbWVib2R5LWVsc2UtYXMtaXQtc2VlbXM=")?.sign(&body);
        for way in [Way::Port, Way::Caddy] {
            let status = self.talk.knock(way, &forged, body.clone()).await?;
            ensure!(
                status == 401,
                "a forged signature is answered {status} ({way:?})"
            );
        }
        self.tally
            .kept("a forged signature is answered 401, at the port and through Caddy");
        for way in [Way::Port, Way::Caddy] {
            let told = self.talk.mention(way).await?;
            ensure!(told.taken(), "a webhook was not taken: {told:?}");
            self.rooms
                .until_answered(self.stack, GOES_ON, &[told.message])
                .await?;
            self.tally.kept(format_args!(
                "a signed one is answered 200 in {} ms ({}), and the mention is answered",
                told.took.as_millis(),
                match way {
                    Way::Caddy => "by HTTPS through Caddy",
                    Way::Port | Way::Sandbox => "at the port",
                }
            ));
        }
        Ok(())
    }

    async fn caddy_passes_on_webhooks_and_nothing_else(&mut self) -> anyhow::Result<()> {
        for (path, expected) in [
            ("healthz", 200),
            ("metrics", 404),
            ("readyz", 404),
            ("ledger", 404),
            ("", 404),
        ] {
            let status = self.talk.look_behind_caddy(path).await?;
            ensure!(
                status == expected,
                "Caddy answers /{path} with {status}, not {expected}"
            );
        }
        self.tally
            .kept("behind Caddy there are webhooks and their health, and nothing else");
        Ok(())
    }

    async fn there_are_workers(&mut self, count: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        let from = Timestamp::now();
        let scale = format!("worker={count}");
        let up = [
            &["up", "--detach", "--wait", "--scale", &scale][..],
            &SERVICES,
        ]
        .concat();
        self.stack.compose(STARTING, &up).await?;
        let workers = self.stack.containers_of("worker").await?;
        ensure!(
            workers.len() == count,
            "{} workers, not {count}",
            workers.len()
        );
        let took = begun.elapsed();
        self.it_goes_on().await?;
        self.tally.kept(format_args!(
            "{count} workers after {}, and it goes on; no reply for at most {}",
            seconds(took),
            seconds(self.rooms.longest_silence(from, Timestamp::now()))
        ));
        Ok(())
    }

    async fn it_goes_on(&mut self) -> anyhow::Result<()> {
        self.talk.until_taken(GOES_ON, SOME).await?;
        self.rooms.until_more(self.stack, GOES_ON, SOME).await
    }

    async fn the_broker_restarts(&mut self) -> anyhow::Result<()> {
        let (begun, from) = (Instant::now(), Timestamp::now());
        let spooled = self.acks_by_the_spool().await?;
        let restart = ["restart", "--timeout", BROKER_STOPS, "rabbitmq"];
        self.stack.compose(STARTING, &restart).await?;
        self.stack.healthy("rabbitmq").await?;
        self.the_broker_is_back("restarted", begun.elapsed(), from, spooled)
            .await
    }

    async fn the_broker_is_killed(&mut self) -> anyhow::Result<()> {
        let (begun, from) = (Instant::now(), Timestamp::now());
        let spooled = self.acks_by_the_spool().await?;
        let broker = self.stack.containers_of("rabbitmq").await?;
        let broker = broker.first().context("there is a broker")?;
        let kill = ["kill", "--signal", "KILL", &broker.name];
        self.stack.docker(QUICK, &kill).await?;
        self.talk.until_taken(GOES_ON, SOME).await?;
        let start = ["start", &broker.name];
        self.stack.docker(QUICK, &start).await?;
        self.stack.healthy("rabbitmq").await?;
        self.the_broker_is_back("killed", begun.elapsed(), from, spooled)
            .await
    }

    /// Sees that webhooks went into the spool while it was away, and that the spool is empty again.
    async fn the_broker_is_back(
        &mut self,
        what: &'static str,
        away: Duration,
        from: Timestamp,
        spooled: f64,
    ) -> anyhow::Result<()> {
        self.it_goes_on().await?;
        let silence = self.rooms.longest_silence(from, Timestamp::now());
        let spooled = until(
            SCRAPED,
            "the spool has been used and is empty",
            async || {
                let now = self.acks_by_the_spool().await?;
                let waiting = prometheus::figure(self.stack, "sum(chickwork_spool_events)").await?;
                Ok(match now > spooled && waiting == 0.0 {
                    true => Look::There(now - spooled),
                    false => Look::NotYet(format!(
                        "{} webhooks more were spooled, and {waiting} wait",
                        now - spooled
                    )),
                })
            },
        )
        .await?;
        self.all_webhooks_are_taken(ANSWER_LIMIT)?;
        let (away, silence) = (seconds(away), seconds(silence));
        self.tally.kept(format_args!(
            "the broker was {what}: healthy again after {away}, no reply for {silence}, {spooled} webhooks in the spool meanwhile, none refused"
        ));
        let figure = format!("{away}, {silence}");
        let name = match what {
            "killed" => "broker killed: until healthy, without a reply",
            _ => "broker restarted: until healthy, without a reply",
        };
        self.tally.figure(name, figure);
        Ok(())
    }

    /// How many webhooks the spool has taken, as Prometheus has seen it.
    async fn acks_by_the_spool(&self) -> anyhow::Result<f64> {
        let acks = r#"sum(chickwork_acks_total{stored="spool"})"#;
        prometheus::figure(self.stack, acks).await
    }

    async fn the_ingress_is_replaced(&mut self) -> anyhow::Result<()> {
        let before = self.talk.told().len();
        let begun = Instant::now();
        let replace = ["up", "--detach", "--wait", "--force-recreate", "ingress"];
        self.stack.compose(STARTING, &replace).await?;
        let took = begun.elapsed();
        self.talk.until_taken(GOES_ON, SOME).await?;
        self.all_webhooks_are_taken(CHATWORK_WAITS)?;
        let slowest = slowest(&self.talk.told()[before..]);
        self.tally.kept(format_args!(
            "the ingress was replaced in {}; Caddy held the webhooks, the slowest for {}, and none was refused",
            seconds(took),
            seconds(slowest)
        ));
        self.tally.figure(
            "slowest 200 while the ingress was replaced",
            seconds(slowest),
        );
        Ok(())
    }

    /// Other passwords replace the broker's definitions, the workers and the ingress. Only the sandbox stays
    /// as it is: it would forget what was said.
    async fn everything_is_upgraded(&mut self) -> anyhow::Result<()> {
        let before = self.talk.told().len();
        let lives = self.lives().await?;
        for role in ["INGRESS", "WORKER", "OPERATOR"] {
            let password = format!("another{}", role.len());
            let name = format!("CHICKWORK_{role}_BROKER_PASSWORD");
            self.stack.set(&name, &password);
        }
        let (begun, from) = (Instant::now(), Timestamp::now());
        let upgrade = self.stack.upgrade(&[]).await?;
        let took = begun.elapsed();
        ensure!(
            upgrade.code == Some(0),
            "deploy/upgrade ended with {:?}: {}{}",
            upgrade.code,
            upgrade.stdout,
            upgrade.stderr
        );
        let now = self.lives().await?;
        for (name, life) in &lives {
            let has_to_change = ["rabbitmq", "worker", "ingress"]
                .iter()
                .any(|service| name.contains(service));
            ensure!(
                !has_to_change || now.get(name) != Some(life),
                "{name} is as it was"
            );
        }
        self.it_goes_on().await?;
        self.all_webhooks_are_taken(CHATWORK_WAITS)?;
        let told = self.talk.told().split_off(before);
        let silence = self.rooms.longest_silence(from, Timestamp::now());
        let slowest = seconds(slowest(&told));
        self.tally.kept(format_args!(
            "broker, workers and ingress were upgraded in {}: of {} webhooks through Caddy none was refused, the slowest took {slowest}; no reply for {}",
            seconds(took),
            told.len(),
            seconds(silence)
        ));
        self.tally
            .figure("slowest 200 during an upgrade", slowest.clone());
        self.tally.figure(
            "upgrade: time, webhooks, refused",
            format!("{}, {}, 0", seconds(took), told.len()),
        );
        Ok(())
    }

    async fn an_upgrade_with_nothing_new_replaces_nothing(&mut self) -> anyhow::Result<()> {
        let mut before = self.lives().await?;
        let upgrade = self.stack.upgrade(&[]).await?;
        let mut after = self.lives().await?;
        for lives in [&mut before, &mut after] {
            // It is done in a second, and looks anew each time.
            lives.retain(|name, _| !name.contains("topology"));
        }
        ensure!(
            upgrade.code == Some(0) && after == before,
            "deploy/upgrade ended with {:?}, and {before:?} became {after:?}",
            upgrade.code
        );
        self.tally
            .kept("an upgrade with nothing new replaces nothing");
        Ok(())
    }

    async fn an_upgrade_with_a_wrong_setting_changes_nothing(&mut self) -> anyhow::Result<()> {
        let lives = self.lives().await?;
        for (name, value) in [
            ("CHICKWORK_WORKER_BROKER_PASSWORD", ""),
            ("CHICKWORK_SPOOL_MAX_BYTES", "much"),
            ("CHICKWORK_CONCURRENCY", "much"),
        ] {
            let upgrade = self.stack.upgrade(&[(name, value)]).await?;
            ensure!(
                upgrade.code == Some(1) && upgrade.stderr.contains(name),
                "with {name}={value} deploy/upgrade ended with {:?}: {}{}",
                upgrade.code,
                upgrade.stdout,
                upgrade.stderr
            );
            ensure!(
                self.lives().await? == lives,
                "an upgrade with {name}={value} has changed what runs"
            );
        }
        self.it_goes_on().await?;
        self.all_webhooks_are_taken(CHATWORK_WAITS)?;
        self.tally.kept(
            "an upgrade with a wrong setting names it and ends before it has touched anything",
        );
        Ok(())
    }

    /// Each container's, by its name.
    async fn lives(&self) -> anyhow::Result<BTreeMap<String, (String, String)>> {
        let containers = self.stack.containers().await?;
        let lives = containers.iter();
        Ok(lives
            .map(|container| (container.name.clone(), container.life()))
            .collect())
    }

    fn all_webhooks_are_taken(&self, limit: Duration) -> anyhow::Result<()> {
        let told = self.talk.told();
        if let Some(refused) = told.iter().find(|told| !told.taken()) {
            bail!("a webhook was not taken: {refused:?}");
        }
        let slow = told.iter().find(|told| told.took >= limit);
        ensure!(slow.is_none(), "a webhook was answered late: {slow:?}");
        Ok(())
    }

    async fn the_traffic_ends(&mut self, traffic: Traffic) -> anyhow::Result<()> {
        traffic.stop().await?;
        self.all_webhooks_are_taken(CHATWORK_WAITS)?;
        let told = self.talk.told();
        let [said, knocked] = [Way::Sandbox, Way::Caddy]
            .map(|way| told.iter().filter(|told| told.way == way).count());
        self.tally.kept(format_args!(
            "all of {} webhooks were answered 200, {said} of the sandbox's and {knocked} through Caddy",
            told.len()
        ));
        Ok(())
    }

    async fn every_mention_has_one_reply(&mut self) -> anyhow::Result<()> {
        let told = self.talk.told();
        let messages: Vec<MessageId> = told.iter().map(|told| told.message.clone()).collect();
        let begun = Instant::now();
        self.rooms
            .until_answered(self.stack, LAST_REPLY, &messages)
            .await?;
        let took = begun.elapsed();
        let (twice, refused) = (self.rooms.twice(), self.rooms.refused());
        ensure!(twice.is_empty(), "answered twice: {twice:?}");
        ensure!(
            refused.is_empty(),
            "the sandbox's webhooks were not taken: {refused:?}"
        );
        ensure!(
            self.rooms.answered() == messages.len(),
            "{} messages have a reply, and {} were said",
            self.rooms.answered(),
            messages.len()
        );
        let count = messages.len();
        self.tally.kept(format_args!(
            "each of {count} mentions has one reply, the last {} after the end",
            seconds(took)
        ));
        self.tally
            .figure("mentions, answered once", format!("{count}, {count}"));
        let inside: Vec<Told> = told
            .into_iter()
            .filter(|told| told.way == Way::Sandbox)
            .collect();
        let slowest = seconds(slowest(&inside));
        self.tally
            .figure("slowest 200 while the ingress ran", slowest);
        Ok(())
    }

    async fn the_operator_finds_the_same(&mut self) -> anyhow::Result<()> {
        let said = self.talk.told().len() as u64;
        let audit = ["audit", "--json", "--wait", AUDIT_WAITS];
        let audit = self.stack.operator(AUDIT_TAKES, &audit).await?;
        let told = format!("{}{}", audit.stdout, audit.stderr);
        let audit = Audit::read(&audit.stdout, audit.code).context(told)?;
        // Caddy may bring a webhook again, whose answer it has not seen.
        let again = audit.ignored_by.get("duplicate").copied().unwrap_or(0);
        ensure!(
            audit.clean
                && audit.answered == said
                && audit.received == said + again
                && audit.waiting == 0,
            "{said} mentions were said and answered, and the audit finds {audit:?}"
        );
        self.tally.kept(format_args!(
            "the audit finds {} webhooks received and {} mentions answered, and nothing else",
            audit.received, audit.answered
        ));
        let status = self.stack.operator(QUICK, &["status"]).await?;
        ensure!(
            status.code == Some(0),
            "status ended with {:?}: {}{}",
            status.code,
            status.stdout,
            status.stderr
        );
        let first = status.stdout.lines().next().unwrap_or_default();
        self.tally.kept(format_args!("status says: {first}"));
        Ok(())
    }

    async fn everything_is_watched(&mut self) -> anyhow::Result<()> {
        let workers = self.stack.containers_of("worker").await?.len();
        let targets = until(SCRAPED, "all that is scraped is up", async || {
            let targets = prometheus::targets(self.stack).await?;
            let of = |job: &str| targets.iter().filter(|target| target.job == job).count();
            let all_are_there = of("chickwork-worker") == workers
                && [
                    "chickwork-ingress",
                    "chickwork-rabbitmq",
                    "chickwork-rabbitmq-queues",
                ]
                .iter()
                .all(|job| of(job) == 1);
            Ok(
                match all_are_there && targets.iter().all(|target| target.is_up) {
                    true => Look::There(targets.len()),
                    false => Look::NotYet(format!("{targets:?}")),
                },
            )
        })
        .await?;
        self.tally.kept(format_args!(
            "Prometheus reaches all of its {targets} targets"
        ));
        Ok(())
    }

    async fn every_panel_shows_something(&mut self, moment: Timestamp) -> anyhow::Result<()> {
        let known = prometheus::metrics(self.stack).await?;
        let queries = prometheus::dashboard()?;
        for query in &queries {
            let panel = || format!("the panel {:?}", query.panel);
            only_known(&query.expression, &known).with_context(panel)?;
            let series = prometheus::ask(self.stack, &query.expression, moment).await;
            let series = series.with_context(panel)?;
            ensure!(
                !series.is_empty(),
                "the panel {:?} shows nothing: {}",
                query.panel,
                query.expression
            );
        }
        self.tally.kept(format_args!(
            "all {} queries of the dashboard are answered with something",
            queries.len()
        ));
        Ok(())
    }

    async fn no_alert_lacks_a_reason(&mut self) -> anyhow::Result<()> {
        let known = prometheus::metrics(self.stack).await?;
        let alerts = prometheus::alerts(self.stack).await?;
        ensure!(!alerts.is_empty(), "Prometheus has no alerts");
        for alert in &alerts {
            ensure!(
                alert.error.is_empty(),
                "{} cannot be evaluated: {}",
                alert.name,
                alert.error
            );
            ensure!(
                alert.state != "firing" || EXPLAINED.contains(&alert.name.as_str()),
                "{} is firing: {}",
                alert.name,
                alert.expression
            );
            only_known(&alert.expression, &known).with_context(|| alert.name.clone())?;
        }
        self.tally.kept(format_args!(
            "all {} alerts can be evaluated, and none fires without a reason",
            alerts.len()
        ));
        Ok(())
    }

    /// A mention that SimSimi cannot be asked about waits in the broker while everything stops and starts.
    async fn what_waits_outlives_a_stop(&mut self) -> anyhow::Result<()> {
        rooms::break_simsimi(self.stack).await?;
        let told = self.talk.mention(Way::Sandbox).await?;
        ensure!(told.taken(), "a webhook was not taken: {told:?}");
        self.rooms.until_failed(self.stack, GOES_ON).await?;

        let (begun, from) = (Instant::now(), Timestamp::now());
        let grace = GRACE.as_secs().to_string();
        let stop = ["stop", "--timeout", &grace];
        self.stack.compose(STARTING, &stop).await?;
        let took = begun.elapsed();
        let containers = self.stack.containers().await?;
        let ours = || {
            containers
                .iter()
                .filter(|container| OURS.contains(&container.service.as_str()))
        };
        for container in ours() {
            ensure!(
                container.exit_code() == Some(0),
                "{} ended with {:?}",
                container.name,
                container.exit_code()
            );
            let stopping = container.ended_at()?.duration_since(from).unsigned_abs();
            ensure!(
                stopping < GRACE,
                "{} took {} to stop",
                container.name,
                seconds(stopping)
            );
        }
        self.tally.kept(format_args!(
            "all stopped within {}, and each of our {} containers ended with 0",
            seconds(took),
            ours().count()
        ));

        let begun = Instant::now();
        self.stack.compose(STARTING, &["start"]).await?;
        for service in SERVICES {
            self.stack.healthy(service).await?;
        }
        // The sandbox has forgotten everything, its faults and its ledger too.
        let mut rooms = Rooms::default();
        let waiting = [told.message];
        rooms.until_answered(self.stack, GOES_ON, &waiting).await?;
        let fresh = self.talk.mention(Way::Sandbox).await?;
        ensure!(fresh.taken(), "a webhook was not taken: {fresh:?}");
        let fresh = [fresh.message];
        rooms.until_answered(self.stack, GOES_ON, &fresh).await?;
        self.tally.kept(format_args!(
            "{} after the start what had waited was answered, and a new mention too",
            seconds(begun.elapsed())
        ));
        Ok(())
    }
}

/// The image that ours is made on: the last one that the Dockerfile names.
fn base_image() -> anyhow::Result<String> {
    let file = stack::repository().join("deploy/Dockerfile");
    let file = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let base = file
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("FROM "));
    let base = base.and_then(|base| base.split_whitespace().next());
    Ok(base.context("the Dockerfile has no base")?.to_owned())
}

/// What has been kept so far, and the figures to be shown at the end.
struct Tally {
    begun: Instant,
    passed: usize,
    figures: Vec<(&'static str, String)>,
}

impl Tally {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            passed: 0,
            figures: Vec::new(),
        }
    }

    fn clock(&self) -> String {
        seconds(self.begun.elapsed())
    }

    fn chapter(&self, title: &str) {
        say(format_args!("\n== {title} ({})", self.clock()));
    }

    /// One more promise was kept.
    fn kept(&mut self, promise: impl Display) {
        self.passed += 1;
        say(format_args!("ok  {promise}"));
    }

    fn figure(&mut self, name: &'static str, value: String) {
        self.figures.push((name, value));
    }

    fn show_figures(&self) {
        say(format_args!("\n== figures ({})", self.clock()));
        for (name, value) in &self.figures {
            say(format_args!("{name:<48} {value}"));
        }
    }
}

/// Nothing is asked for that nobody has. The figures of the embedded queue are not of this stack.
fn only_known(expression: &str, known: &BTreeSet<String>) -> anyhow::Result<()> {
    let unknown = prometheus::named_in(expression)
        .find(|name| !known.contains(*name) && !name.starts_with("chickwork_queue_"));
    ensure!(
        unknown.is_none(),
        "asks for {unknown:?}, which nobody has: {expression}"
    );
    Ok(())
}

fn slowest(told: &[Told]) -> Duration {
    told.iter().map(|told| told.took).max().unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

#[expect(clippy::print_stdout, reason = "this program is its report")]
fn say(line: impl Display) {
    println!("{line}");
}
