//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads, and who asks twice to stop is not kept waiting.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The installed handlers. From [`Signals::install`] on no signal is lost, run or not.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Installs the handlers. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The kernel or the runtime refuses; the agent cannot be stopped properly and should not start.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Serves signals until the process ends. The first SIGTERM or SIGINT cancels `stop`; a second
    /// one exits at once by calling `exit` with 143 or 130, because a person who asks twice has
    /// decided that the drain takes too long; what is committed is safe either way. SIGHUP notifies
    /// `reload`; requests that arrive during a reload become one.
    pub async fn run(mut self, stop: CancellationToken, reload: &Notify, exit: impl Fn(i32)) {
        loop {
            // A handler that is gone yields None for ever; without signals there is nothing to do.
            let received = tokio::select! {
                Some(()) = self.terminate.recv() => Received::Terminate,
                Some(()) = self.interrupt.recv() => Received::Interrupt,
                Some(()) = self.hang_up.recv() => Received::HangUp,
                else => std::future::pending().await,
            };
            match decide(received, stop.is_cancelled()) {
                Act::Stop => {
                    tracing::info!(signal = received.name(), "the agent stops on request");
                    stop.cancel();
                }
                Act::Reload => {
                    tracing::info!("a reload was requested");
                    reload.notify_one();
                }
                Act::Exit(code) => {
                    tracing::warn!(signal = received.name(), "asked to stop again; the agent exits at once");
                    exit(code);
                }
                Act::Ignore => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Received {
    Terminate,
    Interrupt,
    HangUp,
}

impl Received {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HangUp => "SIGHUP",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Act {
    Stop,
    Reload,
    /// With 128 and the signal's number, as a shell reports a death by signal.
    Exit(i32),
    Ignore,
}

fn decide(received: Received, stopping: bool) -> Act {
    match (received, stopping) {
        (Received::Terminate | Received::Interrupt, false) => Act::Stop,
        (Received::Terminate, true) => Act::Exit(128 + libc::SIGTERM),
        (Received::Interrupt, true) => Act::Exit(128 + libc::SIGINT),
        (Received::HangUp, false) => Act::Reload,
        (Received::HangUp, true) => Act::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::process::{Signal as Raised, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_second_request_to_stop_exits_with_the_code_of_its_signal() {
        assert_eq!(decide(Received::Interrupt, true), Act::Exit(130));
        assert_eq!(decide(Received::Terminate, true), Act::Exit(143));
        assert_eq!(decide(Received::HangUp, true), Act::Ignore);
    }

    // The only unit test that raises signals: they reach the whole process.
    #[tokio::test]
    async fn real_signals_reload_then_stop_then_exit() {
        let signals = Signals::install().unwrap();
        let stop = CancellationToken::new();
        let reload = Arc::new(Notify::new());
        let (codes, mut exits) = tokio::sync::mpsc::channel(1);
        let mut tasks = tokio::task::JoinSet::new();
        let (token, request) = (stop.clone(), reload.clone());
        tasks.spawn(async move { signals.run(token, &request, |code| codes.try_send(code).unwrap()).await });

        let bound = Duration::from_secs(10);
        kill_process(getpid(), Raised::HUP).unwrap();
        timeout(bound, reload.notified()).await.unwrap();
        assert!(!stop.is_cancelled());
        kill_process(getpid(), Raised::TERM).unwrap();
        timeout(bound, stop.cancelled()).await.unwrap();
        kill_process(getpid(), Raised::INT).unwrap();
        assert_eq!(timeout(bound, exits.recv()).await.unwrap(), Some(130));
    }
}
