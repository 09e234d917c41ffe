//! Where things are: the workspace, the virtual environments, the agent's binary.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Cargo's target directory.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The applications under test.
#[must_use]
pub fn apps() -> PathBuf {
    workspace().join("tests/apps")
}

/// A program of the virtual environment `name`.
///
/// # Errors
/// `cargo xtask setup` has not made it.
pub fn venv(name: &str, program: &str) -> Result<PathBuf> {
    let path = target().join("venvs").join(name).join("bin").join(program);
    if !path.exists() {
        bail!("{} does not exist: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// The agent: `TRACEKIT_BIN`, else the release build, else the debug build.
///
/// # Errors
/// There is none.
pub fn agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRACEKIT_BIN") {
        let path = PathBuf::from(path);
        if !path.exists() {
            bail!("TRACEKIT_BIN={} does not exist", path.display());
        }
        return Ok(path);
    }
    ["release", "debug"]
        .iter()
        .map(|profile| target().join(profile).join("tracekit"))
        .find(|path| path.exists())
        .ok_or_else(|| anyhow::anyhow!("no tracekit binary: run `cargo build --release` or set TRACEKIT_BIN"))
}
