//! A token bucket.

use std::time::{Duration, Instant};

/// Lets `per_second` through on average, and `burst` at once. Exact: it counts nanoseconds, not tokens (the
/// generic cell rate algorithm of ITU-T I.371).
#[derive(Debug, Clone)]
pub struct TokenBucket {
    interval: Duration,
    tolerance: Duration,
    /// When the bucket is full again; `None`: it is.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket. The burst is what comes in a second, and at least one.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        // Outside of these there is no use, and durations would overflow.
        let per_second = if per_second.is_finite() { per_second.clamp(1e-6, 1e6) } else { 1e-6 };
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let burst = per_second.floor().max(1.0);
        Self { interval, tolerance: interval.mul_f64(burst - 1.0), full_at: None }
    }

    /// There is a token.
    #[must_use]
    pub fn has(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at.saturating_duration_since(now) <= self.tolerance)
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            let from = self.full_at.map_or(now, |at| at.max(now));
            self.full_at = from.checked_add(self.interval);
        }
        has
    }

    /// How long until there is a token.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let full = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        full.saturating_sub(self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1.0);
        let taken: Vec<u64> =
            (0..30).filter(|n| bucket.take(start + Duration::from_millis(n * 100))).collect();
        assert_eq!(taken, [0, 10, 20]);
        assert_eq!(bucket.wait(start + Duration::from_millis(2900)), Duration::from_millis(100));
    }

    #[test]
    fn a_burst_is_what_comes_in_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(20.0);
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 20);
        assert_eq!((0..100).filter(|_| bucket.take(start + Duration::from_millis(100))).count(), 2);
    }

    proptest! {
        /// In no window is more let through than the burst and what comes in that time.
        #[test]
        fn never_more_than_promised(
            rate in 0.01f64..5000.0,
            steps in prop::collection::vec(0u64..3_000_000_000, 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(rate);
            let mut now = 0;
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                let at = start + Duration::from_nanos(now);
                let promised = bucket.wait(at).is_zero();
                let had = bucket.take(at);
                prop_assert_eq!(promised, had);
                if had {
                    taken.push(now);
                }
            }
            let burst = rate.floor().max(1.0);
            for (n, first) in taken.iter().enumerate() {
                for (m, last) in taken.iter().enumerate().skip(n) {
                    let seconds = (last - first) as f64 / 1e9;
                    let count = (m - n + 1) as f64;
                    prop_assert!(count <= burst + seconds * rate * (1.0 + 1e-6) + 1e-6);
                }
            }
        }

        #[test]
        fn any_rate_is_harmless(rate in any::<f64>(), back in any::<u32>()) {
            let now = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
            let mut bucket = TokenBucket::new(rate);
            prop_assert!(bucket.take(now));
            // A clock that goes back.
            bucket.take(now - Duration::from_secs(u64::from(back)));
            let _ = bucket.wait(now);
        }
    }
}
