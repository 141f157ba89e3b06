//! The conversation of `chickwork dev`: lines from the terminal become mentions in the sandbox's
//! rooms, and what the bot posts is printed as it stands there.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_sandbox::ledger::{Posted, Said};
use chickwork_sandbox::{Sandbox, Say, town};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How long the first reply may take; after the end of the input, the last ones too.
const REPLY_LIMIT: Duration = Duration::from_secs(30);
/// A line is read up to this many bytes; a Chatwork message is not longer.
const LONGEST_LINE: u64 = 64 * 1024;

const HELP: &str = "\
Every line is a message to the bot, in a room of the sandbox. Also:
  /as an|hana|ben|bich     talk as somebody else
  /room group|second|direct  talk in another room
  /raw TEXT                say exactly TEXT, without addressing the bot
  /help                    this
  /quit                    end (as does Ctrl-D)
A line `echo something` is answered with something; `???` is not understood.";

/// Somebody of the sandbox.
#[derive(Debug, Clone, Copy)]
struct Person {
    key: &'static str,
    account_id: AccountId,
    name: &'static str,
    greeting: &'static str,
}

const AN: Person = Person {
    key: "an",
    account_id: town::AN,
    name: "Nguyễn Văn An",
    greeting: "Chào bạn, hôm nay bạn thế nào?",
};
const HANA: Person = Person {
    key: "hana",
    account_id: town::HANA,
    name: "佐藤 花",
    greeting: "こんにちは、元気ですか？",
};
const BEN: Person = Person {
    key: "ben",
    account_id: town::BEN,
    name: "Ben Miller",
    greeting: "Hello, how are you today?",
};
const BICH: Person = Person {
    key: "bich",
    account_id: town::BICH,
    name: "Trần Thị Bích",
    greeting: "Chào gà con, bạn tên gì?",
};
const PEOPLE: [Person; 4] = [AN, HANA, BEN, BICH];

const ROOMS: [(&str, RoomId); 3] = [
    ("group", town::GROUP),
    ("second", town::SECOND_GROUP),
    ("direct", town::DIRECT),
];

