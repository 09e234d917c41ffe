//! The agent of tracekit: see `docs/architecture.md` for how data flows through these modules.

pub mod export;
pub mod trace;
