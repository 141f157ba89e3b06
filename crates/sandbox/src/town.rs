//! The people, the rooms and what was said there: Chatwork's data, small and in memory.
//!
//! Only the newest messages of a room are kept. Rooms that somebody writes in exist from then on, so
//! that a load test may use as many as it likes; all others are 404 for the bot. So is the direct
//! chat with somebody whose contact request waits.

use std::collections::{BTreeMap, VecDeque};

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// The bot.
pub const BOT: AccountId = AccountId(1_000_001);
/// Nguyễn Văn An, who writes Vietnamese.
pub const AN: AccountId = AccountId(1_000_002);
/// 佐藤 花, who writes Japanese.
pub const HANA: AccountId = AccountId(1_000_003);
/// Ben Miller, who writes English.
pub const BEN: AccountId = AccountId(1_000_004);
/// Trần Thị Bích, who is in the group as well.
pub const BICH: AccountId = AccountId(1_000_005);

/// The bot's own "my chat".
pub const MY_CHAT: RoomId = RoomId(200_000_001);
/// A group with everybody in it.
pub const GROUP: RoomId = RoomId(200_000_002);
/// A second group.
pub const SECOND_GROUP: RoomId = RoomId(200_000_003);
/// The direct chat of the bot and [`AN`].
pub const DIRECT: RoomId = RoomId(200_000_004);
/// A group in which the bot may only read.
pub const READONLY: RoomId = RoomId(200_000_005);

/// Messages kept per room; Chatwork gives 100 at most.
const MESSAGES_KEPT: usize = 300;

/// As many messages as Chatwork gives at once.
const NEWEST: usize = 100;

/// Where the time inside message ids starts, in Unix milliseconds, and how many bits are below it.
const IDS_START: i64 = MessageId::SEEMS_TO_BEGIN;
const IDS_SHIFT: u32 = MessageId::SEEMS_TO_SHIFT;

/// Where the ids of rooms start that were not there from the beginning.
const NEW_ROOMS: u64 = 200_000_101;

/// Everybody and everything.
#[derive(Debug)]
pub(crate) struct Town {
    bot: AccountId,
    people: BTreeMap<AccountId, String>,
    rooms: BTreeMap<RoomId, Room>,
    /// Who asks to be the bot's contact, and the number of the request.
    requests: BTreeMap<AccountId, u64>,
    last_request: u64,
    last_id: u64,
}

/// What kind of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoomKind {
    My,
    Direct,
    Group,
}

impl RoomKind {
    fn name(self) -> &'static str {
        match self {
            Self::My => "my",
            Self::Direct => "direct",
            Self::Group => "group",
        }
    }
}

/// What the bot may do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read and write.
    Member,
    /// Read.
    Readonly,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Readonly => "readonly",
        }
    }
}

#[derive(Debug)]
struct Room {
    name: String,
    kind: RoomKind,
    role: Role,
    members: Vec<AccountId>,
    messages: VecDeque<Message>,
    /// Messages ever written here.
    written: u64,
    /// How many of them were given to a reader that only wants what is new (`force=0`).
    read: u64,
}

/// A message in a room.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) message_id: MessageId,
    pub(crate) account_id: AccountId,
    pub(crate) body: String,
    pub(crate) send_time: i64,
    pub(crate) update_time: i64,
}

/// A message to be.
#[derive(Debug)]
pub(crate) struct NewMessage {
    pub(crate) room_id: RoomId,
    pub(crate) account_id: AccountId,
    pub(crate) body: String,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) send_time: Option<i64>,
    pub(crate) is_edit: bool,
}

