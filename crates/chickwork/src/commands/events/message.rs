//! What a person wants to see of the message that an event is about.

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::notation::what_was_said;
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::event::Event;
use jiff::Timestamp;

/// The message of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Who wrote it.
    pub(super) sender: AccountId,
    /// As it was written, with its notation.
    pub(super) text: String,
    /// When, in whole seconds of Chatwork's clock.
    pub(super) sent_at: Option<Timestamp>,
}

impl Message {
    /// `None`: the event is about no message that can be read.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let webhook = Webhook::parse(&event.body).ok()?;
        let message = webhook.happening.message()?;
        Some(Self {
            sender: message.author,
            text: message.body.clone(),
            sent_at: Timestamp::from_second(message.send_time).ok(),
        })
    }

    /// What was said, without the notation; all of it if nothing is left.
    pub(super) fn said(&self) -> String {
        let said = what_was_said(&self.text, &[]);
        if said.is_empty() {
            self.text.clone()
        } else {
            said
        }
    }
}
