//! The stage for end-to-end tests: real servers, unmodified applications, the agent, a collector, and a client
//! that sends requests. `xtask demo` and `xtask bench` use it too.
//!
//! Everything that is started here runs in a process group of its own, writes its output to a file under
//! `target/e2e/<stage>/`, and is ended when its value is dropped.

pub mod agent;
pub mod app;
pub mod certificates;
pub mod client;
pub mod collector;
pub mod compare;
pub mod debug_registers;
pub mod debugger;
pub mod interpreters;
pub mod kernel;
pub mod lines;
pub mod load;
pub mod parents;
pub mod paths;
pub mod process;
pub mod servers;
pub mod span;
pub mod stage;
pub mod traffic;
pub mod witness;
pub mod work;
