//! The agent of tracekit: see `docs/architecture.md` for how data flows through these modules.

pub mod discovery;
pub mod doctor;
pub mod exit;
pub mod trace;
