//! `chickwork events list`: what came in, newest first, each with what became of it.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::ExitCode;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::Queue;
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::events::{Choice, Listed, Standing};
use clap::{ArgMatches, Command};
use jiff::Timestamp;
use serde::Serialize;

use super::message::Message;
use super::verdict;
use crate::command_line::switch;
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::progress::{Looking, Through};
use crate::settings::read::Mistakes;
use crate::{choice, command_line, output, screen, words};

/// So many are listed for people, unless they say how many they want.
const USUAL_LIMIT: u64 = 50;
/// A text is listed up to this length, in characters, where there is no terminal to be narrow.
const LONGEST_TEXT: usize = 200;

const NOTES: &str = "\
Newest first, of all the time that is kept (CHICKWORK_ARCHIVE_KEEP). Looking changes nothing.
Exits 0, also when there is nothing to list. Of an ingress's spool (--queue sqlite:spool.db),
what waits in it for the broker is listed.

JSON has one object a line with the fields id, bot, type, room_id, message_id, sender (the
account), text (as written), state, why (the reason or the cause, whole; people see the
beginning of a long one), received_at, last (the last outcome), last_at, reply_message_id and
replay (how often a person put it back). Times are RFC 3339; what is not known is null.";

const EXAMPLES: &str = "\
Examples:
  chickwork events list
  chickwork events list --since 2h --state dead,unexplained
  chickwork events list --room 446240519 --text 'good morning' --limit 500
  chickwork events list --json --state ignored | jq -r .why | sort | uniq -c";

pub(super) fn command() -> Command {
    command_line::operators("list", "Lists what came in, and what became of it")
        .args(choice::flags())
        .mut_arg("limit", |limit| {
            limit.help("At most so many, the newest ones [default: 50, or all with --json]")
        })
        .arg(
            switch("all", "However many there are")
                .conflicts_with("limit")
                .help_heading(crate::filter::HEADING),
        )
        .arg(switch("json", "Prints one JSON object a line"))
        .after_help(format!("{NOTES}\n\n{}\n\n{EXAMPLES}", choice::STATES_NOTES))
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    choice: Choice,
    limit: Option<u64>,
    /// Nobody said how many are wanted.
    is_usual_limit: bool,
    is_archived: bool,
    json: bool,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let is_archived = !settings.queue.archive_keep.is_zero();
    let errand = Errand::of(&call.flags, is_archived, Timestamp::now());
    let work = on_queue(settings.queue, async move |queue| errand.run(queue).await);
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

impl Errand {
    fn of(flags: &ArgMatches, is_archived: bool, now: Timestamp) -> Self {
        let json = flags.get_flag("json");
        let wanted = choice::limit(flags);
        let is_usual_limit = wanted.is_none() && !flags.get_flag("all") && !json;
        Self {
            choice: choice::of(flags, now),
            limit: wanted.or(is_usual_limit.then_some(USUAL_LIMIT)),
            is_usual_limit,
            is_archived,
            json,
        }
    }

    async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        let mut out = BufWriter::new(io::stdout());
        let mut sheet = (!self.json).then(|| Sheet::for_width(screen::columns()));
        // One more tells whether there are more.
        let asked_for = self.limit.map(|limit| limit.saturating_add(1));
        let mut events = queue.events(self.choice.clone(), asked_for);
        let mut looking = Looking::through(Through::Events(events.looked_through()));
        let mut count = 0;
        let mut are_more = false;
        loop {
            let next = looking.wait(events.next(), || out.flush());
            let Some(listed) = next.await?? else { break };
            if self.limit == Some(count) {
                are_more = true;
                break;
            }
            if io::stdout().is_terminal() {
                looking.clear();
            }
            match &mut sheet {
                Some(sheet) => sheet.write(&listed, &mut out)?,
                None => output::json(&Row::of(&listed), &mut out)?,
            }
            count += 1;
        }
        drop(looking);
        out.flush()?;
        if count == 0 && !self.is_archived {
            words::tell(
                "There is no archive (CHICKWORK_ARCHIVE_KEEP is 0), so it is not kept what was received. Dead letters: chickwork dead list.",
            );
        } else if count == 0 {
            words::tell(
                "Nothing was received that is still kept, or these flags choose none of it.",
            );
            if let Some(hint) = choice::hint_of_reply(queue, &self.choice).await? {
                words::tell(hint);
            }
        } else if are_more {
            let how = if self.is_usual_limit {
                "--limit NUMBER lists more of them, --all all of them"
            } else {
                "a higher --limit lists more of them"
            };
            let this = match count {
                1 => "This is the newest event".to_owned(),
                many => format!("These are the newest {many} events"),
            };
            words::tell(format_args!("{this}. There are older ones: {how}."));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is listed of an event in JSON; the fields are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    id: EventId,
    bot: &'a BotName,
    #[serde(rename = "type")]
    event_type: &'a str,
    room_id: Option<RoomId>,
    message_id: Option<&'a MessageId>,
    sender: Option<AccountId>,
    text: Option<String>,
    state: Standing,
    why: Option<&'a str>,
    received_at: Timestamp,
    last: Option<&'a str>,
    last_at: Option<Timestamp>,
    reply_message_id: Option<&'a MessageId>,
    replay: u32,
}

impl<'a> Row<'a> {
    fn of(listed: &'a Listed) -> Self {
        let event = &listed.event;
        let (sender, text) = Message::of(event)
            .map_or((None, None), |Message { sender, text, .. }| {
                (Some(sender), Some(text))
            });
        Self {
            id: event.id,
            bot: &event.bot,
            event_type: event.event_type,
            room_id: event.room_id,
            message_id: event.message_id.as_ref(),
            sender,
            text,
            state: listed.standing,
            why: listed.why.as_deref(),
            received_at: event.received_at,
            last: listed.last,
            last_at: listed.last_at,
            reply_message_id: listed.reply_message_id.as_ref(),
            replay: listed.replay,
        }
    }
}

/// A column for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Id,
    Received,
    /// The same without the year.
    ReceivedLately,
    State,
    Room,
    Sender,
    Type,
}

impl Column {
    /// In their order.
    const ALL: [Self; 6] = [
        Self::Id,
        Self::Received,
        Self::State,
        Self::Room,
        Self::Sender,
        Self::Type,
    ];

    fn heading(self) -> &'static str {
        match self {
            Self::Id => "ID",
            Self::Received => "RECEIVED",
            Self::ReceivedLately => "RECEIVED (UTC)",
            Self::State => "STATE",
            Self::Room => "ROOM",
            Self::Sender => "SENDER",
            Self::Type => "TYPE",
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Id => 36,
            Self::Received => 20,
            Self::ReceivedLately => 14,
            // Room for the states and reasons; of errors, for their beginnings.
            Self::State => 24,
            Self::Room => 10,
            Self::Sender => 9,
            Self::Type => 15,
        }
    }

    fn value(self, listed: &Listed, sender: Option<AccountId>) -> String {
        let event = &listed.event;
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        match self {
            Self::Id => event.id.to_string(),
            Self::Received => words::time(event.received_at),
            Self::ReceivedLately => event.received_at.strftime("%m-%d %H:%M:%S").to_string(),
            Self::State => verdict::state(listed.standing, listed.why.as_deref()),
            Self::Room => or_none(event.room_id.map(|room| room.to_string())),
            Self::Sender => or_none(sender.map(|sender| sender.to_string())),
            Self::Type => event.event_type.to_owned(),
        }
    }
}

