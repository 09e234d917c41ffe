//! CPython built from Debian's source in the ways that no package is: free-threaded, and with musl.
//!
//! Compiled without profile-guided optimisation: that changes the code, not the layouts that are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tracekit_tests::paths;

use super::{Made, link, once, strip};
use crate::apt::{Mirrors, Suite};
use tracekit_tests::process::run;

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

    let row = |id: &str, python: PathBuf, build: &[&'static str], how: &str| Made {
        id: id.to_owned(),
        minor: MINOR.to_owned(),
        build: build.iter().chain(&["source"]).copied().collect(),
        python,
        root: None,
        how: format!("built from the source of Debian {SUITE}: {how}"),
    };
    let mut made = vec![
        row(
            "3.13t-source",
            free_threaded.join("bin/python3.13t"),
            &["static", "symbols", "freethreaded"],
            "--disable-gil",
        ),
        row(
            "3.13t-source-stripped",
            free_threaded.join("stripped/bin/python3.13t"),
            &["static", "stripped", "freethreaded"],
            "--disable-gil, then stripped",
        ),
    ];
    let musl_builds: [(&str, &str, &[&'static str], &str); 6] = [
        ("", "", &["shared", "symbols", "musl"], "musl-gcc, --enable-shared"),
        (
            "-stripped",
            "stripped",
            &["shared", "stripped", "musl"],
            "musl-gcc, --enable-shared, then stripped",
        ),
        ("-static", "static", &["static", "symbols", "musl"], "musl-gcc"),
        ("-static-stripped", "static-stripped", &["static", "stripped", "musl"], "musl-gcc, then stripped"),
        (
            "-whole",
            "whole",
            &["static", "symbols", "musl", "whole"],
            "musl-gcc -static: no loader, no shared object, no dynamic symbols",
        ),
        (
            "-whole-stripped",
            "whole-stripped",
            &["static", "stripped", "musl", "whole"],
            "musl-gcc -static, then stripped: no symbol at all",
        ),
    ];
    made.extend(musl_builds.map(|(suffix, below, build, how)| {
        row(&format!("3.13-musl{suffix}"), musl.join(below).join("bin/python3.13"), build, how)
    }));
    Ok(made)
}

fn build_free_threaded(directory: &Path, prefix: &Path) -> Result<()> {
    let work = directory.join("build/freethreaded");
    configure(directory, &work, prefix, &["--disable-gil"])?;
    make(&work, &["all"])?;
    make(&work, &["altinstall"])?;
    strip(&prefix.join("bin/python3.13t"), &prefix.join("stripped/bin/python3.13t"))
}

fn build_musl(directory: &Path, prefix: &Path) -> Result<()> {
    let work = directory.join("build/musl");
    let compiler = musl_compiler(&directory.join("build/musl-compiler"))?;
    let options = [
        format!("CC={}", compiler.display()),
        "--enable-shared".to_owned(),
        // The machine's libraries are glibc's: what needs one of them is left out, what is left goes into libpython.
        "PKG_CONFIG=false".to_owned(),
        "MODULE_BUILDTYPE=static".to_owned(),
        "py_cv_module__ctypes=n/a".to_owned(),
        "py_cv_module__curses=n/a".to_owned(),
        "py_cv_module__curses_panel=n/a".to_owned(),
    ];
    configure(directory, &work, prefix, &options.each_ref().map(String::as_str))?;
    make(&work, &["all"])?;
    make(&work, &["altinstall"])?;

    // As installed it would look for its library where it was built: here it is found wherever the directory is.
    let library = prefix.join("lib/libpython3.13.so.1.0");
    let beside = "-Wl,-rpath,$ORIGIN/../lib";
    link(&compiler, &prefix.join("bin/python3.13"), &library, &[beside])?;
    let stripped = prefix.join("stripped");
    let stripped_library = stripped.join("lib/libpython3.13.so.1.0");
    strip(&library, &stripped_library)?;
    link(&compiler, &stripped.join("bin/python3.13"), &stripped_library, &[beside, "-s"])?;

    // The same objects linked twice more: into a program, and into one with the C library too.
    let built = work.join("python");
    let ways: [(&str, &[&str]); 2] =
        [("static", &["LDFLAGS="]), ("whole", &["LDFLAGS=-static", "LINKFORSHARED= "])];
    for (way, options) in ways {
        remove(&built)?;
        make(&work, &[options, &["BLDLIBRARY=libpython3.13.a", "python"]].concat())?;
        let program = prefix.join(way).join("bin/python3.13");
        fs::create_dir_all(prefix.join(way).join("bin")).with_context(|| format!("create {way}/bin"))?;
        fs::copy(&built, &program).with_context(|| format!("copy to {}", program.display()))?;
        strip(&program, &prefix.join(format!("{way}-stripped/bin/python3.13")))?;
    }
    Ok(())
}

/// `musl-gcc` with the kernel's headers, which it leaves out, and with the name of its platform, which it tells wrongly.
fn musl_compiler(directory: &Path) -> Result<PathBuf> {
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
    run(command.current_dir(work)).map(drop)
}

/// The source, downloaded and unpacked if it isn't.
fn source_tree(directory: &Path) -> Result<PathBuf> {
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
    run(command.current_dir(work)).map(drop)
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
