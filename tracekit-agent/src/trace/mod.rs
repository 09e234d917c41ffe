//! Messages and their context → spans.

mod actors;
mod attributes;
pub mod context;
pub mod correlator;
pub mod database;
pub mod http;
pub mod peer;
pub mod repeats;
pub mod span;
