//! Dead letters on the broker: written with their cause in the headers, listed by fetching without
//! acknowledging, and put back one at a time.

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel};

use super::topology::{Destination, Names};
use super::wire::{self, History};
use super::{Address, Broker, BrokerError, Message, REQUEST_LIMIT, close};
use crate::content::Content;
use crate::dead::DeadLetter;
use crate::event::EventId;
use crate::job::{Cause, Step};

/// Makes a dead letter of a job.
#[expect(
    clippy::too_many_arguments,
    reason = "all of it is written down, and in this order"
)]
pub(super) fn letter(
    names: &Names,
    destination: &Destination,
    step: Step,
    cause: Cause,
    error: &str,
    content: &Content,
    history: History,
    now: Timestamp,
) -> Message {
    let properties = wire::properties(
        content,
        history,
        matches!(destination, Destination::Post(_)),
    );
    let mut headers = properties.headers().clone().unwrap_or_default();
    for (name, value) in [
        ("step", step.as_str().to_owned()),
        ("cause", cause.as_str().to_owned()),
        ("error", error.to_owned()),
        ("buried-at", now.to_string()),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    Message {
        address: Address {
            exchange: names.dead(),
            key: step.as_str().to_owned(),
        },
        properties: properties.with_headers(headers),
        body: content.body.clone(),
    }
}

/// Reads a dead letter's description; one that the broker itself put there has no cause of ours.
fn describe(properties: &BasicProperties, content: Content, history: History) -> DeadLetter {
    let headers = properties.headers().clone().unwrap_or_default();
    let text = |name: &str| wire::text(&headers, name);
    DeadLetter {
        id: content.id,
        bot: content.bot,
        event_type: content.event_type,
        room_id: content.room_id,
        message_id: content.message_id,
        step: text("step")
            .and_then(|step| Step::from_name(&step))
            .unwrap_or(Step::Receive),
        cause: text("cause")
            .and_then(|cause| Cause::from_name(&cause))
            .unwrap_or(Cause::Poison),
        error: text("error").unwrap_or_else(|| "buried by the broker itself".to_owned()),
        attempts: history.attempts,
        received_at: content.received_at,
        buried_at: text("buried-at")
            .and_then(|time| time.parse().ok())
            .unwrap_or(content.received_at),
    }
}

impl Broker {
    pub(crate) async fn dead(&self, limit: u32) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut letters = Vec::new();
        self.look_through_dead(limit, async |_, message| {
            let BasicGetMessage { delivery, .. } = message;
            let (content, history) = wire::read(&delivery.properties, &delivery.data)
                .unwrap_or_else(|_| {
                    let received_at = wire::written_at(&delivery.properties);
                    (
                        Content::unknown(received_at, delivery.data),
                        History::default(),
                    )
                });
            letters.push(describe(&delivery.properties, content, history));
            Ok(true)
        })
        .await?;
        Ok(letters)
    }

    pub(crate) async fn retry_dead(&self, id: EventId) -> Result<bool, BrokerError> {
        self.take_dead(id, true).await
    }

    pub(crate) async fn drop_dead(&self, id: EventId) -> Result<bool, BrokerError> {
        self.take_dead(id, false).await
    }

    async fn take_dead(&self, id: EventId, retry: bool) -> Result<bool, BrokerError> {
        let wanted = id.to_string();
        let mut found = false;
        self.look_through_dead(u32::MAX, async |broker, message| {
            let delivery = message.delivery;
            let is_it = delivery
                .properties
                .message_id()
                .as_ref()
                .is_some_and(|id| id.as_str() == wanted);
            if !is_it {
                return Ok(true);
            }
            if retry {
                let (content, _) =
                    wire::read(&delivery.properties, &delivery.data).map_err(|_| {
                        BrokerError::Unusable("the dead letter cannot be read".to_owned())
                    })?;
                broker
                    .store(&broker.put_back(&delivery.properties, content))
                    .await?;
            }
            within(delivery.acker.ack(BasicAckOptions::default())).await?;
            found = true;
            Ok(false)
        })
        .await?;
        Ok(found)
    }

    /// The job that a dead letter becomes again, due at once.
    fn put_back(&self, properties: &BasicProperties, content: Content) -> Message {
        let is_reply = properties
            .kind()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == wire::REPLY);
        let destination = if is_reply {
            Destination::Post(content.bot.clone())
        } else {
            Destination::Ask
        };
        let content = content.put_back(Timestamp::now());
        let (exchange, key) = self
            .names()
            .delayed(std::time::Duration::ZERO, &destination);
        Message {
            address: Address { exchange, key },
            properties: wire::properties(&content, History::default(), is_reply),
            body: content.body,
        }
    }

    /// Fetches dead letters, oldest first, without acknowledging, until `each` says that it is
    /// enough; whatever it did not acknowledge goes back when the connection closes.
    async fn look_through_dead(
        &self,
        limit: u32,
        mut each: impl AsyncFnMut(&Self, BasicGetMessage) -> Result<bool, BrokerError>,
    ) -> Result<(), BrokerError> {
        let connection = self.inner.connections.consuming().await?;
        let result = async {
            let channel = within(connection.create_channel()).await?;
            for _ in 0..limit {
                let Some(message) = get(&channel, &self.names().dead()).await? else {
                    break;
                };
                if !each(self, message).await? {
                    break;
                }
            }
            Ok(())
        }
        .await;
        close(connection).await;
        result
    }
}

async fn get(channel: &Channel, queue: &str) -> Result<Option<BasicGetMessage>, BrokerError> {
    within(channel.basic_get(queue.into(), BasicGetOptions::default())).await
}

async fn within<T>(request: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::TimedOut("a request about dead letters")),
    }
}
