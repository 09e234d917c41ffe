//! Keys and values of maps.

/// Key of a connection: a socket as one process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    /// Inode number of the socket.
    pub inode: u64,
    /// Thread group (process).
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the kernel side remembers of a connection.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ConnectionState {
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub sent: u64,
    /// Descriptors of the process for this socket beyond the first one (`dup`).
    pub extra_descriptors: u32,
    /// [`IGNORE`], [`SENDING`], [`ACCEPTED`]
    pub flags: u32,
}

/// Flag of a connection: nothing in it is of interest, don't capture.
pub const IGNORE: u32 = 1;
/// Flag of a connection: the last transfer was sent by the process.
pub const SENDING: u32 = 2;
/// Flag of a connection: the process accepted it.
pub const ACCEPTED: u32 = 4;

/// A connection of which the process is the server: why it sends is known.
pub const SERVER: u32 = 1;

/// Why records were lost: indices of the `LOSSES` array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// No room in the ring buffer.
    RingFull = 0,
    /// Memory of the process could not be read.
    Fault = 1,
}

/// Entries of the `LOSSES` array.
pub const LOSSES: u32 = 2;

const _: () = assert!(size_of::<ConnectionKey>() == 16);
const _: () = assert!(size_of::<ConnectionState>() == 24);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for ConnectionKey {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for ConnectionState {}
