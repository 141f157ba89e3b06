//! Connections, one deadpool per node and use, and the rules that the pools keep.
//!
//! Publishing and consuming never share a connection: an alarm blocks whoever publishes. lapin's own
//! recovery stays off (it gives up after 16 tries, and publishes hang in it); a connection that broke is
//! thrown away by the pool, and whoever needs one asks again, for ever. Every new connection declares
//! the topology before it is used, so what somebody deleted is there again after a reconnect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use deadpool_lapin::{
    Config, Hook, HookError, Object, Pool, PoolConfig, PoolError, Runtime, Timeouts, lapin,
};
use futures_util::StreamExt;
use lapin::ConnectionProperties;
use lapin::uri::AMQPUri;
use tokio::sync::Mutex;

use super::BrokerError;
use super::publish::open_confirming;
use super::topology::Topology;
use crate::{Declare, Settings};

/// A dead peer is found after two of these; shorter ones find live peers dead.
const HEARTBEAT_SECONDS: u32 = 5;
/// The largest frame. lapin sets aside 64 of them for each connection, which with the broker's
/// default of 128 KiB is 8 MiB; our messages are small, and larger ones are sent in several frames.
const FRAME_BYTES: u128 = 32 * 1024;
/// How long a node may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection may take to be ready, topology included: a new one takes seconds to create.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for somebody else's connection to be ready.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// A topology declared this recently is not declared again by the next connection.
const DECLARED_FOR: Duration = Duration::from_secs(3);
/// The shortest time between two repairs.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);
/// Connections that publish; each carries many channels.
const PUBLISHING: usize = 2;
/// Connections that consume are taken out of their pool, so this only bounds how many are being opened.
const CONSUMING: usize = 8;

/// The nodes of the cluster, the one that answered last first.
#[derive(Debug)]
pub(super) struct Connections {
    nodes: Vec<Node>,
    current: AtomicUsize,
    alarm: Alarm,
    /// When the last repair ended; held while one is under way.
    repaired: Mutex<Option<Instant>>,
    declaration: Arc<Declaration>,
}

#[derive(Debug)]
struct Node {
    /// Host and port: what may be shown.
    address: String,
    publishing: Pool,
    consuming: Pool,
}

/// Why the broker takes no messages, as it has told one of the connections.
#[derive(Debug, Clone)]
struct Alarm(Arc<std::sync::Mutex<Option<String>>>);

impl Alarm {
    /// None so far, which is a figure as well.
    fn none() -> Self {
        let alarm = Self(Arc::default());
        alarm.set(None);
        alarm
    }

