//! Whose part is played: the bot's account and name, as far as the exported events tell them. Nobody is
//! asked, so what is found is an assumption, and said.

use std::collections::{BTreeSet, HashMap};

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::notation::{Kind, Notation, Tag};
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::event::BotName;
use chickwork_worker::Me;

use crate::export::Exported;
use crate::recorded::{Before, Recorded};
use crate::words;

/// So many different names or accounts are told apart; an export that has more does not agree anyway.
const MOST: usize = 1000;
/// A longer line is nobody's name, in characters.
const LONGEST_NAME: usize = 64;
/// What clients write behind a name.
const HONORIFICS: [&str; 4] = ["さん", "様", "さま", "殿"];

/// What the events that were looked at tell about the bot.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The names by which the events know it.
    bots: BTreeSet<BotName>,
    /// Whom Chatwork told of mentions.
    mentioned: BTreeSet<AccountId>,
    /// Whom all messages address that were answered without Chatwork saying whom they mention.
    addressed: Option<BTreeSet<AccountId>>,
    /// What stands behind the tag of an account, and how often.
    names: HashMap<(AccountId, String), u64>,
    /// So many events there are.
    pub(super) events: u64,
}

impl Part {
    /// Looks at one more event.
    pub(super) fn look_at(&mut self, exported: &Exported) {
        self.events += 1;
        if self.bots.len() < MOST {
            self.bots.insert(exported.event.bot.clone());
        }
        let Ok(webhook) = Webhook::parse(&exported.event.body) else {
            return;
        };
        let Some(message) = webhook.happening.message() else {
            return;
        };
        let notation = Notation::parse(&message.body);
        match message.addressee {
            Some(addressee) if self.mentioned.len() < MOST => {
                self.mentioned.insert(addressee);
            }
            Some(_) => {}
            None => {
                let recorded = Recorded::of(&exported.outcomes);
                if matches!(recorded.before, Before::Said(_) | Before::SaidSomething) {
                    let these: BTreeSet<_> = addresses(&notation).map(|(to, _)| to).collect();
                    let common = match self.addressed.take() {
                        Some(common) => common.intersection(&these).copied().collect(),
                        None => these,
                    };
                    self.addressed = Some(common);
                }
            }
        }
        for (account, line) in addresses(&notation) {
            let Some(name) = line.and_then(name) else {
                continue;
            };
            let key = (account, name.to_owned());
            if self.names.len() < MOST || self.names.contains_key(&key) {
                *self.names.entry(key).or_default() += 1;
            }
        }
    }

    /// Whose part it is, with what was said on the command line, and sentences about what is assumed.
    pub(super) fn play(
        &self,
        account: Option<AccountId>,
        name: Option<String>,
    ) -> anyhow::Result<(Me, Vec<String>)> {
        anyhow::ensure!(
            self.bots.len() < 2,
            "these are events of several bots ({}), and one can be played at a time: choose one with `chickwork events export --bot NAME`",
            list(&self.bots)
        );
        let mut assumed = Vec::new();
        let account = match account {
            Some(account) => account,
            None => {
                let (account, why) = self.account()?;
                assumed.push(format!(
                    "Assumed: the bot's account is {account}, {why} (--bot-account)."
                ));
                account
            }
        };
        let name = match name {
            Some(name) => name,
            None => match self.name(account) {
                Some(name) => {
                    assumed.push(format!(
                        "Assumed: its name is {}, as stands behind the tags that address it (--bot-name).",
                        words::line(&name, LONGEST_NAME)
                    ));
                    name
                }
                None => {
                    assumed.push("Assumed: nobody writes its name without an honorific, as none stands behind most tags that address it (--bot-name).".to_owned());
                    String::new()
                }
            },
        };
        Ok((Me { account, name }, assumed))
    }

    fn account(&self) -> anyhow::Result<(AccountId, &'static str)> {
        let mut mentioned = self.mentioned.iter();
        match (mentioned.next(), mentioned.next()) {
            (Some(account), None) => return Ok((*account, "as every mention is of it")),
            (Some(_), Some(_)) => anyhow::bail!(
                "these are mentions of several accounts ({}): say which is the bot's with --bot-account",
                list(&self.mentioned)
            ),
            (None, _) => {}
        }
        let addressed = self.addressed.iter().flatten().collect::<Vec<_>>();
        match addressed[..] {
            [account] => Ok((*account, "as every message that was answered addresses it")),
            _ => anyhow::bail!(
                "nothing in these events tells the bot's account: say it with --bot-account"
            ),
        }
    }

    /// What stands behind most of the account's tags.
    fn name(&self, account: AccountId) -> Option<String> {
        let own = self.names.iter().filter(|((of, _), _)| *of == account);
        let total: u64 = own.clone().map(|(_, times)| times).sum();
        let ((_, name), times) = own.max_by_key(|(_, times)| **times)?;
        (times * 2 > total).then(|| name.clone())
    }
}

