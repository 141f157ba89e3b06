//! Chatwork's rate limits, kept here so that they are not run into: so many calls per account and
//! time, so many posts per room and time. A post without a slot gets the time of its room's next
//! one as a *booking*, so that a hundred waiting replies do not all come back at once.
//!
//! Windows slide and are counted from an answer's arrival, which is later than whatever moment
//! Chatwork itself counts from; a call in flight occupies its slot. All of it is a function of the
//! instants passed in; only a [`Ticket`] that is dropped in mid-call looks at the clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::RoomId;
use chickwork_clients::chatwork::Limits;
use chickwork_queue::event::EventId;
use jiff::Timestamp;
use tokio::time::Instant;

/// So many calls in any period of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many; zero is taken for one.
    pub calls: u32,
    /// The length of the window.
    pub per: Duration,
}

/// One call in so many is kept for reads: a look must be possible when replies use up the rest.
const KEPT_FOR_READS: usize = 10;

/// How long a room rests after Chatwork refused a post for that room's limit.
const ROOM_REST: Duration = Duration::from_secs(10);

/// How long a booking is kept for a reply that does not come for it: delays are whole seconds, and
/// the queue's own way through its delay levels takes time too.
const GRACE: Duration = Duration::from_secs(10);

/// Assumed length of a call when the time of a later slot is foretold.
const CALL: Duration = Duration::from_secs(1);

/// Nothing is booked further ahead; whoever would have to wait longer asks again then.
const LONGEST_BOOKING: Duration = Duration::from_secs(600);

/// Those who have to ask again come spread over so many seconds.
const SPREAD: u64 = 60;

/// Both limits; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Limiter(Arc<Mutex<Windows>>);

/// Whether a call may be made.
#[derive(Debug)]
pub(crate) enum Slot {
    /// Now, with this.
    Now(Ticket),
    /// Not before this.
    At(Instant),
}

/// The right to make one call. Dropped before it is [`sent`](Ticket::sent) it frees its slot.
#[derive(Debug)]
pub(crate) struct Ticket {
    limiter: Limiter,
    room: Option<RoomId>,
    state: TicketState,
}

#[derive(Debug, PartialEq, Eq)]
enum TicketState {
    Unused,
    Sent,
    Settled,
}

/// What is left of the account's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Calls that the account is allowed in its window.
    pub of: u32,
    /// Calls that could be made now.
    pub calls: u32,
    /// When all of them can be made again, if nobody calls meanwhile.
    pub until: Instant,
}

/// What an answer tells about the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Calls allowed per window.
    limit: Option<u32>,
    /// Calls left.
    remaining: Option<u32>,
    /// Time until the window ends, by Chatwork's clock.
    reset_in: Option<Duration>,
}

impl Told {
    /// Reads the headers; `now` serves where Chatwork did not tell its own time.
    pub(crate) fn new(limits: &Limits, now: Timestamp) -> Self {
        let clock = limits.date.unwrap_or(now).as_second();
        let reset_in = limits
            .reset
            .map(|reset| Duration::from_secs(reset.saturating_sub(clock).max(0).unsigned_abs()));
        Self {
            limit: limits.limit,
            remaining: limits.remaining,
            reset_in,
        }
    }
}

impl Limiter {
    /// Empty windows of these sizes.
    pub(crate) fn new(account: Limit, room: Limit) -> Self {
        Self(Arc::new(Mutex::new(Windows {
            account,
            room,
            calls: Window::default(),
            others: None,
            rooms: HashMap::new(),
            put_off: 0,
        })))
    }

    /// A slot for a post of this reply in this room.
    pub(crate) fn post(&self, room: RoomId, reply: EventId, now: Instant) -> Slot {
        self.slot(Some(room), |windows| windows.post(room, reply, now))
    }

    /// A slot for any other call.
    pub(crate) fn read(&self, now: Instant) -> Slot {
        self.slot(None, |windows| windows.read(now))
    }

