//! When to try again, when to stop, when to say so.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(5);
const FACTOR: f64 = 1.5;

/// A collector's wish for more than this is cut.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Between two warnings of the same kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(30);

/// Exponential delays with ±20 % jitter.
#[derive(Debug)]
pub struct Backoff {
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delay: FIRST_DELAY }
    }
}

impl Backoff {
    /// How long to wait now; at least as long as the collector asks.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let delay = self.delay.mul_f64(0.8 + 0.4 * rand::random::<f64>());
        self.delay = self.delay.mul_f64(FACTOR).min(MAX_DELAY);
        match retry_after {
            Some(wish) => delay.max(wish.min(MAX_RETRY_AFTER)),
            None => delay,
        }
    }
}

/// The wish that the agent ends, seen from an export task.
#[derive(Debug, Clone)]
pub struct Stop {
    receiver: watch::Receiver<Option<Instant>>,
    /// This task has acted on the wish: later delays are waited for.
    seen: bool,
}

impl Stop {
    /// With the sender that makes the wish: to end by that time. Dropping it is the wish to end now.
    #[must_use]
    pub fn new() -> (watch::Sender<Option<Instant>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self { receiver, seen: false })
    }

    /// The agent is to end.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.deadline().is_some() || self.receiver.has_changed().is_err()
    }

    /// When all has to be over, if a time is set.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        *self.receiver.borrow()
    }

    /// Waits for the wish.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone.
        let _ = self.receiver.wait_for(Option::is_some).await;
        self.seen = true;
    }

    /// Sleeps, but wakes up early when the wish comes.
    pub async fn sleep(&mut self, delay: Duration) {
        if self.seen {
            return tokio::time::sleep(delay).await;
        }
        let _ = tokio::time::timeout(delay, self.wait()).await;
    }
}

/// Lets one warning through in half a minute.
#[derive(Debug, Default)]
pub struct WarningGate {
    last: Option<Instant>,
    warned: bool,
}

impl WarningGate {
    /// Whether to warn now.
    pub fn open(&mut self) -> bool {
        let now = Instant::now();
        let open = self.last.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if open {
            self.last = Some(now);
            self.warned = true;
        }
        open
    }

    /// All is well again; true if there was a warning since it last was. A trouble that comes and goes
    /// does not get more warnings for it.
    pub fn reset(&mut self) -> bool {
        std::mem::take(&mut self.warned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_honour_the_collector() {
        let mut backoff = Backoff::default();
        let delays: Vec<f64> = (0..8).map(|_| backoff.next(None).as_secs_f64()).collect();
        assert!((0.8..=1.2).contains(&delays[0]), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= 6.0), "{delays:?}");
        assert!(delays[7] >= 4.0, "{delays:?}");
        assert_eq!(backoff.next(Some(Duration::from_secs(42))).as_secs(), 42);
        assert_eq!(backoff.next(Some(Duration::MAX)), MAX_RETRY_AFTER);
    }

    #[tokio::test]
    async fn the_wish_to_end_cuts_one_sleep_short() {
        let (sender, mut stop) = Stop::new();
        assert!(!stop.requested());
        sender.send(Some(Instant::now())).unwrap();
        assert!(stop.requested());
        let started = Instant::now();
        stop.sleep(Duration::from_secs(60)).await;
        assert!(started.elapsed() < Duration::from_secs(5));
        stop.sleep(Duration::from_millis(30)).await;
        assert!(started.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn one_warning_in_an_interval() {
        let mut gate = WarningGate::default();
        assert_eq!((gate.open(), gate.open()), (true, false));
        assert_eq!((gate.reset(), gate.reset()), (true, false));
        assert_eq!((gate.open(), gate.reset()), (false, false));
    }
}
