//! The first thing a broker says, before anybody logs in: what it is. lapin keeps that to itself.

use std::io;

use deadpool_lapin::lapin;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::AMQPUriTcpExt;
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;

/// A greeting is shorter than this.
const LONGEST: usize = 64 * 1024;
/// Before the properties come the class, the method and the version of the protocol.
const BEFORE_PROPERTIES: usize = 2 + 2 + 2;

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    /// `RabbitMQ`, it is to be hoped.
    pub(super) product: String,
    pub(super) version: String,
    /// The cluster that the node belongs to; its own name, if to none.
    pub(super) cluster: Option<String>,
}

impl Greeting {
    /// Connects, listens, and hangs up. Waits as long as it takes.
    pub(super) async fn of(uri: &AMQPUri) -> io::Result<Self> {
        let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
        let mut stream = uri.connect_async(&runtime).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        // A frame: its type, its channel, its length, and so many bytes.
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if !(BEFORE_PROPERTIES..=LONGEST).contains(&length) {
            return Err(io::Error::other("this is no AMQP 0.9.1"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let (_, properties) = parse_field_table(&body[BEFORE_PROPERTIES..])
            .map_err(|_| io::Error::other("the greeting cannot be read"))?;
        Ok(Self {
            product: text(&properties, "product").unwrap_or_default(),
            version: text(&properties, "version").unwrap_or_default(),
            cluster: text(&properties, "cluster_name"),
        })
    }

    /// Major and minor.
    pub(super) fn release(&self) -> Option<(u32, u32)> {
        let mut numbers = self.version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    match properties.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}
