//! Where a running agent listens.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the control socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent listens on {}", .0.display())]
    Taken(PathBuf),
    /// Something else has that name.
    #[error("{} is there and is not a socket; remove it, or use --control-socket", .0.display())]
    NotASocket(PathBuf),
    /// The folder belongs to somebody else, who could put a socket of his own there.
    #[error("{} belongs to user {owner}; remove it, or use --control-socket", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The system says no.
    #[error("can't listen on {}: {error}; use --control-socket with a path that can be written", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Where an agent of this user listens unless told otherwise: `/run/tracekit/agent.sock` for root, below the
/// user's runtime folder for others.
#[must_use]
pub fn default_socket() -> PathBuf {
    runtime_folder().join("agent.sock")
}

fn runtime_folder() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/tracekit");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(runtime) => runtime.join("tracekit"),
        None => PathBuf::from(format!("/tmp/tracekit-{}", uid.as_raw())),
    }
}

/// Creates a folder for this user only if it is not there.
///
/// # Errors
/// It can't be created, or is somebody else's.
pub fn private_folder(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Io { path: path.to_owned(), error };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid && metadata.uid() != 0 {
        return Err(SocketError::Foreign { path: path.to_owned(), owner: metadata.uid() });
    }
    Ok(())
}

/// Listens on a path, for this user only. What a dead agent has left is replaced.
///
/// # Errors
/// See [`SocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::Io { path: path.to_owned(), error };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        private_folder(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::Taken(path.to_owned())),
        _ => {}
    }
    // It gets its name only when it has its permissions; the rename replaces what is left there.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unnamed = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Of an agent with the same pid before the last boot, if at all.
    let _ = std::fs::remove_file(&unnamed);
    let listener = UnixListener::bind(&unnamed).map_err(failed)?;
    std::fs::set_permissions(&unnamed, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&unnamed, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let first = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(bind(&path), Err(SocketError::Taken(_))));
        drop(first);
        bind(&path).unwrap();
        let other = folder.path().join("file");
        std::fs::write(&other, "precious").unwrap();
        assert!(matches!(bind(&other), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(matches!(bind(&link), Err(SocketError::NotASocket(_))));
        let too_long = folder.path().join("x".repeat(200));
        assert!(matches!(bind(&too_long), Err(SocketError::Io { .. })));
    }
}
