//! CPython built from Debian's source in the ways that no package is: free-threaded, and with musl.
//!
//! Compiled without profile-guided optimisation: that changes the code, not the layouts that are read.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tracekit_tests::paths;

use super::{Made, once, strip};
use crate::apt::{Mirrors, Suite};
use crate::command::run;

/// Of the sources that Debian still has whole, the newest: those of 3.14 and 3.15 are not served.
const SUITE: &str = "trixie";
const MINOR: &str = "3.13";

/// Raise it when the builds change.
const RECIPE: &str = "1";

/// Without the tests and pip; faster to compile than a release, and like one otherwise.
const CONFIGURE: &[&str] = &["--quiet", "--without-ensurepip", "--disable-test-modules", "OPT=-O2 -DNDEBUG"];

/// All builds.
pub fn install(directory: &Path) -> Result<Vec<Made>> {
    let free_threaded = directory.join("3.13t-source");
    once(&free_threaded, RECIPE, || build_free_threaded(directory, &free_threaded))?;
    let musl = directory.join("3.13-musl");
    once(&musl, RECIPE, || build_musl(directory, &musl))?;
    remove(&directory.join("build"))?;

    let row = |home: &Path, program: &str, id: &str, build: &[&'static str], how: &str| Made {
        id: id.to_owned(),
        minor: MINOR.to_owned(),
        build: build.iter().chain(&["source"]).copied().collect(),
        python: home.join("bin").join(program),
        root: None,
        how: format!("built from the source of Debian {SUITE}: {how}"),
    };
    Ok(vec![
        row(
            &free_threaded,
            "python3.13t",
            "3.13t-source",
            &["static", "symbols", "freethreaded"],
            "--disable-gil",
        ),
        row(
            &free_threaded,
            "python3.13t-stripped",
            "3.13t-source-stripped",
            &["static", "stripped", "freethreaded"],
            "--disable-gil, then stripped",
        ),
        row(
            &musl,
            "python3.13",
            "3.13-musl",
            &["static", "symbols", "musl"],
            "musl-gcc, all modules in the executable",
        ),
        row(
            &musl,
            "python3.13-stripped",
            "3.13-musl-stripped",
            &["static", "stripped", "musl"],
            "musl-gcc, then stripped",
        ),
        row(
            &musl,
            "python3.13-whole",
            "3.13-musl-whole",
            &["static", "symbols", "musl", "whole"],
            "musl-gcc -static: no loader, no shared object, no dynamic symbols",
        ),
        row(
            &musl,
            "python3.13-whole-stripped",
            "3.13-musl-whole-stripped",
            &["static", "stripped", "musl", "whole"],
            "musl-gcc -static, then stripped: no symbol at all",
        ),
    ])
}

fn build_free_threaded(directory: &Path, prefix: &Path) -> Result<()> {
    let work = directory.join("build/freethreaded");
    configure(directory, &work, prefix, &["--disable-gil"])?;
    make(&work, &["all"])?;
    make(&work, &["altinstall"])?;
    let bin = prefix.join("bin");
    strip(&bin.join("python3.13t"), &bin.join("python3.13t-stripped"))
}

fn build_musl(directory: &Path, prefix: &Path) -> Result<()> {
    let work = directory.join("build/musl");
    let compiler = musl_compiler(&directory.join("build/musl-compiler"))?;
    let options = [
        format!("CC={}", compiler.display()),
        // The machine's libraries are glibc's: what needs one of them is left out, what is left goes into the program.
        "PKG_CONFIG=false".to_owned(),
        "MODULE_BUILDTYPE=static".to_owned(),
        "py_cv_module__ctypes=n/a".to_owned(),
        "py_cv_module__curses=n/a".to_owned(),
        "py_cv_module__curses_panel=n/a".to_owned(),
    ];
    configure(directory, &work, prefix, &options.each_ref().map(String::as_str))?;
    make(&work, &["all"])?;
    make(&work, &["altinstall"])?;
    let (built, bin) = (work.join("python"), prefix.join("bin"));
    strip(&built, &bin.join("python3.13-stripped"))?;
    // The same objects linked once more.
    remove(&built)?;
    make(&work, &["LDFLAGS=-static", "LINKFORSHARED= ", "python"])?;
    fs::copy(&built, bin.join("python3.13-whole")).context("copy the whole python")?;
    strip(&built, &bin.join("python3.13-whole-stripped"))
}

/// `musl-gcc` with the kernel's headers, which it leaves out, and with the name of its platform, which it tells wrongly.
fn musl_compiler(directory: &Path) -> Result<std::path::PathBuf> {
    let include = directory.join("include");
    fs::create_dir_all(&include).with_context(|| format!("create {}", include.display()))?;
    let headers = [
        ("linux", "/usr/include/linux"),
        ("asm-generic", "/usr/include/asm-generic"),
        ("asm", "/usr/include/x86_64-linux-gnu/asm"),
    ];
    for (name, from) in headers {
        let link = include.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(from, &link).with_context(|| format!("link {}", link.display()))?;
        }
    }
    let compiler = directory.join("cc");
    let script = format!(
        "#!/bin/sh\n\
         case $1 in *-print-multiarch) echo x86_64-linux-musl; exit ;; esac\n\
         exec musl-gcc -idirafter '{}' \"$@\"\n",
        include.display()
    );
    fs::write(&compiler, script).with_context(|| format!("write {}", compiler.display()))?;
    run(Command::new("chmod").arg("+x").arg(&compiler))?;
    Ok(compiler)
}

fn configure(directory: &Path, work: &Path, prefix: &Path, options: &[&str]) -> Result<()> {
    let tree = source_tree(directory)?;
    remove(work)?;
    fs::create_dir_all(work).with_context(|| format!("create {}", work.display()))?;
    let mut command = Command::new(tree.join("configure"));
    command.arg(format!("--prefix={}", prefix.display())).args(CONFIGURE).args(options);
    run(command.current_dir(work))
}

/// The source, downloaded and unpacked if it isn't.
fn source_tree(directory: &Path) -> Result<std::path::PathBuf> {
    let tree = directory.join("build/cpython");
    if tree.join("configure").is_file() {
        return Ok(tree);
    }
    remove(&tree)?;
    let suite = Suite::open_sources(&paths::target().join("vm"), SUITE, &Mirrors::of_this_machine()?)?;
    let tarball = suite.download_source("python3.13", &directory.join("build/download"))?;
    fs::create_dir_all(&tree).with_context(|| format!("create {}", tree.display()))?;
    run(Command::new("tar").arg("-xf").arg(&tarball).arg("--strip-components=1").arg("-C").arg(&tree))?;
    Ok(tree)
}

/// Runs make out of the way of everything else on the machine.
fn make(work: &Path, arguments: &[&str]) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = Command::new("nice");
    command.args(["-n", "15", "make", "--silent"]).arg(format!("--jobs={jobs}")).args(arguments);
    run(command.current_dir(work))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
