//! Events and jobs as rows, and back.

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, ToSql, params_from_iter};

use crate::content::Content;
use crate::event::BotName;

/// The columns that `jobs`, `dead` and `archive` share, in the order in which [`read_content`] reads them.
pub(super) const CONTENT: &str =
    "id, bot, event_type, room_id, message_id, received_at, put_back_at, replay, body, again";

/// The same from a table that lacks the last of them.
pub(super) const CONTENT_WITHOUT_AGAIN: &str =
    "id, bot, event_type, room_id, message_id, received_at, put_back_at, replay, body, NULL";

/// The tables with these columns.
const TABLES: [&str; 3] = ["jobs", "dead", "archive"];

/// Adds the columns that releases before this one did not have. They know nothing of them and go on
/// using the file beside this one: a row of theirs has none of it, and one of ours is to them a row
/// like any other.
pub(super) fn add_missing_columns(connection: &Connection) -> rusqlite::Result<()> {
    for table in TABLES {
        if !has_again(connection, table)? {
            connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN again INTEGER"))?;
        }
    }
    Ok(())
}

/// Whether this table has the column that was added last.
pub(super) fn has_again(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection
        .prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = 'again'")?
        .exists([table])
}

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
        put_back_at: time_if_any(row, first + 6)?,
        replay: row.get(first + 7)?,
        body: row.get(first + 8)?,
        again: time_if_any(row, first + 9)?,
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
    let again = content.again.map(Timestamp::as_millisecond);
    let in_order: [&dyn ToSql; 10] = [
        &content.id.to_string(),
        &content.bot.as_str(),
        &content.event_type,
        &room_id,
        &content.message_id.as_ref().map(MessageId::as_str),
        &content.received_at.as_millisecond(),
        &put_back_at,
        &content.replay,
        &content.body,
        &again,
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

/// The same, where it may be empty.
fn time_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => time(row, column).map(Some),
        None => Ok(None),
    }
}

pub(super) fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
