//! Breakpoints over a restart of the agent: one file in the state directory.
//!
//! It is replaced as a whole, so that it is always the old or the new one, whenever the agent dies. A file that
//! cannot be read is moved aside, and the agent starts without it.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::broadcast::error::RecvError;

use super::registry::{KillSwitch, Registry, Saved};

/// A larger file is none of ours: a thousand breakpoints with all their texts are less.
const MAX_FILE: u64 = 32 << 20;
/// Of the file's form.
const VERSION: u32 = 1;
const NAME: &str = "breakpoints.json";
/// Changes are written at once, but not more often than this.
const PAUSE: Duration = Duration::from_millis(200);
/// Counters are written this often.
const COUNTERS: Duration = Duration::from_secs(10);

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// It can't be created, read or written.
    #[error(
        "can't use the state directory {}: {error}; breakpoints are lost when the agent ends; name another with \
         --state-dir",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Two agents would overwrite each other's file.
    #[error(
        "another agent uses the state directory {}, so breakpoints of this one are lost when it ends; name another \
         with --state-dir",
        .0.display()
    )]
    Taken(PathBuf),
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    breakpoints: &'a [Saved],
    kill_switch: &'a KillSwitch,
}

#[derive(Deserialize)]
struct Found {
    version: u32,
    /// Each for itself: one that is broken does not take the others with it.
    breakpoints: Vec<Json>,
    #[serde(default)]
    kill_switch: KillSwitch,
}

/// The state directory of this agent, locked against others.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
    /// Hash of what the file holds.
    written: Mutex<Option<u64>>,
}

