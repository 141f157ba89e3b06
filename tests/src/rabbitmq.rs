//! RabbitMQ nodes of our own: started from Debian's package (or, where `CHICKWORK_TEST_RABBITMQ_IMAGE` is
//! set, from that container image) on a free port, killed and started again at will, and gone with the test
//! process, however that ends.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::process::free_ports;

/// How long a node may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Debian's start script; the one on the PATH insists on another user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// The user of a test on a node that began with definitions, and so has no guest.
const HARNESS: &str = "harness";
/// In the node's folder.
const DEFINITIONS: &str = "definitions.json";
/// Names the image to take the nodes from, for instance `rabbitmq:4-management`.
const IMAGE: &str = "CHICKWORK_TEST_RABBITMQ_IMAGE";

/// A RabbitMQ node that begins with nothing.
#[derive(Debug)]
pub struct Node {
    port: u16,
    /// Who may do anything there; the password is the same word.
    administrator: &'static str,
    made_of: MadeOf,
    /// Ends the node when this process is gone: its standard input ends then.
    watchdogs: Vec<Child>,
}

#[derive(Debug)]
enum MadeOf {
    Package {
        folder: TempDir,
        server: Option<Child>,
    },
    Container {
        folder: TempDir,
        name: String,
    },
}

impl Node {
    /// Starts a node and waits until it takes connections.
    pub fn start() -> anyhow::Result<Self> {
        Self::begin(None)
    }

    /// Starts one that begins with these definitions, and has a user of ours besides.
    pub fn start_defined(definitions: &str) -> anyhow::Result<Self> {
        let mut node = Self::begin(Some(definitions))?;
        node.control(&["add_user", HARNESS, HARNESS])?;
        node.control(&["set_permissions", HARNESS, ".*", ".*", ".*"])?;
        node.administrator = HARNESS;
        Ok(node)
    }

    fn begin(definitions: Option<&str>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chickwork-rabbitmq-")
            .tempdir()?;
        let port = free_ports(2)?;
        // At-least-once dead lettering tries again every three minutes otherwise.
        std::fs::write(
            folder.path().join("advanced.config"),
            "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n",
        )?;
        let definitions = match definitions {
            Some(definitions) => {
                let file = folder.path().join(DEFINITIONS);
                std::fs::write(&file, definitions)?;
                Some(file)
            }
            None => None,
        };
        let mut node = match std::env::var(IMAGE) {
            Ok(image) => Self::container(folder, port, &image, definitions.as_deref())?,
            Err(_) => Self::package(folder, port, definitions.as_deref())?,
        };
        node.wait_until_it_listens()?;
        Ok(node)
    }

    fn package(folder: TempDir, port: u16, definitions: Option<&Path>) -> anyhow::Result<Self> {
        ensure!(
            Path::new(SERVER).exists(),
            "RabbitMQ is not installed: run tests/run, or apt-get install rabbitmq-server"
        );
        let load = definitions.map(load).unwrap_or_default();
        std::fs::write(
            folder.path().join("rabbitmq.conf"),
            format!(
                "{load}listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n\
                 disk_free_limit.absolute = 10MB\nvm_memory_high_watermark.absolute = 1GB\n"
            ),
        )?;
        std::fs::write(folder.path().join("enabled_plugins"), "[].\n")?;
        let made_of = MadeOf::Package {
            folder,
            server: None,
        };
        let mut node = Self {
            port,
            administrator: "guest",
            made_of,
            watchdogs: Vec::new(),
        };
        node.launch()?;
        Ok(node)
    }

