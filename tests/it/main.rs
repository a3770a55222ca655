//! The tests that drive the agent's parts from outside, one module per subject.

mod config;
