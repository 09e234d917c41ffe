//! Breakpoints and what they capture: what is wanted, what is armed, what was seen.
//!
//! [`registry`] holds what users and control servers want; the [`debugger`] asks it for the
//! desired set and reports states and hits back. [`expression`] is the language of conditions, watch expressions
//! and log templates, [`limits`] says how much may be captured, [`record`] what a capture is, [`store`] keeps
//! the recent ones, [`outlet`] hands them out, and [`persist`] keeps the breakpoints over a restart of the agent.

pub mod breakpoint;
pub mod debugger;
pub mod engine;
pub mod expression;
pub mod language;
pub mod limits;
pub mod locate;
pub mod outlet;
pub mod persist;
pub mod record;
pub mod registry;
pub mod state;
pub mod store;