/// A table that fits the terminal.
#[derive(Debug)]
struct Sheet {
    /// Each with its width.
    columns: Vec<(Column, usize)>,
    /// What is left for the text; `None`: it has a line of its own.
    text: Option<usize>,
    /// Of the whole line; `None`: it may be as long as it is.
    width: Option<usize>,
    has_headings: bool,
}

/// Why something is as it is, is listed up to this width where there is no terminal to be narrow. It may
/// be a long error, and what stands behind it is to stay in its column.
const WIDEST_STATE: usize = 40;
/// Between two columns.
const GAP: usize = 2;
/// A text with less room than this tells nothing.
const LEAST_TEXT: usize = 24;
/// Of an id, so much tells when it was received, to the minute.
const LEAST_ID: usize = 8;
/// How far a text on a line of its own is moved to the right.
const INDENT: usize = 4;

impl Sheet {
    /// For a terminal of this width, or for no terminal.
    fn for_width(width: Option<usize>) -> Self {
        let taken = |columns: &[Column]| -> usize {
            columns.iter().map(|column| column.width() + GAP).sum()
        };
        let fixed = |columns: &[Column]| {
            let widths = columns.iter().map(|column| (*column, column.width()));
            widths.collect::<Vec<_>>()
        };
        let Some(width) = width else {
            let mut columns = fixed(&Column::ALL);
            for (column, width) in &mut columns {
                if *column == Column::State {
                    *width = WIDEST_STATE;
                }
            }
            return Self {
                columns,
                text: Some(LONGEST_TEXT),
                width: None,
                has_headings: false,
            };
        };
        // What is least missed is given up first.
        for columns in [
            &Column::ALL[..],
            &Column::ALL[..5],
            &Column::ALL[..4],
            &Column::ALL[..3],
        ] {
            if let Some(left) = width.checked_sub(taken(columns))
                && left >= LEAST_TEXT
            {
                return Self {
                    columns: fixed(columns),
                    text: Some(left),
                    width: Some(width),
                    has_headings: false,
                };
            }
        }
        // The text goes below, and the rest of the line is for the state, the last to be given up. The id
        // tells the time as well, though not to people.
        let narrow: [&[Column]; 3] = [
            &[Column::Id, Column::Received],
            &[Column::Id, Column::ReceivedLately],
            &[Column::Id],
        ];
        let has_room = |columns: &&[Column]| width >= taken(columns) + Column::State.width();
        let columns = narrow.into_iter().find(has_room);
        let mut columns = fixed(columns.unwrap_or_default());
        let left = width.saturating_sub(columns.iter().map(|(_, width)| width + GAP).sum());
        if columns.is_empty() {
            // An id that is cut off finds nothing, but is better than none to tell events apart.
            let id = left.saturating_sub(Column::State.width() + GAP);
            columns.extend((id >= LEAST_ID).then_some((Column::Id, id)));
        }
        let left = width.saturating_sub(columns.iter().map(|(_, width)| width + GAP).sum());
        columns.push((Column::State, left));
        Self {
            columns,
            text: None,
            width: Some(width),
            has_headings: false,
        }
    }

