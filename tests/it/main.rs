//! The integration tests: one binary, a module per subject.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report, in its helpers too")]

mod harness;
mod upload;