    /// What is left of the account's window.
    pub(crate) fn left(&self, now: Instant) -> Left {
        let mut windows = self.windows();
        windows.forget(now);
        windows.left(now)
    }

    /// Counts calls that others made: when they were made, and the room of a post.
    pub(crate) fn restore(
        &self,
        calls: impl IntoIterator<Item = (Option<RoomId>, Instant)>,
        now: Instant,
    ) {
        let mut windows = self.windows();
        for (room, at) in calls {
            windows.count(room, at);
        }
        windows.forget(now);
    }

    fn slot(
        &self,
        room: Option<RoomId>,
        take: impl FnOnce(&mut Windows) -> Result<(), Instant>,
    ) -> Slot {
        match take(&mut self.windows()) {
            Ok(()) => Slot::Now(Ticket {
                limiter: self.clone(),
                room,
                state: TicketState::Unused,
            }),
            Err(at) => Slot::At(at),
        }
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The call is about to leave: from now on it counts, whatever becomes of it.
    pub(crate) fn sent(&mut self) {
        self.state = TicketState::Sent;
    }

    /// The answer arrived.
    pub(crate) fn answered(mut self, told: &Told, now: Instant) {
        let mut windows = self.arrived(now);
        windows.correct(told, now);
    }

    /// Nothing was sent after all.
    pub(crate) fn unsent(mut self) {
        self.state = TicketState::Unused;
    }

    /// No answer arrived.
    pub(crate) fn unanswered(mut self, now: Instant) {
        drop(self.arrived(now));
    }

    /// Chatwork refused the call: too many by this account. Nobody calls until the window's end.
    pub(crate) fn refused_for_account(mut self, told: &Told, now: Instant) {
        let mut windows = self.arrived(now);
        windows.correct(told, now);
        let wait = told.reset_in.unwrap_or(windows.account.per);
        let wait = wait.clamp(Duration::from_secs(1), windows.account.per);
        let size = windows.size(told);
        windows.calls.fill(size, now + wait);
    }

    /// Chatwork refused the post: too many in this room.
    pub(crate) fn refused_for_room(mut self, told: &Told, now: Instant) {
        let room = self.room;
        let mut windows = self.arrived(now);
        windows.correct(told, now);
        let size = windows.room.calls.max(1) as usize;
        if let Some(room) = room {
            let room = windows.rooms.entry(room).or_default();
            room.posts.fill(size, now + ROOM_REST);
        }
    }

    fn arrived(&mut self, now: Instant) -> MutexGuard<'_, Windows> {
        self.state = TicketState::Settled;
        let mut windows = self.limiter.windows();
        windows.land(self.room);
        windows.count(self.room, now);
        windows
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.state {
            TicketState::Unused => self.limiter.windows().land(self.room),
            TicketState::Sent => drop(self.arrived(Instant::now())),
            TicketState::Settled => {}
        }
    }
}

#[derive(Debug)]
struct Windows {
    account: Limit,
    room: Limit,
    calls: Window,
    /// Calls that the headers told of and we know nothing about: how many, and until when.
    others: Option<(usize, Instant)>,
    rooms: HashMap<RoomId, Room>,
    /// How many were put off without a booking, to spread them.
    put_off: u64,
}

#[derive(Debug, Default)]
struct Room {
    posts: Window,
    /// In order of their times.
    bookings: Vec<Booking>,
}

#[derive(Debug)]
struct Booking {
    at: Instant,
    reply: EventId,
}

/// Slots that are taken: those of answered calls until they run out, those of calls in flight.
#[derive(Debug, Default)]
struct Window {
    until: Vec<Instant>,
    in_flight: usize,
}

impl Window {
    fn taken(&self) -> usize {
        self.until.len() + self.in_flight
    }

    /// Takes every slot that is free until then.
    fn fill(&mut self, size: usize, until: Instant) {
        while self.until.len() < size {
            self.until.push(until);
        }
        for taken in &mut self.until {
            *taken = (*taken).max(until);
        }
    }

