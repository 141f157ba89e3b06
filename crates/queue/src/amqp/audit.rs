//! What the audit of a queue needs of its broker.

use jiff::Timestamp;

use super::wire::{self, History};
use super::{Address, Broker, BrokerError, Message};
use crate::content::Content;
use crate::event::Event;
use crate::outcome::{Outcome, What};

impl Broker {
    /// Whether there is to be an archive.
    pub(crate) fn keeps_archive(&self) -> bool {
        self.inner.archived
    }

    /// Says that an event is back, and puts it back into the ask queue. The archive has it already.
    pub(crate) async fn put_back(&self, event: &Event, replayed: What) -> Result<(), BrokerError> {
        self.note_put_back(event.id).await;
        let content = Content::of_event(event);
        let told = self.outcome_message(&content.outcome(replayed, Timestamp::now()));
        self.store(&told).await?;
        let address = Address {
            exchange: self.names().way_in(),
            key: "ask".to_owned(),
        };
        self.store(&Message {
            address,
            properties: wire::properties(&content, History::default(), false),
            body: content.body,
        })
        .await
    }

    /// Says that an event of another deployment is taken in, and takes it in.
    pub(crate) async fn take_in(
        &self,
        event: &Event,
        lines: &[Outcome],
    ) -> Result<(), BrokerError> {
        self.note_put_back(event.id).await;
        for line in lines {
            self.store(&self.outcome_message(line)).await?;
        }
        self.publish(event).await
    }

    /// Says how an event has ended that nobody works on.
    pub(crate) async fn end(&self, outcome: &Outcome) -> Result<(), BrokerError> {
        self.store(&self.outcome_message(outcome)).await
    }
}
