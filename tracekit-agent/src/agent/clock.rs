//! The kernel's clock and the wall clock.

use rustix::time::{ClockId, clock_gettime};

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: the clock of records.
pub fn monotonic_nanos() -> u64 {
    nanos(ClockId::Monotonic)
}

/// What to add to `CLOCK_MONOTONIC` for Unix time, in nanoseconds.
///
/// The two clocks can't be read at once: the monotonic one is read before and after, and of a few tries
/// the one with the least time between is taken.
pub fn unix_offset() -> u64 {
    (0..3)
        .map(|_| {
            let before = monotonic_nanos();
            let unix = nanos(ClockId::Realtime);
            let after = monotonic_nanos();
            (after.saturating_sub(before), unix.saturating_sub(before / 2 + after / 2))
        })
        .min()
        .map_or(0, |(_, offset)| offset)
}