impl Room {
    fn new(name: &str, kind: RoomKind, role: Role, members: Vec<AccountId>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            role,
            members,
            messages: VecDeque::new(),
            written: 0,
            read: 0,
        }
    }

    fn write(&mut self, message: Message) {
        self.written += 1;
        self.messages.push_back(message);
        if self.messages.len() > MESSAGES_KEPT {
            self.messages.pop_front();
        }
    }

    /// Whether it is the bot's direct chat with this person.
    fn is_direct_with(&self, account: AccountId) -> bool {
        self.kind == RoomKind::Direct && self.members.contains(&account)
    }

    fn find(&mut self, message_id: &MessageId) -> Option<&mut Message> {
        self.messages
            .iter_mut()
            .rev()
            .find(|message| message.message_id == *message_id)
    }
}

impl Town {
    pub(crate) fn new(bot: AccountId, bot_name: &str) -> Self {
        let people = [
            (bot, bot_name),
            (AN, "Nguyễn Văn An"),
            (HANA, "佐藤 花"),
            (BEN, "Ben Miller"),
            (BICH, "Trần Thị Bích"),
        ];
        let everybody = vec![bot, AN, HANA, BEN, BICH];
        let group = RoomKind::Group;
        let rooms = [
            (
                MY_CHAT,
                Room::new(bot_name, RoomKind::My, Role::Member, vec![bot]),
            ),
            (
                GROUP,
                Room::new("Phòng trà 雑談", group, Role::Member, everybody.clone()),
            ),
            (
                SECOND_GROUP,
                Room::new("開発チーム", group, Role::Member, vec![bot, HANA, BEN]),
            ),
            (
                DIRECT,
                Room::new(
                    "Nguyễn Văn An",
                    RoomKind::Direct,
                    Role::Member,
                    vec![bot, AN],
                ),
            ),
            (
                READONLY,
                Room::new("Thông báo お知らせ", group, Role::Readonly, everybody),
            ),
        ];
        Self {
            bot,
            people: people.map(|(id, name)| (id, name.to_owned())).into(),
            rooms: rooms.into(),
            requests: BTreeMap::new(),
            last_request: 0,
            last_id: 0,
        }
    }

    /// A person writes or edits. A message of which Chatwork tells a second time stays as it is.
    pub(crate) fn hear(&mut self, new: NewMessage, now: Timestamp) -> Message {
        let fresh_id = self.next_id(now);
        self.meet(new.account_id);
        let room = self.enter(new.room_id);
        if !room.members.contains(&new.account_id) {
            room.members.push(new.account_id);
        }

        if let Some(message) = new.message_id.as_ref().and_then(|id| room.find(id)) {
            if new.is_edit {
                message.body = new.body;
                message.update_time = now.as_second();
            }
            return message.clone();
        }
        let message = Message {
            message_id: new.message_id.unwrap_or(fresh_id),
            account_id: new.account_id,
            body: new.body,
            send_time: new.send_time.unwrap_or(now.as_second()),
            update_time: if new.is_edit { now.as_second() } else { 0 },
        };
        room.write(message.clone());
        message
    }

    /// Makes sure that there is somebody with this id.
    fn meet(&mut self, account: AccountId) {
        self.people
            .entry(account)
            .or_insert_with(|| format!("Guest {account}"));
    }

    /// The room with this id; a new one is a group with the bot in it.
    fn enter(&mut self, id: RoomId) -> &mut Room {
        let bot = self.bot;
        self.rooms.entry(id).or_insert_with(|| {
            let name = format!("Room {id}");
            Room::new(&name, RoomKind::Group, Role::Member, vec![bot])
        })
    }

    /// What the bot may do in a room; `None` if there is no such room for it.
    pub(crate) fn role(&self, room: RoomId) -> Option<Role> {
        self.seen(room).map(|room| room.role)
    }

    /// From now on the bot may do this in a room.
    pub(crate) fn set_role(&mut self, room: RoomId, role: Role) {
        self.enter(room).role = role;
    }

    /// Whether this is the bot's own account.
    pub(crate) fn is_bot(&self, account: AccountId) -> bool {
        account == self.bot
    }