    fn set(&self, reason: Option<String>) {
        let is_blocked = reason.is_some();
        metrics::gauge!("chickwork_broker_blocked").set(if is_blocked { 1.0 } else { 0.0 });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn reason(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The topology and when it was last seen to be there.
struct Declaration {
    topology: Topology,
    declare: Declare,
    declared: Mutex<Option<Instant>>,
}

impl Connections {
    pub(super) fn new(
        urls: &[String],
        topology: Topology,
        settings: &Settings,
    ) -> Result<Self, BrokerError> {
        let declaration = Arc::new(Declaration {
            topology,
            declare: settings.declare,
            declared: Mutex::new(None),
        });
        let alarm = Alarm::none();
        let nodes = urls
            .iter()
            .map(|url| {
                let uri = parsed(url).map_err(|error| {
                    BrokerError::Unusable(format!("not an AMQP address: {error}"))
                })?;
                Ok(Node {
                    address: address(&uri),
                    publishing: pool(url, PUBLISHING, "publish", &declaration, &alarm)?,
                    consuming: pool(url, CONSUMING, "consume", &declaration, &alarm)?,
                })
            })
            .collect::<Result<_, BrokerError>>()?;
        Ok(Self {
            nodes,
            current: AtomicUsize::new(0),
            alarm,
            repaired: Mutex::new(None),
            declaration,
        })
    }

    /// A connection for publishing; it goes back to the pool when dropped, its channels live on.
    async fn publishing(&self) -> Result<Object, BrokerError> {
        self.first_that_answers(|node| &node.publishing).await
    }

    /// A channel on which publishes are confirmed. A connection that opens none is replaced: lapin
    /// does not take the ids of channels again that the broker has closed, and they run out.
    pub(super) async fn confirming_channel(&self) -> Result<lapin::Channel, BrokerError> {
        let connection = self.publishing().await?;
        let channel = open_confirming(&connection).await;
        if channel.is_err() {
            // Out of the pool. It ends with the last of its channels that is still in use.
            drop(Object::take(connection));
        }
        channel
    }

    /// A connection of one's own for consuming one queue: a queue that is broken takes its
    /// consumer's connection down, and no other.
    pub(super) async fn consuming(&self) -> Result<lapin::Connection, BrokerError> {
        self.first_that_answers(|node| &node.consuming)
            .await
            .map(Object::take)
    }

    async fn first_that_answers(
        &self,
        pool: impl Fn(&Node) -> &Pool,
    ) -> Result<Object, BrokerError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failure = BrokerError::Unreachable("no node is configured".to_owned());
        for offset in 0..self.nodes.len() {
            let index = (first + offset) % self.nodes.len();
            // Whoever gives up waiting for this node leaves the next one to the next try.
            let next = (index + 1) % self.nodes.len();
            self.current.store(next, Ordering::Relaxed);
            match pool(&self.nodes[index]).get().await {
                Ok(connection) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => failure = explain(error),
            }
        }
        Err(failure)
    }

    /// Declares the topology anew, on a connection that is made for it; once at a time, and not
    /// again at once: what it cannot mend would keep it busy.
    pub(super) async fn repair(&self) {
        if self.declaration.declare == Declare::Nothing {
            return;
        }
        let Ok(mut repaired) = self.repaired.try_lock() else {
            return;
        };
        if repaired.is_some_and(|at| at.elapsed() < REPAIR_AGAIN) {
            return;
        }
        log::error!("a broker object is missing; declaring all of them again");
        *self.declaration.declared.lock().await = None;
        match self.consuming().await {
            Ok(connection) => super::close(connection).await,
            Err(error) => log::error!("broker objects cannot be declared: {error}"),
        }
        *repaired = Some(Instant::now());
    }

    /// Why the broker takes no messages at the moment, if it has said so.
    pub(super) fn alarm(&self) -> Option<String> {
        self.alarm.reason()
    }

    /// Whether there is a log of dead letters, as far as is known.
    pub(super) fn has_letters(&self) -> bool {
        self.declaration.topology.has_letters()
    }

    /// Takes note that the log of dead letters is missing. Declaring all objects may bring it back.
    pub(super) async fn miss_letters(&self) {
        self.declaration.topology.miss_letters();
        self.repair().await;
    }

    /// The nodes, without credentials.
    pub(super) fn describe(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.address.as_str())
            .collect();
        nodes.join(", ")
    }

    /// Ends the pools; connections in use end with their users.
    pub(super) fn close(&self) {
        for node in &self.nodes {
            node.publishing.close();
            node.consuming.close();
        }
    }
}

fn pool(
    url: &str,
    size: usize,
    purpose: &'static str,
    declaration: &Arc<Declaration>,
    alarm: &Alarm,
) -> Result<Pool, BrokerError> {
    let config = Config {
        url: Some(with_limits(url)),
        pool: Some(PoolConfig {
            max_size: size,
            timeouts: Timeouts {
                wait: Some(WAIT_LIMIT),
                create: Some(CREATE_LIMIT),
                recycle: Some(CONNECT_LIMIT),
            },
            ..PoolConfig::default()
        }),
    };
    let properties = move || named(purpose);
    let (declaration, alarm) = (declaration.clone(), alarm.clone());
    config
        .builder(properties, Runtime::Tokio1)
        .map_err(|error| BrokerError::Unreachable(error.to_string()))?
        .post_create(Hook::async_fn(
            move |connection: &mut lapin::Connection, _| {
                let declaration = declaration.clone();
                watch(connection, alarm.clone());
                Box::pin(async move {
                    // The pool's own limit ends before this hook.
                    tokio::time::timeout(CREATE_LIMIT, declaration.ensure(connection))
                        .await
                        .unwrap_or(Err(BrokerError::TimedOut("declaring its objects")))
                        .map_err(|error| HookError::message(error.to_string()))
                })
            },
        ))
        .build()
        .map_err(|error| BrokerError::Unreachable(error.to_string()))
}

impl std::fmt::Debug for Declaration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declaration").finish_non_exhaustive()
    }
}

