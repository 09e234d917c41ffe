//! The agent of tracekit: see `docs/architecture.md` for how data flows through these modules.

pub mod agent;
pub mod cli;
pub mod discovery;
pub mod doctor;
pub mod exit;
pub mod export;
pub mod net;
pub mod probes;
pub mod python;
pub mod redact;
pub mod snapshot;
pub mod trace;
