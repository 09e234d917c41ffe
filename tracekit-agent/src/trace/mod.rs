//! Messages and their context → spans.

mod actors;
mod attributes;
pub mod context;
pub mod correlator;
pub mod database;
pub mod existing;
pub mod http;
pub mod joined;
pub mod peer;
pub mod repeats;
pub mod span;
