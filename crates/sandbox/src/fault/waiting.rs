//! The faults that wait for their calls, in the order in which they were ordered. The first one that
//! fits a call happens to it.

use std::collections::VecDeque;
use std::fmt;

use chickwork_chatwork::id::RoomId;
use serde::Serialize;

use super::{Call, Fault, MOST_WAITING, NotAFault, Service, Times};

/// Which fault, to heal it alone; from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fault that waits.
#[derive(Debug, Clone, Serialize)]
pub struct Waiting {
    /// Which one.
    pub id: FaultId,
    /// What it does; `next` is how many times it still does it.
    #[serde(flatten)]
    pub fault: Fault,
    /// How many calls it has happened to so far.
    pub happened: u64,
    #[serde(skip)]
    dice: Dice,
}

/// Faults that wait for their calls.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    waiting: VecDeque<Waiting>,
    last: u64,
}

impl Faults {
    /// Takes a fault, or says why not.
    pub(crate) fn accept(&mut self, fault: Fault) -> Result<Waiting, NotAFault> {
        fault.check()?;
        if self.waiting.len() >= MOST_WAITING {
            return Err(NotAFault::TooMany);
        }
        self.last += 1;
        let otherwise = match fault.percent {
            Some(_) => Times::Always,
            None => Times::Exactly(1),
        };
        let waiting = Waiting {
            id: FaultId(self.last),
            happened: 0,
            dice: Dice(fault.seed.unwrap_or_default()),
            fault: Fault {
                next: fault.next.or(Some(otherwise)),
                ..fault
            },
        };
        self.waiting.push_back(waiting.clone());
        Ok(waiting)
    }

    /// All that wait, in their order.
    pub(crate) fn list(&self) -> Vec<Waiting> {
        self.waiting.iter().cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Forgets one; false if there is none with this id.
    pub(crate) fn remove(&mut self, id: FaultId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != id);
        self.waiting.len() < before
    }

    /// The fault that happens to a call.
    pub(crate) fn take(
        &mut self,
        service: Service,
        call: Option<Call>,
        room: Option<RoomId>,
    ) -> Option<Fault> {
        let place = self
            .waiting
            .iter_mut()
            .position(|waiting| waiting.fits(service, call, room) && waiting.is_meant())?;
        let waiting = &mut self.waiting[place];
        waiting.happened += 1;
        let fault = waiting.fault.clone();
        match &mut waiting.fault.next {
            Some(Times::Exactly(next)) if *next > 1 => *next -= 1,
            Some(Times::Always) => {}
            Some(Times::Exactly(_)) | None => drop(self.waiting.remove(place)),
        }
        Some(fault)
    }
}

impl Waiting {
    fn fits(&self, service: Service, call: Option<Call>, room: Option<RoomId>) -> bool {
        let fault = &self.fault;
        fault.service == service
            && (fault.call.is_none() || fault.call == call)
            && (fault.room_id.is_none() || fault.room_id == room)
    }

    /// Whether it happens to a call that fits. A call that gets away goes on to the next fault.
    fn is_meant(&mut self) -> bool {
        match self.fault.percent {
            Some(percent) => self.dice.throw() < percent,
            None => true,
        }
    }
}

/// Chance that repeats itself: SplitMix64, which is the same for ever and needs no more than a number.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    /// 0 to 99.
    fn throw(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u32::try_from(mixed % 100).expect("a remainder of 100 is below 100")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(faults: &mut Faults, calls: usize) -> Vec<bool> {
        (0..calls)
            .map(|_| {
                faults
                    .take(Service::Simsimi, Some(Call::Talk), None)
                    .is_some()
            })
            .collect()
    }

    fn faults(all: impl IntoIterator<Item = Fault>) -> Faults {
        let mut faults = Faults::default();
        for fault in all {
            faults.accept(fault).expect("a fault");
        }
        faults
    }

    #[test]
    fn a_fault_waits_for_the_calls_that_it_fits() {
        let room = RoomId(7);
        let fault = Fault::status(Service::Chatwork, 500);
        let mut faults = faults([fault.on(Call::Post).in_room(room).times(2)]);
        let mut take = |service, call, room| faults.take(service, Some(call), room).is_some();
        assert!(!take(Service::Simsimi, Call::Talk, None));
        assert!(!take(Service::Chatwork, Call::Me, None));
        assert!(!take(Service::Chatwork, Call::Post, Some(RoomId(8))));
        assert!(take(Service::Chatwork, Call::Post, Some(room)));
        assert!(take(Service::Chatwork, Call::Post, Some(room)));
        assert!(!take(Service::Chatwork, Call::Post, Some(room)));
    }

    #[test]
    fn a_share_of_the_calls_is_hit_and_the_same_ones_again_for_the_same_seed() {
        let hits = |percent, seed| {
            let fault = Fault::status(Service::Simsimi, 500).percent(percent, seed);
            taken(&mut faults([fault]), 1000)
        };
        assert_eq!(hits(30, 1), hits(30, 1));
        assert_ne!(hits(30, 1), hits(30, 2));
        let hit = hits(30, 1).into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hit), "{hit}");
        assert!(hits(100, 1).into_iter().all(|hit| hit));
        let rare = hits(1, 1).into_iter().filter(|hit| *hit).count();
        assert!((1..30).contains(&rare), "{rare}");
    }

    #[test]
    fn a_share_can_end_after_so_many() {
        let fault = Fault::status(Service::Simsimi, 500).percent(50, 3).times(4);
        let hits = taken(&mut faults([fault]), 1000);
        assert_eq!(hits.into_iter().filter(|hit| *hit).count(), 4);
    }

    #[test]
    fn a_call_that_gets_away_goes_on_to_the_next_fault() {
        let fault = |status| Fault::status(Service::Simsimi, status);
        let mut faults = faults([fault(500).percent(50, 1), fault(503).always()]);
        assert!(taken(&mut faults, 100).into_iter().all(|hit| hit));
        let happened: Vec<u64> = faults.list().iter().map(|fault| fault.happened).collect();
        assert!(
            happened.iter().all(|happened| *happened > 20),
            "{happened:?}"
        );
        assert_eq!(happened.iter().sum::<u64>(), 100);
    }

    #[test]
    fn one_fault_can_be_healed_alone() {
        let fault = Fault::status(Service::Simsimi, 500).always();
        let mut faults = faults([fault.clone(), fault]);
        let first = faults.list()[0].id;
        assert!(faults.remove(first));
        assert!(!faults.remove(first));
        assert_eq!(taken(&mut faults, 1), [true]);
        faults.clear();
        assert_eq!(taken(&mut faults, 1), [false]);
    }
}
