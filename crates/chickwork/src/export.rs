//! Exported events: one JSON object a line, with the webhook byte for byte and what became of it. What
//! `events export` writes is read again by `replay` and by `dev --from`, of this release and of later ones.
//!
//! Such files outlive a deployment. So the fields keep their names and meaning, and what is added to
//! them later is optional. Frozen example: `tests/data/export.v1.jsonl`.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::outcome::Outcome;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use crate::output;

/// The version that this release writes.
const VERSION: u64 = 1;
/// A line is read up to this length, in bytes. A webhook has at most 1 MiB, which may grow sixfold when
/// all of it has to be escaped; the rest is for its outcomes.
const LONGEST_LINE: usize = 64 * 1024 * 1024;
/// So many bytes are read at a time.
const READ_AHEAD: usize = 256 * 1024;
/// The path that means the standard input.
pub(crate) const STDIN: &str = "-";

/// An event with what was known of it when it was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exported {
    /// The event. Whether a person had put it back is not exported but for the counter: a time at
    /// which it was put back elsewhere would make it younger here than it is.
    pub(crate) event: Event,
    /// Where it stood: one of the words of `events list --state`. Absent in a line that somebody else
    /// has written.
    pub(crate) state: Option<String>,
    /// Why it stood there: the reason or the cause, where there was one.
    pub(crate) why: Option<String>,
    /// What had become of it, in its order.
    pub(crate) outcomes: Vec<Outcome>,
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    v: u64,
    id: EventId,
    bot: &'a BotName,
    #[serde(rename = "type")]
    event_type: &'a str,
    room_id: Option<RoomId>,
    message_id: Option<&'a MessageId>,
    received_at: Timestamp,
    replay: u32,
    state: Option<&'a str>,
    why: Option<&'a str>,
    /// The webhook, if it is text: read by people and by other programs, it is most of the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The webhook, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    outcomes: &'a [Outcome],
}

impl Exported {
    /// Writes it as one line.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let event = &self.event;
        let text = std::str::from_utf8(&event.body).ok();
        let line = Line {
            v: VERSION,
            id: event.id,
            bot: &event.bot,
            event_type: event.event_type,
            room_id: event.room_id,
            message_id: event.message_id.as_ref(),
            received_at: event.received_at,
            replay: event.replay,
            state: self.state.as_deref(),
            why: self.why.as_deref(),
            body: text,
            body_base64: text.is_none().then(|| STANDARD.encode(&event.body)),
            outcomes: &self.outcomes,
        };
        output::json(&line, out)
    }

    /// Reads a line.
    pub(crate) fn read(line: &[u8]) -> Result<Self, NotExported> {
        let Value::Object(members) = serde_json::from_slice(line)? else {
            return Err(NotExported::Other("it is no JSON object"));
        };
        let mut members = Members(members);
        match members.required::<u64>("v")? {
            VERSION => {}
            newer => return Err(NotExported::Version(newer)),
        }
        let (text, base64) = (members.optional("body")?, members.optional("body_base64")?);
        let body = match (text, base64) {
            (Some(Value::String(text)), None) => Bytes::from(text),
            (None, Some(Value::String(base64))) => STANDARD
                .decode(base64)
                .map_err(|_| NotExported::Member("body_base64"))?
                .into(),
            _ => return Err(NotExported::Other("it has to have `body` or `body_base64`")),
        };
        let event_type: String = members.required("type")?;
        let outcomes: Vec<Value> = members.optional("outcomes")?.unwrap_or_default();
        Ok(Self {
            event: Event {
                id: members.required("id")?,
                bot: members.required("bot")?,
                event_type: Event::known_type(&event_type),
                room_id: members.optional("room_id")?,
                message_id: members.optional("message_id")?,
                received_at: members.required("received_at")?,
                put_back_at: None,
                replay: members.optional("replay")?.unwrap_or(0),
                again: None,
                body,
            },
            state: members.optional("state")?,
            why: members.optional("why")?,
            // As everywhere: one that this release does not know is passed over.
            outcomes: outcomes
                .into_iter()
                .filter_map(|outcome| Outcome::deserialize(outcome).ok())
                .collect(),
        })
    }
}

/// The members of a line, taken out one by one. Not serde's derive: its errors quote values, which
/// may be what somebody said.
struct Members(Map<String, Value>);

impl Members {
    fn required<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, NotExported> {
        self.optional(name)?.ok_or(NotExported::Member(name))
    }

    fn optional<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, NotExported> {
        let Some(value) = self.0.remove(name) else {
            return Ok(None);
        };
        serde_json::from_value(value).map_err(|_| NotExported::Member(name))
    }
}

