//! The running actions: started, replaced by a reload, ended by starvation.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Doors, Needs, QUEUE_MAX};
use super::runner::Runner;
use super::{Settings, Status};
use crate::lifecycle::restart::RestartPolicy;
use crate::lifecycle::supervisor::Supervisor;
use crate::upload::proxy::Environment;

/// What actions are told of where they run.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Part of the name under which a broker knows an action.
    pub device_id: String,
    /// The proxies of the system.
    pub proxies: Environment,
}

/// All actions that run.
pub struct Actions {
    surroundings: Surroundings,
    /// Bytes of events that wait, of all together.
    room: Arc<Semaphore>,
    /// Ends them soon, also those that hang.
    stop: CancellationToken,
    running: Vec<(Settings, Door)>,
}

impl Actions {
    /// None yet. Events of all together take `bytes_max` at most.
    pub fn new(surroundings: Surroundings, bytes_max: usize, stop: CancellationToken) -> Self {
        Self { surroundings, room: Arc::new(Semaphore::new(bytes_max)), stop, running: Vec::new() }
    }

    /// Goes over to `settings`, and returns the doors to them. What is the same goes on; what is gone or changed
    /// finishes the events that it has, and ends once nobody holds its door any more.
    pub fn replace(&mut self, supervisor: &mut Supervisor, settings: &[Settings]) -> Doors {
        let old = std::mem::take(&mut self.running);
        let mut doors = Doors::default();
        for settings in settings {
            let same = old.iter().find(|(before, _)| before == settings).map(|(_, door)| door.clone());
            let door = same.unwrap_or_else(|| {
                let before = old.iter().find(|(before, _)| before.name == settings.name);
                self.start(supervisor, settings, before.map(|(_, door)| door.status.clone()))
            });
            doors.insert(settings.name.clone(), door.clone());
            self.running.push((settings.clone(), door));
        }
        doors
    }

    pub fn statuses(&self) -> Vec<Arc<Status>> {
        self.running.iter().map(|(_, door)| door.status.clone()).collect()
    }

    /// `before` is what was counted of one of the same name.
    fn start(&self, supervisor: &mut Supervisor, settings: &Settings, before: Option<Arc<Status>>) -> Door {
        let (queue, due) = mpsc::channel(QUEUE_MAX);
        let kind = settings.kind.name();
        let new = || Arc::new(Status { name: settings.name.clone(), kind, ..Status::default() });
        let status = before.filter(|before| before.kind == kind).unwrap_or_else(new);
        let runner =
            Runner::new(settings.clone(), self.surroundings.clone(), status.clone(), self.stop.clone());
        // After a panic the next run goes on with what waits.
        let both = Arc::new(Mutex::new((runner, due)));
        let factory = move || {
            let both = both.clone();
            async move {
                let (runner, due) = &mut *both.lock().await;
                runner.run(due).await;
                Ok::<_, std::convert::Infallible>(())
            }
        };
        let task = format!("action {}", settings.name);
        supervisor.spawn_restarting(task, factory, RestartPolicy::default(), self.stop.clone(), |_, _| {});
        Door { queue, status, needs: Needs::of(settings), room: self.room.clone() }
    }
}
