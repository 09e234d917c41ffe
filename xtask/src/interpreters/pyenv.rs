//! What pyenv has built on this machine, and what can be made from its archives.
//!
//! pyenv's builds are shared with all symbols. Each installation also has the same objects as `libpythonX.Y.a`: linked
//! into a program, that is the build without `--enable-shared`. Both are also taken stripped. The standard library stays
//! where pyenv has it: its path is compiled in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{GCC, Made, link, once, strip};

/// Versions that are taken, whatever their last number.
const MINORS: &[&str] = &["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];

/// Raise it when what is made of them changes.
const RECIPE: &str = "2";

/// The interpreters of every version that pyenv has.
pub fn install(directory: &Path) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for minor in MINORS {
        match find(minor) {
            Some(prefix) => made.extend(derive(directory, minor, &prefix)?),
            None => eprintln!("warning: pyenv has no Python {minor} here: it is not among the interpreters"),
        }
    }
    Ok(made)
}

/// The installation of a version; of several the last by name.
fn find(minor: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")))?;
    let mut found: Vec<PathBuf> = fs::read_dir(root.join("versions"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let patch =
                path.file_name().and_then(|name| name.to_str()?.strip_prefix(minor)?.strip_prefix('.'));
            patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
                && path.join(format!("lib/libpython{minor}.so.1.0")).is_file()
        })
        .collect();
    found.sort();
    found.pop()
}

fn derive(directory: &Path, minor: &str, prefix: &Path) -> Result<Vec<Made>> {
    let program = format!("bin/python{minor}");
    let library = format!("lib/libpython{minor}.so.1.0");
    let source = prefix.file_name().unwrap_or_default().display().to_string();
    let recipe = format!("{RECIPE} {source}");
    let home = |id: &str| directory.join(format!("{minor}-{id}"));

    let original = home("pyenv");
    once(&original, &recipe, || {
        fs::create_dir_all(original.join("bin")).context("create bin")?;
        std::os::unix::fs::symlink(prefix.join(&program), original.join(&program)).context("link the program")
    })?;

    let stripped = home("pyenv-stripped");
    once(&stripped, &recipe, || {
        strip(&prefix.join(&library), &stripped.join(&library))?;
        let options = ["-Wl,-rpath,$ORIGIN/../lib", "-s"];
        link(Path::new(GCC), &stripped.join(&program), &stripped.join(&library), &options)
    })?;

    let inside = home("pyenv-static");
    once(&inside, &recipe, || {
        let archive = archive(prefix, minor)?;
        // The system's libraries are those of CPython's own link (`SYSLIBS`, `LIBS` in its Makefile).
        let options = ["-Wl,-export-dynamic", "-lpthread", "-ldl", "-lutil", "-lm"];
        link(Path::new(GCC), &inside.join(&program), &archive, &options)
    })?;

    let bare = home("pyenv-static-stripped");
    once(&bare, &recipe, || strip(&inside.join(&program), &bare.join(&program)))?;

    let row = |id: &str, build: &[&'static str], how: &str| Made {
        id: format!("{minor}-{id}"),
        minor: minor.to_owned(),
        build: build.iter().chain(&["pyenv"]).copied().collect(),
        python: home(id).join(&program),
        root: None,
        how: how.replace("PYENV", &format!("pyenv's {source}")),
    };
    Ok(vec![
        row("pyenv", &["shared", "symbols"], "PYENV as it is, through a symbolic link"),
        row(
            "pyenv-stripped",
            &["shared", "stripped"],
            "the libpython of PYENV stripped, and a program like CPython's own linked to it",
        ),
        row(
            "pyenv-static",
            &["static", "symbols"],
            "the libpython.a of PYENV linked into a program, as the build without --enable-shared does",
        ),
        row("pyenv-static-stripped", &["static", "stripped"], "the same, stripped"),
    ])
}

/// `lib/python3.8/config-3.8-x86_64-linux-gnu/libpython3.8.a`
fn archive(prefix: &Path, minor: &str) -> Result<PathBuf> {
    let library = prefix.join(format!("lib/python{minor}"));
    let entries = fs::read_dir(&library).with_context(|| format!("read {}", library.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("config-")))
        .map(|path| path.join(format!("libpython{minor}.a")))
        .find(|path| path.is_file())
        .with_context(|| format!("{} has no config-*/libpython{minor}.a", library.display()))
}