/// Why a line is no exported event. Never with what stands in it.
#[derive(Debug)]
pub(crate) enum NotExported {
    Json(serde_json::Error),
    Version(u64),
    Member(&'static str),
    TooLong,
    Other(&'static str),
}

impl From<serde_json::Error> for NotExported {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl fmt::Display for NotExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) if error.is_eof() => f.write_str("it is cut off"),
            Self::Json(error) => write!(f, "it is no JSON from column {} on", error.column()),
            Self::Version(version) => write!(
                f,
                "it has version {version} (`v`), and this release reads version {VERSION}; use the release that wrote it"
            ),
            Self::Member(name) => write!(
                f,
                "`{name}` is missing, or not what `chickwork events export` writes there"
            ),
            Self::TooLong => write!(f, "it is longer than {LONGEST_LINE} bytes"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for NotExported {}

/// The events of a file, one after the other; the file may be larger than the memory.
pub(crate) struct Reader {
    /// For errors: the path, or what the standard input is called.
    name: String,
    input: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    /// What was read of the line so far.
    line: Vec<u8>,
    /// Lines that were read whole.
    lines: u64,
    /// Bytes that were read.
    bytes: u64,
    /// Where the last line that was read begins and ends.
    place: Range<u64>,
}

impl Reader {
    /// Opens a file, or the standard input for [`STDIN`].
    pub(crate) async fn open(path: &str) -> anyhow::Result<Self> {
        if path == STDIN {
            return Ok(Self::of("the standard input", Box::new(tokio::io::stdin())));
        }
        match tokio::fs::File::open(path).await {
            Ok(file) => Ok(Self::of(path, Box::new(file))),
            Err(error) => anyhow::bail!("{path} cannot be read: {error}"),
        }
    }

    /// Reads what is open already; errors call it by this name.
    pub(crate) fn of(name: &str, input: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self {
            name: name.to_owned(),
            input: BufReader::with_capacity(READ_AHEAD, input),
            line: Vec::new(),
            lines: 0,
            bytes: 0,
            place: 0..0,
        }
    }

    /// Where the event that was read last stands: [`Exported::read`] takes the bytes there.
    pub(crate) fn place(&self) -> Range<u64> {
        self.place.clone()
    }

    /// The next event; `None` at the end. An error names the line, and the next call goes on behind
    /// it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Exported>> {
        loop {
            match self.line().await? {
                Whole::Line => {}
                Whole::TooLong => return Err(self.wrong(NotExported::TooLong)),
                Whole::End => return Ok(None),
            }
            let line = std::mem::take(&mut self.line);
            if line.trim_ascii().is_empty() {
                continue;
            }
            return match Exported::read(&line) {
                Ok(exported) => Ok(Some(exported)),
                Err(error) => Err(self.wrong(error)),
            };
        }
    }

    fn wrong(&mut self, error: NotExported) -> anyhow::Error {
        self.line.clear();
        let Self { name, lines, .. } = self;
        anyhow::Error::new(error).context(format!("{name}, line {lines}, is no exported event"))
    }

    /// Reads up to the end of the line. Of a line that is too long, the rest is passed over.
    async fn line(&mut self) -> anyhow::Result<Whole> {
        loop {
            let buffered = match self.input.fill_buf().await {
                Ok(buffered) => buffered,
                Err(error) => anyhow::bail!("{} cannot be read: {error}", self.name),
            };
            let (taken, is_whole) = match buffered.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffered.len(), false),
            };
            let is_end = taken == 0;
            // One byte more than fits is kept, as the mark of a line that does not.
            let room = (LONGEST_LINE + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&buffered[..taken.min(room)]);
            self.input.consume(taken);
            self.bytes += taken as u64;
            if is_end && self.line.is_empty() {
                return Ok(Whole::End);
            }
            if is_end || is_whole {
                self.lines += 1;
                self.place = self.place.end..self.bytes;
                return Ok(match self.line.len() {
                    ..=LONGEST_LINE => Whole::Line,
                    _ => Whole::TooLong,
                });
            }
        }
    }
}

enum Whole {
    Line,
    TooLong,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROZEN: &str = include_str!("../tests/data/export.v1.jsonl");

    fn exported(body: &[u8]) -> Exported {
        Exported {
            event: Event {
                body: Bytes::copy_from_slice(body),
                ..Exported::read(FROZEN.lines().next().expect("there are lines").as_bytes())
                    .expect("it is frozen")
                    .event
            },
            state: Some("waiting".to_owned()),
            why: None,
            outcomes: Vec::new(),
        }
    }

    fn written(exported: &Exported) -> String {
        let mut out = Vec::new();
        exported.write(&mut out).expect("a vector takes it");
        String::from_utf8(out).expect("JSON is text")
    }

    fn reader(input: impl Into<Vec<u8>>) -> Reader {
        Reader::of("the test", Box::new(io::Cursor::new(input.into())))
    }

    #[test]
    fn the_frozen_lines_of_version_1_are_read_and_written_as_they_are() {
        for line in FROZEN.lines() {
            let exported = Exported::read(line.as_bytes()).expect(line);
            assert_eq!(written(&exported), format!("{line}\n"));
        }
        let outcomes = |line: &str| Exported::read(line.as_bytes()).expect(line).outcomes.len();
        let counts: Vec<_> = FROZEN.lines().map(outcomes).collect();
        assert_eq!(counts, [4, 1, 0], "no outcome is passed over");
    }

