//! `cargo xtask setup`: installs what is missing, and is done in a moment when nothing is.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tracekit_tests::interpreters::installed;
use tracekit_tests::paths;

use crate::vm;

/// What to install.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what the demo and the benchmarks need: servers and virtual environments. Not the interpreters of
    /// `cargo xtask interpreters` (some 250 MB of downloads and, at the first time, five minutes of compiling), and
    /// not what `build-ebpf` (a compiler for the BPF target, LLVM, bpf-linker) and `vm` (QEMU, cpio) need.
    #[arg(long)]
    minimal: bool,
}

/// How much to install.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What the demo and the benchmarks need.
    Minimal,
    /// What all tests need too: the interpreters.
    Tests,
    /// What every chore needs.
    Everything,
}

/// Packages of the servers, the load generator and the interpreter of the end-to-end tests.
const TEST_PACKAGES: &[&str] =
    &["postgresql", "mariadb-server", "redis-server", "wrk", "python3-venv", "bpftool", "util-linux"];

/// Debian's Rust for the kernel object where there is no nightly with `rust-src`, and LLVM for bpf-linker.
const EBPF_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "zlib1g-dev"];

/// What the applications under test run on.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

const BPF_LINKER: &str = "0.13.0";

/// Installs what is missing.
///
/// # Errors
/// As of [`install`].
pub fn run(arguments: &Arguments) -> Result<()> {
    install(if arguments.minimal { Extent::Minimal } else { Extent::Everything })
}

/// Installs what is missing.
///
/// # Errors
/// An installation failed, or needs root; the message has the command.
pub fn install(extent: Extent) -> Result<()> {
    let mut packages: BTreeSet<&str> = TEST_PACKAGES.iter().copied().collect();
    if extent == Extent::Everything {
        packages.extend(EBPF_PACKAGES);
        packages.extend(vm::PACKAGES);
    }
    install_packages(&packages)?;
    if extent == Extent::Everything {
        install_bpf_linker()?;
    }
    if extent >= Extent::Tests {
        crate::interpreters::install()?;
    }
    make_virtual_environments(extent)
}

/// Installs those of these Debian packages that are missing.
///
/// # Errors
/// An installation failed, or needs root; the message has the command.
pub fn install_packages(packages: &BTreeSet<&str>) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !found("apt-get") {
        bail!("these Debian packages (or what your system calls them) are missing: {}", missing.join(" "));
    }
    // SAFETY: geteuid has no arguments and always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        bail!("Debian packages are missing; run this first:\n  sudo apt-get update && sudo {command}");
    }
    step(&format!("install {}", missing.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // The tests start servers of their own: the packages' services stay off.
        command.env("RUNLEVEL", "1");
        checked(&mut command)
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

fn is_installed(package: &str) -> bool {
    let status = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    status.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn install_bpf_linker() -> Result<()> {
    let version = Command::new("bpf-linker").arg("--version").stderr(Stdio::null()).output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(BPF_LINKER)) {
        return Ok(());
    }
    step(&format!("build bpf-linker {BPF_LINKER} (a minute or two)"));
    let mut command = Command::new("cargo");
    command.args(["install", "bpf-linker", "--version", BPF_LINKER]);
    command.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", "/usr/lib/llvm-22");
    checked(&mut command)
}

/// One environment for every `tests/requirements/*.txt`; made anew when the file changes. A file that begins with
/// `# interpreter: ID` is for that row of the interpreters' manifest.
fn make_virtual_environments(extent: Extent) -> Result<()> {
    let directory = paths::workspace().join("tests/requirements");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let known = if extent >= Extent::Tests { installed()? } else { Vec::new() };
    for file in files {
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else { continue };
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        match text.lines().find_map(|line| line.strip_prefix("# interpreter: ")) {
            None => make_virtual_environment(name, &file, Path::new(SYSTEM_PYTHON))?,
            Some(_) if extent < Extent::Tests => {}
            // Where pyenv lacks a version, the manifest lacks it too, and has said so.
            Some(id) => {
                if let Some(interpreter) = known.iter().find(|interpreter| interpreter.id == id) {
                    let python = paths::workspace().join(&interpreter.python);
                    make_virtual_environment(name, &file, &python)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes the virtual environment `name` of this interpreter, anew when the requirements or the interpreter change.
///
/// # Errors
/// An installation failed.
pub fn make_virtual_environment(name: &str, requirements: &Path, python: &Path) -> Result<()> {
    let directory = paths::target().join("venvs").join(name);
    let stamp = directory.join("requirements.hash");
    let hash = requirements_hash(requirements, python)?;
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == hash) {
        return Ok(());
    }
    step(&format!("make the virtual environment {name}"));
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    checked(Command::new(python).args(["-m", "venv"]).arg(&directory))?;
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"]);
    checked(pip.arg(requirements))?;
    std::fs::write(&stamp, hash).with_context(|| format!("write {}", stamp.display()))
}

/// Of the file, those that it includes with `-r`, and the interpreter.
fn requirements_hash(requirements: &Path, python: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let text =
        std::fs::read_to_string(requirements).with_context(|| format!("read {}", requirements.display()))?;
    text.hash(&mut hasher);
    for included in text.lines().filter_map(|line| line.strip_prefix("-r ")) {
        std::fs::read_to_string(requirements.with_file_name(included.trim()))
            .with_context(|| format!("read {included}, included by {}", requirements.display()))?
            .hash(&mut hasher);
    }
    std::fs::canonicalize(python).with_context(|| format!("find {}", python.display()))?.hash(&mut hasher);
    Ok(format!("{:016x}\n", hasher.finish()))
}

/// Whether a program is in `PATH`.
#[must_use]
pub fn found(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()))
}

/// Says on standard error what is being done.
pub fn step(what: &str) {
    eprintln!("\x1b[1m==> {what}\x1b[0m");
}

/// Runs a command in the foreground.
///
/// # Errors
/// It cannot be started or fails.
pub fn checked(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// `cargo` in the workspace.
#[must_use]
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(paths::workspace());
    command
}

/// How the agent is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// As it is developed: for work on a benchmark.
    Dev,
    /// As a user builds it.
    Release,
    /// As packages are built: slower to build, faster to run.
    Dist,
}

impl Profile {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }

    /// What it builds is in this directory of cargo's target directory.
    #[must_use]
    pub fn directory(self) -> &'static str {
        if self == Self::Dev { "debug" } else { self.name() }
    }
}

/// Builds the agent and gives its path.
///
/// # Errors
/// It does not build.
pub fn build_agent(profile: Profile) -> Result<PathBuf> {
    step("build the agent");
    checked(&mut cargo(&["build", "--profile", profile.name(), "--quiet"]))?;
    Ok(paths::target().join(profile.directory()).join("tracekit"))
}