    fn container(
        folder: TempDir,
        port: u16,
        image: &str,
        definitions: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let name = format!("chickwork-test-{port}");
        let config = folder.path().join("advanced.config");
        // The broker's own user has to read it.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let mut mounted = vec![(config, "advanced.config")];
        if let Some(definitions) = definitions {
            let loads = folder.path().join("definitions.conf");
            std::fs::write(&loads, load(Path::new("/etc/rabbitmq/definitions.json")))?;
            mounted.push((definitions.to_owned(), DEFINITIONS));
            mounted.push((loads, "conf.d/50-definitions.conf"));
        }
        let volumes = mounted
            .iter()
            .map(|(file, place)| format!("--volume={}:/etc/rabbitmq/{place}:ro", file.display()));
        let mut arguments = vec![
            "run".to_owned(),
            "--detach".to_owned(),
            format!("--name={name}"),
            format!("--publish=127.0.0.1:{port}:5672"),
        ];
        arguments.extend(volumes);
        arguments.push(image.to_owned());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        docker(&arguments)?;
        let watchdog = watchdog(&format!("docker rm --force --volumes {name}"))?;
        Ok(Self {
            port,
            administrator: "guest",
            made_of: MadeOf::Container { folder, name },
            watchdogs: vec![watchdog],
        })
    }

    /// The node's address, for somebody who may do anything.
    pub fn url(&self) -> String {
        self.url_of(self.administrator, self.administrator)
    }

