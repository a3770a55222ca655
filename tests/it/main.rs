//! The real parts put together, over real sockets and files; one module per subject.

mod health;
mod socket_activation;
