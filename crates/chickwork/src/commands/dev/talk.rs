//! The conversation of `chickwork dev`: lines from the terminal become mentions in the sandbox's
//! rooms, or break something there; what the bot posts is printed as it stands there, and what
//! happens on the way to it, if that is worth a word.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use anyhow::bail;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Entry, Follow};
use chickwork_sandbox::ledger::{Posted, Said};
use chickwork_sandbox::{Sandbox, Say, town};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::commands::dev::story::{self, Stories};
use crate::commands::dev::trouble;
use crate::words;

/// How long the first reply may take; after the end of the input, the last ones too.
const REPLY_LIMIT: Duration = Duration::from_secs(30);
/// A line is read up to this many bytes; a Chatwork message is not longer.
const LONGEST_LINE: u64 = 64 * 1024;

const HELP: &str = "\
Every line is a message to the bot, in a room of the sandbox. Also:
  /as an|hana|ben|bich            talk as somebody else
  /room group|second|direct       talk in another room
  /raw TEXT                       say exactly TEXT, without addressing the bot
  /simsimi down|slow              SimSimi drops every call, or takes 3 s, until /heal
  /simsimi 500|228|403|429        it answers so to the next question
  /chatwork down|slow             Chatwork drops every call, or takes 3 s, until /heal
  /chatwork 429|room-429|403|500  it answers so to the next post
  /lose next answer|next post     the next post arrives unanswered, or not at all
  /faults                         what goes wrong at the moment
  /heal                           nothing goes wrong any more
  /help                           this
  /quit                           end (as does Ctrl-D)
A line `echo something` is answered with something; `???` is not understood.
When something goes wrong, lines between mention and reply tell what the bot does about it.";

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
    happens: Follow,
    stories: Stories,
    person: Person,
    room_id: RoomId,
    /// What was said to the bot and is not over yet.
    mentions: HashMap<MessageId, Mention>,
    /// How many mentions have got their reply.
    answered: u64,
}

/// Something that was said to the bot. It is over when the reply stands in the room and the bot
/// knows that, or when there will be none.
#[derive(Debug)]
struct Mention {
    began: Instant,
    is_answered: bool,
    is_settled: bool,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Mention(&'a str),
    Raw(&'a str),
    As(&'a str),
    Room(&'a str),
    /// A command that breaks something, and the words behind it.
    Break(&'a str, &'a str),
    Faults,
    Heal,
    Help,
    Quit,
    Unknown,
}

impl<'a> Talk<'a> {
    /// One with somebody who speaks the language. What `happens` to the events is told.
    pub(crate) fn new(sandbox: &'a Sandbox, happens: Follow, lang: &str) -> Self {
        Self {
            sandbox,
            posts: sandbox.posts(),
            happens,
            stories: Stories::default(),
            person: match lang {
                "vn" => AN,
                "ja" => HANA,
                _ => BEN,
            },
            room_id: town::GROUP,
            mentions: HashMap::new(),
            answered: 0,
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
            while self.answered == 0 {
                self.watch().await?;
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
                watched = self.watch() => watched?,
            }
        }
    }

    /// Prints what comes next: a reply, or a line of a story. Cancel-safe.
    async fn watch(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            // A reply stands in the room before the bot can know it.
            biased;
            posted = self.posts.recv() => self.print_posted(posted),
            entry = self.happens.next() => match entry {
                Entry::Outcome(outcome) => Ok(self.tell(&outcome)?),
                Entry::Mark(_) => Ok(()),
            },
        }
    }

    /// Tells what happened to an event, if that is worth a word.
    fn tell(&mut self, outcome: &Outcome) -> io::Result<()> {
        if let Some(message_id) = &outcome.message_id
            && story::is_the_end(&outcome.what)
            && let Some(mention) = self.mentions.get_mut(message_id)
        {
            mention.is_settled = true;
            let without_reply = !matches!(outcome.what, What::Posted { .. });
            if without_reply || mention.is_answered {
                self.mentions.remove(message_id);
            }
        }
        match self.stories.hear(outcome) {
            Some(line) => print_aside(&line),
            None => Ok(()),
        }
    }

    /// Breaks something, or says what could be meant.
    fn break_down(&self, command: &str, word: &str) -> io::Result<()> {
        let Some(trouble) = trouble::meant(command, word) else {
            return match trouble::words_after(command) {
                Some(words) => note(&format_args!("/{command} what? {words}.")),
                None => note(&"There is no such command; /help shows which there are."),
            };
        };
        let others = !self.sandbox.faults().is_empty();
        self.sandbox.break_down((trouble.fault)());
        note(&trouble.says)?;
        if others {
            note(&"What was broken before comes first; /faults shows it.")?;
        }
        Ok(())
    }

    fn print_faults(&self) -> io::Result<()> {
        let faults = self.sandbox.faults();
        if faults.is_empty() {
            return note(&"Nothing goes wrong.");
        }
        for waiting in faults {
            let fault = serde_json::to_string(&waiting.fault)?;
            note(&format_args!(
                "  {}, {} times so far",
                words::line(&fault, usize::MAX),
                waiting.happened
            ))?;
        }
        Ok(())
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
            Line::Break(command, word) => self.break_down(command, word)?,
            Line::Faults => self.print_faults()?,
            Line::Heal => {
                self.sandbox.heal();
                note(&"Nothing goes wrong any more. What pauses goes on when its minute is over.")?;
            }
            Line::Help => note(&HELP)?,
            Line::Unknown => note(&"There is no such command; /help shows which there are.")?,
            Line::Quit => return Ok(false),
        }
        Ok(true)
    }

    /// The input is at its end: prints what is still being answered.
    async fn finish(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + REPLY_LIMIT;
        while !self.mentions.is_empty() {
            match tokio::time::timeout_at(deadline, self.watch()).await {
                Ok(watched) => watched?,
                Err(_elapsed) => bail!(
                    "no answer within {REPLY_LIMIT:?} to {}",
                    words::count(self.mentions.len() as u64, "message")
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
            let mention = Mention {
                began,
                is_answered: false,
                is_settled: false,
            };
            self.mentions.insert(said.message_id, mention);
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
        let mut after = String::new();
        if let Some(message_id) = &posted.answers
            && let Some(mention) = self.mentions.get_mut(message_id)
        {
            after = format!(", after {} ms", mention.began.elapsed().as_millis());
            mention.is_answered = true;
            self.answered += 1;
            if mention.is_settled {
                self.mentions.remove(message_id);
            }
        }
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
        ("simsimi" | "chatwork" | "lose", word) => Line::Break(name, word),
        ("faults", "") => Line::Faults,
        ("heal", "") => Line::Heal,
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

/// What happens behind the scene, between what is said: not so bright where there is brightness.
fn print_aside(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "  \x1b[2m{line}\x1b[0m")?;
    } else {
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
            ("/simsimi  down\n", Line::Break("simsimi", "down")),
            ("/chatwork", Line::Break("chatwork", "")),
            ("/lose next answer", Line::Break("lose", "next answer")),
            ("/faults", Line::Faults),
            ("/heal\n", Line::Heal),
            ("/heal me", Line::Unknown),
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
