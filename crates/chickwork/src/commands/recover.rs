//! `chickwork recover`: after the ingress itself was out of reach nobody was told of what people said, and
//! Chatwork does not tell twice. So the newest messages of the bot's rooms are read, and the mentions
//! among them that neither came in nor have a reply are put into the queue, with consent.

mod allowance;
mod known;
mod listing;
mod missed;
mod rooms;

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::{AccountId, RoomId};
use chickwork_clients::chatwork::{self, CallError, Chatwork};
use chickwork_queue::Queue;
use chickwork_queue::event::{BotName, EventId};
use chickwork_worker::Me;
use clap::{ArgAction, ArgMatches, Command, value_parser};
use jiff::{SignedDuration, Timestamp};

use self::allowance::Allowance;
use self::known::{Memory, WithoutEnd};
use self::listing::{Listing, State};
use self::missed::{Mention, Mentions, Reach, Search};
use self::rooms::{Headway, Place, Reader};
use super::audit;
use super::operator::{on_queue, usable};
use crate::command_line::{self, switch};
use crate::commands::{Call, Order};
use crate::consent::Consent;
use crate::filter::{self, Moment};
use crate::pace::Pace;
use crate::run::Run;
use crate::settings::read::{Mistakes, Reader as SettingsReader};
use crate::settings::{RecoverSettings, Role};
use crate::shutdown::Shutdown;
use crate::words;

const ROLES: &[Role] = &[Role::Operator, Role::Recover];

/// What takes longer than this is announced.
const LONG: Duration = Duration::from_secs(10);
/// How long the event at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// Before people are asked, so many mentions are shown; `--dry-run` shows all.
const SHOWN_BEFORE: usize = 50;
/// So many rooms are named in notes; the others are counted.
const ROOMS_NAMED: usize = 10;

const NOTES: &str = "\
After the ingress was out of reach: Chatwork sends a webhook once, so what was said meanwhile
never came in. This reads the newest messages of the bot's rooms and looks for those that the
worker would answer, to which the bot has not replied, and of which neither the archive nor the
outcomes know. First they are shown, then you are asked, unless --yes. Each becomes an event of
its own, and its id is printed when it is in the queue. One answer per message: should its
webhook come in all the same, or somebody do this twice at once, the room hears one reply.

Chatwork gives the newest 100 messages of a room, and no older ones. Where that does not reach
back far enough, you are told. A message that was edited counts as it is now. A reply that a
person gave does not count. Rooms in which the bot may only read are left out.

Reading a room is one call of Chatwork's API. No more than a tenth of the account's limit is
used, the part that workers keep for reads, and less where they have used up the rest. So many
rooms take a while, which is told before. Ctrl-C stops, and says where.

--json prints one object a line with id, bot, room_id, room, message_id, sender, sent_at,
text and state: queued; with --dry-run missed, or too_old for what only --ignore-age
queues. Times are RFC 3339; what is not known is null.

Exits 0 when every room was read and every mention found is queued, or is too old, or only to be
shown; else 1.

Examples:
  chickwork recover --dry-run
  chickwork recover --since 2026-11-24T08:00:00Z
  chickwork recover --room 123456789 --since 3h --ignore-age --yes";

