//! Metrics made from spans ([`red`]) and about the agent itself ([`counters`]).

pub mod counters;
pub mod red;
