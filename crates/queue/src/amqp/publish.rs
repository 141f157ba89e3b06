//! Publishing with proof: confirm, mandatory, and a returned message is a failure.
//!
//! lapin may pin a returned message on the wrong confirm when several publishes are in flight on one
//! channel, so each channel carries one at a time and there are many channels. Without `mandatory`
//! the broker acks what it cannot route; without confirms lapin reports success for anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_lapin::lapin;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Semaphore, oneshot};

use super::connection::Connections;
use super::{BrokerError, REQUEST_LIMIT};

/// Channels, each with one publish in flight. More gain nothing: 16 already do 9,000 a second.
const CHANNELS: usize = 64;
/// How long the broker has for a publish, all included. What was not confirmed by then may still
/// be stored.
pub(super) const PUBLISH_LIMIT: Duration = Duration::from_secs(2);

/// Where a message goes.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) exchange: String,
    pub(super) key: String,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) address: Address,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// Whether at least one queue has to take the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    /// A message that no queue takes is a failure.
    Mandatory,
    /// Copies may find nobody interested; it is confirmed all the same.
    Optional,
}

/// The channels on which this process publishes.
#[derive(Debug)]
pub(super) struct Publishing {
    connections: Arc<Connections>,
    permits: Semaphore,
    idle: Arc<Mutex<Vec<Channel>>>,
}

impl Publishing {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        Self {
            connections,
            permits: Semaphore::new(CHANNELS),
            idle: Arc::default(),
        }
    }

    /// Returns `Ok` once the message is stored in every queue that it is routed to.
    pub(super) async fn publish(
        &self,
        message: &Message,
        routing: Routing,
    ) -> Result<(), BrokerError> {
        self.publish_in_turn(&[(message, routing)]).await
    }

    /// The same for several, each once the one before it is stored, all in the time that one has.
    pub(super) async fn publish_in_turn(
        &self,
        messages: &[(&Message, Routing)],
    ) -> Result<(), BrokerError> {
        let publishing = async {
            for (message, routing) in messages {
                self.try_publish(message, *routing).await?;
            }
            Ok(())
        };
        let published = tokio::time::timeout(PUBLISH_LIMIT, publishing).await;
        let result = published.unwrap_or_else(|_| {
            Err(match self.connections.alarm() {
                Some(reason) => BrokerError::Blocked(reason),
                None => BrokerError::TimedOut("a publish"),
            })
        });
        let up = matches!(result, Ok(()) | Err(BrokerError::Returned(_)));
        metrics::gauge!("chickwork_broker_up").set(if up { 1.0 } else { 0.0 });
        result
    }

    async fn try_publish(&self, message: &Message, routing: Routing) -> Result<(), BrokerError> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| BrokerError::Closed)?;
        let channel = self.channel().await?;
        // Until the confirm is there the channel belongs to this call alone: an error or a time-out
        // drops it, and so closes it. (After an alarm lapin sends that close before the publish that
        // was waiting, which costs the connection; others on it fail, and are tried again.)
        confirmed(&channel, message, routing).await?;
        self.idle().push(channel);
        Ok(())
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        while let Some(channel) = self.idle().pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        // On a task of its own: connecting to a broker that has to create everything first takes
        // longer than a publish may wait, and must not begin anew with each of them.
        let (connections, idle) = (self.connections.clone(), self.idle.clone());
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let opened = tokio::time::timeout(REQUEST_LIMIT, connections.confirming_channel());
            let opened = opened
                .await
                .unwrap_or(Err(BrokerError::TimedOut("a channel")));
            // Whoever asked may have given up; then the next one has it.
            if let Err(Ok(channel)) = tell.send(opened) {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < CHANNELS {
                    idle.push(channel);
                }
            }
        });
        told.await.map_err(|_| BrokerError::Closed)?
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel on which publishes are confirmed.
pub(super) async fn open_confirming(
    connection: &lapin::Connection,
) -> Result<Channel, BrokerError> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Publishes on a channel that has nothing else in flight.
pub(super) async fn confirmed(
    channel: &Channel,
    message: &Message,
    routing: Routing,
) -> Result<(), BrokerError> {
    let options = BasicPublishOptions {
        mandatory: routing == Routing::Mandatory,
        ..BasicPublishOptions::default()
    };
    let Address { exchange, key } = &message.address;
    let confirmation = channel
        .basic_publish(
            exchange.as_str().into(),
            key.as_str().into(),
            options,
            &message.body,
            message.properties.clone(),
        )
        .await?
        .await?;
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
            Err(BrokerError::Returned(exchange.clone()))
        }
        Confirmation::Nack(None) => Err(BrokerError::Nacked),
        Confirmation::NotRequested => Err(BrokerError::Nacked),
    }
}
