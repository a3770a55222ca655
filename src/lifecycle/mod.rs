//! Life as a service: signals, the service manager, named tasks, the watchdog, the state lock
//! and the black box.

pub mod blackbox;
pub mod group;
pub mod hang;
pub mod listen_fds;
pub mod lock;
pub mod memory;
pub mod outcome;
pub mod restart;
pub mod sentinel;
pub mod signals;
pub mod supervisor;
pub mod systemd;
pub mod watchdog;
