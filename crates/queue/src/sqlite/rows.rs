//! Events and jobs as rows, and back.

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, ToSql, params_from_iter};

use crate::content::Content;
use crate::event::BotName;

/// The columns that `jobs`, `dead` and `archive` share, in the order in which [`read_content`] reads them.
pub(super) const CONTENT: &str =
    "id, bot, event_type, room_id, message_id, received_at, put_back_at, replay, body";

/// Reads [`CONTENT`] from the row, its first column at `first`.
pub(super) fn read_content(row: &Row<'_>, first: usize) -> rusqlite::Result<Content> {
    let text = |column: usize| row.get::<_, String>(first + column);
    Ok(Content {
        id: text(0)?.parse().map_err(|error| unreadable(first, error))?,
        bot: BotName::new(text(1)?).map_err(|error| unreadable(first + 1, error))?,
        event_type: text(2)?,
        room_id: row
            .get::<_, Option<i64>>(first + 3)?
            .map(|id| RoomId(id.cast_unsigned())),
        message_id: row
            .get::<_, Option<String>>(first + 4)?
            .map(MessageId::new)
            .transpose()
            .map_err(|error| unreadable(first + 4, error))?,
        received_at: time(row, first + 5)?,
        put_back_at: match row.get::<_, Option<i64>>(first + 6)? {
            Some(_) => Some(time(row, first + 6)?),
            None => None,
        },
        replay: row.get(first + 7)?,
        body: row.get(first + 8)?,
    })
}

/// Puts a job in a queue, due now.
pub(super) fn insert_job(
    connection: &Connection,
    queue: &str,
    content: &Content,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let own: [(&str, &dyn ToSql); 2] = [("queue", &queue), ("due", &now.as_millisecond())];
    insert(connection, "INSERT INTO jobs", &own, content)
}

/// Inserts a row: the columns that this table has of its own, and [`CONTENT`].
pub(super) fn insert(
    connection: &Connection,
    insert_into: &str,
    own: &[(&str, &dyn ToSql)],
    content: &Content,
) -> rusqlite::Result<()> {
    let columns: String = own.iter().map(|(name, _)| format!("{name}, ")).collect();
    let places = vec!["?"; own.len() + CONTENT.split(',').count()].join(", ");
    let room_id = content.room_id.map(|room| room.0.cast_signed());
    let put_back_at = content.put_back_at.map(Timestamp::as_millisecond);
    let in_order: [&dyn ToSql; 9] = [
        &content.id.to_string(),
        &content.bot.as_str(),
        &content.event_type,
        &room_id,
        &content.message_id.as_ref().map(MessageId::as_str),
        &content.received_at.as_millisecond(),
        &put_back_at,
        &content.replay,
        &content.body,
    ];
    let values = own.iter().map(|(_, value)| *value).chain(in_order);
    connection
        .prepare_cached(&format!(
            "{insert_into} ({columns}{CONTENT}) VALUES ({places})"
        ))?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// A time column, in milliseconds.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
