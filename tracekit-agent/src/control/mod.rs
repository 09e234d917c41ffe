//! The control of a running agent.
