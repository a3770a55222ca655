//! `condition_expr`: Python's expression language over `ctx`, and nothing else.