    /// Somebody asks to be the bot's contact. The number of the request.
    pub(crate) fn request_contact(&mut self, account: AccountId) -> u64 {
        self.meet(account);
        let last = &mut self.last_request;
        *self.requests.entry(account).or_insert_with(|| {
            *last += 1;
            *last
        })
    }

    /// The bot accepts all contact requests: it has a direct chat with each of them.
    pub(crate) fn accept_contacts(&mut self) {
        for account in std::mem::take(&mut self.requests).into_keys() {
            let has_one = self.rooms.values().any(|room| room.is_direct_with(account));
            let name = self.people.get(&account).cloned().unwrap_or_default();
            if !has_one && let Some(id) = self.free_room() {
                let members = vec![self.bot, account];
                let room = Room::new(&name, RoomKind::Direct, Role::Member, members);
                self.rooms.insert(id, room);
            }
        }
    }

    fn free_room(&self) -> Option<RoomId> {
        (NEW_ROOMS..)
            .map(RoomId)
            .find(|id| !self.rooms.contains_key(id))
    }

    /// A room as far as the bot may see it.
    fn seen(&self, id: RoomId) -> Option<&Room> {
        let room = self.rooms.get(&id)?;
        (!self.is_closed(room)).then_some(room)
    }

    /// Whether it is the direct chat with somebody whose contact request waits.
    fn is_closed(&self, room: &Room) -> bool {
        self.requests
            .keys()
            .any(|account| room.is_direct_with(*account))
    }

    /// Whether nobody can speak here, as the contact request was not accepted yet.
    pub(crate) fn waits_for_contact(&self, id: RoomId) -> bool {
        self.rooms.get(&id).is_some_and(|room| self.is_closed(room))
    }

    /// The bot writes. `None` if there is no such room.
    pub(crate) fn post(&mut self, room: RoomId, body: &str, now: Timestamp) -> Option<Message> {
        let message = Message {
            message_id: self.next_id(now),
            account_id: self.bot,
            body: body.to_owned(),
            send_time: now.as_second(),
            update_time: 0,
        };
        self.seen(room)?;
        let room = self.rooms.get_mut(&room)?;
        room.write(message.clone());
        Some(message)
    }

    /// Time first, so that ids sort as messages do; 19 digits since 2018.
    fn next_id(&mut self, now: Timestamp) -> MessageId {
        let millis = u64::try_from(now.as_millisecond() - IDS_START).unwrap_or(0);
        self.last_id = (millis << IDS_SHIFT).max(self.last_id + 1);
        MessageId::new(self.last_id.to_string()).expect("digits make a message id")
    }

    /// `GET /me`.
    pub(crate) fn me(&self) -> Value {
        let mut me = self.person(self.bot);
        me["room_id"] = json!(MY_CHAT);
        for empty in [
            "title",
            "url",
            "introduction",
            "mail",
            "tel_organization",
            "tel_extension",
            "tel_mobile",
            "skype",
            "facebook",
            "twitter",
            "login_mail",
        ] {
            me[empty] = json!("");
        }
        me
    }

    fn person(&self, account: AccountId) -> Value {
        json!({
            "account_id": account,
            "name": self.people.get(&account),
            "chatwork_id": "",
            "organization_id": 1,
            "organization_name": "Sandbox",
            "department": "",
            "avatar_image_url": "https://sandbox.invalid/avatar.png",
        })
    }

    /// `GET /contacts`: everybody the bot has a direct chat with.
    pub(crate) fn contacts(&self) -> Value {
        let contact = |(id, room): (&RoomId, &Room)| {
            let other = room.members.iter().find(|member| **member != self.bot)?;
            let mut contact = self.person(*other);
            contact["room_id"] = json!(id);
            (room.kind == RoomKind::Direct).then_some(contact)
        };
        self.visible().filter_map(contact).collect()
    }

