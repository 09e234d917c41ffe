//! MySQL: not in this branch yet; never detected.

use crate::{Close, Detection, Direction, Event, Limits, Moment, Parser, Role, Segment};

/// What the first bytes say.
#[must_use]
pub fn detect(_direction: Direction, _bytes: &[u8]) -> Detection {
    Detection::No
}

/// Follows one connection.
pub struct Connection;

impl Connection {
    /// A connection seen from its first byte given to [`Parser::segment`].
    #[must_use]
    pub fn new(_role: Role, _limits: Limits) -> Self {
        Self
    }
}

impl Parser for Connection {
    fn segment(&mut self, _: Direction, _: Segment<'_>, _: &Moment, _: &mut Vec<Event>) {}

    fn close(&mut self, _: Close, _: &Moment, _: &mut Vec<Event>) {}
}
