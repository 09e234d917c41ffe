//! Every chore of this repository.

mod vm;

use clap::Parser;

#[derive(Debug, Parser)]
enum Chore {
    Vm(vm::VmArgs),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Vm(args) => vm::run(args),
    }
}