impl Declaration {
    async fn ensure(&self, connection: &lapin::Connection) -> Result<(), BrokerError> {
        let mut declared = self.declared.lock().await;
        if declared.is_some_and(|at| at.elapsed() < DECLARED_FOR) {
            return Ok(());
        }
        self.topology.declare(connection, self.declare).await?;
        *declared = Some(Instant::now());
        Ok(())
    }
}

/// A connection outside of the pools: nothing is declared on it, and nobody watches it.
pub(super) async fn connect(url: &str, purpose: &str) -> lapin::Result<lapin::Connection> {
    lapin::Connection::connect(&with_limits(url), named(purpose)).await
}

fn named(purpose: &str) -> ConnectionProperties {
    let name = format!("chickwork {purpose} {}", std::process::id());
    ConnectionProperties::default().with_connection_name(name.into())
}

/// The address of a node. What is wrong with it is said without repeating it: it holds a password.
pub(super) fn parsed(url: &str) -> Result<AMQPUri, String> {
    url.parse()
        .map_err(|error: String| error.split(": '").next().unwrap_or_default().to_owned())
}

/// Host and port: what may be shown.
pub(super) fn address(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

/// Records for as long as the connection lives whether the broker blocks it.
fn watch(connection: &lapin::Connection, alarm: Alarm) {
    let mut events = Box::pin(connection.events_listener());
    tokio::spawn(async move {
        let mut is_blocked = false;
        while let Some(event) = events.next().await {
            let reason = match event {
                lapin::Event::ConnectionBlocked(reason) => {
                    log::error!("the broker takes no messages: {reason}");
                    Some(reason)
                }
                lapin::Event::ConnectionUnblocked => {
                    log::info!("the broker takes messages again");
                    None
                }
                // It has ended, and is told nothing any more.
                lapin::Event::Error(_) if is_blocked => None,
                _ => continue,
            };
            is_blocked = reason.is_some();
            alarm.set(reason.map(|reason| reason.to_string()));
        }
    });
}

/// The URL with our limits, unless it sets its own.
fn with_limits(url: &str) -> String {
    let mut url = url.to_owned();
    for (name, value) in [
        ("heartbeat", u128::from(HEARTBEAT_SECONDS)),
        ("connection_timeout", CONNECT_LIMIT.as_millis()),
        ("frame_max", FRAME_BYTES),
    ] {
        if !url.contains(&format!("{name}=")) {
            let separator = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{name}={value}"));
        }
    }
    url
}

fn explain(error: PoolError) -> BrokerError {
    match error {
        PoolError::Backend(error) => BrokerError::from(error),
        PoolError::Timeout(_) => BrokerError::TimedOut("a connection"),
        PoolError::PostCreateHook(HookError::Message(reason)) => {
            BrokerError::Unusable(reason.into_owned())
        }
        other => BrokerError::Unreachable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_read_is_not_repeated() {
        for url in [
            "amqp:chick:s3cret@rabbit",
            "http://chick:s3cret@rabbit",
            "amqp://chick:s3cret@:x",
        ] {
            let error = parsed(url).expect_err(url);
            assert!(!error.is_empty() && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_url_gets_our_limits_unless_it_has_its_own() {
        assert_eq!(
            with_limits("amqp://u:p@h/%2f"),
            "amqp://u:p@h/%2f?heartbeat=5&connection_timeout=3000&frame_max=32768"
        );
        assert_eq!(
            with_limits("amqp://h?heartbeat=20"),
            "amqp://h?heartbeat=20&connection_timeout=3000&frame_max=32768"
        );
    }
}
