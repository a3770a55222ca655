//! The tests that drive the agent's parts from outside, one module per subject.
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod config;
