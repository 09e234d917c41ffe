//! How much of a process's time hits may take.

use std::time::{Duration, Instant};

/// Of the time of one CPU, in each process.
pub const SHARE: f64 = 0.01;
/// How long hits stop when they have taken more, at first.
pub const PAUSE: Duration = Duration::from_secs(10);
/// Each pause that follows soon on another is twice as long, up to this.
pub const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Time that may be taken at once: what the share gives in this long.
const BURST: Duration = Duration::from_secs(1);

/// What a charge means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// Go on.
    Within,
    /// Disarm; go on after the pause.
    Over {
        /// How long not to hit the process.
        pause: Duration,
    },
}

/// The budget of one process: a leaky bucket of nanoseconds.
#[derive(Debug, Clone)]
pub struct Budget {
    share: f64,
    /// Taken and not yet given back.
    debt: Duration,
    at: Option<Instant>,
    paused_until: Option<Instant>,
    next_pause: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(SHARE)
    }
}

impl Budget {
    /// Nothing taken yet. `share` of the time of one CPU, from 0 to 1.
    #[must_use]
    pub fn new(share: f64) -> Self {
        let share = if share.is_finite() { share.clamp(0.0001, 1.0) } else { SHARE };
        Self { share, debt: Duration::ZERO, at: None, paused_until: None, next_pause: PAUSE }
    }

    /// Hits have taken `cost`.
    pub fn charge(&mut self, cost: Duration, now: Instant) -> Charge {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        self.debt = self.debt.saturating_sub(passed.mul_f64(self.share)).saturating_add(cost);
        if let Some(pause) = self.pause_left(now) {
            // Hits that were on their way when the pause began.
            return Charge::Over { pause };
        }
        if self.debt <= BURST.mul_f64(self.share) {
            return Charge::Within;
        }
        // Quiet for as long as the next pause would be: the load has changed.
        let recovered =
            self.paused_until.is_none_or(|end| now.saturating_duration_since(end) >= self.next_pause);
        let pause = if recovered { PAUSE } else { self.next_pause };
        self.next_pause = pause.saturating_mul(2).min(MAX_PAUSE);
        self.paused_until = now.checked_add(pause);
        self.debt = Duration::ZERO;
        Charge::Over { pause }
    }

    /// How long the process is not to be hit; `None` if it may be now.
    #[must_use]
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HIT: Duration = Duration::from_micros(5);

    /// How many of the hits of a second are let through.
    fn second(budget: &mut Budget, from: Instant, hits: u32) -> u32 {
        let step = Duration::from_secs(1) / hits;
        (0..hits).filter(|&n| budget.charge(HIT, from + step * n) == Charge::Within).count() as u32
    }

    #[test]
    fn rare_hits_are_within() {
        let start = Instant::now();
        let mut budget = Budget::default();
        for n in 0..100 {
            // 0.5 % of the time.
            assert_eq!(second(&mut budget, start + Duration::from_secs(n), 1000), 1000, "{n}");
        }
    }

    #[test]
    fn the_hottest_line_is_paused_at_once_and_longer_each_time() {
        let mut now = Instant::now();
        let mut budget = Budget::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let let_through = second(&mut budget, now, 100_000);
            assert!(let_through < 2100, "{let_through} hits of 5 µs are more than the burst of 10 ms");
            let pause = budget.pause_left(now + Duration::from_secs(1)).unwrap() + Duration::from_secs(1);
            pauses.push(pause.as_secs());
            now += pause + Duration::from_secs(1);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        // After a long time without, it is as at first.
        now += Duration::from_secs(1000);
        second(&mut budget, now, 100_000);
        assert!(budget.pause_left(now).unwrap() <= PAUSE + Duration::from_secs(1));
    }

    proptest! {
        /// Whatever the load: between pauses hits never take more than the share and one burst and one hit.
        #[test]
        fn never_more_than_the_share(
            steps in prop::collection::vec((0u64..50_000_000, 0u64..20_000_000), 1..300),
        ) {
            let start = Instant::now();
            let mut budget = Budget::default();
            let (mut now, mut taken, mut since) = (0u64, 0u64, 0u64);
            for (step, cost) in steps {
                now += step;
                let at = start + Duration::from_nanos(now);
                if budget.pause_left(at).is_some() {
                    continue;
                }
                match budget.charge(Duration::from_nanos(cost), at) {
                    Charge::Within => {
                        taken += cost;
                        let allowed = ((now - since) as f64 + 1e9) * SHARE + 1000.0;
                        prop_assert!(taken as f64 <= allowed, "{taken} in {}", now - since);
                    }
                    Charge::Over { pause } => {
                        prop_assert!((PAUSE..=MAX_PAUSE).contains(&pause));
                        (taken, since) = (0, now);
                    }
                }
            }
        }
    }
}
