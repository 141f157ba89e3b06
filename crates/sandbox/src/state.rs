//! What the sandbox knows, shared by its handlers: the town, the limits, the faults to come, and the
//! ledger of what was. All of it is small work under short locks, never held while waiting.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::RoomId;
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::fault::waiting::Faults;
use crate::ledger::{Ledger, Posted, Said};
use crate::sandbox::{Say, Settings};
use crate::town::{NewMessage, Town};
use crate::webhook::{Courier, Hook, Kind, Sent};
use crate::window::Window;

/// Posts that a slow listener may be behind before it misses some.
const POSTS_KEPT: usize = 4096;

/// The shared state.
pub(crate) struct State {
    pub(crate) settings: Settings,
    courier: Courier,
    webhook_url: Mutex<String>,
    town: Mutex<Town>,
    limits: Mutex<Limits>,
    faults: Mutex<Faults>,
    ledger: Mutex<Ledger>,
    changed: watch::Sender<()>,
    posted: broadcast::Sender<Posted>,
}

/// Chatwork's two rate limits.
pub(crate) struct Limits {
    pub(crate) account: Window,
    room: (u32, Duration),
    rooms: HashMap<RoomId, Window>,
}

impl Limits {
    /// The window of posts in a room.
    pub(crate) fn room(&mut self, room: RoomId) -> &mut Window {
        let (limit, per) = self.room;
        self.rooms
            .entry(room)
            .or_insert_with(|| Window::new(limit, per))
    }
}

impl State {
    pub(crate) fn new(settings: Settings, courier: Courier) -> Self {
        let (limit, per) = settings.account_limit;
        Self {
            courier,
            webhook_url: Mutex::new(settings.webhook_url.clone()),
            town: Mutex::new(Town::new(settings.bot, &settings.bot_name)),
            limits: Mutex::new(Limits {
                account: Window::new(limit, per),
                room: settings.room_limit,
                rooms: HashMap::new(),
            }),
            faults: Mutex::default(),
            ledger: Mutex::default(),
            changed: watch::Sender::new(()),
            posted: broadcast::Sender::new(POSTS_KEPT),
            settings,
        }
    }

    pub(crate) fn webhook_url(&self) -> MutexGuard<'_, String> {
        lock(&self.webhook_url)
    }

    pub(crate) fn town(&self) -> MutexGuard<'_, Town> {
        lock(&self.town)
    }

    pub(crate) fn limits(&self) -> MutexGuard<'_, Limits> {
        lock(&self.limits)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Notes something in the ledger and wakes whoever waits for it.
    pub(crate) fn note<T>(&self, entry: impl FnOnce(&mut Ledger) -> T) -> T {
        let noted = entry(&mut self.ledger());
        self.changed.send_replace(());
        noted
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn posts(&self) -> broadcast::Receiver<Posted> {
        self.posted.subscribe()
    }

    /// The bot's post, to whoever listens.
    pub(crate) fn announce(&self, posted: Posted) {
        // An error only means that nobody does.
        let _ = self.posted.send(posted);
    }

    /// See [`crate::Sandbox::say`].
    pub(crate) async fn say(&self, say: Say) -> Said {
        let bot = self.settings.bot;
        let kind = say.kind.unwrap_or_else(|| Kind::of(&say.body, bot));
        let now = Timestamp::now();
        let message = self.town().hear(
            NewMessage {
                room_id: say.room_id,
                account_id: say.account_id,
                body: say.body,
                message_id: say.message_id,
                send_time: say.send_time,
                is_edit: kind == Kind::MessageUpdated,
            },
            now,
        );
        let hook = Hook {
            kind,
            setting_id: kind.setting_id().to_owned(),
            event_time: now.as_second(),
            room_id: say.room_id,
            message_id: message.message_id.clone(),
            author: say.account_id,
            addressee: bot,
            body: message.body.clone(),
            send_time: message.send_time,
            update_time: message.update_time,
        };
        let unheard = self.town().waits_for_contact(say.room_id);
        let url = self.webhook_url().clone();
        let sent = if unheard {
            Sent {
                status: None,
                millis: 0,
                error: Some("the contact request was not accepted yet".to_owned()),
            }
        } else {
            self.courier
                .deliver(&url, &self.settings.webhook_token, hook.json())
                .await
        };
        self.note(|ledger| {
            ledger.said(Said {
                n: 0,
                time: now,
                room_id: say.room_id,
                account_id: say.account_id,
                message_id: message.message_id,
                kind,
                body: message.body,
                webhook_status: sent.status,
                webhook_millis: sent.millis,
                webhook_error: sent.error,
            })
        })
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Lets a service take its time. No time is none at all, not until the timer's next tick.
pub(crate) async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// A panic elsewhere (a failed test) does not make what is inside wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
