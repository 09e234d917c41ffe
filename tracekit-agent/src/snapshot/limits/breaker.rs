//! A circuit breaker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many failures …
pub const FAILURES: usize = 3;
/// … within this time …
pub const WINDOW: Duration = Duration::from_secs(60);
/// … pause what failed for this long.
pub const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Stops what fails three times in a minute for five minutes; a success in between starts the count anew.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: VecDeque<Instant>,
    open_until: Option<Instant>,
}

impl Breaker {
    /// It failed. True if that opens the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        if self.is_open(now) {
            return false;
        }
        while self.failures.front().is_some_and(|&at| now.saturating_duration_since(at) > WINDOW) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() < FAILURES {
            return false;
        }
        self.failures.clear();
        self.open_until = now.checked_add(PAUSE);
        true
    }

    /// It worked.
    pub fn worked(&mut self) {
        self.failures.clear();
    }

    /// It is not to be tried now.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// How long until it may be tried again; `None` if it may be now.
    #[must_use]
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        let left = self.open_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_in_a_minute_pause_for_five() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(at(0)));
        assert!(!breaker.failed(at(50)));
        // The first is too old.
        assert!(!breaker.failed(at(61)));
        assert!(breaker.failed(at(62)));
        assert!(breaker.is_open(at(62)) && breaker.is_open(at(361)));
        assert_eq!(breaker.pause_left(at(300)), Some(Duration::from_secs(62)));
        assert!(!breaker.is_open(at(362)));
        assert_eq!(breaker.pause_left(at(362)), None);
        // Afterwards it takes three again.
        assert!(!breaker.failed(at(363)) && !breaker.failed(at(364)) && breaker.failed(at(365)));
    }

    #[test]
    fn a_success_starts_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.worked();
        }
    }

    proptest! {
        /// Open for exactly the pause, and never without enough failures in the window.
        #[test]
        fn as_a_simple_model_says(steps in prop::collection::vec((0u64..100, any::<bool>()), 1..300)) {
            let start = Instant::now();
            let mut breaker = Breaker::default();
            let (mut now, mut recent, mut open_until) = (0, Vec::new(), 0);
            for (step, fails) in steps {
                now += step;
                let at = start + Duration::from_secs(now);
                prop_assert_eq!(breaker.is_open(at), now < open_until);
                if !fails {
                    breaker.worked();
                    recent.clear();
                } else {
                    let opened = breaker.failed(at);
                    if now >= open_until {
                        recent.retain(|then| now - then <= WINDOW.as_secs());
                        recent.push(now);
                    }
                    let expected = now >= open_until && recent.len() >= FAILURES;
                    prop_assert_eq!(opened, expected);
                    if expected {
                        recent.clear();
                        open_until = now + PAUSE.as_secs();
                    }
                }
                prop_assert!(breaker.failures.len() < FAILURES);
            }
        }
    }
}
