//! Dead letters: jobs that were given up, each with its cause.

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use serde::Serialize;

use crate::event::{BotName, EventId};
use crate::job::{Cause, Step};

/// A dead letter as listed. The JSON fields are a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The event.
    pub id: EventId,
    /// The bot it was sent to.
    pub bot: BotName,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The room, where known.
    pub room_id: Option<RoomId>,
    /// The message, where known.
    pub message_id: Option<MessageId>,
    /// The step that gave up.
    pub step: Step,
    /// Why.
    pub cause: Cause,
    /// The last error.
    pub error: String,
    /// How many tries had failed.
    pub attempts: u32,
    /// When the ingress received the event.
    pub received_at: Timestamp,
    /// When it was given up.
    pub buried_at: Timestamp,
}
