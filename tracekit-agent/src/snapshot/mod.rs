//! Breakpoints and what they capture.

pub mod expression;
