//! What must not leave the agent.

pub mod names;
pub mod url;
