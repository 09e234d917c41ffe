//! Checks of the kernel and of the agent's own rights.

use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use procfs::sys::kernel::Version;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Check, capabilities};
use crate::discovery::proc_fs::{ProcFs, Status, read_bounded};
use crate::exit::ExitCode;
use crate::probes::watchpoint::free_registers;

/// The oldest kernel that is tested.
const OLDEST_KERNEL: (u8, u8) = (5, 10);
/// Inode of the initial pid namespace, `PROC_PID_INIT_INO` of the kernel's `proc_ns.h`.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// From this kernel on, BPF memory is charged to the control group, not to `RLIMIT_MEMLOCK`.
const MEMCG_ACCOUNTING: (u8, u8) = (5, 11);

fn text_of(path: &Path) -> Option<String> {
    let bytes = read_bounded(path, 4096).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

pub(super) fn checks(proc: &ProcFs) -> Vec<Check> {
    let kernel = text_of(&proc.path("sys/kernel/osrelease"));
    let version = kernel.as_deref().and_then(|text| text.parse::<Version>().ok()).map(|v| (v.major, v.minor));
    if version.is_some_and(|version| version < MEMCG_ACCOUNTING) {
        // As attaching does; if it is refused, the check of the limit says so.
        let unlimited = Rlimit { current: None, maximum: None };
        let _ = setrlimit(Resource::Memlock, unlimited);
    }
    let status = read_bounded(&proc.path("self/status"), 64 << 10).unwrap_or_default();
    let status = Status::parse(&String::from_utf8_lossy(&status));
    let mut checks = vec![
        kernel_version(kernel.as_deref(), version),
        btf(Path::new("/sys/kernel/btf/vmlinux")),
        lockdown(text_of(Path::new("/sys/kernel/security/lockdown")).as_deref()),
    ];
    checks.extend(capabilities::checks(status.capabilities));
    checks.push(raw_tracepoints());
    checks.push(ring_buffer());
    checks.push(memory_reads());
    checks.push(propagation());
    checks.push(memlock(version));
    checks.push(uprobes(Path::new("/sys/bus/event_source/devices/uprobe")));
    checks.push(perf_event_paranoid(text_of(&proc.path("sys/kernel/perf_event_paranoid")).as_deref()));
    checks.push(debug_registers());
    checks.push(seccomp(status.seccomp));
    let namespace = std::fs::read_link(proc.path("self/ns/pid")).ok();
    checks.push(pid_namespace(namespace.as_deref().and_then(Path::to_str)));
    checks.push(hidepid(proc));
    checks.push(yama(
        text_of(&proc.path("sys/kernel/yama/ptrace_scope")).as_deref(),
        status.may_read_processes(),
    ));
    checks
}

fn kernel_version(text: Option<&str>, version: Option<(u8, u8)>) -> Check {
    const ID: &str = "kernel.version";
    match (text, version) {
        (Some(text), Some(version)) if version >= OLDEST_KERNEL => Check::ok(ID, format!("Linux {text}")),
        (Some(text), Some(_)) => Check::fail(
            ID,
            ExitCode::Unsupported,
            format!("Linux {text} is older than {}.{}", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
            "boot a newer kernel",
        ),
        (text, _) => Check::warning(
            ID,
            format!(
                "the kernel's version is not readable: {}",
                text.unwrap_or("no /proc/sys/kernel/osrelease")
            ),
            format!("it must be {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        ),
    }
}

fn btf(path: &Path) -> Check {
    const ID: &str = "kernel.btf";
    if path.exists() {
        Check::ok(ID, "the kernel describes its types (BTF)")
    } else {
        Check::warning(
            ID,
            format!("no {}: features that read kernel structures are off", path.display()),
            "use a kernel with CONFIG_DEBUG_INFO_BTF; in a container mount /sys",
        )
    }
}

/// `none [integrity] confidentiality`: the mode in force is in brackets.
fn lockdown(text: Option<&str>) -> Check {
    const ID: &str = "kernel.lockdown";
    let mode = text.and_then(|text| text.split_once('[')?.1.split_once(']').map(|(mode, _)| mode));
    match mode {
        Some("confidentiality") => Check::fail(
            ID,
            ExitCode::Unsupported,
            "lockdown=confidentiality: programs may not read memory",
            "boot with lockdown=integrity or lockdown=none",
        ),
        Some(mode) => Check::ok(ID, format!("lockdown={mode} does not stand in the way")),
        None => {
            Check::ok(ID, "the lockdown mode is not readable (securityfs); what it forbids is tried below")
        }
    }
}

fn raw_tracepoints() -> Check {
    probe(
        "bpf.raw_tracepoint",
        "raw tracepoint programs",
        aya::sys::is_program_supported(ProgramType::RawTracePoint).map_err(|error| error_chain(&error)),
    )
}

fn ring_buffer() -> Check {
    let supported = aya::sys::is_map_supported(MapType::RingBuf).map_err(|error| error_chain(&error));
    probe("bpf.ringbuf", "ring buffers", supported)
}

/// `lockdown=confidentiality` takes `bpf_probe_read_kernel` away; without securityfs only the try tells.
fn memory_reads() -> Check {
    let helper = |helper| aya::sys::is_helper_supported(ProgramType::RawTracePoint, helper);
    let supported = helper(BpfHelper::BPF_FUNC_probe_read_user)
        .and_then(|user| Ok(user && helper(BpfHelper::BPF_FUNC_probe_read_kernel)?))
        .map_err(|error| error_chain(&error));
    match supported {
        Ok(false) => Check::fail(
            "bpf.read_memory",
            ExitCode::Unsupported,
            "programs may not read memory: lockdown=confidentiality",
            "boot with lockdown=integrity or lockdown=none",
        ),
        other => probe("bpf.read_memory", "programs that read memory", other),
    }
}

/// Headers of traces in outgoing requests: everything else works without.
fn propagation() -> Check {
    const ID: &str = "bpf.propagation";
    let warning = |what: String, remedy: &str| {
        Check::warning(ID, format!("outgoing requests get no traceparent: {what}"), remedy.to_owned())
    };
    let supported = |kind| {
        Ok(aya::sys::is_program_supported(kind)?
            && aya::sys::is_helper_supported(kind, BpfHelper::BPF_FUNC_probe_read_kernel)?)
    };
    let supported: Result<bool, aya::programs::ProgramError> =
        supported(ProgramType::SkMsg).and_then(|messages| Ok(messages && supported(ProgramType::SockOps)?));
    match (supported, aya::sys::is_map_supported(MapType::SockHash)) {
        (Ok(true), Ok(true)) => {}
        (Ok(_), Ok(_)) => {
            return warning(
                "the kernel has no programs on messages of sockets".to_owned(),
                "use a kernel of 5.10 or newer with CONFIG_BPF_STREAM_PARSER and CONFIG_CGROUP_BPF",
            );
        }
        (Err(error), _) => {
            return warning(error_chain(&error), "grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
        }
        (_, Err(error)) => return warning(error_chain(&error), "grant CAP_NET_ADMIN"),
    }
    match crate::probes::control_group_root() {
        Ok(root) => Check::ok(ID, format!("connections are followed in {}", root.display())),
        Err(error) => warning(
            error.to_string(),
            "mount -t cgroup2 none /sys/fs/cgroup; in a container mount that of the host",
        ),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The outcome of really loading a program or creating a map.
fn probe(id: &'static str, what: &str, supported: Result<bool, String>) -> Check {
    match supported {
        Ok(true) => Check::ok(id, format!("{what} can be loaded")),
        Ok(false) => Check::fail(
            id,
            ExitCode::Unsupported,
            format!("the kernel has no {what}"),
            "use a kernel of 5.10 or newer with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS",
        ),
        Err(error) => Check::fail(
            id,
            ExitCode::NotPermitted,
            format!("the kernel refuses {what}: {error}"),
            "run as root or with CAP_BPF and CAP_PERFMON; in a container, allow bpf(2) in the seccomp profile",
        ),
    }
}

fn memlock(version: Option<(u8, u8)>) -> Check {
    const ID: &str = "limit.memlock";
    if version.is_some_and(|version| version >= MEMCG_ACCOUNTING) {
        return Check::ok(ID, "BPF memory is charged to the control group, not to RLIMIT_MEMLOCK");
    }
    match getrlimit(Resource::Memlock).current {
        None => Check::ok(ID, "RLIMIT_MEMLOCK is unlimited"),
        Some(limit) if limit >= 64 << 20 => Check::ok(ID, format!("RLIMIT_MEMLOCK is {} MiB", limit >> 20)),
        Some(limit) => Check::warning(
            ID,
            format!("RLIMIT_MEMLOCK is {} KiB, and this kernel charges BPF memory to it", limit >> 10),
            "ulimit -l unlimited, or grant CAP_SYS_RESOURCE so that the agent can raise it",
        ),
    }
}

fn uprobes(path: &Path) -> Check {
    const ID: &str = "kernel.uprobes";
    if path.exists() {
        Check::ok(ID, "uprobes are available")
    } else {
        Check::warning(
            ID,
            format!("no {}: features that hook functions are off", path.display()),
            "use a kernel with CONFIG_UPROBE_EVENTS; in a container mount /sys",
        )
    }
}

fn perf_event_paranoid(text: Option<&str>) -> Check {
    const ID: &str = "kernel.perf_event_paranoid";
    match text {
        // Above 2 is a patch of Debian and Ubuntu: without CAP_PERFMON nothing is allowed.
        Some(text) => Check::ok(ID, format!("perf_event_paranoid={text} does not apply to CAP_PERFMON")),
        None => Check::warning(
            ID,
            "no /proc/sys/kernel/perf_event_paranoid: perf events are not compiled in",
            "use a kernel with CONFIG_PERF_EVENTS",
        ),
    }
}

/// Only breakpoints need them.
fn debug_registers() -> Check {
    const ID: &str = "breakpoints.debug_registers";
    match free_registers() {
        Ok(free) => Check::ok(ID, format!("{free} debug registers are free for breakpoints")),
        Err(error) => Check::warning(
            ID,
            format!("breakpoints don't work: {error}"),
            "end other debuggers; run as root or with CAP_PERFMON; in a virtual machine, give it debug registers",
        ),
    }
}

fn seccomp(mode: u32) -> Check {
    const ID: &str = "agent.seccomp";
    match mode {
        0 => Check::ok(ID, "the agent runs without a seccomp filter"),
        _ => Check::warning(
            ID,
            "the agent runs under a seccomp filter",
            "if bpf(2) or perf_event_open(2) fails above, allow it in the profile of the container",
        ),
    }
}

fn pid_namespace(link: Option<&str>) -> Check {
    const ID: &str = "agent.pid_namespace";
    match link {
        Some(INITIAL_PID_NAMESPACE) => Check::ok(ID, "the agent is in the host's pid namespace"),
        Some(_) => Check::fail(
            ID,
            ExitCode::Unsupported,
            "the agent is in a pid namespace of its own: programs see the pids of the host",
            "start it in the host's: docker run --pid=host, or hostPID: true",
        ),
        None => Check::warning(
            ID,
            "the agent's pid namespace is not readable",
            "mount /proc; the agent must be in the host's pid namespace",
        ),
    }
}

/// With `hidepid`, another user's processes are invisible: those of root are the test.
fn hidepid(proc: &ProcFs) -> Check {
    const ID: &str = "proc.hidepid";
    if proc.stat(1).is_ok() {
        Check::ok(ID, "/proc shows the processes of all users")
    } else {
        Check::warning(
            ID,
            "/proc does not show process 1: it is mounted with hidepid",
            "run as root, or remount: mount -o remount,hidepid=0 /proc",
        )
    }
}

fn yama(text: Option<&str>, may_read_processes: bool) -> Check {
    const ID: &str = "kernel.yama";
    match text {
        Some("3") => Check::warning(
            ID,
            "kernel.yama.ptrace_scope=3: no process may attach to another by ptrace",
            "reading through /proc is not affected; it can be lowered only by a reboot",
        ),
        Some(scope @ ("1" | "2")) if !may_read_processes => Check::warning(
            ID,
            format!("kernel.yama.ptrace_scope={scope} restricts reading other processes"),
            "grant CAP_SYS_PTRACE",
        ),
        Some(scope) => Check::ok(ID, format!("kernel.yama.ptrace_scope={scope} does not stand in the way")),
        None => Check::ok(ID, "no Yama restrictions"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn kernels() {
        assert_eq!(kernel_version(Some("6.18.0"), Some((6, 18))).level, Level::Ok);
        assert_eq!(kernel_version(Some("5.10.0-30-amd64"), Some((5, 10))).level, Level::Ok);
        assert_eq!(kernel_version(Some("5.4.0"), Some((5, 4))).code, ExitCode::Unsupported);
        assert_eq!(kernel_version(None, None).level, Level::Warning);
    }

    #[test]
    fn hardening() {
        assert_eq!(lockdown(Some("none [integrity] confidentiality")).level, Level::Ok);
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).level, Level::Fail);
        assert_eq!(lockdown(None).level, Level::Ok);
        assert_eq!(yama(Some("1"), false).level, Level::Warning);
        assert_eq!(yama(Some("1"), true).level, Level::Ok);
        assert_eq!(pid_namespace(Some(INITIAL_PID_NAMESPACE)).level, Level::Ok);
        assert_eq!(pid_namespace(Some("pid:[4026532000]")).level, Level::Fail);
        assert_eq!(probe("x", "maps", Err("EPERM".into())).code, ExitCode::NotPermitted);
        assert_eq!(probe("x", "maps", Ok(false)).code, ExitCode::Unsupported);
    }

    #[test]
    fn every_check_has_its_own_id_and_remedy_where_needed() {
        let checks = checks(&ProcFs::default());
        let mut ids: Vec<&str> = checks.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), checks.len());
        assert!(checks.iter().all(|check| (check.level == Level::Ok) == check.remedy.is_none()));
    }
}