    /// When the taken slots run out, as far as can be foretold.
    fn foretell(&self, per: Duration, now: Instant) -> Vec<Instant> {
        let in_flight = std::iter::repeat_n(now + CALL + per, self.in_flight);
        self.until.iter().copied().chain(in_flight).collect()
    }
}

impl Windows {
    fn post(&mut self, room: RoomId, reply: EventId, now: Instant) -> Result<(), Instant> {
        self.forget(now);
        let booked = self.rooms.entry(room).or_default().take_booking(reply);
        let at = self.next_post(room, booked, now);
        if at <= now {
            let room = self.rooms.entry(room).or_default();
            room.posts.in_flight += 1;
            self.calls.in_flight += 1;
            return Ok(());
        }
        if at - now > LONGEST_BOOKING {
            self.put_off += 1;
            return Err(now + LONGEST_BOOKING + Duration::from_secs(self.put_off % SPREAD));
        }
        let bookings = &mut self.rooms.entry(room).or_default().bookings;
        let place = bookings.partition_point(|booking| booking.at <= at);
        bookings.insert(place, Booking { at, reply });
        Err(at)
    }

    /// When this room's next post fits into both windows, after those who wait already.
    fn next_post(&self, room_id: RoomId, booked: Option<Instant>, now: Instant) -> Instant {
        let Some(room) = self.rooms.get(&room_id) else {
            return now;
        };
        // Who has come back for a booking goes before the later ones, all others go last.
        let before_me = |booking: &&Booking| booked.is_none_or(|mine| booking.at <= mine);
        let runs_out = |booking: &Booking, per: Duration| booking.at.max(now) + CALL + per;

        let ahead: Vec<&Booking> = room.bookings.iter().take_while(before_me).collect();
        let mut in_room = room.posts.foretell(self.room.per, now);
        in_room.extend(ahead.iter().map(|booking| runs_out(booking, self.room.per)));
        let in_room = free_at(in_room, self.room.calls.max(1) as usize, now);

        // Rooms take turns: my n-th waiting reply goes after at most n of every other room, however
        // many wait there.
        let turns = ahead.len() + 1;
        let others = self.rooms.iter().filter(|(id, _)| **id != room_id);
        let mut in_account = self.in_account(now);
        in_account.extend(
            ahead
                .iter()
                .map(|booking| runs_out(booking, self.account.per)),
        );
        let mut others_wait = false;
        for (_, other) in others {
            others_wait |= !other.bookings.is_empty();
            let first = other.bookings.iter().take_while(before_me).take(turns);
            in_account.extend(first.map(|booking| runs_out(booking, self.account.per)));
        }
        let for_posts = self.for_posts();
        let in_account = free_at(in_account, for_posts, now);

        let fair = if others_wait {
            self.fair(room, for_posts, now)
        } else {
            now
        };
        in_room.max(in_account).max(fair)
    }

    /// While others wait, a room takes at most half of what is left of the account, counting what
    /// it took in its own last window.
    fn fair(&self, room: &Room, for_posts: usize, now: Instant) -> Instant {
        let mine = room.posts.taken();
        let left = for_posts.saturating_sub(self.in_account(now).len());
        if mine == 0 || mine < (left + mine).div_ceil(2) {
            return now;
        }
        let runs_out = room.posts.until.iter().min();
        runs_out.copied().unwrap_or(now + CALL)
    }

    fn read(&mut self, now: Instant) -> Result<(), Instant> {
        self.forget(now);
        let at = free_at(
            self.in_account(now),
            self.account.calls.max(1) as usize,
            now,
        );
        if at > now {
            return Err(at);
        }
        self.calls.in_flight += 1;
        Ok(())
    }

    /// What of the account's window is taken, without bookings.
    fn in_account(&self, now: Instant) -> Vec<Instant> {
        let mut taken = self.calls.foretell(self.account.per, now);
        if let Some((calls, until)) = self.others {
            taken.extend(std::iter::repeat_n(until, calls));
        }
        taken
    }

