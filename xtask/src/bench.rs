//! `cargo xtask bench`
use anyhow::Result;
/// Benchmarks.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// What tracing costs the application
    Overhead,
}
/// .
pub fn run(_bench: &Bench) -> Result<()> {
    Ok(())
}