/// The accounts that a text addresses outside of quotes and boxes, each with the line behind its tag if
/// the text goes on below.
fn addresses<'a>(notation: &'a Notation<'a>) -> impl Iterator<Item = (AccountId, Option<&'a str>)> {
    let nodes = notation.nodes();
    let mut deep = 0_usize;
    nodes.iter().enumerate().filter_map(move |(at, node)| {
        let account = match &node.kind {
            Kind::Tag(
                Tag::To(account)
                | Tag::Reply {
                    author: account, ..
                },
            ) => *account,
            Kind::Open(_) => {
                deep += 1;
                return None;
            }
            Kind::Close(_) => {
                deep = deep.saturating_sub(1);
                return None;
            }
            Kind::Text | Kind::Tag(_) => return None,
        };
        let line = nodes
            .get(at + 1)
            .filter(|next| next.kind == Kind::Text)
            .and_then(|next| next.source.split_once('\n'))
            .map(|(line, _)| line);
        (deep == 0).then_some((account, line))
    })
}

/// The name in the line behind a tag.
fn name(line: &str) -> Option<&str> {
    let line = line.trim();
    let name = HONORIFICS
        .iter()
        .find_map(|honorific| line.strip_suffix(honorific))
        .unwrap_or(line)
        .trim();
    (!name.is_empty() && name.chars().count() <= LONGEST_NAME).then_some(name)
}

fn list(these: &BTreeSet<impl ToString>) -> String {
    let these: Vec<_> = these.iter().map(ToString::to_string).collect();
    let shown = these.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match these.len() {
        ..=5 => shown,
        more => format!("{shown} and {} more", more - 5),
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::event::{Event, EventId};
    use chickwork_queue::outcome::What;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::recorded::tests::{outcomes, stored};

    fn exported(to: Option<u64>, text: &str, answered: bool) -> Exported {
        let (kind, from, to) = match to {
            Some(to) => ("mention_to_me", "from_account_id", json!(to)),
            None => ("message_created", "account_id", json!(null)),
        };
        let body = json!({
            "webhook_setting_id": "1",
            "webhook_event_type": kind,
            "webhook_event_time": 1,
            "webhook_event": {
                from: 1, "to_account_id": to, "room_id": 2, "message_id": "3", "body": text,
                "send_time": 1, "update_time": 0,
            },
        });
        let whats: Option<What> = answered.then(|| stored("chíp"));
        Exported {
            event: Event {
                id: EventId::fresh(),
                bot: BotName::default(),
                event_type: Event::known_type(kind),
                room_id: None,
                message_id: None,
                received_at: Timestamp::UNIX_EPOCH,
                put_back_at: None,
                replay: 0,
                again: None,
                body: body.to_string().into(),
            },
            state: None,
            why: None,
            outcomes: outcomes(whats),
        }
    }

    fn play(events: &[Exported]) -> Result<Me, String> {
        let mut part = Part::default();
        events.iter().for_each(|exported| part.look_at(exported));
        let played = part.play(None, None);
        played.map(|(me, _)| me).map_err(|error| error.to_string())
    }

    #[test]
    fn the_events_tell_whose_part_it_is() {
        let me = |name: &str| {
            Ok(Me {
                account: AccountId(7),
                name: name.to_owned(),
            })
        };
        let chick = exported(Some(7), "[To:8]Ben\n[To:7]Chick さん\nhi", false);
        let (plain, bare) = (
            exported(Some(7), "[To:7]Chick\nhi", false),
            exported(Some(7), "[To:7] hi", false),
        );
        assert_eq!(play(&[chick.clone(), plain, bare.clone()]), me("Chick"));
        assert_eq!(play(std::slice::from_ref(&bare)), me(""));
        let typed = |line: &str| exported(Some(7), &format!("[To:7]{line}\nhi"), false);
        assert_eq!(play(&[typed("hello"), typed("good morning")]), me(""));
        assert_eq!(
            play(&[typed("a"), typed("Chick"), typed("Chick")]),
            me("Chick")
        );

        // Without a mention: whom all that was answered addresses.
        let created = |text: &str, answered| exported(None, text, answered);
        let both = created("[To:8]Ben\n[To:7]Chick\nhi", true);
        let reply = created("[rp aid=7 to=2-3]Chick\nhi", true);
        let other = created("[To:9]An\nhi", false);
        let quoted = "[qt][qtmeta aid=1 time=1][To:8]Ben[/qt][To:7]Chick\nhi";
        assert_eq!(play(&[both.clone(), reply, other]), me("Chick"));
        assert_eq!(play(&[created(quoted, true)]), me("Chick"));
        assert!(play(&[both]).is_err_and(|error| error.contains("--bot-account")));

        let two = play(&[chick.clone(), exported(Some(8), "hi", false)]);
        assert!(two.is_err_and(|error| error.contains("(7, 8)")));
        let mut another = chick.clone();
        another.event.bot = BotName::new("another").expect("a name");
        let two = play(&[chick, another]);
        assert!(two.is_err_and(|error| error.contains("(another, bot)")));
    }
}