impl StateFolder {
    /// Creates it if need be, for this user only, and locks it.
    ///
    /// # Errors
    /// It can't be had, or another agent has it.
    pub fn open(path: &Path) -> Result<Self, PersistError> {
        let failed = |error| PersistError::Io { path: path.to_owned(), error };
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let owner = std::fs::metadata(path).map_err(failed)?.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(failed(io::Error::other(format!("it belongs to user {owner}"))));
        }
        let lock = private().create(true).write(true).open(path.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock, written: Mutex::default() }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PersistError::Taken(path.to_owned())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Gives the registry what the last agent has left. Never fails: what can't be used is moved aside, and said.
    pub fn restore(&self, registry: &Registry, now: Timestamp) {
        let file = self.path.join(NAME);
        let found = match read(&file) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(problem) => return self.set_aside(&file, &problem, now),
        };
        let mut saved = Vec::new();
        let mut problems = Vec::new();
        for breakpoint in found.breakpoints {
            match serde_json::from_value::<Saved>(breakpoint) {
                Ok(breakpoint) => saved.push(breakpoint),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let count = saved.len();
        let refused = registry.restore(saved, found.kill_switch, now);
        problems.extend(refused.iter().map(|(id, error)| format!("{id}: {error}")));
        if let Some(first) = problems.first() {
            let problem =
                format!("{} of its breakpoints can't be used, the first because of {first}", problems.len());
            self.set_aside(&file, &problem, now);
        }
        let count = count - refused.len();
        if count > 0 {
            tracing::info!(count, file = %file.display(), "breakpoints are back");
        }
    }

    /// Writes what the registry has, if that is new.
    ///
    /// # Errors
    /// The file can't be written; the one before is still there.
    pub fn save(&self, registry: &Registry) -> Result<(), PersistError> {
        let (breakpoints, kill_switch) = registry.save();
        let written = Written { version: VERSION, breakpoints: &breakpoints, kill_switch: &kill_switch };
        let failed = |error| PersistError::Io { path: self.path.join(NAME), error };
        let text = serde_json::to_string(&written).map_err(|error| failed(error.into()))?;
        let mut last = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = Some(hasher.finish());
        if *last != hash {
            self.replace(&text).map_err(failed)?;
            *last = hash;
        }
        Ok(())
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.join(format!("{NAME}.new"));
        // Left over from an agent that died while it wrote.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private().create_new(true).write(true).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, self.path.join(NAME))?;
        File::open(&self.path)?.sync_all()
    }

    fn set_aside(&self, file: &Path, problem: &str, now: Timestamp) {
        let aside = self.path.join(format!("{NAME}.broken-{}", now.as_second()));
        match std::fs::rename(file, &aside) {
            Ok(()) => tracing::warn!(
                "{} can't be used: {problem}; it is kept as {}",
                file.display(),
                aside.display()
            ),
            Err(error) => {
                tracing::warn!("{} can't be used: {problem}; nor can it be moved: {error}", file.display());
            }
        }
    }

    /// Saves whenever something has changed. Never returns, unless the registry is gone.
    pub async fn keep(self: Arc<Self>, registry: Arc<Registry>) {
        let mut events = registry.subscribe();
        let mut failing = false;
        loop {
            tokio::select! {
                event = events.recv() => if matches!(event, Err(RecvError::Closed)) { return },
                () = tokio::time::sleep(COUNTERS) => {}
            }
            // All that has come until now is in what is saved.
            events = events.resubscribe();
            let (folder, of) = (Arc::clone(&self), Arc::clone(&registry));
            let saved = tokio::task::spawn_blocking(move || folder.save(&of)).await;
            match saved {
                Ok(Err(error)) if !failing => {
                    failing = true;
                    tracing::error!("{error}");
                }
                Ok(result) => failing = result.is_err(),
                // The agent ends.
                Err(_) => return,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Files that only their owner may read; a link in place of one is not followed.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

/// `None`: there is no file.
fn read(path: &Path) -> Result<Option<Found>, String> {
    let file = match private().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {} MiB", MAX_FILE >> 20));
    }
    let found: Found = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if found.version != VERSION {
        return Err(format!("it is of version {}, this agent reads {VERSION}", found.version));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::snapshot::breakpoint::{Source, Spec};
    use crate::snapshot::language::Expressions;
    use crate::snapshot::registry::Actor;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn registry() -> Registry {
        Registry::new(Box::new(Expressions), Box::new(()))
    }

    fn add(registry: &Registry, line: u32) {
        let spec = Spec { file: "a.py".to_owned(), line, ..Spec::default() };
        registry.add(spec, &Actor::agent(), now()).unwrap();
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_saved_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let one = registry();
        {
            let state = StateFolder::open(&path).unwrap();
            state.restore(&one, now());
            add(&one, 1);
            state.save(&one).unwrap();
            add(&one, 2);
            one.set_kill_switch(true, Some("shop"), Source::Local, &Actor::agent(), now());
            state.save(&one).unwrap();
            assert!(matches!(StateFolder::open(&path), Err(PersistError::Taken(_))));
        }
        assert_eq!(files(&path), ["breakpoints.json", "lock"]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(NAME))), (0o700, 0o600));
        let two = registry();
        StateFolder::open(&path).unwrap().restore(&two, now());
        let ids = |registry: &Registry| -> Vec<String> {
            registry.list(now()).iter().map(|view| view.breakpoint.id.to_string()).collect()
        };
        assert_eq!(ids(&two), ids(&one));
        assert!(two.kill_switch().is_on_for("shop"));
    }

    #[test]
    fn a_broken_file_is_moved_aside() {
        let saved = {
            let one = registry();
            add(&one, 1);
            let (breakpoints, kill_switch) = one.save();
            serde_json::to_string(&Written {
                version: 1,
                breakpoints: &breakpoints,
                kill_switch: &kill_switch,
            })
            .unwrap()
        };
        for (text, left) in [
            ("", 0),
            ("{", 0),
            ("\0\0\0\0", 0),
            ("[]", 0),
            (r#"{"version": 2, "breakpoints": []}"#, 0),
            (&saved[..saved.len() / 2], 0),
            (&saved.replace("[{", "[7, {"), 1),
            (&saved.replace("\"depth\":3", "\"depth\":300"), 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(NAME), text).unwrap();
            let state = StateFolder::open(folder.path()).unwrap();
            let registry = registry();
            state.restore(&registry, now());
            assert_eq!(registry.list(now()).len(), left, "{text}");
            assert_eq!(files(folder.path()), ["breakpoints.json.broken-1700000000", "lock"], "{text}");
            // It goes on from there.
            add(&registry, 5);
            state.save(&registry).unwrap();
            assert!(files(folder.path()).contains(&NAME.to_owned()));
        }
    }

    #[test]
    fn nothing_new_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let registry = registry();
        add(&registry, 1);
        state.save(&registry).unwrap();
        let inode = || std::fs::metadata(folder.path().join(NAME)).unwrap().ino();
        let first = inode();
        state.save(&registry).unwrap();
        assert_eq!(inode(), first);
        add(&registry, 2);
        state.save(&registry).unwrap();
        assert_ne!(inode(), first);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join("breakpoints.json.new")).unwrap();
        let error = state.save(&registry()).unwrap_err().to_string();
        assert!(error.contains(NAME) && error.contains("--state-dir"), "{error}");
    }
}
