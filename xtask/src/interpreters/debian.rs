//! Debian's interpreters, each in a tree of its release with that release's C library: a process in it looks as one in
//! a container does, to the last line of `/proc/PID/maps`.
//!
//! The packages are only unpacked: no maintainer script runs, nothing of the machine is touched, no privilege is needed.
//! Debian's `python3.X` has the interpreter in the executable and is stripped. Debian's `libpython3.X.so.1.0` is what
//! programs that embed Python use; with a main program of CPython's kind in `/usr/local/bin` it is laid out as
//! Docker's official images are.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use tracekit_tests::paths;

use super::{GCC, Made, link, once};
use crate::apt::{Mirrors, Suite, unpack};

/// A release and its interpreters.
struct Release {
    name: &'static str,
    minors: &'static [&'static str],
    /// Whether programs that are linked on a later release run in it.
    shared: bool,
    /// Those whose `Py_DEBUG` build is taken too.
    debug: &'static [&'static str],
}

const RELEASES: &[Release] = &[
    // Its glibc, 2.31, is older than the `__libc_start_main` (2.34) of the machine's compiler.
    Release { name: "bullseye", minors: &["3.9"], shared: false, debug: &["3.9"] },
    Release { name: "bookworm", minors: &["3.11"], shared: true, debug: &["3.11"] },
    Release { name: "trixie", minors: &["3.13"], shared: true, debug: &["3.13"] },
    Release {
        name: "sid",
        minors: &["3.13", "3.14", "3.15"],
        shared: true,
        debug: &["3.13", "3.14", "3.15"],
    },
];

/// Needed by maintainer scripts alone, which don't run.
const LEFT_OUT: &[&str] = &["debconf", "dpkg", "perl-base", "tar"];

/// Raise it when the trees change.
const RECIPE: &str = "3";

/// The interpreters of all releases.
pub fn install(directory: &Path) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for release in RELEASES {
        let root = directory.join(format!("debian-{}", release.name));
        once(&root, RECIPE, || tree(&root, release))?;
        for minor in release.minors {
            let row = |id: &str, python: String, build: &[&'static str], how: String| Made {
                id: format!("{minor}-debian-{}{id}", release.name),
                minor: (*minor).to_owned(),
                build: build.iter().chain(&["debian"]).copied().collect(),
                python: root.join(python),
                root: Some(root.clone()),
                how,
            };
            let package = format!("python{minor} of Debian {}", release.name);
            made.push(row(
                "",
                program(minor),
                &["static", "stripped"],
                format!("{package}, in a tree of that release"),
            ));
            if release.shared {
                let how =
                    format!("lib{package}, in a tree of that release, with a program like CPython's own");
                made.push(row("-shared", shared_program(minor), &["shared", "stripped"], how));
            }
            if release.debug.contains(minor) {
                let how = format!("python{minor}-dbg of Debian {}, in a tree of that release", release.name);
                let python = format!("{}d", program(minor));
                made.push(row("-debug", python, &["static", "symbols", "debug"], how));
            }
        }
    }
    Ok(made)
}

fn program(minor: &str) -> String {
    format!("usr/bin/python{minor}")
}

fn shared_program(minor: &str) -> String {
    format!("usr/local/bin/python{minor}")
}

fn tree(root: &Path, release: &Release) -> Result<()> {
    // The lists are those of `cargo xtask vm`: they are large.
    let lists = paths::target().join("vm");
    let suite = Suite::open(&lists, release.name, "amd64", &Mirrors::of_this_machine()?)?;
    let names: Vec<String> = release
        .minors
        .iter()
        .flat_map(|minor| [format!("python{minor}"), format!("libpython{minor}")])
        .collect();
    let mut packages = suite.with_dependencies(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    packages.retain(|package| !LEFT_OUT.contains(&package.name.as_str()));
    // Without what they depend on: that is Tk, and what is there already.
    let debug: Vec<String> = release
        .debug
        .iter()
        .flat_map(|minor| [format!("python{minor}-dbg"), format!("libpython{minor}-dbg")])
        .collect();
    if !debug.is_empty() {
        packages.extend(suite.newest(&debug.iter().map(String::as_str).collect::<Vec<_>>())?);
    }
    let downloads = root.join("debs");
    for file in suite.download(&packages, &downloads)? {
        unpack(&file, root)?;
    }
    for unneeded in [downloads, root.join("usr/lib/debug"), root.join("usr/share/doc")] {
        if unneeded.exists() {
            fs::remove_dir_all(&unneeded).with_context(|| format!("remove {}", unneeded.display()))?;
        }
    }
    // Since trixie packages have nothing in these; the links to /usr are made by a script that doesn't run here.
    for directory in ["bin", "lib", "lib64", "sbin"] {
        let link = root.join(directory);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("usr").join(directory), &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
    }
    for directory in ["dev", "proc", "root", "tmp"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    if release.shared {
        for minor in release.minors {
            let library = root.join(format!("usr/lib/x86_64-linux-gnu/libpython{minor}.so.1.0"));
            // What the library needs is looked for in the tree, by the loader.
            link(
                Path::new(GCC),
                &root.join(shared_program(minor)),
                &library,
                &["-Wl,--allow-shlib-undefined", "-s"],
            )?;
        }
    }
    Ok(())
}
