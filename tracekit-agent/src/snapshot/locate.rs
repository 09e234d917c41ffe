//! Looks a line up in the processes that run now, so that whoever asks for it is told what is wrong at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::breakpoint::Breakpoint;
use super::engine::lines::{self, LineError};
use super::registry::{Locate, Misplaced};
use crate::discovery::Inspector;
use crate::python::code::scan;
use crate::python::runtime::Target;

/// How long one look may take; processes that come after that are not asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the lines of a process are believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// Processes whose lines are remembered.
const MAX_PROCESSES: usize = 64;
/// Files that are named where one is not clear.
const MAX_CANDIDATES: usize = 20;

/// Lines with code, by file.
type Files = BTreeMap<String, Vec<i32>>;

/// Looks into the processes.
#[derive(Debug)]
pub struct Located {
    inspector: Inspector,
    known: Mutex<HashMap<u32, (Instant, Arc<Files>)>>,
}

impl Located {
    /// Finds processes like this.
    #[must_use]
    pub fn new(inspector: Inspector) -> Self {
        Self { inspector, known: Mutex::default() }
    }

    fn files(&self, pid: u32) -> Option<Arc<Files>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, files)) = known().get(&pid)
            && since.elapsed() < BELIEVED
        {
            return Some(Arc::clone(files));
        }
        let target = Target::open(&self.inspector.proc, &self.inspector.inspect(pid).ok()?).ok()?;
        let reader = target.reader().ok()?;
        let mut files = Files::new();
        for code in scan(&target, &reader).ok()?.codes {
            files.entry(code.filename.clone()).or_default().extend(code.breakable_lines());
        }
        for lines in files.values_mut() {
            lines.sort_unstable();
            lines.dedup();
        }
        let files = Arc::new(files);
        let mut known = known();
        if known.len() >= MAX_PROCESSES {
            known.clear();
        }
        known.insert(pid, (Instant::now(), Arc::clone(&files)));
        Some(files)
    }
}

impl Locate for Located {
    fn locate(&self, breakpoint: &Breakpoint, pids: &[u32]) -> Result<(), Misplaced> {
        let start = Instant::now();
        let mut problem = None;
        for pid in pids {
            if start.elapsed() > PATIENCE {
                break;
            }
            let Some(files) = self.files(*pid) else { continue };
            match find(&files, &breakpoint.file, breakpoint.line) {
                Ok(true) => return Ok(()),
                // It may be loaded yet, here or elsewhere.
                Ok(false) => {}
                Err(misplaced) => problem = Some(misplaced),
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

/// Whether the line can be armed; false if there is no such file.
fn find(files: &Files, suffix: &str, line: u32) -> Result<bool, Misplaced> {
    let file = match lines::file_of(files.keys().map(String::as_str), suffix) {
        Ok(file) => file,
        Err(LineError::Ambiguous(mut candidates)) => {
            candidates.truncate(MAX_CANDIDATES);
            return Err(Misplaced::Ambiguous { file: suffix.to_owned(), candidates });
        }
        Err(_) => return Ok(false),
    };
    let known = files.get(file).map(Vec::as_slice).unwrap_or_default();
    // What is no line of a file is behind all of its lines.
    let wanted = i32::try_from(line).unwrap_or(i32::MAX);
    if known.binary_search(&wanted).is_ok() {
        return Ok(true);
    }
    let nearest = lines::nearest(known.to_vec(), wanted);
    let nearest = nearest.into_iter().filter_map(|line| u32::try_from(line).ok()).collect();
    Err(Misplaced::NoCode { file: file.to_owned(), line, nearest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_lines_are_found_or_said() {
        let files: Files = [("/srv/app/views.py", vec![1, 4, 5, 9]), ("/srv/shop/views.py", vec![2])]
            .map(|(file, lines)| (file.to_owned(), lines))
            .into();
        assert_eq!(find(&files, "app/views.py", 5), Ok(true));
        assert_eq!(find(&files, "models.py", 5), Ok(false));
        assert_eq!(find(&files, "iews.py", 5), Ok(false));
        let error = find(&files, "app/views.py", 6).unwrap_err().to_string();
        assert!(error.ends_with("the nearest lines with code are 1, 4, 5, 9"), "{error}");
        let error = find(&files, "views.py", 5).unwrap_err().to_string();
        assert!(error.contains("/srv/app/views.py, /srv/shop/views.py"), "{error}");
    }
}
