//! `cargo xtask vm`: boots Debian's kernels in QEMU and runs the agent's check in each (`tests/vm/check.py`).
//!
//! Processors are emulated (TCG), so that neither KVM nor privilege is needed. The guest's root file system is an
//! initramfs: no disk, no network card, no kernel module. Downloads are kept under `target/vm`.

mod guest;
mod kernel;
mod qemu;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use tracekit_tests::paths;

use self::kernel::{KERNELS, Kernel};
use self::qemu::{Arch, Guest, Report};
use crate::apt::Mirrors;
use crate::setup::{self, Profile, cargo, checked, found, step};

/// Debian packages that the command needs on the host beside apt, dpkg and cargo.
pub const PACKAGES: &[&str] = &["qemu-system-x86", "cpio"];

/// Lines of a failed guest's console that are shown.
const TAIL: usize = 80;

/// Boot Debian's kernels in QEMU and check the agent in each.
#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// A kernel to boot; may be repeated. All if none is given.
    #[arg(long = "kernel", value_name = "KERNEL", value_parser = PossibleValuesParser::new(KERNELS.map(|k| k.name)))]
    kernels: Vec<String>,
    /// Print the kernels and where they come from, and do nothing.
    #[arg(long)]
    list: bool,
    /// After the check leave the guest up with a shell on this terminal; needs exactly one --kernel.
    #[arg(long)]
    keep: bool,
    /// Architecture of the guests. For another than this machine's the agent is cross-compiled.
    #[arg(long, value_enum, default_value_t = Arch::NATIVE)]
    arch: Arch,
    /// Check this binary instead of building one. It must run with the libraries of Debian bookworm.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Root of a Debian mirror, instead of the one that this machine's apt uses.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Guests that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Processors of each guest; they share one of the host's.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u8,
    /// Seconds after which a guest is stopped and counts as failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    timeout: u64,
}

/// Runs the command.
///
/// # Errors
/// If the guests could not be prepared, or the check failed in one.
pub fn run(args: VmArgs) -> Result<()> {
    if args.list {
        for kernel in &KERNELS {
            println!("{:<14} Debian {:<9} {}", kernel.name, kernel.suite, kernel.parameters);
        }
        return Ok(());
    }
    let chosen: Vec<&Kernel> = KERNELS
        .iter()
        .filter(|kernel| args.kernels.is_empty() || args.kernels.iter().any(|name| name == kernel.name))
        .collect();
    require_programs(&args)?;
    let start = Instant::now();
    let bench = Bench {
        root: paths::target().join("vm"),
        mirrors: match &args.mirror {
            Some(url) => Mirrors::at(url),
            None => Mirrors::of_this_machine()?,
        },
        initramfs: PathBuf::new(),
        downloads: Mutex::new(()),
        args: &args,
    };
    fs::create_dir_all(&bench.root).with_context(|| format!("creating {}", bench.root.display()))?;
    let agent = match &args.agent {
        Some(path) => path.clone(),
        None => build_agent(args.arch)?,
    };
    println!("preparing the root file system");
    let scripts = paths::workspace().join("tests/vm");
    let initramfs = guest::initramfs(&bench.root, args.arch, &bench.mirrors, &agent, &scripts)?;
    let bench = Bench { initramfs, ..bench };

    if args.keep {
        let [kernel] = chosen[..] else { bail!("--keep needs exactly one --kernel") };
        return bench.guest(kernel)?.shell();
    }
    summarize(&bench.run_all(&chosen), args.arch, start.elapsed())
}

