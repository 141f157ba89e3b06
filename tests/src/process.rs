//! Real processes of the binary `chickwork`, as an operator runs them: in an environment that holds
//! their settings and nothing else, watched through the admin port, their logs kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::rabbitmq::signal;
use crate::stage::{self, SOON, within};

/// How long to wait before another program is asked again: there is nothing to be told by.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a process may take to become ready; two cores may be shared by many of them.
const READY: Duration = Duration::from_secs(45);
/// How long a request of a test may take.
const REQUEST: Duration = Duration::from_secs(15);

/// The settings of a process: environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// A command of the binary, in an empty environment. It is killed when it is dropped.
pub fn chickwork(command: &str) -> anyhow::Result<Command> {
    let mut process = Command::new(binary()?);
    process
        .arg(command)
        .env_clear()
        .kill_on_drop(true)
        .stdin(Stdio::null());
    Ok(process)
}

/// The binary, which is built once per test process, if it is not there yet: cargo builds binaries
/// only for the tests of their own package.
pub(crate) fn binary() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BINARY.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    // Programs lie in target/PROFILE, tests one folder further down.
    let folder = program
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("a program lies in a folder")?;
    let profile = folder.file_name().and_then(|name| name.to_str());
    // Just as `tests/run` builds everything: with other packages selected, cargo would choose other
    // features of shared dependencies and build those once more.
    let arguments: &[&str] = match profile {
        Some("release") => &["build", "--release", "--package", "chickwork"],
        _ => &["test", "--workspace", "--no-run"],
    };
    let target = folder
        .parent()
        .context("a profile's folder is in the target folder")?;
    let mut cargo = std::process::Command::new(env!("CARGO"));
    // Cargo tells a test which package it belongs to. If it were told itself, it would build anew
    // whatever build script asks for that, and all that depends on it: nearly everything.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .args(arguments)
        .args(["--locked", "--quiet", "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()?;
    ensure!(
        output.status.success(),
        "the binary does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder.join("chickwork"))
}

/// A process that serves: `serve`, `ingress` or `worker`.
#[derive(Debug)]
pub struct Server {
    role: &'static str,
    environment: Environment,
    admin: u16,
    log: PathBuf,
    running: Option<Running>,
}

/// A running process, and who kills it when this one is gone.
#[derive(Debug)]
struct Running {
    child: Child,
    watchdog: std::process::Child,
}

impl Server {
    /// Prepares a process; it is started with [`Server::start`]. Its log lies in `folder`.
    pub fn new(
        role: &'static str,
        mut environment: Environment,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let admin = free_port()?;
        environment.insert(
            "CHICKWORK_ADMIN_LISTEN".to_owned(),
            format!("127.0.0.1:{admin}"),
        );
        let log = folder.join(format!("{role}-{admin}.log"));
        Ok(Self {
            role,
            environment,
            admin,
            log,
            running: None,
        })
    }

    /// Starts it, for the first time or again. It need not be ready yet.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "this process is running");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = chickwork(self.role)?
            .envs(&self.environment)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let id = child.id().context("it was just started")?;
        let watchdog = std::process::Command::new("sh")
            .args(["-c", &format!("cat >/dev/null; kill -9 {id}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.running = Some(Running { child, watchdog });
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        self.until("is ready", READY, |ready| ready == Ok(())).await
    }

    /// Waits until it says that it is not ready, and why in these words.
    pub async fn not_ready(&mut self, why: &str) -> anyhow::Result<()> {
        let what = format!("is not ready because {why:?}");
        self.until(&what, SOON, |ready| {
            ready.is_err_and(|reason| reason.contains(why))
        })
        .await
    }

    async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        expected: impl Fn(Result<(), String>) -> bool,
    ) -> anyhow::Result<()> {
        let role = self.role;
        let expected = async {
            loop {
                if let Some(status) = self.running()?.child.try_wait()? {
                    bail!("{role} ended with {status}");
                }
                if let Ok((status, body)) = get(self.admin, "readyz").await
                    && expected(if status == 200 { Ok(()) } else { Err(body) })
                {
                    return Ok(());
                }
                // A process says how it is when it is asked.
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        within(limit, &format!("{role} {what}"), expected).await?
    }

    /// A figure of its metrics page, by name and labels as they stand there; 0 if it is not there.
    pub async fn figure(&self, series: &str) -> anyhow::Result<f64> {
        let (_, page) = get(self.admin, "metrics").await?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.unwrap_or("0").parse()?)
    }

    /// All of its metrics, in the text format of Prometheus.
    pub async fn figures(&self) -> anyhow::Result<String> {
        Ok(get(self.admin, "metrics").await?.1)
    }

    /// Waits until a figure is as expected.
    pub async fn until_figure(
        &self,
        series: &str,
        expected: impl Fn(f64) -> bool,
    ) -> anyhow::Result<()> {
        let waiting = async {
            while !self.figure(series).await.is_ok_and(&expected) {
                // A process says how it is when it is asked.
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        within(SOON, &format!("{series} is as expected"), waiting).await
    }

    /// Ends it without a word: `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(libc::SIGKILL)?;
        self.ended().await?;
        Ok(())
    }

    /// Asks it to stop: `SIGTERM`.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Freezes it, wherever it is. In the middle of a write it keeps everybody from writing to a file:
    /// see [`Server::freeze_between_writes`].
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Freezes it at a moment at which it keeps nobody from writing.
    pub async fn freeze_between_writes(&mut self) -> anyhow::Result<()> {
        let process = self.id()?;
        stage::freeze_between_writes(process, &self.environment["CHICKWORK_QUEUE"]).await
    }

    /// Lets it go on as if nothing had happened.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Waits until it has ended; the exit code, which a killed process has not.
    pub async fn exit_code(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.ended().await?.code())
    }

    async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let role = self.role;
        let running = self.running()?;
        let status = within(READY, &format!("{role} has ended"), running.child.wait()).await??;
        self.running = None;
        Ok(status)
    }

    /// Whether it was started and has not been seen to end.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Sees that it still runs, as it was not told to end.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        let role = self.role;
        if let Some(running) = &mut self.running
            && let Some(status) = running.child.try_wait()?
        {
            bail!(
                "{role} ended by itself with {:?}, signal {:?}",
                status.code(),
                status.signal()
            );
        }
        Ok(())
    }

    /// Its resident memory in MiB.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let running = self.running.as_ref().context("it does not run")?;
        let id = running.child.id().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("no VmRSS")?.parse::<f64>()? / 1024.0)
    }

    /// From its next start on it has this setting.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.insert(name.to_owned(), value.into());
    }

    /// Which process it is, for whoever is to kill it.
    pub fn id(&self) -> anyhow::Result<i32> {
        let running = self.running.as_ref().context("it does not run")?;
        let id = running.child.id().context("it has ended")?;
        Ok(i32::try_from(id)?)
    }

    /// Its settings.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Where its metrics are.
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    /// What it has logged so far, through all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&mut self, number: i32) -> anyhow::Result<()> {
        let id = self
            .running()?
            .child
            .id()
            .context("the process has ended")?;
        signal(i32::try_from(id)?, number);
        Ok(())
    }

    fn running(&mut self) -> anyhow::Result<&mut Running> {
        self.running.as_mut().context("the process does not run")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child itself is killed as it is dropped, after this.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

async fn get(port: u16, page: &str) -> anyhow::Result<(u16, String)> {
    let answer = http()?
        .get(format!("http://127.0.0.1:{port}/{page}"))
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// A client without memory: each request on a connection of its own.
pub fn http() -> anyhow::Result<reqwest::Client> {
    choose_crypto();
    Ok(reqwest::Client::builder()
        .timeout(REQUEST)
        .no_proxy()
        .tls_certs_only([])
        .pool_max_idle_per_host(0)
        .build()?)
}

/// TLS providers are chosen by the program; this is ours.
pub fn choose_crypto() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A port that nobody else in this test process was given. Below the ephemeral range: a client that
/// knocks at a shut door, or at a killed node, could otherwise be given that port as its own.
pub fn free_port() -> anyhow::Result<u16> {
    free_ports(1)
}

/// The first of so many ports in a row, as [`free_port`] gives them. Who is to listen there may take a
/// while until it does. Whether a port is free is asked by knocking: whoever listens there to see it may
/// leave a copy of that to a process which another thread is just starting.
pub(crate) fn free_ports(count: u16) -> anyhow::Result<u16> {
    const KNOCK: Duration = Duration::from_secs(1);
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_silent = |port| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        TcpStream::connect_timeout(&address, KNOCK).is_err()
    };
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1000 {
        let first = fastrand::u16(10_000..30_000);
        let mut ports = first..first + count;
        if ports.all(|port| !given.contains(&port) && is_silent(port)) {
            given.extend(first..first + count);
            return Ok(first);
        }
    }
    bail!("no {count} free ports in a row below 30,000")
}
