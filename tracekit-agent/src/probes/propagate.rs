//! Headers of traces in outgoing requests: a program on the messages of connections that are in a map of sockets, and
//! one that puts new connections of selected processes there.
//!
//! All of it belongs to descriptors of the agent. When they are gone, the kernel takes the programs off the sockets,
//! which go on as ever.

use std::{
    collections, fs, io,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, SockHash},
    programs::{CgroupAttachMode, ProgramError, SkMsg, SockOps},
};

use tracekit_common::propagate::{AWAITING, Outgoing};

use super::{ProbeError, btf::Btf, existing, take};

/// How long connections that were there before are looked at.
const YOUTH: Duration = Duration::from_secs(15);
/// Processes whose connections are.
const MAX_YOUNG: usize = 256;
/// Flag of an update: include/uapi/linux/bpf.h
const BPF_NOEXIST: u64 = 1;

/// As `OBJECT`, with these programs.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../tracekit-ebpf/object/propagating.bpf.o");

const SOCKETS: &str = "SOCKETS";
const MESSAGES: &str = "message_sent";
const NEW_SOCKETS: &str = "socket_changed";

/// Name of the global on the kernel side, structure, member.
const MEMBERS: &[(&str, &str, &str)] = &[
    ("SOCK_COOKIE", "sock", "__sk_common.skc_cookie"),
    ("SOCK_SOCKET", "sock", "sk_socket"),
    ("SOCK_QUEUED", "sock", "sk_wmem_queued"),
    ("SOCK_SNDBUF", "sock", "sk_sndbuf"),
    ("SOCKET_FILE", "socket", "file"),
    ("TCP_WRITE_SEQ", "tcp_sock", "write_seq"),
    ("TCP_SND_NXT", "tcp_sock", "snd_nxt"),
    ("TCP_BYTES_SENT", "tcp_sock", "bytes_sent"),
];

/// The structures whose members are read, beside those of tracing.
pub(super) const STRUCTURES: &[&str] = &["tcp_sock"];

/// Which traces without a parent are sampled, and which with one: as the sampler of spans does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// A trace without a parent is sampled if 63 bits of its id (the low 64 without the last) are below this.
    pub below: u64,
    /// One with a parent is sampled as that is.
    pub as_parent: bool,
}

/// The globals of this part of the kernel side.
pub(super) struct Globals {
    offsets: Vec<(&'static str, u32)>,
    below: u64,
    as_parent: u32,
}

impl Globals {
    /// # Errors
    /// What this kernel lacks.
    pub(super) fn new(btf: &Btf<'_>, sampling: Sampling) -> Result<Self, ProbeError> {
        let mut offsets = Vec::new();
        let mut missing = Vec::new();
        for (global, structure, member) in MEMBERS {
            match btf.offset(structure, member) {
                Some(offset) => offsets.push((*global, offset)),
                None => missing.push(format!("struct {structure}: {member}")),
            }
        }
        if missing.is_empty() {
            Ok(Self { offsets, below: sampling.below, as_parent: sampling.as_parent.into() })
        } else {
            Err(ProbeError::Layout(missing))
        }
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("SAMPLE_BELOW", &self.below, true);
        loader.override_global("SAMPLE_AS_PARENT", &self.as_parent, true);
        for (name, value) in &self.offsets {
            loader.override_global(name, value, true);
        }
    }
}

/// The programs and the sockets that they are on.
pub(super) struct Propagation {
    sockets: SockHash<MapData, u64>,
    outgoing: HashMap<MapData, u64, Outgoing>,
    /// Cookies of connections that were there before, by inode number.
    adopted: collections::HashMap<u64, u64>,
    /// Processes whose connections are looked at once more.
    young: Vec<(u32, Instant)>,
}

impl Propagation {
    /// Loads the programs and follows new connections.
    ///
    /// # Errors
    /// The kernel refuses them, or there is no control group to follow connections in.
    pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let sockets: SockHash<_, u64> = take(ebpf, SOCKETS)?;
        let map = sockets
            .fd()
            .try_clone()
            .map_err(|error| ProbeError::Map { map: SOCKETS, source: MapError::IoError(error) })?;
        let messages = |source| ProbeError::Program { program: MESSAGES, source: Box::new(source) };
        let program = ebpf.program_mut(MESSAGES).ok_or_else(|| messages(ProgramError::NotLoaded))?;
        let program: &mut SkMsg = program.try_into().map_err(messages)?;
        program.load().map_err(messages)?;
        program.attach(&map).map_err(messages)?;

        let wrap = |source| ProbeError::Program { program: NEW_SOCKETS, source: Box::new(source) };
        let program = ebpf.program_mut(NEW_SOCKETS).ok_or_else(|| wrap(ProgramError::NotLoaded))?;
        let program: &mut SockOps = program.try_into().map_err(wrap)?;
        program.load().map_err(wrap)?;
        let root = control_group_root().map_err(ProbeError::ControlGroup)?;
        let group = fs::File::open(&root).map_err(ProbeError::ControlGroup)?;
        // Links stand beside one another; the mode is for what is attached without one.
        program.attach(group, CgroupAttachMode::Single).map_err(wrap)?;
        let outgoing = take(ebpf, "OUTGOING")?;
        Ok(Self { sockets, outgoing, adopted: collections::HashMap::new(), young: Vec::new() })
    }

    /// Follows the connections that a process has already, as soon as they rest.
    pub(super) fn adopt(&mut self, tgid: u32) {
        if self.young.len() < MAX_YOUNG {
            self.young.push((tgid, Instant::now()));
        }
        self.adopt_resting(tgid);
    }

    /// Looks again at processes that are new here. To be called now and then.
    pub(super) fn tick(&mut self) {
        self.young.retain(|(_, since)| since.elapsed() < YOUTH);
        let young: Vec<u32> = self.young.iter().map(|(tgid, _)| *tgid).collect();
        for tgid in young {
            self.adopt_resting(tgid);
        }
    }

    fn adopt_resting(&mut self, tgid: u32) {
        let found = match existing::resting(tgid, |inode| self.adopted.contains_key(&inode)) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(tgid, %error, "can't look at the connections of this process");
                return;
            }
        };
        for resting in found {
            // Those that are followed since they were made are there; they stay as they are.
            let fresh = Outgoing { join: AWAITING, sent: resting.sent, ..Outgoing::default() };
            if self.outgoing.insert(resting.cookie, fresh, BPF_NOEXIST).is_err() {
                continue;
            }
            match self.sockets.insert(resting.cookie, resting.socket, BPF_NOEXIST) {
                Ok(()) => {
                    self.adopted.insert(resting.inode, resting.cookie);
                }
                Err(_) => {
                    let _ = self.outgoing.remove(&resting.cookie);
                }
            }
        }
    }

    /// A connection was closed.
    pub(super) fn ended(&mut self, inode: u64) {
        if let Some(cookie) = self.adopted.remove(&inode) {
            let _ = self.outgoing.remove(&cookie);
        }
    }

    /// Takes the program off a socket.
    pub(super) fn leave_alone(&mut self, cookie: u64) {
        // It may have been closed, and then the kernel has removed it.
        let _ = self.sockets.remove(&cookie);
    }
}

/// Where the second version of control groups is mounted: connections of processes below it are seen.
///
/// # Errors
/// It is not.
pub fn control_group_root() -> io::Result<PathBuf> {
    let mounts = fs::read("/proc/self/mounts")?;
    mounts
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == b"cgroup2").then(|| PathBuf::from(std::ffi::OsStr::from_bytes(place)))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "cgroup2 is not mounted"))
}
