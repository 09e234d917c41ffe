//! Messages and their context → spans.

pub mod span;
