//! Connections of a process that were there before it was traced.
//!
//! The agent gets a descriptor of its own for each (`pidfd_getfd`: nobody is stopped, nothing of the process is changed)
//! and asks the kernel whether the connection rests between an answer and a request. Only such can be followed: of others
//! it can't be known what their next byte is.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Descriptors of a process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
/// Milliseconds without anything after the last answer: who is about to send more does so at once.
const REST: u32 = 100;

/// `struct tcp_info` (include/uapi/linux/tcp.h): its size, and where members are.
const INFO_SIZE: usize = 240;
const UNACKED: usize = 24;
const LAST_SENT: usize = 44;
const LAST_RECEIVED: usize = 52;
const NOT_SENT: usize = 144;
const BYTES_SENT: usize = 200;
/// `TCP_ESTABLISHED` (include/net/tcp_states.h), the first byte.
const ESTABLISHED: u8 = 1;

/// A connection that rests.
pub(super) struct Resting {
    /// A descriptor of the agent's own.
    pub socket: OwnedFd,
    /// Its cookie.
    pub cookie: u64,
    /// Its inode number.
    pub inode: u64,
    /// Bytes that were sent on it.
    pub sent: u64,
}

/// The outgoing connections of a process that rest now, but for those that are `known` by their inodes.
///
/// # Errors
/// The process is gone, or may not be asked.
pub(super) fn resting(pid: u32, known: impl Fn(u64) -> bool) -> io::Result<Vec<Resting>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
    let process = pidfd_open(id, PidfdFlags::empty())?;
    let (mut found, mut serving) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.take(MAX_DESCRIPTORS).flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        let number = entry.file_name().to_str().and_then(|text| text.parse::<RawFd>().ok());
        let (Some(inode), Some(number)) = (inode, number) else { continue };
        if known(inode) {
            continue;
        }
        // It may have been closed meanwhile; and be another's then, which is asked like any other.
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        match option::<4>(&socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) {
            Some((_, [1, 0, 0, 0])) => serving.extend(local_port(&socket)),
            _ => found.extend(rests(socket, inode)),
        }
    }
    // What it has accepted has the port on which it listens.
    found.retain(|resting| local_port(&resting.socket).is_some_and(|port| !serving.contains(&port)));
    Ok(found)
}

fn rests(socket: OwnedFd, inode: u64) -> Option<Resting> {
    let (_, protocol) = option::<4>(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    if i32::from_ne_bytes(protocol) != libc::IPPROTO_TCP {
        return None;
    }
    let (length, info) = option::<INFO_SIZE>(&socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let sent = u64::from_ne_bytes(info.get(BYTES_SENT..BYTES_SENT + 8)?.try_into().ok()?);
    let (last_sent, last_received) = (word(LAST_SENT)?, word(LAST_RECEIVED)?);
    let rests = length >= BYTES_SENT + 8
        && info.first() == Some(&ESTABLISHED)
        && word(UNACKED)? == 0
        && word(NOT_SENT)? == 0
        && (sent == 0 || last_received <= last_sent && last_received >= REST);
    let (_, cookie) = option::<8>(&socket, libc::SOL_SOCKET, libc::SO_COOKIE)?;
    rests.then_some(Resting { socket, cookie: u64::from_ne_bytes(cookie), inode, sent })
}

/// An option of a socket, and how many bytes of it there are.
fn option<const N: usize>(socket: &OwnedFd, level: i32, name: i32) -> Option<(usize, [u8; N])> {
    let mut value = [0u8; N];
    let mut length = libc::socklen_t::try_from(N).ok()?;
    // SAFETY: the kernel writes at most `length` bytes of the value, and their number.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    (done == 0).then_some((length as usize, value))
}

fn local_port(socket: &OwnedFd) -> Option<u16> {
    // Another descriptor of the same socket, as whatever has an address.
    let socket = std::net::TcpListener::from(socket.try_clone().ok()?);
    socket.local_addr().ok().map(|address| address.port())
}