pub(crate) fn command() -> Command {
    let flag = command_line::value;
    command_line::command(
        "recover",
        "Finds mentions that were missed while the ingress was out of reach, and queues them",
        ROLES,
    )
    .next_help_heading(filter::HEADING)
    .args([
        flag(
            "room",
            "ID",
            "Only of this room; may be repeated, or several with commas [default: all rooms of the bot]",
        )
        .value_delimiter(',')
        .action(ArgAction::Append)
        .value_parser(value_parser!(u64)),
        flag("since", "WHEN", "Only what was written since then: a time (2026-11-24T08:00:00Z), or so long ago (2h, 7d) [default: as long as events are kept]")
            .value_parser(filter::moment),
        flag("until", "WHEN", "Only what was written until then, written in the same way")
            .value_parser(filter::moment),
        switch(
            "ignore-age",
            "Also what is older than CHICKWORK_MAX_AGE; its age counts from now on",
        ),
    ])
    .next_help_heading("Options")
    .args([
        flag("bot", "NAME", "The bot, as the webhook's path and the queue name it")
            .default_value("bot")
            .value_parser(filter::bot),
        Pace::flag(),
        switch("dry-run", "Shows what would be queued, and ends"),
        Consent::flag(),
        switch("json", "Prints one JSON object a line"),
    ])
    .after_help(NOTES)
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    /// Empty: all there are.
    rooms: Vec<RoomId>,
    since: Timestamp,
    until: Timestamp,
    /// What is older may be forgotten.
    oldest_kept: Timestamp,
    is_archived: bool,
    ignore_age: bool,
    max_age: SignedDuration,
    ignored: Vec<AccountId>,
    bot: BotName,
    pace: Pace,
    dry_run: bool,
    consent: Consent,
    json: bool,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = SettingsReader::new(&call.given, ROLES);
    let settings = RecoverSettings::read(&mut reader);
    let settings = reader.finish(settings)?;
    let errand = Errand::of(&call.flags, &settings, Timestamp::now());
    let bots = &settings.operator.queue.bots;
    if !bots.contains(&errand.bot) {
        let bots: Vec<&str> = bots.iter().map(BotName::as_str).collect();
        command_line::wrong_usage(
            &call.command,
            format_args!(
                "--bot {}: no worker answers for a bot of this name; there is {}",
                errand.bot,
                bots.join(", ")
            ),
        );
    }
    let allowance = Allowance::of(settings.account_limit);
    let chatwork = chatwork::Settings {
        url: settings.chatwork_url,
        api_token: settings.chatwork_token.reveal().to_owned(),
    };
    let work = on_queue(settings.operator.queue, async move |queue| {
        let chatwork = Chatwork::new(chatwork)
            .context("CHATWORK_API_URL or CHATWORK_API_TOKEN cannot be used")?;
        errand.run(queue, Reader::new(chatwork, allowance)).await
    });
    Ok(Order {
        logging: settings.operator.logging,
        work: Box::pin(work),
    })
}

/// What was found.
#[derive(Debug)]
struct Found {
    me: Me,
    places: Vec<Place>,
    mentions: Mentions,
    /// What came in, and may never be answered all the same.
    without_end: WithoutEnd,
    /// When the first room was read.
    begun: Timestamp,
    /// Whether every room was read.
    is_complete: bool,
    /// Whether any room was.
    is_anything_read: bool,
}

impl Errand {
    fn of(flags: &ArgMatches, settings: &RecoverSettings, now: Timestamp) -> Self {
        let moment = |name: &str| {
            let moment = flags.get_one::<Moment>(name).copied();
            moment.map(|moment| moment.at(now))
        };
        let queue = &settings.operator.queue;
        let oldest_kept = audit::oldest_kept(queue, now);
        let rooms = flags.get_many("room").into_iter().flatten().copied();
        let mut named = HashSet::new();
        Self {
            rooms: rooms
                .map(RoomId)
                .filter(|room| named.insert(*room))
                .collect(),
            since: moment("since").unwrap_or(oldest_kept),
            until: moment("until").unwrap_or(Timestamp::MAX),
            oldest_kept,
            is_archived: !queue.archive_keep.is_zero(),
            ignore_age: flags.get_flag("ignore-age"),
            max_age: SignedDuration::try_from(settings.max_age).unwrap_or(SignedDuration::MAX),
            ignored: settings.ignore_accounts.clone(),
            bot: flags
                .get_one::<BotName>("bot")
                .expect("it has a default")
                .clone(),
            pace: Pace::of(flags),
            dry_run: flags.get_flag("dry-run"),
            consent: Consent::of(flags),
            json: flags.get_flag("json"),
        }
    }

