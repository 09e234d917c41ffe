//! What looking into objects may cost.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::python::memory::MemoryError;
use crate::python::reader::ReadError;

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u32 = 64;

/// Why something was not found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is not, or not all, in the image.
    #[error("it was not captured")]
    NotCaptured,
    /// It would take more steps, or longer, than allowed.
    #[error("it takes more than the limit of steps or time")]
    Budget,
}

impl From<MemoryError> for AccessError {
    fn from(error: MemoryError) -> Self {
        Self::Read(error.into())
    }
}

/// Steps and time that are left.
#[derive(Debug)]
pub struct Budget {
    steps: Cell<u32>,
    deadline: Instant,
}

impl Budget {
    /// So many steps, in the time that begins now.
    #[must_use]
    pub fn new(steps: u32, time: Duration) -> Self {
        let now = Instant::now();
        Self { steps: Cell::new(steps), deadline: now.checked_add(time).unwrap_or(now) }
    }

    /// Takes steps.
    ///
    /// # Errors
    /// [`AccessError::Budget`] when there are none left, or the time is over.
    pub fn take(&self, steps: usize) -> Result<(), AccessError> {
        let before = self.steps.get();
        let left = u32::try_from(steps).ok().and_then(|steps| before.checked_sub(steps));
        let Some(left) = left else {
            self.steps.set(0);
            return Err(AccessError::Budget);
        };
        self.steps.set(left);
        if before / STEPS_PER_LOOK != left / STEPS_PER_LOOK && Instant::now() >= self.deadline {
            self.steps.set(0);
            return Err(AccessError::Budget);
        }
        Ok(())
    }
}
