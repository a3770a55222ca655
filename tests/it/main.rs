//! One binary for all integration tests, a module for each subject.

mod rules_oracle;