    #[test]
    fn any_bytes_come_back_as_they_were() {
        let every: Vec<u8> = (0..=u8::MAX).collect();
        let every_character: String = (0..0x3000)
            .chain([0xfeff, 0xffff, 0x1f600])
            .filter_map(char::from_u32)
            .collect();
        for body in [
            &every[..],
            every_character.as_bytes(),
            b"",
            b"\r\n\n",
            b"{\"a\":\"\xff\"}",
            "\u{feff}{}".as_bytes(),
        ] {
            let exported = exported(body);
            let line = written(&exported);
            assert_eq!(line.lines().count(), 1, "one line");
            assert_eq!(
                Exported::read(line.as_bytes()).expect("just written"),
                exported
            );
        }
    }

    #[test]
    fn what_is_added_later_does_no_harm() {
        let line = FROZEN.lines().next().expect("there are lines");
        let more = line.replacen("{\"v\":1,", "{\"v\":1,\"mood\":\"good\",", 1);
        let unknown = more.replacen("\"what\":\"intent\"", "\"what\":\"sung\"", 1);
        let exported = Exported::read(unknown.as_bytes()).expect("it is read");
        assert_eq!(
            exported.outcomes.len(),
            3,
            "what nobody knows is passed over"
        );
        let least = r#"{"v":1,"id":"01936b1e-7a00-7000-8000-000000000001","bot":"bot","type":"sung","received_at":"2026-11-24T09:00:00Z","body":"x"}"#;
        let exported = Exported::read(least.as_bytes()).expect("all that is needed");
        assert_eq!(
            (
                exported.event.event_type,
                exported.event.replay,
                exported.state
            ),
            (Event::OTHER, 0, None)
        );
    }

    #[test]
    fn what_is_no_exported_event_is_told_without_its_words() {
        let line = FROZEN.lines().next().expect("there are lines");
        let cut_off = &line[..line.len() / 2];
        for (line, says) in [
            (cut_off, "cut off"),
            ("secret", "no JSON"),
            ("[\"secret\"]", "no JSON object"),
            ("{}", "`v`"),
            (&line.replacen("\"v\":1", "\"v\":2", 1), "version 2"),
            (
                &line.replacen("\"bot\":\"bot\"", "\"bot\":\"a secret\"", 1),
                "`bot`",
            ),
            (&line.replacen("\"id\":", "\"di\":", 1), "`id`"),
            (&line.replacen("\"body\":", "\"secret\":", 1), "`body`"),
            (
                &line.replacen("\"body\":", "\"body_base64\":", 1),
                "`body_base64`",
            ),
            (
                &line.replacen("\"body\":", "\"body_base64\":\"\",\"body\":", 1),
                "`body`",
            ),
        ] {
            let error = Exported::read(line.as_bytes()).expect_err(says).to_string();
            assert!(error.contains(says), "{says} in {error}");
            assert!(
                !error.contains("secret") && !error.contains("Chick"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_is_read_line_by_line_and_an_error_names_the_line() {
        let lines: Vec<&str> = FROZEN.lines().collect();
        let file = format!("{}\n\nno event\r\n{}\r\n{}", lines[0], lines[1], lines[2]);
        let mut reader = reader(file.clone());
        let first = reader.next().await.expect("a line").expect("an event");
        assert_eq!(first.event.replay, 0);
        assert_eq!(reader.place(), 0..lines[0].len() as u64 + 1);
        let error = reader.next().await.expect_err("no event");
        assert_eq!(
            format!("{error:#}"),
            "the test, line 3, is no exported event: it is no JSON from column 2 on"
        );
        assert!(reader.next().await.expect("a line").is_some());
        assert!(reader.next().await.expect("the last line").is_some());
        assert_eq!(reader.lines, 5);
        let end = file.len();
        let begin = end - lines[2].len();
        assert_eq!(reader.place(), begin as u64..end as u64);
        assert!(reader.next().await.expect("no more").is_none());
    }

    #[tokio::test]
    async fn a_line_without_an_end_takes_a_bounded_part_of_the_memory() {
        let mut input = vec![b'x'; LONGEST_LINE + 3 * READ_AHEAD];
        input.push(b'\n');
        input.extend_from_slice(FROZEN.lines().next().expect("a line").as_bytes());
        let mut reader = reader(input);
        let error = format!("{:#}", reader.next().await.expect_err("too long"));
        assert!(
            error.contains("line 1") && error.contains("longer"),
            "{error}"
        );
        assert!(reader.next().await.expect("a line").is_some());
        assert_eq!(reader.lines, 2);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let opened = Reader::open("/nowhere/events.jsonl").await;
        let Err(error) = opened else {
            panic!("there is no such file");
        };
        assert!(
            error.to_string().contains("/nowhere/events.jsonl"),
            "{error}"
        );
    }
}
