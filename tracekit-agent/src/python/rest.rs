//! Whether a thread ran between two moments.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// A moment at which a thread did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// How often it had given up its processor, or lost it, by then.
    switches: u64,
}

impl Rest {
    /// Looks at a thread's `status` file below `/proc`; `None` if it runs or is about to, or nothing is known. A
    /// thread in an uninterruptible wait does not count as resting: a page fault may have stopped it in the
    /// middle of a change, while a thread that waits for anything else has let go of its objects.
    ///
    /// A thread that rests at two moments, with as many switches at both, did not run between them: it would
    /// have been switched out once more.
    #[must_use]
    pub fn now(status: &Path) -> Option<Self> {
        // One read gives all of it: some 1500 bytes.
        let mut buf = [0; 4096];
        let length = File::open(status).ok()?.read(&mut buf).ok()?;
        Self::parse(&String::from_utf8_lossy(buf.get(..length)?))
    }

    /// Parses `proc_pid_status(5)`.
    fn parse(text: &str) -> Option<Self> {
        let (mut rests, mut switches) = (false, [None; 2]);
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            match key {
                "State" => rests = value.trim_start().starts_with(['S', 'T', 't']),
                "voluntary_ctxt_switches" => switches[0] = value.trim().parse::<u64>().ok(),
                "nonvoluntary_ctxt_switches" => switches[1] = value.trim().parse().ok(),
                _ => {}
            }
        }
        let [Some(given_up), Some(lost)] = switches else { return None };
        rests.then_some(Self { switches: given_up.wrapping_add(lost) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let text = |state| {
            format!(
                "Name:\tx\nState:\t{state}\nSpeculation_Store_Bypass:\tvulnerable\n\
                 voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n"
            )
        };
        assert_eq!(Rest::parse(&text("S (sleeping)")), Some(Rest { switches: 9 }));
        assert_eq!(Rest::parse(&text("R (running)")), None);
        assert_eq!(Rest::parse(&text("D (disk sleep)")), None);
        assert_eq!(Rest::parse(""), None);
        assert_eq!(Rest::parse("State:\tS (sleeping)\n"), None);
    }

    #[test]
    fn this_thread_runs() {
        assert_eq!(Rest::now(Path::new("/proc/thread-self/status")), None);
    }

    #[test]
    fn a_thread_that_sleeps_rests() {
        let (say, hear) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = say.send(std::fs::read_link("/proc/thread-self"));
            let _ = wait.recv();
        });
        let path = Path::new("/proc").join(hear.recv().unwrap().unwrap()).join("status");
        let first = loop {
            if let Some(rest) = Rest::now(&path) {
                break rest;
            }
            std::thread::yield_now();
        };
        assert_eq!(Rest::now(&path), Some(first));
        drop(end);
        thread.join().unwrap();
        assert_ne!(Rest::now(&path), Some(first));
    }
}