    fn left(&self, now: Instant) -> Left {
        let taken = self.in_account(now);
        let of = self.account.calls.max(1);
        let calls = (of as usize).saturating_sub(taken.len());
        Left {
            of,
            calls: u32::try_from(calls).unwrap_or(of),
            until: taken.into_iter().max().unwrap_or(now),
        }
    }

    /// The part of the account's window that posts may use.
    fn for_posts(&self) -> usize {
        let calls = self.account.calls.max(1) as usize;
        (calls - calls.div_ceil(KEPT_FOR_READS)).max(1)
    }

    /// The account's window, smaller if Chatwork says so.
    fn size(&self, told: &Told) -> usize {
        let calls = told.limit.unwrap_or(u32::MAX).min(self.account.calls);
        calls.max(1) as usize
    }

    /// A call is in flight no more.
    fn land(&mut self, room: Option<RoomId>) {
        self.calls.in_flight = self.calls.in_flight.saturating_sub(1);
        if let Some(room) = room.and_then(|room| self.rooms.get_mut(&room)) {
            room.posts.in_flight = room.posts.in_flight.saturating_sub(1);
        }
    }

    /// A call was answered at this time.
    fn count(&mut self, room: Option<RoomId>, at: Instant) {
        self.calls.until.push(at + self.account.per);
        if let Some(room) = room {
            let until = at + self.room.per;
            self.rooms.entry(room).or_default().posts.until.push(until);
        }
    }

    /// Somebody else may be calling with our account, or the limit may have been lowered: what
    /// Chatwork counts and we do not is taken until its window ends.
    fn correct(&mut self, told: &Told, now: Instant) {
        self.forget(now);
        let Some(remaining) = told.remaining else {
            return;
        };
        // Both ways to count a lower limit come to the same: what is left is what is left.
        let allowed = (self.account.calls.max(1) as usize).saturating_sub(remaining as usize);
        let unknown = allowed.saturating_sub(self.calls.taken());
        let wait = told
            .reset_in
            .unwrap_or(self.account.per)
            .min(self.account.per);
        self.others = (unknown > 0).then(|| (unknown, now + wait));
        let left = (self.account.calls as usize).saturating_sub(self.calls.taken() + unknown);
        metrics::gauge!("chickwork_ratelimit_remaining").set(left as f64);
    }

    /// Drops what has run out.
    fn forget(&mut self, now: Instant) {
        self.calls.until.retain(|until| *until > now);
        self.others = self.others.filter(|(_, until)| *until > now);
        self.rooms.retain(|_, room| {
            room.posts.until.retain(|until| *until > now);
            room.bookings.retain(|booking| booking.at + GRACE > now);
            room.posts.taken() > 0 || !room.bookings.is_empty()
        });
    }
}

impl Room {
    fn take_booking(&mut self, reply: EventId) -> Option<Instant> {
        let place = self
            .bookings
            .iter()
            .position(|booking| booking.reply == reply)?;
        Some(self.bookings.remove(place).at)
    }
}

