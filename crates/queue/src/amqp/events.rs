//! Lists and stories from the streams of a broker.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Broker, BrokerError};
use crate::event::EventId;
use crate::events::{Archived, Choice, Found, Page, Waits, Whom};
use crate::outcome::Outcome;
use crate::{Queue, QueueError};

impl Broker {
    pub(crate) fn event_pages(&self, choice: Arc<Choice>) -> EventPages {
        EventPages {
            broker: self.clone(),
            choice,
            done: false,
        }
    }

    pub(crate) async fn find(&self, whom: &Whom) -> Result<Found, BrokerError> {
        let mut found = Found::default();
        let mut archived = self.archived(Timestamp::UNIX_EPOCH);
        while let Some(event) = archived.next().await? {
            if whom.is_event(&event) {
                found.events.push(event);
            }
        }
        let mut outcomes = self.outcomes(Timestamp::UNIX_EPOCH);
        while let Some(outcome) = outcomes.next().await? {
            if whom.is_outcome(&outcome) {
                found.outcomes.push(outcome);
            }
        }
        Ok(found)
    }
}

/// The archive, page by page, newest first.
#[derive(Debug)]
pub(crate) struct EventPages {
    broker: Broker,
    choice: Arc<Choice>,
    done: bool,
}

impl EventPages {
    pub(crate) async fn next(&mut self, queue: &Queue) -> Result<Option<Page>, QueueError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let since = self.choice.begins().unwrap_or(Timestamp::UNIX_EPOCH);
        let (mut events, mut looked_through) = (Vec::new(), 0);
        let mut archived = self.broker.archived(since);
        while let Some(event) = archived.next().await? {
            looked_through += 1;
            if self.choice.takes(&event) {
                events.push(event);
            }
        }
        let mut became: HashMap<EventId, Vec<Outcome>> = HashMap::new();
        let mut outcomes = self.broker.outcomes(since);
        while let Some(outcome) = outcomes.next().await? {
            became.entry(outcome.id).or_default().push(outcome);
        }
        events.sort_by_key(|event| std::cmp::Reverse((event.received_at, event.id)));
        let events = events.into_iter().map(|event| Archived {
            outcomes: became.get(&event.id).cloned().unwrap_or_default(),
            event,
        });
        Ok(Some(Page {
            events: events.collect(),
            beside: Vec::new(),
            waits: Waits::SoMany(queue.jobs_in_numbers().await?),
            looked_through,
        }))
    }
}
