//! The real parts put together, over real sockets and files; one module per subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails; clippy knows only #[test] functions")]

mod health;
mod socket_activation;
