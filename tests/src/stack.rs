//! The stack of containers as `docker compose` starts it from the files of this repository: under a
//! project name of its own, on free ports, and with no setting of whoever runs the test.

pub mod prometheus;
pub mod rooms;
pub mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::process::{free_port, http};
use crate::rabbitmq::signal;
use crate::stage::within;

/// What compose calls everything here. Whatever has this name is removed.
pub const PROJECT: &str = "chickwork-stack-test";
/// The services that are started; what they depend on comes with them. Grafana is not among them: it
/// only shows what Prometheus is asked here directly.
pub const SERVICES: [&str; 6] = [
    "rabbitmq",
    "ingress",
    "worker",
    "sandbox",
    "prometheus",
    "caddy",
];
/// Those of them that run our image.
pub const OURS: [&str; 3] = ["ingress", "worker", "sandbox"];
/// The variable that names another image than the one that was built last.
const IMAGE: (&str, &str) = ("CHICKWORK_IMAGE", "chickwork:dev");
/// What that image is called here: what is not called as the one that is built is not built anew.
const TESTED: &str = "chickwork-stack-test:tested";
/// What docker's client needs to know of this machine, besides all that begins with `DOCKER_`.
const KEPT: [&str; 5] = [
    "PATH",
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK",
];

/// How long a command may take that only looks, or tells a container something.
pub const QUICK: Duration = Duration::from_secs(60);
/// How long containers may take to start and become healthy, or to stop.
pub const STARTING: Duration = Duration::from_secs(180);
/// How long an upgrade may take, which is several starts one after the other.
const UPGRADING: Duration = Duration::from_secs(400);
/// How long an image may take to be fetched.
const FETCHING: Duration = Duration::from_secs(600);
/// How long to wait before something is looked at again: nothing tells of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// So many lines of each container's log are shown when something failed.
const LINES_SHOWN: &str = "60";

/// The stack; it need not run.
#[derive(Debug)]
pub struct Stack {
    environment: Mutex<BTreeMap<String, String>>,
    ports: Ports,
    http: reqwest::Client,
}

/// Where its services are found on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The webhook endpoint.
    pub ingress: u16,
    /// The sandbox.
    pub sandbox: u16,
    /// Prometheus' page.
    pub prometheus: u16,
    /// Caddy, which only redirects here.
    pub http: u16,
    /// Caddy.
    pub https: u16,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

/// A container of the stack, as `docker inspect` tells of it.
#[derive(Debug, Clone)]
pub struct Container {
    /// The name of its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// All that docker knows.
    pub facts: Value,
}

/// What somebody finds who looks whether something has happened.
#[derive(Debug)]
pub enum Look<T> {
    /// It has.
    There(T),
    /// It has not; what is there instead.
    NotYet(String),
}