/// Fails with the command to run if a program that is needed is not installed.
fn require_programs(args: &VmArgs) -> Result<()> {
    let mut needed = vec!["apt-get", "dpkg-deb", "cpio", args.arch.qemu()];
    let native = args.arch == Arch::NATIVE;
    if !native && args.agent.is_none() {
        needed.push(args.arch.cross_compiler());
    }
    let missing: Vec<&str> = needed.into_iter().filter(|program| !found(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = if native { PACKAGES } else { args.arch.cross_packages() };
    bail!(
        "not found: {}; on Debian run `apt-get install --no-install-recommends {}`",
        missing.join(", "),
        packages.join(" ")
    )
}

/// Builds the agent as it is released.
fn build_agent(arch: Arch) -> Result<PathBuf> {
    if arch == Arch::NATIVE {
        return setup::build_agent(Profile::Release);
    }
    step(&format!("build the agent for {}", arch.debian()));
    let triple = arch.target();
    let variable = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
    let mut cargo = cargo(&["build", "--release", "--target", triple]);
    checked(cargo.env(variable, arch.cross_compiler()))
        .with_context(|| format!("building the agent needs `rustup target add {triple}`"))?;
    Ok(paths::target().join(triple).join("release/tracekit"))
}

/// What all guests of a run share.
struct Bench<'a> {
    root: PathBuf,
    mirrors: Mirrors,
    initramfs: PathBuf,
    downloads: Mutex<()>,
    args: &'a VmArgs,
}

/// How the check went under one kernel.
struct Verdict {
    kernel: &'static str,
    /// `None` is success.
    failure: Option<String>,
}

impl Bench<'_> {
    fn guest(&self, kernel: &Kernel) -> Result<Guest> {
        let arch = self.args.arch;
        Ok(Guest {
            arch,
            kernel: {
                // Two kernels may come from one suite, and apt takes one at a time.
                let _turn = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
                kernel.fetch(&self.root, arch, &self.mirrors)?
            },
            parameters: kernel.parameters,
            initramfs: self.initramfs.clone(),
            log: self.root.join(format!("{}-{}.log", kernel.name, arch.debian())),
            cpus: self.args.cpus,
            timeout: Duration::from_secs(self.args.timeout),
        })
    }

    /// Boots every kernel, `jobs` at a time; verdicts come in the order of the kernels.
    fn run_all(&self, kernels: &[&'static Kernel]) -> Vec<Verdict> {
        let next = AtomicUsize::new(0);
        let verdicts = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.args.jobs.clamp(1, kernels.len().max(1)) {
                scope.spawn(|| {
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let started = Instant::now();
                        let outcome = self.guest(kernel).and_then(|guest| guest.boot());
                        let mut done = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                        // Printing under the lock keeps the reports of two guests apart.
                        done.push(show(kernel, outcome, started.elapsed()));
                    }
                });
            }
        });
        let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
        verdicts.sort_by_key(|verdict| kernels.iter().position(|kernel| kernel.name == verdict.kernel));
        verdicts
    }
}

/// Prints what a guest said, and judges it.
fn show(kernel: &Kernel, outcome: Result<Report>, elapsed: Duration) -> Verdict {
    println!("\n---- Linux {} ({:.0} s)", kernel.name, elapsed.as_secs_f64());
    let failure = match outcome {
        Err(error) => Some(format!("{error:#}")),
        Ok(report) => {
            for line in &report.lines {
                println!("  {line}");
            }
            let failure = report.failure();
            // A check that came to its end has said what there is to say.
            if !report.done {
                println!("  last lines of the console:");
                let skip = report.console.len().saturating_sub(TAIL);
                for line in report.console.iter().skip(skip) {
                    println!("  | {line}");
                }
            }
            failure
        }
    };
    if let Some(failure) = &failure {
        println!("  {failure}");
    }
    Verdict { kernel: kernel.name, failure }
}

/// Prints the result as test runners do.
fn summarize(verdicts: &[Verdict], arch: Arch, elapsed: Duration) -> Result<()> {
    println!("\nrunning {} tests", verdicts.len());
    let suffix = if arch == Arch::NATIVE { String::new() } else { format!("_{}", arch.debian()) };
    for verdict in verdicts {
        let result = if verdict.failure.is_none() { "ok" } else { "FAILED" };
        println!("test vm::linux_{}{suffix} ... {result}", verdict.kernel.replace(['.', '-'], "_"));
    }
    let failed = verdicts.iter().filter(|verdict| verdict.failure.is_some()).count();
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {failed} failed; 0 ignored; finished in {:.2}s",
        verdicts.len() - failed,
        elapsed.as_secs_f64()
    );
    if failed > 0 {
        bail!("the check failed under {failed} of {} kernels", verdicts.len());
    }
    Ok(())
}
