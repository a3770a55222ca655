//! The first half of a start: until the store is open the agent answers, can be stopped, and takes nothing in.

use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::front::Front;
use super::opening::Opened;
use super::place::Place;
use super::reload::{Successor, configured, note, outcomes};
use super::stop::Tasks;
use super::{waiting, witness};
use crate::config::{LoadOptions, Loaded};
use crate::health::view::Configured;
use crate::lifecycle::blackbox::What;
use crate::lifecycle::outcome::Outcomes;
use crate::lifecycle::watchdog::Watchdog;
use crate::logging;
use crate::privacy::HashKey;

/// What a start has in hand.
pub struct Startup<'s> {
    pub loaded: Loaded,
    pub options: &'s LoadOptions,
    pub log: &'s logging::Handle,
    pub place: &'s Arc<Place>,
    pub front: &'s Front,
    pub stop: &'s CancellationToken,
    pub reload: &'s Notify,
}

impl Startup<'_> {
    /// Waits until the store is open; `None` when the agent was told to stop before. `signals` are served meanwhile. From
    /// here on the health page is served.
    ///
    /// # Errors
    ///
    /// A person has to put something right before the agent can start, or a part it cannot be without failed.
    pub async fn until_open(
        &mut self,
        watchdog: Watchdog,
        tasks: &mut Tasks,
        mut signals: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<Option<Opened>> {
        let (front, reload) = (self.front, self.reload);
        let retry = Notify::new();
        let settings = self.loaded.config.store.clone();
        let mut opening = pin!(waiting::open(self.place.clone(), settings, front, &retry));
        let mut fed = pin!(front.keep_alive(watchdog, tasks.egress.clone()));
        let mut wanted = pin!(front.is_wanted());
        let mut is_served = false;
        let mut outcomes = outcomes(&self.loaded);
        let opened = loop {
            tokio::select! {
                () = signals.as_mut() => {}
                () = self.stop.cancelled() => return Ok(None),
                opened = &mut opening => break opened?,
                () = &mut wanted, if !is_served => {
                    front.serve(&mut tasks.outbound, &self.loaded.config, tasks.egress.clone())?;
                    is_served = true;
                }
                () = async { front.until_held().await; reload.notified().await } => {
                    self.reload(&mut outcomes);
                    retry.notify_one();
                }
                error = tasks.failed() => return Err(error),
                () = &mut fed => {}
            }
        };
        if !is_served {
            front.serve(&mut tasks.outbound, &self.loaded.config, tasks.egress.clone())?;
        }
        Ok(Some(opened))
    }

    /// Loads the configuration anew for the start that is to come, or keeps the one there is and says why.
    fn reload(&mut self, outcomes: &mut Outcomes) {
        self.front.notifier.reloading();
        // The plan is only tried; there may be no key to be had yet.
        let no_key = HashKey::new(&[]);
        let applied =
            Successor::load(&self.loaded.config, self.options, no_key).map(|Successor { loaded, .. }| {
                self.log.reload(loaded.config.logging);
                self.loaded = loaded;
                tracing::info!("reloaded before the store is open; that is tried again now");
            });
        let refused = match &applied {
            Ok(()) => {
                self.place.blackbox.record(What::Reloaded, "");
                ""
            }
            Err(error) => {
                self.place.blackbox.record(What::ReloadRefused, &witness::refusal(error));
                "; the last reload was refused"
            }
        };
        let last_reload = Some(note(outcomes, &applied));
        let configured = Configured { last_reload, ..configured(&self.loaded, Vec::new(), Vec::new()) };
        self.front.configured.send_replace(configured);
        self.front.notifier.ready(&format!("{}{refused}", self.front.status()));
    }
}
