//! What a process listens on: its socket descriptors × the socket tables of its network namespace.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::InspectError;
use super::proc_fs::ProcFs;

/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;
/// Bytes of one socket table that are read: over 400 000 connections.
const MAX_TABLE: u64 = 64 << 20;
/// Length of one line; the kernel pads TCP's to 150 bytes, a Unix path is at most 108.
const MAX_LINE: usize = 512;
/// `TCP_LISTEN` of the kernel's `tcp_states.h`.
const TCP_LISTEN: &str = "0A";
/// `SO_ACCEPTCON` in the flags column of `/proc/net/unix`.
const UNIX_ACCEPTING: u32 = 0x1_0000;

/// An address that a process accepts connections on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket; `@` begins an abstract name.
    Unix(String),
}

impl Listener {
    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// What the process listens on, sorted.
///
/// # Errors
/// [`InspectError::Denied`] if its descriptors may not be read, [`InspectError::NotFound`] if it is gone.
/// A socket table that cannot be read counts as empty (IPv6 may be switched off).
pub fn listeners(proc: &ProcFs, pid: u32) -> Result<Vec<Listener>, InspectError> {
    let sockets: HashSet<u64> = proc.socket_inodes(pid, MAX_DESCRIPTORS)?.into_iter().collect();
    let mut found = Vec::new();
    if sockets.is_empty() {
        return Ok(found);
    }
    for (table, parse) in
        [("tcp", parse_tcp as fn(&str) -> Option<(u64, Listener)>), ("tcp6", parse_tcp), ("unix", parse_unix)]
    {
        let Ok(file) = proc.open_net(pid, table) else { continue };
        let _ = for_each_line(file, |line| {
            if let Some((inode, listener)) = parse(line)
                && sockets.contains(&inode)
            {
                found.push(listener);
            }
        });
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn for_each_line(file: impl Read, mut visit: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(file.take(MAX_TABLE));
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() <= MAX_LINE {
            visit(&String::from_utf8_lossy(&line));
        }
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …` (proc_pid_net(5))
fn parse_tcp(line: &str) -> Option<(u64, Listener)> {
    let mut fields = line.split_ascii_whitespace();
    let address = fields.nth(1)?;
    if fields.nth(1)? != TCP_LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (ip, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((inode, Listener::Tcp(SocketAddr::new(parse_ip(ip)?, port))))
}

/// The kernel prints each 32-bit word of the address in the byte order of the machine.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0_u8; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// `Num RefCount Protocol Flags Type St Inode Path` (proc_pid_net(5))
fn parse_unix(line: &str) -> Option<(u64, Listener)> {
    let mut fields = line.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    if flags & UNIX_ACCEPTING == 0 {
        return None;
    }
    let inode = fields.nth(2)?.parse().ok()?;
    Some((inode, Listener::Unix(fields.next()?.to_owned())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LISTEN4: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
    const LISTEN6: &str = "   1: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4343 1 0";
    const UNIX: &str = "0000000000000000: 00000002 00000000 00010000 0001 01 4444 /run/app.sock";

    #[test]
    fn tables() {
        let (inode, listener) = parse_tcp(LISTEN4).unwrap();
        assert_eq!((inode, listener.to_string().as_str()), (4242, "127.0.0.1:8080"));
        let (inode, listener) = parse_tcp(LISTEN6).unwrap();
        assert_eq!((inode, listener.to_string().as_str()), (4343, "[::]:8081"));
        assert_eq!(parse_tcp(&LISTEN4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse_unix(UNIX).unwrap(), (4444, Listener::Unix("/run/app.sock".into())));
        assert_eq!(parse_unix(&UNIX.replace("00010000", "00000000")), None);
    }

    #[test]
    fn of_a_constructed_process() {
        let dir = tempfile::tempdir().unwrap();
        let fd = dir.path().join("5/fd");
        std::fs::create_dir_all(&fd).unwrap();
        std::fs::create_dir_all(dir.path().join("5/net")).unwrap();
        std::os::unix::fs::symlink("socket:[4242]", fd.join("3")).unwrap();
        std::os::unix::fs::symlink("socket:[9]", fd.join("4")).unwrap();
        std::os::unix::fs::symlink("/dev/null", fd.join("0")).unwrap();
        std::fs::write(dir.path().join("5/net/tcp"), format!("header\n{LISTEN4}\n")).unwrap();
        let found = listeners(&ProcFs::new(dir.path()), 5).unwrap();
        assert_eq!(found, [Listener::Tcp("127.0.0.1:8080".parse().unwrap())]);
    }

    #[test]
    fn of_this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listeners(&ProcFs::default(), std::process::id()).unwrap();
        assert!(found.contains(&Listener::Tcp(socket.local_addr().unwrap())), "{found:?}");
    }

    proptest! {
        #[test]
        fn anything_parses(line in ".{0,200}") {
            let _ = parse_tcp(&line);
            let _ = parse_unix(&line);
        }
    }
}
