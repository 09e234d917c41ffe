//! A corpus of secrets of which none survives, one of ordinary data of which all does, and properties.

mod ordinary;
mod properties;
mod secrets;
mod values;
