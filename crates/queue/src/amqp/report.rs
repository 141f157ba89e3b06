//! What a person looks at, on the broker: reports of the processes, which travel among the outcomes,
//! and how much its queues hold.

use std::collections::HashMap;

use deadpool_lapin::lapin;
use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use uuid::Uuid;

use super::stream::{ArchiveRead, From, ReadToEnd, last_chunk};
use super::{Address, Broker, BrokerError, Message, close, look, wire};
use crate::report::{Depth, Report};

/// So far back it is looked first for the last event that came in by itself.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// `type` of a report among the outcomes. Whoever reads outcomes passes it over.
pub(super) const REPORT: &str = "report";

impl Broker {
    /// Sends a report some time soon, unless others wait to be sent already.
    pub(crate) fn report(&self, report: &Report) {
        let properties = BasicProperties::default()
            .with_message_id(report.process.to_string().into())
            .with_type(REPORT.into())
            .with_timestamp(report.at.as_second().unsigned_abs())
            .with_content_type("application/json".into())
            .with_app_id("chickwork".into())
            .with_delivery_mode(2);
        let address = Address {
            exchange: self.names().outcomes(),
            key: REPORT.to_owned(),
        };
        self.inner.copies.send_unless_behind(Message {
            address,
            properties,
            body: report.encode().into_bytes(),
        });
    }

    /// The last report of each process that has sent one lately.
    pub(crate) async fn reports(&self, now: Timestamp) -> Result<Vec<Report>, BrokerError> {
        let since = now.checked_sub(2 * Report::FRESH).unwrap_or(now);
        let outcomes = self.names().outcomes();
        let mut stream = ReadToEnd::new(self.clone(), outcomes, From::Time(since));
        let mut newest: HashMap<Uuid, Report> = HashMap::new();
        while let Some(delivery) = stream.next().await? {
            if !is_report(&delivery.properties) {
                continue;
            }
            // What cannot be read is of a newer release.
            if let Some(report) = Report::decode(&delivery.data) {
                newest.insert(report.process, report);
            }
        }
        Ok(newest.into_values().collect())
    }

    /// How much the queues of this deployment hold.
    pub(crate) async fn depths(&self) -> Result<Vec<Depth>, BrokerError> {
        let names = self.names();
        let posts = self.inner.bots.iter();
        let queues = std::iter::once(("ask".to_owned(), vec![names.ask()]))
            .chain(posts.map(|bot| (format!("post.{bot}"), vec![names.post(bot)])))
            .chain([
                (Depth::LATER.to_owned(), names.levels().collect()),
                (Depth::DEAD.to_owned(), vec![names.dead()]),
            ]);
        let connection = self.inner.connections.consuming().await?;
        let depths = async {
            let mut depths = Vec::new();
            for (queue, objects) in queues {
                depths.extend(depth(&connection, queue, &objects).await?);
            }
            Ok(depths)
        }
        .await;
        close(connection).await;
        depths
    }

    pub(crate) async fn last_event(&self) -> Result<Option<Timestamp>, BrokerError> {
        if !self.inner.archived {
            return Ok(None);
        }
        let (mut newest, mut are_there_others) = (None, false);
        last_chunk(self, &self.names().archive(), |delivery| {
            if let Ok((content, _)) = wire::read(&delivery.properties, &delivery.data) {
                match content.put_back_at {
                    None => newest = newest.max(Some(content.received_at)),
                    Some(_) => are_there_others = true,
                }
            }
        })
        .await?;
        if newest.is_some() || !are_there_others {
            return Ok(newest);
        }
        // The last that was archived are events that a person put in, so it is looked further back.
        let day_ago = Timestamp::now()
            .saturating_sub(DAY)
            .unwrap_or(Timestamp::MIN);
        for since in [day_ago, Timestamp::MIN] {
            let mut archived = ArchiveRead::new(self.clone(), since);
            while let Some(event) = archived.next().await? {
                if event.put_back_at.is_none() {
                    newest = newest.max(Some(event.received_at));
                }
            }
            if newest.is_some() {
                break;
            }
        }
        Ok(newest)
    }
}

pub(super) fn is_report(properties: &BasicProperties) -> bool {
    let kind = properties.kind().as_ref();
    kind.is_some_and(|kind| kind.as_str() == REPORT)
}

/// What these objects hold together; `None`: there is none of them.
async fn depth(
    connection: &lapin::Connection,
    queue: String,
    objects: &[String],
) -> Result<Option<Depth>, BrokerError> {
    let mut there = Vec::new();
    for object in objects {
        there.extend(held(connection, object).await?);
    }
    let Some(&(_, consumers)) = there.first() else {
        return Ok(None);
    };
    Ok(Some(Depth {
        queue,
        jobs: there.iter().map(|&(jobs, _)| u64::from(jobs)).sum(),
        oldest: None,
        consumers: Some(consumers),
    }))
}

/// Messages and consumers of a queue, `None` if it does not exist.
async fn held(
    connection: &lapin::Connection,
    queue: &str,
) -> Result<Option<(u32, u32)>, BrokerError> {
    match look(connection, queue).await?.map_err(BrokerError::from) {
        Ok(queue) => Ok(Some((queue.message_count(), queue.consumer_count()))),
        Err(BrokerError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
