//! Capabilities that the agent needs (`capabilities(7)`), and what for.

use super::Check;
use crate::exit::ExitCode;

/// A capability that something of the agent needs.
struct Needed {
    id: &'static str,
    name: &'static str,
    /// Number in `linux/capability.h`.
    bit: u32,
    /// What it is for.
    purpose: &'static str,
    /// Attaching does not work without it.
    required: bool,
}

const CAP_SYS_ADMIN: u32 = 21;

const NEEDED: &[Needed] = &[
    Needed {
        id: "capability.bpf",
        name: "CAP_BPF",
        bit: 39,
        purpose: "load programs and create maps",
        required: true,
    },
    Needed {
        id: "capability.perfmon",
        name: "CAP_PERFMON",
        bit: 38,
        purpose: "attach to tracepoints and read memory in programs",
        required: true,
    },
    Needed {
        id: "capability.sys_ptrace",
        name: "CAP_SYS_PTRACE",
        bit: 19,
        purpose: "read maps, environment and memory of other users' processes",
        required: true,
    },
    Needed {
        id: "capability.dac_read_search",
        name: "CAP_DAC_READ_SEARCH",
        bit: 2,
        purpose: "open the binaries of other users' processes",
        required: false,
    },
    Needed {
        id: "capability.net_admin",
        name: "CAP_NET_ADMIN",
        bit: 12,
        purpose: "add trace context to outgoing requests",
        required: false,
    },
];

/// One check for each capability, by the effective set.
pub(super) fn checks(effective: u64) -> Vec<Check> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    NEEDED
        .iter()
        .map(|needed| {
            // CAP_SYS_ADMIN stood for both before Linux 5.8, and still includes them.
            let included = matches!(needed.bit, 38 | 39) && has(CAP_SYS_ADMIN);
            if has(needed.bit) {
                return Check::ok(needed.id, format!("{}: to {}", needed.name, needed.purpose));
            }
            if included {
                return Check::ok(needed.id, format!("{} is included in CAP_SYS_ADMIN", needed.name));
            }
            let message = format!("{} is missing: it is needed to {}", needed.name, needed.purpose);
            let remedy = format!(
                "run as root, or grant it: setcap {}+ep on the binary, or `capabilities.add` in the container",
                needed.name.to_lowercase()
            );
            if needed.required {
                Check::fail(needed.id, ExitCode::NotPermitted, message, remedy)
            } else {
                Check::warning(needed.id, message, remedy)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn failed(effective: u64) -> Vec<&'static str> {
        let fails = checks(effective).into_iter().filter(|check| check.level == Level::Fail);
        fails.map(|check| check.id).collect()
    }

    #[test]
    fn sets() {
        assert_eq!(failed(0), ["capability.bpf", "capability.perfmon", "capability.sys_ptrace"]);
        assert!(failed(u64::MAX).is_empty());
        assert!(failed((1 << 39) | (1 << 38) | (1 << 19)).is_empty());
        assert_eq!(failed(1 << CAP_SYS_ADMIN), ["capability.sys_ptrace"]);
        // Docker's default set.
        assert_eq!(failed(0xa804_25fb).len(), 3);
    }
}