    async fn run(self, queue: &Queue, mut reader: Reader) -> anyhow::Result<ExitCode> {
        queue.refuse_spool().await?;
        let usable = usable(queue).await;
        usable.context("the queue cannot be used, so nothing was read")?;
        let (_trigger, shutdown) =
            Shutdown::on_signals(FINISH_LIMIT).context("cannot wait for signals")?;

        let headway = Headway::default();
        let found = tokio::select! {
            found = self.find(queue, &mut reader, &headway) => found?,
            () = shutdown.requested() => {
                let (done, all) = (headway.done.get(), headway.all.get());
                words::tell(format_args!("Stopped, with {done} of {all} rooms read; nothing was changed."));
                return Ok(ExitCode::FAILURE);
            }
        };
        let all_done = self.deal_with(found, queue, &shutdown).await?;
        Ok(if all_done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Reads the rooms, and takes out what is known.
    async fn find(
        &self,
        queue: &Queue,
        reader: &mut Reader,
        headway: &Headway,
    ) -> anyhow::Result<Found> {
        let me = reader.me().await?;
        let places = self.places(reader).await?;
        headway.all.set(places.len());
        let (time, calls, per) = reader.time_for(places.len());
        if time >= LONG {
            words::tell(format_args!(
                "{} to be read, {calls} in {} at most, so that the rest of the rate limit is left to the workers: this takes about {}.",
                words::count(places.len() as u64, "room"),
                words::length(per),
                words::length(time),
            ));
        }
        let mut found = Found {
            me,
            places,
            mentions: Mentions::new(),
            without_end: WithoutEnd::default(),
            begun: Timestamp::now(),
            is_complete: true,
            is_anything_read: false,
        };
        self.read_rooms(reader, headway, &mut found).await?;
        let memory = self.memory(queue);
        let known = memory.take_out_known(&mut found.mentions).await;
        found.without_end = known.context("it cannot be seen what the queue knows of")?;
        Ok(found)
    }

    async fn places(&self, reader: &mut Reader) -> anyhow::Result<Vec<Place>> {
        if !self.rooms.is_empty() {
            return Ok(self.rooms.iter().copied().map(Place::named).collect());
        }
        let (places, silent) = reader.places().await?;
        if silent > 0 {
            words::tell(format_args!(
                "{} left out: the bot may only read there.",
                match silent {
                    1 => "1 room is".to_owned(),
                    many => format!("{many} rooms are"),
                }
            ));
        }
        Ok(places)
    }

    /// Reads one room after the other; one that cannot be read does not keep it from the next.
    async fn read_rooms(
        &self,
        reader: &mut Reader,
        headway: &Headway,
        found: &mut Found,
    ) -> anyhow::Result<()> {
        let search = Search {
            me: found.me.clone(),
            ignored: self.ignored.clone(),
            since: self.since,
            until: self.until,
        };
        let mut short_of = Vec::new();
        for place in &found.places {
            match reader.newest(place, headway).await {
                Ok(newest) => {
                    found.is_anything_read = true;
                    let (mentions, reach) = search.through(place.room, newest);
                    let mentions = mentions.into_iter();
                    let mentions = mentions.map(|mention| (mention.key(), mention));
                    found.mentions.extend(mentions);
                    short_of.extend(reach_note(place, reach));
                }
                Err(error @ CallError::Refused { status: 401, .. }) => return Err(error.into()),
                Err(error) => {
                    found.is_complete = false;
                    words::tell(format_args!(
                        "Room {} was not read: {error}.",
                        place.shown()
                    ));
                }
            }
            headway.done.set(headway.done.get() + 1);
        }
        for note in short_of.iter().take(ROOMS_NAMED) {
            words::tell(note);
        }
        if let Some(more @ 1..) = short_of.len().checked_sub(ROOMS_NAMED) {
            words::tell(format_args!(
                "So it is with {}.",
                words::count(more as u64, "more room")
            ));
        }
        Ok(())
    }

    fn memory<'a>(&'a self, queue: &'a Queue) -> Memory<'a> {
        Memory {
            queue,
            bot: &self.bot,
            is_archived: self.is_archived,
            oldest_kept: self.oldest_kept,
        }
    }

    /// Shows what was found, and queues it with consent. True when nothing is left to be done.
    async fn deal_with(
        &self,
        found: Found,
        queue: &Queue,
        shutdown: &Shutdown,
    ) -> anyhow::Result<bool> {
        let Found {
            me,
            places,
            mentions,
            without_end,
            begun,
            is_complete,
            is_anything_read,
        } = found;
        let now = Timestamp::now();
        let listing = Listing {
            bot: &self.bot,
            name: &me.name,
            places: places.iter().map(|place| (place.room, place)).collect(),
            now,
        };
        let mut mentions: Vec<Mention> = mentions.into_values().collect();
        mentions.sort_by_key(|mention| mention.sent_at);
        if mentions.is_empty() {
            words::tell(match (is_complete, is_anything_read) {
                (true, _) => "No mention was missed, as far as can be seen.",
                (false, true) => {
                    "No mention was missed in the rooms that were read, as far as can be seen."
                }
                (false, false) => {
                    "No room could be read, so it is not known whether a mention was missed."
                }
            });
            tell_of_those_without_end(without_end);
            return Ok(is_complete);
        }
        tell_of_those_without_end(without_end);
        let spools = queue.reports().await?.into_iter();
        let spools = spools.filter_map(|report| report.spool);
        let spooled = spools.map(|spool| spool.events).sum();
        for caveat in self.caveats(&mentions, spooled) {
            words::tell(caveat);
        }
        if self.dry_run {
            let written = self.write(&mentions, &listing, now);
            for effect in self.effects(&mentions, now) {
                words::tell(effect);
            }
            written?;
            return Ok(is_complete);
        }
        // Whoever has closed stderr does without.
        let _ = self.preview(&mentions, &listing, now);
        mentions.retain(|mention| !self.is_left(mention, now));
        if mentions.is_empty() {
            return Ok(is_complete);
        }
        if !self.agreed(mentions.len() as u64, shutdown).await? {
            words::tell("Nothing was changed.");
            return Ok(false);
        }
        // Somebody else may have done so, and webhooks may have come in, while people were reading.
        let mut left: Mentions = mentions
            .iter()
            .map(|mention| (mention.key(), mention.clone()))
            .collect();
        let memory = self.memory(queue);
        memory.take_out_known_since(begun, &mut left).await?;
        mentions.retain(|mention| left.contains_key(&mention.key()));
        let all_queued = self
            .put_in(queue, &me, mentions, &listing, shutdown)
            .await?;
        Ok(all_queued && is_complete)
    }

    /// Whether it is older than what is answered.
    fn is_too_old(&self, mention: &Mention, now: Timestamp) -> bool {
        now.duration_since(mention.written_at) > self.max_age
    }

    /// Whether it is not to be queued.
    fn is_left(&self, mention: &Mention, now: Timestamp) -> bool {
        !self.ignore_age && self.is_too_old(mention, now)
    }

    /// What is not known for certain about these, with so many events in the spools of ingresses.
    fn caveats(&self, mentions: &[Mention], spooled: u64) -> Vec<String> {
        let mut caveats = Vec::new();
        let oldest = mentions.iter().map(|mention| mention.sent_at).min();
        if oldest.is_some_and(|oldest| oldest < self.oldest_kept) {
            caveats.push(format!(
                "What came in before {} is being forgotten (CHICKWORK_ARCHIVE_KEEP): of what was written before, some may have come in and been ignored.",
                words::time(self.oldest_kept)
            ));
        }
        if spooled > 0 {
            caveats.push(format!(
                "{} in the spools of ingresses, and what is among them is not known. Each message is answered once.",
                match spooled {
                    1 => "1 event waits".to_owned(),
                    many => format!("{many} events wait"),
                }
            ));
        }
        if !self.is_archived {
            caveats.push(
                "There is no archive (CHICKWORK_ARCHIVE_KEEP is 0): some of these may wait in the queue already. Each is answered once."
                    .to_owned(),
            );
        }
        caveats
    }

    /// All of it on stdout.
    fn write(&self, mentions: &[Mention], listing: &Listing<'_>, now: Timestamp) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        for mention in mentions {
            let is_too_old = self.is_too_old(mention, now);
            if self.json {
                let state = match self.is_left(mention, now) {
                    true => State::TooOld,
                    false => State::Missed,
                };
                listing.json(mention, None, state, &mut out)?;
            } else {
                listing.line(mention, is_too_old, &mut out)?;
            }
        }
        out.flush()
    }

    /// What will happen, on stderr.
    fn preview(
        &self,
        mentions: &[Mention],
        listing: &Listing<'_>,
        now: Timestamp,
    ) -> io::Result<()> {
        let mut out = io::stderr().lock();
        for mention in mentions.iter().take(SHOWN_BEFORE) {
            listing.line(mention, self.is_too_old(mention, now), &mut out)?;
        }
        if let Some(more @ 1..) = mentions.len().checked_sub(SHOWN_BEFORE) {
            writeln!(out, "  and {more} more; --dry-run shows all.")?;
        }
        for effect in self.effects(mentions, now) {
            writeln!(out, "{effect}")?;
        }
        if let Some(warning) = self.pace.warning(mentions.len() as u64) {
            writeln!(out, "{warning}")?;
        }
        Ok(())
    }

    /// What will happen, in sentences.
    fn effects(&self, mentions: &[Mention], now: Timestamp) -> Vec<String> {
        let left = mentions.iter().filter(|mention| self.is_left(mention, now));
        let left = left.count();
        let to_queue = mentions.len() - left;
        let mut effects = Vec::new();
        if to_queue > 0 {
            effects.push(format!(
                "{} to be queued; SimSimi may be asked {}. Each is answered once.",
                words::count(to_queue as u64, "missed mention"),
                words::count(to_queue as u64, "time"),
            ));
        }
        if left > 0 {
            effects.push(format!(
                "{} older than CHICKWORK_MAX_AGE, and left; --ignore-age queues {}.",
                match left {
                    1 => "1 missed mention is".to_owned(),
                    many => format!("{many} missed mentions are"),
                },
                if left == 1 { "it" } else { "them" },
            ));
        }
        effects
    }

    /// Asks. A signal while somebody is asked is a no.
    async fn agreed(&self, mentions: u64, shutdown: &Shutdown) -> anyhow::Result<bool> {
        let these = words::count(mentions, "mention");
        tokio::select! {
            agreed = self.consent.to(format!("Queue {these}?")) => agreed,
            () = shutdown.requested() => {
                // The question stands there without an answer.
                words::tell("");
                Ok(false)
            }
        }
    }

    /// Queues them. True when all of them are.
    async fn put_in(
        &self,
        queue: &Queue,
        me: &Me,
        mentions: Vec<Mention>,
        listing: &Listing<'_>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<bool> {
        let total = mentions.len() as u64;
        let mut run = Run::stopped_by(shutdown.clone(), total, self.pace);
        let put_in = async {
            for mention in mentions {
                run.turn().await?;
                let event = mention.event(&self.bot, me, Timestamp::now());
                let queued = run.finish(queue.recover(&event));
                queued.await?.context("the queue does not take them")?;
                run.step(self.print(&mention, event.id, listing))?;
            }
            Ok(())
        };
        let put_in = put_in.await;
        let left = run.end(put_in, "queued", |left| format!("{left} left"))?;
        Ok(left == 0)
    }

    fn print(&self, mention: &Mention, id: EventId, listing: &Listing<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            listing.json(mention, Some(id), State::Queued, &mut out)
        } else {
            writeln!(out, "{id}")
        }
    }
}

