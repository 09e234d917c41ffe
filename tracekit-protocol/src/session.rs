//! One connection: which protocol it speaks, then that protocol's parser.

/// Follows one connection.
pub struct Session {}