/// Looks again and again until something has happened; where the time runs out, the error tells what
/// was there instead. A look has a limit of its own.
pub async fn until<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Look<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match look().await? {
            Look::There(found) => return Ok(found),
            Look::NotYet(instead) if begun.elapsed() >= limit => {
                bail!("waited {limit:?} in vain until {what}; last seen: {instead}")
            }
            // There is nothing to be told by.
            Look::NotYet(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

impl Stack {
    /// A stack on free ports, in which Chatwork's limits do not set the pace.
    pub fn prepare() -> anyhow::Result<Self> {
        let ports = Ports {
            ingress: free_port()?,
            sandbox: free_port()?,
            prometheus: free_port()?,
            http: free_port()?,
            https: free_port()?,
        };
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let port = |name: &str, port: u16| (name.to_owned(), port.to_string());
        let kept = |name: &str| KEPT.contains(&name) || name.starts_with("DOCKER_");
        let mut environment: BTreeMap<_, _> =
            std::env::vars().filter(|(name, _)| kept(name)).collect();
        environment.extend([
            set("COMPOSE_PROFILES", "observability,public,tools"),
            set("CHICKWORK_DOMAIN", "localhost"),
            set("CHATWORK_ACCOUNT_LIMIT", "100000/1m"),
            set("CHATWORK_ROOM_LIMIT", "10000/1s"),
            set("CHICKWORK_SENDER_LIMIT", "10000/1s"),
            set(IMAGE.0, TESTED),
            port("INGRESS_PORT", ports.ingress),
            port("SANDBOX_PORT", ports.sandbox),
            port("PROMETHEUS_PORT", ports.prometheus),
            port("HTTP_PORT", ports.http),
            port("HTTPS_PORT", ports.https),
        ]);
        Ok(Self {
            environment: Mutex::new(environment),
            ports,
            http: http()?,
        })
    }

    /// Where its services are found.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// From now on every command runs with this setting, as if it had been written into `.env`.
    pub fn set(&self, name: &str, value: &str) {
        let environment = self.environment.lock();
        let mut environment = environment.unwrap_or_else(PoisonError::into_inner);
        environment.insert(name.to_owned(), value.to_owned());
    }

    /// An address on this machine.
    pub fn local(port: u16, path: &str) -> String {
        format!("http://127.0.0.1:{port}/{path}")
    }

    /// Runs a docker command that has to succeed; what it printed.
    pub async fn docker(&self, limit: Duration, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = self.attempt(limit, arguments).await?;
        ensure!(
            ended.code == Some(0),
            "docker {} ended with {:?}: {}{}",
            arguments.join(" "),
            ended.code,
            ended.stderr,
            ended.stdout
        );
        Ok(ended.stdout)
    }

    /// Runs a compose command that has to succeed; what it printed.
    pub async fn compose(&self, limit: Duration, arguments: &[&str]) -> anyhow::Result<String> {
        self.docker(limit, &composed(arguments)).await
    }

    /// Runs an operator's command beside the stack, however it ends.
    pub async fn operator(&self, limit: Duration, arguments: &[&str]) -> anyhow::Result<Ended> {
        let run = [&["run", "--rm", "operator"], arguments].concat();
        self.attempt(limit, &composed(&run)).await
    }

    /// Runs `deploy/upgrade` with settings for this time alone, however it ends.
    pub async fn upgrade(&self, settings: &[(&str, &str)]) -> anyhow::Result<Ended> {
        let mut upgrade = Command::new(repository().join("deploy/upgrade"));
        upgrade.args(COMPOSE);
        // Not those beside Grafana, which is not to be started; they go on as they are.
        let settings = [&[("COMPOSE_PROFILES", "public")], settings].concat();
        self.end(UPGRADING, upgrade, &settings).await
    }

    async fn attempt(&self, limit: Duration, arguments: &[&str]) -> anyhow::Result<Ended> {
        let mut docker = Command::new("docker");
        docker.args(arguments);
        self.end(limit, docker, &[]).await
    }

    async fn end(
        &self,
        limit: Duration,
        mut command: Command,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Ended> {
        let environment = self.environment.lock();
        let environment = environment.unwrap_or_else(PoisonError::into_inner).clone();
        let what = format!("{:?} has ended", command.as_std());
        let child = command
            .current_dir(repository())
            .env_clear()
            .envs(environment)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("{what}: it cannot be started"))?;
        let group = Group::of(&child)?;
        let output = within(limit, &what, child.wait_with_output()).await??;
        group.has_ended();
        Ok(Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Gives the image that is to be tested its name here.
    pub async fn name_image(&self) -> anyhow::Result<()> {
        let tag = ["tag", &image(), TESTED];
        self.docker(QUICK, &tag).await.map(drop)
    }

    /// Fetches the images of others that are not here yet, so that starting takes as long as it does
    /// on any other day.
    pub async fn fetch_images(&self) -> anyhow::Result<()> {
        let images = [&["config", "--images"][..], &SERVICES].concat();
        let images = self.compose(QUICK, &images).await?;
        let others: BTreeSet<&str> = images.lines().filter(|name| *name != TESTED).collect();
        for other in others {
            self.facts_of_image(other).await?;
        }
        Ok(())
    }

    /// What docker knows of an image, which is fetched if it is not here.
    pub async fn facts_of_image(&self, name: &str) -> anyhow::Result<Value> {
        let inspect = ["image", "inspect", name];
        let mut facts = self.attempt(QUICK, &inspect).await?;
        if facts.code != Some(0) && name != image() {
            self.docker(FETCHING, &["pull", "--quiet", name]).await?;
            facts = self.attempt(QUICK, &inspect).await?;
        }
        ensure!(
            facts.code == Some(0),
            "there is no image {name}; tests/compose builds it: {}",
            facts.stderr
        );
        let mut facts: Value = serde_json::from_str(&facts.stdout)?;
        Ok(facts[0].take())
    }

    /// All containers, running or not.
    pub async fn containers(&self) -> anyhow::Result<Vec<Container>> {
        let ours = format!("label=com.docker.compose.project={PROJECT}");
        let ids = self
            .docker(QUICK, &["ps", "--all", "--quiet", "--filter", &ours])
            .await?;
        let ids: Vec<&str> = ids.lines().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let inspect = [&["inspect"], &ids[..]].concat();
        let facts: Vec<Value> = serde_json::from_str(&self.docker(QUICK, &inspect).await?)?;
        facts.into_iter().map(Container::read).collect()
    }

    /// The containers of a service.
    pub async fn containers_of(&self, service: &str) -> anyhow::Result<Vec<Container>> {
        let mut containers = self.containers().await?;
        containers.retain(|container| container.service == service);
        Ok(containers)
    }

    /// Waits until every container of a service is healthy; where nobody asks that, until it runs.
    pub async fn healthy(&self, service: &str) -> anyhow::Result<()> {
        let what = format!("{service} is healthy");
        until(STARTING, &what, async || {
            let containers = self.containers_of(service).await?;
            let health: Vec<&str> = containers.iter().map(Container::health).collect();
            let is_well = |health: &&str| matches!(*health, "healthy" | "not asked");
            Ok(match !health.is_empty() && health.iter().all(is_well) {
                true => Look::There(()),
                false => Look::NotYet(health.join(", ")),
            })
        })
        .await
    }

    /// The last lines of each container's log.
    pub async fn logs(&self) -> anyhow::Result<String> {
        let logs = ["logs", "--no-color", "--timestamps", "--tail", LINES_SHOWN];
        let logs = self.compose(QUICK, &logs).await?;
        // Compose begins each line with an order to a terminal, whatever it is told.
        Ok(logs.replace("\x1b[2K", ""))
    }

    /// Removes every container, network and volume of it, and the image's name here.
    pub async fn remove(&self) -> anyhow::Result<()> {
        // Nobody will miss what is left in it.
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        until(QUICK, "the stack is removed", async || {
            let ended = self.attempt(STARTING, &composed(&down)).await?;
            Ok(match ended.code {
                Some(0) => Look::There(()),
                // Docker may still be at work for somebody who was interrupted.
                _ => Look::NotYet(ended.stderr),
            })
        })
        .await?;
        // It may have none yet.
        let forget = ["image", "rm", "--no-prune", TESTED];
        self.attempt(QUICK, &forget).await.map(drop)
    }

    /// Asks one of its services; the status and the body.
    pub async fn get(
        &self,
        port: u16,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<(u16, String)> {
        let request = self.http.get(Self::local(port, path)).query(query);
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Sends JSON to one of its services, which has to take it; what it answers.
    pub async fn post(&self, port: u16, path: &str, body: &Value) -> anyhow::Result<String> {
        let request = self.http.post(Self::local(port, path)).json(body);
        Ok(request.send().await?.error_for_status()?.text().await?)
    }
}

/// A command and all that it starts, killed together if nobody waits for them any more: compose is a
/// program of its own that docker starts, and would go on alone.
#[derive(Debug)]
struct Group {
    id: i32,
    runs: bool,
}

impl Group {
    fn of(child: &Child) -> anyhow::Result<Self> {
        let id = child.id().context("it was just started")?;
        Ok(Self {
            id: i32::try_from(id)?,
            runs: true,
        })
    }

    fn has_ended(mut self) {
        self.runs = false;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.runs {
            signal(-self.id, libc::SIGKILL);
        }
    }
}

impl Container {
    fn read(facts: Value) -> anyhow::Result<Self> {
        let label = &facts["Config"]["Labels"]["com.docker.compose.service"];
        let text = |value: &Value, what| value.as_str().map(str::to_owned).context(what);
        Ok(Self {
            service: text(label, "a container of compose has a service")?,
            name: text(&facts["Name"], "a container has a name")?
                .trim_start_matches('/')
                .to_owned(),
            facts,
        })
    }

    /// What differs after it was replaced or started anew: its id, and when it was started.
    pub fn life(&self) -> (String, String) {
        let facts = &self.facts;
        (
            facts["Id"].to_string(),
            facts["State"]["StartedAt"].to_string(),
        )
    }

    /// `healthy`, `unhealthy` or `starting`; for one that is not running or is not asked, that.
    pub fn health(&self) -> &str {
        let state = &self.facts["State"];
        match state["Status"].as_str() {
            Some("running") => state["Health"]["Status"].as_str().unwrap_or("not asked"),
            other => other.unwrap_or("unknown"),
        }
    }

    /// The code with which it ended, if it has.
    pub fn exit_code(&self) -> Option<i64> {
        let state = &self.facts["State"];
        let ended = state["Status"] == "exited";
        state["ExitCode"].as_i64().filter(|_| ended)
    }

    /// When it ended.
    pub fn ended_at(&self) -> anyhow::Result<Timestamp> {
        let ended = &self.facts["State"]["FinishedAt"];
        serde_json::from_value(ended.clone()).with_context(|| format!("{} has no end", self.name))
    }

    /// What of it can be reached on this machine: `ADDRESS:PORT`, and the protocol where it is not TCP.
    pub fn published(&self) -> BTreeSet<String> {
        let ports = self.facts["HostConfig"]["PortBindings"].as_object();
        let bindings = ports.into_iter().flatten().flat_map(|(inside, outside)| {
            let protocol = match inside.strip_suffix("/udp") {
                Some(_) => "/udp",
                None => "",
            };
            let addresses = outside.as_array().into_iter().flatten();
            addresses.map(move |address| {
                let part = |name: &str| address[name].as_str().unwrap_or_default();
                format!("{}:{}{protocol}", part("HostIp"), part("HostPort"))
            })
        });
        bindings.collect()
    }
}

/// The image to be tested.
pub fn image() -> String {
    std::env::var(IMAGE.0).unwrap_or_else(|_| IMAGE.1.to_owned())
}

/// The folder with the files that are tested.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What makes compose read this repository's file and nobody's `.env`.
const COMPOSE: [&str; 10] = [
    "--project-name",
    PROJECT,
    "--file",
    "docker-compose.yml",
    "--env-file",
    "/dev/null",
    "--ansi",
    "never",
    // What was done is of no interest, unless it failed.
    "--progress",
    "quiet",
];

fn composed<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["compose"], &COMPOSE[..], arguments].concat()
}
