//! Code objects of a process.