/// A conversation.
pub(crate) struct Talk<'a> {
    sandbox: &'a Sandbox,
    posts: Receiver<Posted>,
    person: Person,
    room_id: RoomId,
    /// What was said to the bot and is not answered yet.
    unanswered: HashMap<MessageId, Instant>,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Mention(&'a str),
    Raw(&'a str),
    As(&'a str),
    Room(&'a str),
    Help,
    Quit,
    Unknown,
}

impl<'a> Talk<'a> {
    /// One with somebody who speaks the language.
    pub(crate) fn new(sandbox: &'a Sandbox, lang: &str) -> Self {
        Self {
            sandbox,
            posts: sandbox.posts(),
            person: match lang {
                "vn" => AN,
                "ja" => HANA,
                _ => BEN,
            },
            room_id: town::GROUP,
            unanswered: HashMap::new(),
        }
    }

    /// Says what this is and where it can be reached.
    pub(crate) fn introduce(&self, places: &[(&str, String)]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "Chickwork, all of it, in this process; nobody outside is called."
        )?;
        for (name, place) in places {
            writeln!(out, "  {name:<10}{place}")?;
        }
        writeln!(out)?;
        out.flush()
    }

    /// Mentions the bot and waits for its reply.
    pub(crate) async fn sample(&mut self) -> anyhow::Result<()> {
        self.mention(self.person.greeting).await?;
        let answered = async {
            while !self.unanswered.is_empty() {
                let posted = self.posts.recv().await;
                self.print_posted(posted)?;
            }
            anyhow::Ok(())
        };
        match timeout(REPLY_LIMIT, answered).await {
            Ok(answered) => answered,
            Err(_elapsed) => {
                bail!("no reply came within {REPLY_LIMIT:?}; RUST_LOG=debug shows more")
            }
        }
    }

    /// Talks until the input ends or the person has had enough.
    pub(crate) async fn converse(&mut self) -> anyhow::Result<()> {
        note(&"Now you: type something and press Enter. /help shows what else there is.")?;
        let mut lines = lines_of_stdin();
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => {
                        if !self.hear(&line).await? {
                            return Ok(());
                        }
                    }
                    None => return self.finish().await,
                },
                posted = self.posts.recv() => self.print_posted(posted)?,
            }
        }
    }

    /// Does what a line asks for; false when it asks for the end.
    async fn hear(&mut self, line: &str) -> anyhow::Result<bool> {
        match understand(line) {
            Line::Nothing => {}
            Line::Mention(text) => self.mention(text).await?,
            Line::Raw(text) => self.say(text.to_owned()).await.map(drop)?,
            Line::As(key) => match PEOPLE.iter().find(|person| person.key == key) {
                Some(person) => {
                    self.person = *person;
                    note(&format_args!("You are {} now.", person.name))?;
                }
                None => note(&"There is nobody of this name: an, hana, ben or bich?")?,
            },
            Line::Room(key) => match ROOMS.iter().find(|(name, _)| *name == key) {
                Some((_, room_id)) => {
                    self.room_id = *room_id;
                    note(&format_args!("You are in room {room_id} now."))?;
                }
                None => note(&"There is no such room: group, second or direct?")?,
            },
            Line::Help => note(&HELP)?,
            Line::Unknown => note(&"There is no such command; /help shows which there are.")?,
            Line::Quit => return Ok(false),
        }
        Ok(true)
    }

    /// The input is at its end: prints what is still being answered.
    async fn finish(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + REPLY_LIMIT;
        while !self.unanswered.is_empty() {
            match tokio::time::timeout_at(deadline, self.posts.recv()).await {
                Ok(posted) => self.print_posted(posted)?,
                Err(_elapsed) => bail!(
                    "{} messages were not answered within {REPLY_LIMIT:?}",
                    self.unanswered.len()
                ),
            }
        }
        Ok(())
    }

    /// Says something to the bot.
    async fn mention(&mut self, text: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let said = self
            .say(format!("[To:{}]Chickwork さん\n{text}", town::BOT))
            .await?;
        if said.webhook_status == Some(200) {
            self.unanswered.insert(said.message_id, began);
        }
        Ok(())
    }

    /// Says something in the room.
    async fn say(&self, body: String) -> anyhow::Result<Said> {
        print_message(
            &format_args!("{} in room {}", self.person.name, self.room_id),
            &body,
        )?;
        let said = self
            .sandbox
            .say(Say::new(self.room_id, self.person.account_id, body))
            .await;
        match (said.webhook_status, &said.webhook_error) {
            (Some(200), _) => {}
            (Some(status), _) => note(&format_args!("The webhook was answered with {status}."))?,
            (None, error) => note(&format_args!(
                "The webhook was not answered: {}",
                error.as_deref().unwrap_or("no reason known")
            ))?,
        }
        Ok(said)
    }

    fn print_posted(&mut self, posted: Result<Posted, RecvError>) -> anyhow::Result<()> {
        let posted = match posted {
            Ok(posted) => posted,
            Err(RecvError::Lagged(missed)) => {
                note(&format_args!(
                    "{missed} replies came too fast to be shown; the ledger has them."
                ))?;
                return Ok(());
            }
            Err(RecvError::Closed) => bail!("the sandbox has ended"),
        };
        let began = posted
            .answers
            .as_ref()
            .and_then(|message_id| self.unanswered.remove(message_id));
        let after = began
            .map(|began| format!(", after {} ms", began.elapsed().as_millis()))
            .unwrap_or_default();
        print_message(
            &format_args!("Chickwork in room {}{after}", posted.room_id),
            &posted.body,
        )?;
        Ok(())
    }
}

fn understand(line: &str) -> Line<'_> {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return if line.is_empty() {
            Line::Nothing
        } else {
            Line::Mention(line)
        };
    };
    let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
    match (name, rest.trim()) {
        ("quit" | "exit" | "q", "") => Line::Quit,
        ("help" | "?", "") => Line::Help,
        ("as", key) => Line::As(key),
        ("room", key) => Line::Room(key),
        ("raw", text) if !text.is_empty() => Line::Raw(text),
        _ => Line::Unknown,
    }
}

/// A message as it stands in the room.
fn print_message(head: &dyn Display, body: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{head}:")?;
    for line in body.lines() {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// Something about the conversation, not part of it.
fn note(text: &dyn Display) -> io::Result<()> {
    writeln!(io::stderr(), "{text}")
}

/// Lines as they are typed, until the input ends. Read by a task of its own, as reading half a line
/// cannot be taken back.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut input = BufReader::new(tokio::io::stdin());
        loop {
            let mut line = Vec::new();
            let read = (&mut input)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .await;
            let at_end = match read {
                Ok(length) => length == 0,
                Err(error) => {
                    log::warn!("the terminal cannot be read: {error}");
                    true
                }
            };
            if at_end
                || sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .await
                    .is_err()
            {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_unless_it_begins_with_a_slash() {
        let cases = [
            ("", Line::Nothing),
            ("  \n", Line::Nothing),
            (" chào bạn \n", Line::Mention("chào bạn")),
            ("/raw [toall] hello\n", Line::Raw("[toall] hello")),
            ("/as hana\n", Line::As("hana")),
            ("/room direct", Line::Room("direct")),
            ("/help\n", Line::Help),
            ("/quit\n", Line::Quit),
            ("/quit now", Line::Unknown),
            ("/raw", Line::Unknown),
            ("/dance", Line::Unknown),
        ];
        for (line, expected) in cases {
            assert_eq!(understand(line), expected, "{line:?}");
        }
    }
}
