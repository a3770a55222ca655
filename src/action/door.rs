//! Where the pipeline hands events over: admits what there is room for, counts the rest, and never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{Semaphore, mpsc};

use super::{Due, Settings, Status};

/// The doors of all actions, by their names.
#[derive(Clone, Debug, Default)]
pub struct Doors(HashMap<String, Door>);

/// The way to one action.
#[derive(Clone, Debug)]
pub struct Door {
    pub(super) queue: mpsc::Sender<Due>,
    pub(super) status: Arc<Status>,
    pub(super) needs: Needs,
    /// Bytes of events that wait, of all actions together.
    pub(super) room: Arc<Semaphore>,
}

/// What an event has to be for an action to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Something of its reading may leave the device. A program on the device gets what stays without its reading.
    pub outbound: bool,
    /// Delivery is on.
    pub delivery: bool,
}

/// An event that starts an action, before it is written down.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    pub rule: &'a str,
    /// As it may leave the device; `None` where nothing of the reading may.
    pub sensor: Option<&'a str>,
    /// Whether delivery is on.
    pub delivers: bool,
}

/// An event that was admitted; it is dropped with this, and nothing is counted.
#[derive(Debug)]
pub struct Admitted {
    permit: mpsc::OwnedPermit<Due>,
    due: Due,
    status: Arc<Status>,
}

impl Needs {
    pub fn of(settings: &Settings) -> Self {
        let is_command = matches!(settings.kind, super::Kind::Command(_));
        let delivery = settings.with_delivery_only && settings.leaves_device();
        Self { outbound: !is_command, delivery }
    }
}

impl Doors {
    pub fn insert(&mut self, name: String, door: Door) {
        self.0.insert(name, door);
    }

    pub fn get(&self, name: &str) -> Option<&Door> {
        self.0.get(name)
    }
}

impl Door {
    /// Keeps a place for an event, which `write` appends as JSON as it may leave the device. `None` when it is not
    /// for this action or there is no room; that is counted. Call [`Admitted::start`] once the event is durable.
    pub fn admit(&self, occasion: Occasion<'_>, write: impl FnOnce(&mut Vec<u8>)) -> Option<Admitted> {
        let Needs { outbound, delivery } = self.needs;
        if outbound && occasion.sensor.is_none() || delivery && !occasion.delivers {
            self.status.withheld.fetch_add(1, Relaxed);
            return None;
        }
        let Ok(permit) = self.queue.clone().try_reserve_owned() else {
            self.overflow();
            return None;
        };
        let mut event = Vec::new();
        write(&mut event);
        event.shrink_to_fit();
        let bytes = u32::try_from(event.len()).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else {
            self.overflow();
            return None;
        };
        let sensor = occasion.sensor.unwrap_or_default().to_owned();
        let due = Due { event, sensor, rule: occasion.rule.to_owned(), _room: room };
        Some(Admitted { permit, due, status: self.status.clone() })
    }

    fn overflow(&self) {
        self.status.dropped.fetch_add(1, Relaxed);
        if !self.status.is_full.swap(true, Relaxed) {
            let action = self.status.name.as_str();
            tracing::warn!(action, "an action cannot keep up: events are stored and delivered without it");
        }
    }
}

impl Admitted {
    /// Lets the action begin when its turn comes.
    pub fn start(self) {
        self.status.waiting.fetch_add(1, Relaxed);
        self.permit.send(self.due);
    }
}

/// Events that wait for one action; further ones go without it.
pub const QUEUE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn door(needs: Needs, bytes: usize) -> (Door, mpsc::Receiver<Due>) {
        let (queue, due) = mpsc::channel(QUEUE_MAX);
        let status = Arc::new(Status { name: "a".to_owned(), ..Status::default() });
        (Door { queue, status, needs, room: Arc::new(Semaphore::new(bytes)) }, due)
    }

    const ANYTHING: Needs = Needs { outbound: false, delivery: false };
    const OCCASION: Occasion<'_> = Occasion { rule: "hot", sensor: Some("oven"), delivers: true };

    #[test]
    fn an_event_is_begun_with_when_it_is_durable_and_dropped_with_what_was_not() {
        let (door, mut due) = door(ANYTHING, 1000);
        let admitted = door.admit(OCCASION, |out| out.extend_from_slice(b"{}")).unwrap();
        assert!(due.try_recv().is_err());
        drop(door.admit(OCCASION, |_| {}).unwrap());
        admitted.start();
        let first = due.try_recv().unwrap();
        assert_eq!(
            (first.event.as_slice(), first.sensor.as_str(), first.rule.as_str()),
            (&b"{}"[..], "oven", "hot")
        );
        assert!(due.try_recv().is_err());
    }

    #[test]
    fn a_flood_takes_no_more_than_its_room_and_is_counted() {
        let (door, mut due) = door(ANYTHING, 100_000);
        let admit = |bytes: usize| door.admit(OCCASION, |out| out.resize(bytes, b'x'));
        let kept: Vec<_> = (0..10_000).filter_map(|_| admit(10)).collect();
        assert_eq!(kept.len(), QUEUE_MAX);
        assert_eq!(door.status.dropped.load(Relaxed), 10_000 - QUEUE_MAX as u64);
        kept.into_iter().for_each(Admitted::start);
        while due.try_recv().is_ok() {}
        let kept: Vec<_> = (0..100).filter_map(|_| admit(9_000)).collect();
        assert_eq!(kept.len(), 11, "by their bytes");
        drop(kept);
        assert!(admit(100_000).is_some(), "room is given back");
    }

    #[test]
    fn what_may_not_leave_is_withheld_and_counted() {
        let needs = |outbound, delivery| Needs { outbound, delivery };
        for (needs, sensor, delivers, is_admitted) in [
            (needs(true, true), Some("x"), true, true),
            (needs(true, true), Some("x"), false, false),
            (needs(true, false), Some("x"), false, true),
            (needs(true, false), None, true, false),
            (needs(false, false), None, false, true),
        ] {
            let (door, _due) = door(needs, 1000);
            let occasion = Occasion { sensor, delivers, ..OCCASION };
            assert_eq!(
                door.admit(occasion, |_| {}).is_some(),
                is_admitted,
                "{needs:?} {sensor:?} {delivers}"
            );
            assert_eq!(door.status.withheld.load(Relaxed), u64::from(!is_admitted));
        }
    }
}
