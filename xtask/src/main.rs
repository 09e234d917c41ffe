//! Every chore of this repository, one subcommand a file.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;

mod build_ebpf;

#[derive(Debug, Parser)]
enum Xtask {
    /// Build the kernel object, or check the committed one.
    BuildEbpf(build_ebpf::BuildEbpfArgs),
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the repository")?;
    match Xtask::parse() {
        Xtask::BuildEbpf(args) => build_ebpf::run(root, &args),
    }
}