/// When fewer than `size` of these slots are taken.
fn free_at(mut taken: Vec<Instant>, size: usize, now: Instant) -> Instant {
    match taken.len().checked_sub(size) {
        None => now,
        Some(surplus) => *taken.select_nth_unstable(surplus).1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const ACCOUNT: Limit = Limit {
        calls: 300,
        per: Duration::from_secs(300),
    };
    const ROOM: Limit = Limit {
        calls: 10,
        per: Duration::from_secs(10),
    };

    /// A little world: replies that wait, a Chatwork that takes 300 ms a call, four calls at a time.
    struct World {
        limiter: Limiter,
        start: Instant,
        now: Instant,
        /// When each reply comes (back), in order; the number tells replies apart.
        waiting: BTreeMap<(Instant, u64), (RoomId, EventId)>,
        in_flight: Vec<(Instant, RoomId, Ticket)>,
        /// When each post left, and where to.
        posted: Vec<(Duration, RoomId)>,
        /// How often a reply came in vain.
        in_vain: usize,
    }

    impl World {
        fn new(account: Limit, room: Limit) -> Self {
            let start = Instant::now();
            Self {
                limiter: Limiter::new(account, room),
                start,
                now: start,
                waiting: BTreeMap::new(),
                in_flight: Vec::new(),
                posted: Vec::new(),
                in_vain: 0,
            }
        }

        fn arrive(&mut self, after: Duration, room: u64, replies: u64) {
            for _ in 0..replies {
                let number = self.waiting.len() as u64;
                let reply = (RoomId(room), EventId::fresh());
                self.waiting.insert((self.start + after, number), reply);
            }
        }

        fn run(&mut self) {
            while !self.waiting.is_empty() || !self.in_flight.is_empty() {
                self.step();
            }
        }

        fn step(&mut self) {
            let landing = self.in_flight.iter().map(|(at, ..)| *at).min();
            let coming = self.waiting.keys().map(|(at, _)| *at).next();
            let coming = coming.filter(|_| self.in_flight.len() < 4);
            let next = [landing, coming]
                .into_iter()
                .flatten()
                .min()
                .expect("something happens next");
            self.now = self.now.max(next);
            if landing.is_some_and(|at| at <= self.now) {
                let place = self.in_flight.iter().position(|(at, ..)| *at <= self.now);
                let (at, _, ticket) = self.in_flight.remove(place.expect("one has landed"));
                ticket.answered(&Told::default(), at);
                return;
            }
            let ((_, number), (room, reply)) = self.waiting.pop_first().expect("one is coming");
            match self.limiter.post(room, reply, self.now) {
                Slot::Now(mut ticket) => {
                    ticket.sent();
                    self.posted.push((self.now - self.start, room));
                    let landing = self.now + Duration::from_millis(300);
                    self.in_flight.push((landing, room, ticket));
                }
                Slot::At(at) => {
                    self.in_vain += 1;
                    // The queue delays by whole seconds, rounded up.
                    let wait = (at - self.now).as_millis().div_ceil(1000) as u64;
                    self.waiting.insert(
                        (self.now + Duration::from_secs(wait), number),
                        (room, reply),
                    );
                }
            }
        }

        fn last(&self) -> Duration {
            self.posted.last().expect("something was posted").0
        }

        /// The most posts in any window of this length.
        fn most(&self, per: Duration, room: Option<RoomId>) -> usize {
            let times: Vec<Duration> = self
                .posted
                .iter()
                .filter(|(_, posted)| room.is_none_or(|room| room == *posted))
                .map(|(at, _)| *at)
                .collect();
            let within = |from: Duration| {
                times
                    .iter()
                    .filter(|at| **at >= from && **at < from + per)
                    .count()
            };
            times.iter().map(|from| within(*from)).max().unwrap_or(0)
        }

        fn assert_limits(&self, account: Limit, room: Limit) {
            assert!(self.most(account.per, None) <= account.calls as usize);
            let rooms: BTreeSet<RoomId> = self.posted.iter().map(|(_, room)| *room).collect();
            for id in rooms {
                assert!(self.most(room.per, Some(id)) <= room.calls as usize, "{id}");
            }
        }
    }

    #[test]
    fn a_hundred_replies_in_twenty_rooms_go_out_at_once() {
        let mut world = World::new(ACCOUNT, ROOM);
        (0..20).for_each(|room| world.arrive(Duration::ZERO, room, 5));
        world.run();
        assert_eq!((world.posted.len(), world.in_vain), (100, 0));
        assert!(world.last() < Duration::from_secs(8));
    }

    #[test]
    fn a_hundred_replies_in_one_room_come_back_in_tens() {
        let mut world = World::new(ACCOUNT, ROOM);
        world.arrive(Duration::ZERO, 1, 100);
        world.run();
        world.assert_limits(ACCOUNT, ROOM);
        assert_eq!(world.posted.len(), 100);
        assert!(world.in_vain <= 130, "came in vain {} times", world.in_vain);
        assert!(
            world.last() < Duration::from_secs(120),
            "took {:?}",
            world.last()
        );
    }

    #[test]
    fn a_whole_company_stays_within_the_account() {
        let mut world = World::new(ACCOUNT, ROOM);
        (0..40).for_each(|room| world.arrive(Duration::ZERO, room, 20));
        world.run();
        world.assert_limits(ACCOUNT, ROOM);
        assert_eq!(world.posted.len(), 800);
        // A tenth is kept for reads.
        assert!(world.most(ACCOUNT.per, None) <= 270);
        assert!(
            world.in_vain <= 2400,
            "came in vain {} times",
            world.in_vain
        );
        assert!(
            world.last() < Duration::from_secs(1000),
            "took {:?}",
            world.last()
        );
    }

    #[test]
    fn a_quiet_room_does_not_wait_behind_a_loud_one() {
        let account = Limit {
            calls: 30,
            per: Duration::from_secs(60),
        };
        let mut world = World::new(account, ROOM);
        world.arrive(Duration::ZERO, 1, 200);
        world.arrive(Duration::from_secs(100), 2, 1);
        world.run();
        world.assert_limits(account, ROOM);
        let quiet = world.posted.iter().find(|(_, room)| *room == RoomId(2));
        let (at, _) = quiet.expect("the quiet room got its reply");
        assert!(*at < Duration::from_secs(170), "waited until {at:?}");
    }

    #[test]
    fn a_room_takes_half_of_what_is_left_while_others_wait() {
        let account = Limit {
            calls: 10,
            per: Duration::from_secs(60),
        };
        let room = Limit {
            calls: 5,
            per: Duration::from_secs(60),
        };
        let (limiter, now) = (Limiter::new(account, room), Instant::now());
        let mut tickets = Vec::new();
        let mut take = |room| match limiter.post(RoomId(room), EventId::fresh(), now) {
            Slot::Now(ticket) => {
                tickets.push(ticket);
                true
            }
            Slot::At(_) => false,
        };
        // Room 1 has used up its own limit and waits; 9 - 5 are left, of which one is booked.
        assert_eq!((0..6).filter(|_| take(1)).count(), 5);
        assert_eq!((0..6).filter(|_| take(2)).count(), 2);
    }

    #[test]
    fn a_ticket_that_is_not_used_frees_its_slot() {
        let room = Limit {
            calls: 1,
            per: Duration::from_secs(10),
        };
        let (limiter, now) = (Limiter::new(ACCOUNT, room), Instant::now());
        for _ in 0..3 {
            let slot = limiter.post(RoomId(1), EventId::fresh(), now);
            assert!(matches!(slot, Slot::Now(_)));
        }
    }

    #[test]
    fn a_call_in_flight_occupies_its_slot() {
        let room = Limit {
            calls: 1,
            per: Duration::from_secs(10),
        };
        let (limiter, now) = (Limiter::new(ACCOUNT, room), Instant::now());
        let first = limiter.post(RoomId(1), EventId::fresh(), now);
        let second = limiter.post(RoomId(1), EventId::fresh(), now);
        assert!(matches!((&first, &second), (Slot::Now(_), Slot::At(_))));
    }

    fn ticket(slot: Slot) -> Ticket {
        match slot {
            Slot::Now(mut ticket) => {
                ticket.sent();
                ticket
            }
            Slot::At(at) => panic!("not before {at:?}"),
        }
    }

    fn told(remaining: u32, reset_in: u64) -> Told {
        Told {
            limit: Some(300),
            remaining: Some(remaining),
            reset_in: Some(Duration::from_secs(reset_in)),
        }
    }

    fn wait(slot: &Slot, now: Instant) -> Duration {
        match slot {
            Slot::Now(_) => Duration::ZERO,
            Slot::At(at) => *at - now,
        }
    }

    #[test]
    fn what_the_headers_tell_of_other_callers_is_taken_into_account() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now());
        ticket(limiter.read(now)).answered(&told(31, 100), now);
        ticket(limiter.post(RoomId(1), EventId::fresh(), now)).answered(&told(30, 100), now);
        let slot = limiter.post(RoomId(2), EventId::fresh(), now);
        assert_eq!(wait(&slot, now).as_secs(), 100);
        assert!(
            matches!(limiter.read(now), Slot::Now(_)),
            "reads use the last tenth"
        );
    }

    #[test]
    fn an_absurd_reset_keeps_nobody_waiting_longer_than_a_window() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now());
        ticket(limiter.read(now)).answered(&told(0, 1_000_000), now);
        let slot = limiter.post(RoomId(2), EventId::fresh(), now);
        assert_eq!(wait(&slot, now), ACCOUNT.per);
    }

    #[test]
    fn after_the_accounts_limit_nobody_calls_until_the_reset() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now());
        let post = ticket(limiter.post(RoomId(1), EventId::fresh(), now));
        post.refused_for_account(&told(0, 42), now);
        assert_eq!(wait(&limiter.read(now), now).as_secs(), 42);
        let slot = limiter.post(RoomId(2), EventId::fresh(), now);
        assert_eq!(wait(&slot, now).as_secs(), 42);
    }

    #[test]
    fn after_a_rooms_limit_that_room_rests_and_the_others_go_on() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now());
        let post = ticket(limiter.post(RoomId(1), EventId::fresh(), now));
        post.refused_for_room(&Told::default(), now);
        let slot = limiter.post(RoomId(1), EventId::fresh(), now);
        assert_eq!(wait(&slot, now).as_secs(), 10);
        assert!(matches!(
            limiter.post(RoomId(2), EventId::fresh(), now),
            Slot::Now(_)
        ));
    }

    #[test]
    fn what_is_left_counts_own_calls_and_others() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now());
        let left = |now| {
            let left = limiter.left(now);
            (left.calls, left.of, (left.until - now).as_secs())
        };
        assert_eq!(left(now), (300, 300, 0));
        ticket(limiter.read(now)).answered(&Told::default(), now);
        assert_eq!(left(now), (299, 300, 300));
        ticket(limiter.read(now)).answered(&told(31, 100), now);
        assert_eq!(left(now), (31, 300, 300));
        assert_eq!(left(now + ACCOUNT.per), (300, 300, 0));
    }

    #[test]
    fn the_reset_is_read_relative_to_chatworks_own_clock() {
        let limits = Limits {
            limit: Some(300),
            remaining: Some(0),
            reset: Some(1_000_060),
            date: Timestamp::from_second(1_000_000).ok(),
        };
        let told = Told::new(&limits, Timestamp::from_second(5).expect("a time"));
        assert_eq!(told.reset_in, Some(Duration::from_secs(60)));
    }

    #[test]
    fn calls_of_a_predecessor_count() {
        let (limiter, now) = (Limiter::new(ACCOUNT, ROOM), Instant::now() + ACCOUNT.per);
        let at = now - Duration::from_secs(4);
        limiter.restore(std::iter::repeat_n((Some(RoomId(1)), at), 10), now);
        let slot = limiter.post(RoomId(1), EventId::fresh(), now);
        assert_eq!(wait(&slot, now).as_secs(), 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_window_ever_holds_more_than_the_limit(
            arrivals in prop::collection::vec((0u64..40, 0u64..6, 1u64..15), 1..12),
            account in 3u32..40,
            room in 1u32..8,
        ) {
            let account = Limit { calls: account, per: Duration::from_secs(30) };
            let room = Limit { calls: room, per: Duration::from_secs(5) };
            let mut world = World::new(account, room);
            for (after, room, replies) in &arrivals {
                world.arrive(Duration::from_secs(*after), *room, *replies);
            }
            world.run();
            world.assert_limits(account, room);
            let replies: u64 = arrivals.iter().map(|(_, _, replies)| replies).sum();
            prop_assert_eq!(world.posted.len() as u64, replies);
        }
    }
}
