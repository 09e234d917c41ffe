//! The audit log: a line of JSON for every change and every refusal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::snapshot::limits::TokenBucket;
use crate::snapshot::registry::{Audit, AuditEntry};

/// At this size the file is renamed to `*.1`, in place of the one before.
const MAX_BYTES: u64 = 10 << 20;
/// Refusals per second that are written: whoever is refused a thousand times must not fill the log.
const REFUSALS: f64 = 20.0;

/// Where the entries go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// To this file, readable for its owner only.
    File(PathBuf),
    /// To standard error.
    Stderr,
}

enum Sink {
    File { path: PathBuf, file: File, bytes: u64 },
    Stderr,
}

/// Entries that wait to be written: whoever makes a change does not wait for a disk.
const QUEUE: usize = 4096;

enum Message {
    Line(String),
    /// Everything before it has been written when this is answered.
    Flush(SyncSender<()>),
}

struct State {
    refusals: TokenBucket,
    /// Not written since the last line, because they were too many.
    suppressed: u64,
}

/// See the module. Dropped, it writes what waits.
pub struct AuditLog {
    state: Mutex<State>,
    lines: Option<SyncSender<Message>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AuditLog {
    /// Opens the file for appending, and starts the thread that writes.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(target: &AuditTarget) -> io::Result<Self> {
        let sink = match target {
            AuditTarget::Stderr => Sink::Stderr,
            AuditTarget::File(path) => {
                let file = append(path)?;
                Sink::File { path: path.clone(), bytes: file.metadata()?.len(), file }
            }
        };
        let (lines, waiting) = sync_channel(QUEUE);
        let run = move || write_all(sink, &waiting);
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(run)?;
        let state = State { refusals: TokenBucket::new(REFUSALS), suppressed: 0 };
        Ok(Self { state: Mutex::new(state), lines: Some(lines), thread: Some(thread) })
    }

    /// Waits until everything is written that has been recorded so far.
    pub fn flush(&self) {
        let (sender, done) = sync_channel(1);
        if let Some(lines) = &self.lines
            && lines.send(Message::Flush(sender)).is_ok()
        {
            // Fails if the thread has ended.
            let _ = done.recv();
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

fn write_all(mut sink: Sink, waiting: &Receiver<Message>) {
    let mut failing = false;
    for message in waiting {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(done) => {
                // Fails if nobody waits any more.
                let _ = done.send(());
                continue;
            }
        };
        match sink.write(line.as_bytes()) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "can't write the audit log; changes go on without");
            }
            Err(_) => {}
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

impl Audit for AuditLog {
    fn record(&self, entry: &AuditEntry) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if entry.refused.is_some() && !state.refusals.take(Instant::now()) {
            state.suppressed += 1;
            return;
        }
        let mut text = String::new();
        if state.suppressed > 0 {
            let note = serde_json::json!({ "time": entry.time, "action": "suppressed", "entries": state.suppressed });
            text = format!("{note}\n");
        }
        // Fails for nothing that an entry can hold.
        text += &serde_json::to_string(entry).unwrap_or_default();
        text.push('\n');
        match self.lines.as_ref().map(|lines| lines.try_send(Message::Line(text))) {
            Some(Ok(())) => state.suppressed = 0,
            // The disk is slower than the changes.
            _ => state.suppressed += 1,
        }
    }
}

/// For who wants to flush it.
impl Audit for Arc<AuditLog> {
    fn record(&self, entry: &AuditEntry) {
        (**self).record(entry);
    }
}

impl Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let Self::File { path, file, bytes } = self else { return io::stderr().lock().write_all(text) };
        if *bytes >= MAX_BYTES {
            let mut old = path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&*path, old)?;
            *file = append(path)?;
            *bytes = 0;
        }
        file.write_all(text)?;
        *bytes += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jiff::Timestamp;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::snapshot::registry::Actor;

    fn entry(refused: bool, after: Json) -> AuditEntry {
        AuditEntry {
            time: Timestamp::UNIX_EPOCH,
            actor: Actor { who: "uid 0\n".to_owned(), via: "unix" },
            action: "add",
            id: Some("bp-1".to_owned()),
            before: Json::Null,
            after,
            refused: refused.then(|| "full".to_owned()),
        }
    }

    #[test]
    fn one_line_each_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(&AuditTarget::File(path.clone())).unwrap();
        log.record(&entry(false, json!({"line": 1})));
        log.record(&entry(true, Json::Null));
        log.flush();
        let lines: Vec<Json> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                json!({"time": "1970-01-01T00:00:00Z", "who": "uid 0\n", "via": "unix", "action": "add",
                       "id": "bp-1", "after": {"line": 1}}),
                json!({"time": "1970-01-01T00:00:00Z", "who": "uid 0\n", "via": "unix", "action": "add",
                       "id": "bp-1", "refused": "full"}),
            ]
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn neither_refusals_nor_changes_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(&AuditTarget::File(path.clone())).unwrap();
        for _ in 0..1000 {
            log.record(&entry(true, Json::Null));
        }
        log.record(&entry(false, Json::Null));
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() < 40, "{}", text.lines().count());
        assert!(text.contains("\"action\":\"suppressed\""), "{text}");

        let large = "x".repeat(1 << 20);
        for _ in 0..25 {
            log.record(&entry(false, json!(large)));
        }
        drop(log);
        let mut files: Vec<(String, u64)> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1"]);
        assert!(files.iter().all(|(_, size)| *size <= MAX_BYTES + (2 << 20)), "{files:?}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("audit.jsonl"), folder.path().join("other"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(AuditLog::open(&AuditTarget::File(path)).is_err());
        assert!(!target.exists());
    }
}
