//! What others see of the agent from its start to its end: the health page and what the service manager is told.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Loaded};
use crate::health::host::Host;
use crate::health::server;
use crate::health::view::{Configured, Phase, View};
use crate::health::wear::Wear;
use crate::lifecycle::listen_fds::take_listeners;
use crate::lifecycle::memory::Memory;
use crate::lifecycle::supervisor::Supervisor;
use crate::lifecycle::systemd::{self, Notifier};
use crate::lifecycle::watchdog::{Progress, Watchdog};
use crate::store::Trouble;

use super::reload::configured;

/// A start that takes no longer shows itself only when it is complete.
const PROMPT: Duration = Duration::from_secs(1);

/// The one thing that is there before the store is.
pub struct Front {
    pub notifier: Notifier,
    pub phase: watch::Sender<Phase>,
    pub configured: watch::Sender<Configured>,
    /// Moves while the store is being opened.
    pub opening: Arc<Progress>,
    /// Moves while the health page is served.
    pub serving: Arc<Progress>,
    /// What the health page shows, replaced once there is more to show.
    views: watch::Sender<Arc<View>>,
}

impl Front {
    /// Of a start with `loaded` at `started_at` on the boot clock; nobody is told anything yet. The watchdog is for
    /// [`Self::keep_alive`].
    pub fn new(loaded: &Loaded, memory: Memory, started_at: Duration) -> (Self, Watchdog) {
        let notifier = Notifier::from_env();
        let opening = Arc::new(Progress::default());
        let checks = vec![("opening of the store", opening.clone())];
        let watchdog = Watchdog::new(notifier.clone(), systemd::watchdog_interval(), checks);
        let phase = watch::Sender::new(Phase::Starting("the store"));
        let configured = watch::Sender::new(configured(loaded, Vec::new(), Vec::new()));
        let view = View {
            started_at,
            phase: phase.subscribe(),
            configured: configured.subscribe(),
            verdict: watchdog.verdict.subscribe(),
            pipeline: Arc::default(),
            privacy: Arc::default(),
            store: Arc::default(),
            delivery: Arc::default(),
            previous: None,
            wear: Arc::new(Wear::new(loaded.config.wear, None, Arc::default(), started_at)),
            host: Arc::new(Host::new(loaded.config.store.state_dir.clone())),
            memory,
        };
        let views = watch::Sender::new(Arc::new(view));
        (Self { notifier, phase, configured, opening, serving: Arc::default(), views }, watchdog)
    }

    /// What the health page shows now.
    pub fn view(&self) -> View {
        View::clone(&self.views.borrow())
    }

    /// Replaces it.
    pub fn show(&self, view: View) {
        self.views.send_replace(Arc::new(view));
    }

    /// The start waits for the store: the service manager hears that the agent is up all the same, or it would end it.
    pub fn hold(&self, trouble: Trouble, reason: String) {
        self.views.borrow().store.set_trouble(Some(trouble));
        let was_held = self.is_held();
        let phase = Phase::Held("the store", reason);
        if *self.phase.borrow() == phase {
            return;
        }
        self.phase.send_replace(phase);
        if was_held {
            self.notifier.status(&self.status());
        } else {
            self.notifier.ready(&self.status());
        }
    }

    pub fn is_held(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Held(..))
    }

    /// The STATUS line of `systemctl status`, before the agent runs.
    pub fn status(&self) -> String {
        match &*self.phase.borrow() {
            Phase::Held(waits_for, reason) => format!("waits for {waits_for} and tries again: {reason}"),
            _ => "starting".to_owned(),
        }
    }

    /// Waits until the start is held.
    pub async fn until_held(&self) {
        let mut phase = self.phase.subscribe();
        phase.wait_for(|phase| matches!(phase, Phase::Held(..))).await.expect("the sender is ours");
    }

    /// Waits until somebody wants to see something: the start is held, or takes long.
    pub async fn is_wanted(&self) {
        // Either way.
        timeout(PROMPT, self.until_held()).await.ok();
    }

    /// Feeds the service manager's watchdog while the start is held and the attempts to open the store move.
    pub async fn keep_alive(&self, watchdog: Watchdog, stop: CancellationToken) {
        self.until_held().await;
        watchdog.run(|| async { true }, stop).await;
    }

    /// Serves the health page: on the socket that systemd holds open, or on one that is bound as configured.
    ///
    /// # Errors
    ///
    /// What the service manager hands over is no socket to listen on.
    pub fn serve(
        &self,
        supervisor: &mut Supervisor,
        config: &Config,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut handed_over = take_listeners()?;
        if !config.health.enabled {
            if !handed_over.is_empty() {
                tracing::warn!(
                    "health.enabled is false, but a socket unit holds the port of the health page: who asks there waits \
                     in vain; disable the unit (systemctl disable --now pyvorin-edge.socket)"
                );
            }
            return Ok(());
        }
        let settings = config.health.clone();
        let listener = handed_over.pop().map(|named| TcpListener::from_std(named.listener)).transpose();
        let listener = listener.context("cannot listen on the socket of the service manager")?;
        let (views, serving) = (self.views.subscribe(), self.serving.clone());
        let bound = listener.map_or_else(|| server::bind(&settings), Ok);
        supervisor.spawn("health server", async move {
            let listener = match bound {
                Ok(listener) => Some(listener),
                Err(error) => server::bind_retrying(&settings, error, &stop).await,
            };
            if let Some(listener) = listener {
                server::serve(listener, views, &serving, stop).await;
            }
            anyhow::Ok(())
        });
        Ok(())
    }
}
