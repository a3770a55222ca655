//! What one commit holds for rules, gathered before they are told: what came in, in its order as far as that can be
//! known, and what fired on it.

use crate::pipeline::rule::Judged;
use crate::pipeline::rule::recall::{Fire, Recall};
use crate::pipeline::window::Values;
use crate::reading::{Batch, Reading};
use crate::store::Lane;

/// One commit's. Bounded by what a commit holds.
#[derive(Default)]
pub struct Gathered {
    readings: Batch,
    /// Of each reading.
    rows: Vec<Row>,
    events: Vec<Event>,
}

/// What is known of a reading besides.
pub struct Row {
    pub lane: Lane,
    /// Something of it may leave the device.
    pub leaves: bool,
    /// The window whose result it carries.
    pub result: Option<(String, Values)>,
}

/// As [`Fire`].
pub struct Event {
    pub rule: String,
    pub sensor: String,
    pub timestamp: f64,
    pub about: f64,
    pub stamped: bool,
}

impl Gathered {
    /// `stamped` says that the agent stamped it in this boot.
    pub fn reading(&mut self, reading: Reading<'_>, stamped: bool, row: Row) {
        if stamped {
            self.readings.push_stamped(reading);
        } else {
            self.readings.push(reading);
        }
        self.rows.push(row);
    }

    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Tells all of it, which was committed at `arrived` seconds, and forgets it.
    pub fn tell(&mut self, recall: &mut Recall, arrived: f64) {
        let Self { readings, rows, events } = std::mem::take(self);
        for event in &events {
            recall.will_fire(event.fire());
        }
        for ((reading, stamped), Row { leaves, result, .. }) in merged(readings.rows().zip(&rows)) {
            let judged = Judged { reading, stamped, since_boot: arrived, leaves: *leaves };
            match result {
                Some((window, values)) => recall.result(window, *values, judged),
                None => recall.reading(judged),
            }
        }
        for event in &events {
            recall.fired(event.fire());
        }
        recall.next_commit();
    }
}

impl Event {
    fn fire(&self) -> Fire<'_> {
        let Self { rule, sensor, timestamp, about, stamped } = self;
        Fire { rule, sensor, timestamp: *timestamp, about: *about, stamped: *stamped }
    }
}

/// Each lane is in the order of arrival. How the two lie among each other only the readings' own times tell.
fn merged<'g>(all: impl Iterator<Item = Told<'g>>) -> impl Iterator<Item = Told<'g>> {
    let (stays, leaves): (Vec<_>, Vec<_>) = all.partition(|(_, row)| row.lane == Lane::Local);
    let (mut stays, mut leaves) = (stays.into_iter().peekable(), leaves.into_iter().peekable());
    std::iter::from_fn(move || match (stays.peek(), leaves.peek()) {
        (Some(((a, _), _)), Some(((b, _), _))) if b.timestamp < a.timestamp => leaves.next(),
        (Some(_), _) => stays.next(),
        (None, _) => leaves.next(),
    })
}

/// A reading, whether it is stamped, and the rest.
type Told<'g> = ((Reading<'g>, bool), &'g Row);
