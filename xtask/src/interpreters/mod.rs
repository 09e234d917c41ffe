//! `cargo xtask interpreters`: every CPython that the reader is tested on, below `target/interpreters`.
//!
//! They come from three places, all reached through the machine's apt or there already: Debian's packages of four
//! releases ([`debian`]), the installations of pyenv ([`pyenv`]), and Debian's source of CPython built in the ways that
//! no package is ([`source`]). Each leaves a stamp: what is there is not made again, and needs no network. Remove a
//! directory to have it made anew.

mod debian;
mod pyenv;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tracekit_tests::interpreters::{Interpreter, directory, installed};
use tracekit_tests::paths;

use crate::setup::{install_packages, step};
use tracekit_tests::process::run as run_command;

/// What the compilations need.
const PACKAGES: &[&str] = &[
    "binutils",
    "gcc",
    "libbz2-dev",
    "libc6-dev",
    "libffi-dev",
    "liblzma-dev",
    "libsqlite3-dev",
    "libssl-dev",
    "linux-libc-dev",
    "make",
    "musl-tools",
    "util-linux",
    "xz-utils",
    "zlib1g-dev",
];

/// The compiler of the machine.
const GCC: &str = "gcc";

/// Program for a libpython that comes without one.
const MAIN: &str = include_str!("main.c");

/// What each interpreter is asked when it is new.
const ASK: &str = "import sys, sysconfig\n\
    v = sys.version_info\n\
    level = {'alpha': 'a', 'beta': 'b', 'candidate': 'rc', 'final': ''}[v.releaselevel]\n\
    print('%d.%d.%d%s%s' % (v[:3] + (level, v.serial if level else '')), end=' ')\n\
    print(1 if sysconfig.get_config_var('Py_GIL_DISABLED') else 0)";

/// Which interpreters.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print those that are installed, install nothing.
    #[arg(long)]
    list: bool,
}

/// An interpreter that has been made, before it is asked for its version.
#[derive(Debug)]
struct Made {
    id: String,
    minor: String,
    build: Vec<&'static str>,
    python: PathBuf,
    root: Option<PathBuf>,
    how: String,
}

/// Installs or lists them.
///
/// # Errors
/// As of [`install`]; with `--list`, there is no manifest.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.list {
        install()?;
    }
    for interpreter in installed()? {
        println!(
            "{:<28} {:<8} {:<38} {}",
            interpreter.id,
            interpreter.version,
            interpreter.build.join(", "),
            interpreter.python.display()
        );
    }
    Ok(())
}

/// Installs what is missing, runs each that is new, and writes the manifest.
///
/// # Errors
/// A download or a compilation failed, or an interpreter does not run or is not the one that it should be. What cannot be
/// had on this machine (no pyenv) is no error: a line on standard error says so.
pub fn install() -> Result<()> {
    install_packages(&PACKAGES.iter().copied().collect::<BTreeSet<_>>())?;
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let known = installed().unwrap_or_default();
    let mut manifest: Vec<Interpreter> = Vec::new();
    for make in [pyenv::install, debian::install, source::install] {
        for made in make(&directory)? {
            manifest.push(checked(made, &known)?);
            // Written each time: what follows may take minutes, and be broken off.
            write_manifest(&directory, &manifest, &known)?;
        }
    }
    write_manifest(&directory, &manifest, &[])
}

/// The interpreters made so far, and those of an earlier run that are yet to come.
fn write_manifest(directory: &Path, made: &[Interpreter], known: &[Interpreter]) -> Result<()> {
    let mut all = made.to_vec();
    all.extend(known.iter().filter(|old| made.iter().all(|new| new.id != old.id)).cloned());
    let path = directory.join("manifest.json");
    let text = serde_json::to_string_pretty(&all).context("write the manifest as JSON")?;
    fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// The row of an interpreter: as it is known, or else by running it.
fn checked(made: Made, known: &[Interpreter]) -> Result<Interpreter> {
    let mut row = Interpreter {
        id: made.id,
        version: made.minor,
        build: made.build.into_iter().map(str::to_owned).collect(),
        python: in_repository(&made.python),
        root: made.root.as_deref().map(in_repository),
        how: made.how,
    };
    if let Some(old) = known.iter().find(|old| old.id == row.id && old.minor() == row.version) {
        row.version.clone_from(&old.version);
        return Ok(row);
    }
    let told = run_command(row.command().args(["-I", "-c", ASK]))
        .with_context(|| format!("the interpreter {} at {} does not run", row.id, row.python.display()))?;
    let (version, free_threaded) = told.trim().split_once(' ').unwrap_or((told.trim(), "0"));
    let minor = std::mem::replace(&mut row.version, version.to_owned());
    if row.minor() != minor {
        bail!("the interpreter {} says that it is {version}, not {minor}", row.id);
    }
    if (free_threaded == "1") != row.is("freethreaded") {
        bail!("the interpreter {} says Py_GIL_DISABLED={free_threaded}", row.id);
    }
    Ok(row)
}

fn in_repository(path: &Path) -> PathBuf {
    path.strip_prefix(paths::workspace()).unwrap_or(path).to_owned()
}

/// Fills `directory` with `make` unless a run before this one has done so from the same `recipe`.
fn once(directory: &Path, recipe: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = directory.join(".made");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(());
    }
    step(&format!("make {}", in_repository(directory).display()));
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    make()?;
    fs::write(&stamp, recipe).with_context(|| format!("write {}", stamp.display()))
}

/// Compiles a `python` around a libpython: `library` is a `.a` or a `.so`, `options` are the compiler's.
fn link(compiler: &Path, python: &Path, library: &Path, options: &[&str]) -> Result<()> {
    let bin = python.parent().context("a program is in a directory")?;
    fs::create_dir_all(bin).with_context(|| format!("create {}", bin.display()))?;
    let main = bin.join("main.c");
    fs::write(&main, MAIN).with_context(|| format!("write {}", main.display()))?;
    let mut command = Command::new(compiler);
    // As CPython's own link does, with all objects of an archive: extension modules need them.
    command.args(["-O2", "-o"]).arg(python).arg(&main).arg("-Wl,--whole-archive").arg(library);
    command.arg("-Wl,--no-whole-archive").args(options);
    run_command(&mut command).with_context(|| format!("link {}", python.display()))?;
    fs::remove_file(&main).with_context(|| format!("remove {}", main.display()))
}

/// `to` is `from` without symbol table and debugging information, as packages ship it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a program is in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    run_command(Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(from)).map(drop)
}
