//! Breakpoints and what they capture. `engine` arms lines and turns hits into values.

pub mod engine;