    /// The same for another user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port)
    }

    /// Ends the node at once, as a power cut would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match &mut self.made_of {
            MadeOf::Package { server, .. } => {
                let mut server = server.take().context("the node is not running")?;
                signal_group(server.id(), libc::SIGKILL);
                server.wait()?;
            }
            MadeOf::Container { name, .. } => {
                docker(&["kill", name])?;
            }
        }
        Ok(())
    }

    /// Ends the node as an operator would.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        match &mut self.made_of {
            MadeOf::Package { server, .. } => {
                let mut server = server.take().context("the node is not running")?;
                signal_group(server.id(), libc::SIGTERM);
                server.wait()?;
                // The start script ends before the virtual machine does.
                signal_group(server.id(), libc::SIGKILL);
            }
            MadeOf::Container { name, .. } => {
                docker(&["stop", name])?;
            }
        }
        Ok(())
    }

    /// Freezes the node: its address still takes connections, and says nothing.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.pause(libc::SIGSTOP, "pause")
    }

    /// Lets it go on as if nothing had happened.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.pause(libc::SIGCONT, "unpause")
    }

    fn pause(&self, number: i32, command: &str) -> anyhow::Result<()> {
        match &self.made_of {
            MadeOf::Package { server, .. } => {
                let server = server.as_ref().context("the node is not running")?;
                signal_group(server.id(), number);
            }
            MadeOf::Container { name, .. } => {
                docker(&[command, name])?;
            }
        }
        Ok(())
    }

    /// Starts it again on the same data.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        match &self.made_of {
            MadeOf::Package { server, .. } => {
                ensure!(server.is_none(), "the node is running");
                self.launch()?;
            }
            MadeOf::Container { name, .. } => {
                docker(&["start", name])?;
            }
        }
        self.wait_until_it_listens()
    }

    /// Runs `rabbitmqctl` against this node and returns what it printed.
    pub fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        match &self.made_of {
            MadeOf::Package { folder, .. } => {
                let mut control = self.command(CONTROL, folder.path());
                output_of(control.arg("--quiet").args(arguments))
            }
            MadeOf::Container { name, .. } => {
                docker(&[&["exec", name, "rabbitmqctl", "--quiet"], arguments].concat())
            }
        }
    }

    /// Imports definitions while the node runs.
    pub fn import(&self, definitions: &str) -> anyhow::Result<()> {
        let file = self.folder().join("import.json");
        std::fs::write(&file, definitions)?;
        let file = file.display().to_string();
        let place = match &self.made_of {
            MadeOf::Package { .. } => file,
            // From its standard input RabbitMQ 4 reads for ever.
            MadeOf::Container { name, .. } => {
                let place = "/tmp/import.json".to_owned();
                docker(&["cp", &file, &format!("{name}:{place}")])?;
                place
            }
        };
        self.control(&["import_definitions", &place]).map(drop)
    }

    /// The file whose definitions it imports at a start, if it began with some.
    pub fn definitions(&self) -> PathBuf {
        self.folder().join(DEFINITIONS)
    }

    /// A folder that the node can read under the same path, where it is not a container.
    pub fn folder(&self) -> &Path {
        match &self.made_of {
            MadeOf::Package { folder, .. } | MadeOf::Container { folder, .. } => folder.path(),
        }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", folder)
            .env(
                "RABBITMQ_NODENAME",
                format!("chickwork-{}@localhost", self.port),
            )
            .env("RABBITMQ_DIST_PORT", (self.port + 1).to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env(
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                folder.join("advanced.config"),
            )
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                folder.join("enabled_plugins"),
            )
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let MadeOf::Package { folder, .. } = &self.made_of else {
            return Ok(());
        };
        let output = std::fs::File::create(folder.path().join("output"))?;
        let started = self
            .command(SERVER, folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {SERVER}"))?;
        let last_deed = format!(
            "kill -9 -{}; sleep 1; rm -rf {}",
            started.id(),
            folder.path().display()
        );
        self.watchdogs.push(watchdog(&last_deed)?);
        if let MadeOf::Package { server, .. } = &mut self.made_of {
            *server = Some(started);
        }
        Ok(())
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let since = Instant::now();
        while since.elapsed() < START_LIMIT {
            if greets(self.port) {
                return Ok(());
            }
            if let MadeOf::Package {
                server: Some(server),
                ..
            } = &mut self.made_of
                && let Some(status) = server.try_wait()?
            {
                bail!("the node ended with {status}:\n{}", self.log());
            }
            // Waiting for another program: there is nothing to be told by.
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the node did not start in {START_LIMIT:?}:\n{}", self.log())
    }

    fn log(&self) -> String {
        match &self.made_of {
            MadeOf::Package { folder, .. } => {
                std::fs::read_to_string(folder.path().join("output")).unwrap_or_default()
            }
            MadeOf::Container { name, .. } => {
                docker(&["logs", "--tail", "50", name]).unwrap_or_default()
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        match &mut self.made_of {
            MadeOf::Package {
                server: Some(server),
                ..
            } => {
                signal_group(server.id(), libc::SIGKILL);
                let _ = server.wait();
            }
            MadeOf::Package { server: None, .. } => {}
            MadeOf::Container { name, .. } => {
                let _ = docker(&["rm", "--force", "--volumes", name]);
            }
        }
        for watchdog in &mut self.watchdogs {
            signal_group(watchdog.id(), libc::SIGKILL);
            let _ = watchdog.wait();
        }
    }
}

/// The lines of its configuration that have a node import definitions at a start, if they have changed.
fn load(definitions: &Path) -> String {
    format!(
        "definitions.import_backend = local_filesystem\ndefinitions.local.path = {}\n\
         definitions.skip_if_unchanged = true\n",
        definitions.display()
    )
}

/// A shell that waits until this process is gone, and then does this.
fn watchdog(last_deed: &str) -> anyhow::Result<Child> {
    let child = Command::new("sh")
        .args(["-c", &format!("cat >/dev/null; {last_deed}")])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    output_of(Command::new("docker").args(arguments))
}

fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal to a process group of ours.
pub(crate) fn signal_group(leader: u32, number: i32) {
    let group = i32::try_from(leader).expect("process ids are positive numbers of 32 bits");
    signal(-group, number);
}

/// Sends a signal to a process, or to a group by its negative.
pub fn signal(process: i32, number: i32) {
    #[expect(unsafe_code, reason = "std offers no signals")]
    // SAFETY: kill(2) has no preconditions and touches no memory of ours.
    unsafe {
        libc::kill(process, number);
    }
}

/// Whether an AMQP server answers there: it says "AMQP" back to a version that it does not speak.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut greeting = [0; 4];
    let greeted = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"AMQP\x00\x00\x00\x00"))
        .and_then(|()| std::io::Read::read_exact(&mut stream, &mut greeting));
    greeted.is_ok() && &greeting == b"AMQP"
}