    /// `GET /incoming_requests`: who waits to be the bot's contact.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let request = |(account, id): (&AccountId, &u64)| {
            let mut request = self.person(*account);
            request["request_id"] = json!(id);
            request["message"] = json!("");
            request
        };
        self.requests.iter().map(request).collect()
    }

    fn visible(&self) -> impl Iterator<Item = (&RoomId, &Room)> {
        self.rooms.iter().filter(|(_, room)| !self.is_closed(room))
    }

    /// `GET /rooms`.
    pub(crate) fn rooms(&self) -> Value {
        let rooms = self.visible();
        rooms.map(|(id, room)| described(*id, room)).collect()
    }

    /// `GET /rooms/{room}`.
    pub(crate) fn room(&self, id: RoomId) -> Option<Value> {
        let mut room = described(id, self.seen(id)?);
        room["description"] = json!("");
        Some(room)
    }

    /// `GET /rooms/{room}/members`.
    pub(crate) fn members(&self, id: RoomId) -> Option<Value> {
        let room = self.seen(id)?;
        let member = |account: &AccountId| {
            let mut member = self.person(*account);
            let role = if *account == self.bot {
                room.role
            } else {
                Role::Member
            };
            member["role"] = json!(role.name());
            member
        };
        Some(room.members.iter().map(member).collect())
    }

    /// `GET /rooms/{room}/messages?force=1`: the newest, oldest first.
    pub(crate) fn newest(&self, id: RoomId) -> Option<Vec<Value>> {
        let room = self.seen(id)?;
        Some(self.last(room, NEWEST))
    }

    /// `GET /rooms/{room}/messages`: the newest of what was written since the last time.
    pub(crate) fn unread(&mut self, id: RoomId) -> Option<Vec<Value>> {
        self.seen(id)?;
        let room = self.rooms.get_mut(&id)?;
        let unread = usize::try_from(room.written - room.read).unwrap_or(usize::MAX);
        room.read = room.written;
        let room = self.rooms.get(&id)?;
        Some(self.last(room, unread.min(NEWEST)))
    }

    fn last(&self, room: &Room, count: usize) -> Vec<Value> {
        let older = room.messages.len().saturating_sub(count);
        let messages = room.messages.iter().skip(older);
        messages.map(|message| self.written(message)).collect()
    }

    /// `GET /rooms/{room}/messages/{message}`.
    pub(crate) fn message(&mut self, room: RoomId, message: &MessageId) -> Option<Value> {
        self.seen(room)?;
        let message = self.rooms.get_mut(&room)?.find(message)?.clone();
        Some(self.written(&message))
    }

    fn written(&self, message: &Message) -> Value {
        json!({
            "message_id": message.message_id,
            "account": {
                "account_id": message.account_id,
                "name": self.people.get(&message.account_id),
                "avatar_image_url": "https://sandbox.invalid/avatar.png",
            },
            "body": message.body,
            "send_time": message.send_time,
            "update_time": message.update_time,
        })
    }
}

fn described(id: RoomId, room: &Room) -> Value {
    json!({
        "room_id": id,
        "name": room.name,
        "type": room.kind.name(),
        "role": room.role.name(),
        "sticky": false,
        "unread_num": room.written - room.read,
        "mention_num": 0,
        "mytask_num": 0,
        "message_num": room.written,
        "file_num": 0,
        "task_num": 0,
        "icon_path": "https://sandbox.invalid/room.png",
        "last_update_time": room.messages.back().map_or(0, |message| message.send_time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_their_time_and_never_repeat() {
        let mut town = Town::new(BOT, "Chickwork");
        let now = Timestamp::from_second(1_516_629_766).expect("a time");
        let first = town.next_id(now);
        let second = town.next_id(now);
        assert_ne!(first, second);
        let id: u64 = first.as_str().parse().expect("a number");
        assert_eq!(id >> IDS_SHIFT, 1_516_629_766_000 - IDS_START as u64);
        // A real message, sent in that second.
        let real = 1_007_287_971_738_591_232_i64;
        assert_eq!(((real >> IDS_SHIFT) + IDS_START) / 1_000, now.as_second());
    }
}