/// What came in is not missed, but may be lost.
fn tell_of_those_without_end(without_end: WithoutEnd) {
    for sentence in of_those_without_end(without_end) {
        words::tell(sentence);
    }
}

fn of_those_without_end(WithoutEnd { lost, open }: WithoutEnd) -> Vec<String> {
    let mut sentences = Vec::new();
    if lost > 0 {
        sentences.push(format!(
            "{} without a reply came in and {} come to no end: see chickwork audit.",
            words::count(lost, "mention"),
            if lost == 1 { "has" } else { "have" },
        ));
    }
    if open > 0 {
        sentences.push(format!(
            "{} without a reply came in, and a broker cannot tell whether {}: see chickwork audit.",
            words::count(open, "mention"),
            if open == 1 {
                "it waits or is lost"
            } else {
                "they wait or are lost"
            },
        ));
    }
    sentences
}

/// What is said of a room that was not seen as far back as was asked for.
fn reach_note(place: &Place, reach: Reach) -> Option<String> {
    let room = place.shown();
    Some(match reach {
        Reach::FarEnough => return None,
        Reach::To(oldest) => format!(
            "Room {room}: the newest messages reach back only to {}; mentions before that cannot be seen.",
            words::time(oldest)
        ),
        Reach::Hidden(Some(oldest)) => format!(
            "Room {room}: Chatwork hides what is older than {} (the account's plan); mentions before that cannot be seen.",
            words::time(oldest)
        ),
        Reach::Hidden(None) => format!(
            "Room {room}: Chatwork hides all messages (the account's plan); mentions cannot be seen."
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_and_has_no_end_is_told_beside_what_was_missed() {
        let told = |lost, open| of_those_without_end(WithoutEnd { lost, open });
        assert_eq!(told(0, 0), [""; 0]);
        assert_eq!(
            told(1, 0),
            ["1 mention without a reply came in and has come to no end: see chickwork audit."]
        );
        assert_eq!(
            told(2, 3),
            [
                "2 mentions without a reply came in and have come to no end: see chickwork audit.",
                "3 mentions without a reply came in, and a broker cannot tell whether they wait or are lost: see chickwork audit.",
            ]
        );
    }
}