    fn write(&mut self, listed: &Listed, out: &mut impl Write) -> io::Result<()> {
        if !self.has_headings {
            self.has_headings = true;
            let headings = self.columns.iter();
            let headings = headings.map(|(column, width)| (column.heading().to_owned(), *width));
            self.line(headings.collect(), "TEXT", out)?;
        }
        let message = Message::of(&listed.event);
        let sender = message.as_ref().map(|message| message.sender);
        let said = message.map_or_else(
            || {
                format!(
                    "(no message; {})",
                    words::size(listed.event.body.len() as u64)
                )
            },
            |message| message.said(),
        );
        let values = self.columns.iter().map(|(column, width)| {
            let value = words::line(&column.value(listed, sender), usize::MAX);
            let value = match column {
                Column::State => screen::cut(&value, *width),
                _ => value,
            };
            (value, *width)
        });
        self.line(values.collect(), &said, out)
    }

    fn line(
        &self,
        values: Vec<(String, usize)>,
        text: &str,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut line = String::new();
        for (value, width) in values {
            // Into a file or another program everything else goes whole.
            let width = match self.width {
                Some(_) => width,
                None => width.max(screen::width(&value)),
            };
            line += &screen::fitted(&value, width);
            line += &" ".repeat(GAP);
        }
        let text = words::line(text, LONGEST_TEXT);
        match (self.text, self.width) {
            (Some(columns), Some(_)) => {
                line += &screen::cut(&text, columns);
                writeln!(out, "{}", line.trim_end())
            }
            (_, None) => {
                line += &text;
                writeln!(out, "{}", line.trim_end())
            }
            (None, Some(width)) => {
                writeln!(out, "{}", screen::cut(line.trim_end(), width))?;
                let text = screen::cut(&text, width.saturating_sub(INDENT));
                writeln!(out, "{:INDENT$}{text}", "")
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use chickwork_queue::event::Event;
    use serde_json::json;

    use super::*;

    /// An event as it is listed, to be changed by the test.
    pub(in crate::commands::events) fn listed(text: &str) -> Listed {
        let body = json!({
            "webhook_setting_id": "1",
            "webhook_event_type": "mention_to_me",
            "webhook_event_time": 1_790_000_000,
            "webhook_event": {
                "from_account_id": 1_484_814, "to_account_id": 7, "room_id": 446_240_519,
                "message_id": "1795508813713968449", "body": text,
                "send_time": 1_790_000_000, "update_time": 0,
            },
        });
        Listed {
            event: Event {
                id: "01a20caa-3f93-70fb-83f5-248e49a65e0a"
                    .parse()
                    .expect("an id"),
                bot: BotName::default(),
                event_type: "mention_to_me",
                room_id: Some(RoomId(446_240_519)),
                message_id: MessageId::new("1795508813713968449").ok(),
                received_at: Timestamp::from_second(1_790_000_001).expect("a time"),
                put_back_at: None,
                replay: 0,
                again: None,
                body: Bytes::from(body.to_string()),
            },
            standing: Standing::Ignored,
            why: Some("flood".to_owned()),
            reply_message_id: None,
            replay: 0,
            open_round: None,
            last: Some("ignored"),
            last_at: Timestamp::from_second(1_790_000_002).ok(),
            letter: None,
            outcomes: Vec::new(),
        }
    }

    fn table(width: Option<usize>, listed: &Listed) -> String {
        let mut out = Vec::new();
        let mut sheet = Sheet::for_width(width);
        sheet.write(listed, &mut out).expect("a vector takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let long = format!("[To:7]Chick さん\n\u{1b}[2J{}", "chào 日本 ".repeat(60));
        let listed = listed(&long);
        for width in (40..200).map(Some).chain([None]) {
            let table = table(width, &listed);
            assert!(table.contains("ignored: flood"), "{width:?}: {table}");
            for line in table.lines() {
                assert!(
                    width.is_none_or(|width| screen::width(line) <= width),
                    "{table}"
                );
                assert_eq!(line, line.trim_end());
            }
            assert!(!table.contains('\u{1b}'), "{table}");
            let is_whole = table.contains("01a20caa-3f93-70fb-83f5-248e49a65e0a");
            assert!(is_whole || width.is_some_and(|width| width < 62), "{table}");
            assert!(table.contains("01a20caa"), "{table}");
            assert!(table.contains("chào"), "{table}");
        }
        assert_eq!(table(Some(80), &listed).lines().count(), 4);
        let wide = table(None, &listed);
        assert_eq!(wide.lines().count(), 2);
        for part in [
            "ignored: flood",
            "446240519",
            "1484814",
            "mention_to_me",
            "chào 日本",
        ] {
            assert!(wide.contains(part), "{part} in {wide}");
        }
    }

    #[test]
    fn a_long_why_leaves_the_other_columns_where_they_are() {
        let mut listed = listed("hi");
        let of_rooms = |table: &str| {
            let at = |line: &str, word| line.find(word).map(|at| line[..at].chars().count());
            let lines: Vec<&str> = table.lines().collect();
            assert_eq!(at(lines[0], "ROOM"), at(lines[1], "446240519"), "{table}");
        };
        of_rooms(&table(None, &listed));
        let why = "Chatwork answered 503\u{9b} and a long text with what may be wrong";
        listed.why = Some(why.to_owned());
        let wide = table(None, &listed);
        assert!(wide.contains("ignored: Chatwork answered 503"), "{wide}");
        of_rooms(&wide);
        let narrow = table(Some(80), &listed);
        assert!(narrow.contains("ignored: Chatwork answ"), "{narrow}");
        assert!(narrow.contains("09-21 14:13:21"), "{narrow}");
        // The last that was heard does not explain what nothing explains.
        listed.standing = Standing::Unexplained;
        listed.why = Some("SimSimi failed: HTTP 500".to_owned());
        let wide = table(None, &listed);
        assert!(wide.contains("unexplained (last: SimSimi failed"), "{wide}");
    }

    #[test]
    fn what_is_no_message_is_listed_all_the_same() {
        let mut listed = listed("");
        listed.event.body = Bytes::from_static(b"\xff\x00");
        listed.event.room_id = None;
        assert!(table(None, &listed).contains("(no message; 2 bytes)"));
        let row = serde_json::to_value(Row::of(&listed)).expect("JSON");
        assert_eq!((&row["sender"], &row["text"]), (&json!(null), &json!(null)));
    }

    #[test]
    fn the_fields_in_json_are_a_contract() {
        let row = serde_json::to_string(&Row::of(&listed("[To:7]chào"))).expect("JSON");
        let expected = r#"{"id":"01a20caa-3f93-70fb-83f5-248e49a65e0a","bot":"bot","type":"mention_to_me","room_id":446240519,"message_id":"1795508813713968449","sender":1484814,"text":"[To:7]chào","state":"ignored","why":"flood","received_at":"2026-09-21T14:13:21Z","last":"ignored","last_at":"2026-09-21T14:13:22Z","reply_message_id":null,"replay":0}"#;
        assert_eq!(row, expected);
    }

    #[test]
    fn people_get_the_newest_and_programs_all_of_them() {
        let errand = |flags: &[&str]| {
            let matches = command().no_binary_name(true).try_get_matches_from(flags);
            matches.map(|matches| Errand::of(&matches, true, Timestamp::UNIX_EPOCH))
        };
        for (flags, limit) in [
            (&[][..], Some(50)),
            (&["--limit", "3"], Some(3)),
            (&["--json", "--limit", "3"], Some(3)),
            (&["--all"], None),
            (&["--json"], None),
        ] {
            assert_eq!(errand(flags).expect("right usage").limit, limit);
        }
        assert!(errand(&["--all", "--limit", "3"]).is_err());
    }
}
