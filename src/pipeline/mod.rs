//! What happens to a reading between its source and the store, in order: validation, the privacy
//! firewall, windows, rules, encoding.

pub mod expr;
pub mod rule;
pub mod window;
