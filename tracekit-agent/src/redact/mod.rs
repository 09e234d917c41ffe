//! What must not leave the agent.

pub mod url;
