//! Which container a process is in, from its control groups.

use std::fmt;

/// Who made a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// Docker or Moby.
    Docker,
    /// containerd, through its CRI plugin.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// The path names an id but no runtime.
    Unknown,
}

impl fmt::Display for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Unknown => "unknown",
        })
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id, in full (64 hexadecimal digits, or what the platform uses).
    pub id: String,
    /// Who made it.
    pub runtime: ContainerRuntime,
}

impl Container {
    /// The first 12 characters, as `docker ps` prints them.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Finds the innermost container in `/proc/PID/cgroup` (version 1 and 2).
    #[must_use]
    pub fn from_cgroup(text: &str) -> Option<Self> {
        // hierarchy-ID:controllers:path, see cgroups(7); a path of containerd's may contain colons.
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(Self::from_cgroup_path)
    }

    fn from_cgroup_path(path: &str) -> Option<Self> {
        path.rsplit(['/', ':']).find_map(|segment| {
            let name = segment.strip_suffix(".scope").unwrap_or(segment);
            // A monitor process is beside its container, not in it.
            if name.starts_with("crio-conmon-") || name.starts_with("libpod-conmon-") {
                return None;
            }
            let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
            let runtime = match prefix {
                "docker" => ContainerRuntime::Docker,
                "cri-containerd" | "nerdctl" => ContainerRuntime::Containerd,
                "crio" => ContainerRuntime::CriO,
                "libpod" => ContainerRuntime::Podman,
                _ if path.contains("/docker/") => ContainerRuntime::Docker,
                _ if path.contains(":cri-containerd:") => ContainerRuntime::Containerd,
                _ if path.contains("/libpod_parent/") => ContainerRuntime::Podman,
                _ => ContainerRuntime::Unknown,
            };
            if is_id(id) {
                return Some(Self { id: id.to_owned(), runtime });
            }
            // Amazon ECS on Fargate: 32 hexadecimal digits, a dash, decimal digits.
            let ecs = prefix.len() == 32
                && is_hex(prefix)
                && !id.is_empty()
                && id.bytes().all(|b| b.is_ascii_digit());
            ecs.then(|| Self { id: name.to_owned(), runtime: ContainerRuntime::Unknown })
        })
    }

    /// Finds the container in `/proc/PID/mountinfo`: with a private cgroup namespace the agent may see only
    /// `/` in the cgroup file, but Docker and Podman mount `…/containers/ID/hostname` and the like.
    #[must_use]
    pub fn from_mountinfo(text: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (root, target) = (fields.nth(3)?, fields.next()?);
            if !matches!(target, "/etc/hostname" | "/etc/resolv.conf" | "/etc/hosts") {
                return None;
            }
            let (before, after) = root.split_once("containers/")?;
            let id = after.split('/').next().filter(|id| is_id(id))?;
            let runtime = if before.ends_with("overlay-") || before.contains("/storage/") {
                ContainerRuntime::Podman
            } else {
                ContainerRuntime::Docker
            };
            Some(Self { id: id.to_owned(), runtime })
        })
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f4a9b0c1d2e3f4a9b0c1d2e3f4a9b0c1d2e3f4a9b0c1d2e3f4a9b0c1d2e3f4a";

    #[test]
    fn every_runtime_and_both_versions() {
        let pod = "kubepods-burstable-pod8c2f.slice";
        for (path, runtime) in [
            (format!("0::/system.slice/docker-{ID}.scope"), ContainerRuntime::Docker),
            (format!("5:memory:/docker/{ID}"), ContainerRuntime::Docker),
            (format!("0::/kubepods.slice/{pod}/cri-containerd-{ID}.scope"), ContainerRuntime::Containerd),
            (
                format!("1:name=systemd:/system.slice/containerd.service/{pod}:cri-containerd:{ID}"),
                ContainerRuntime::Containerd,
            ),
            (format!("0::/kubepods.slice/{pod}/crio-{ID}.scope"), ContainerRuntime::CriO),
            (format!("0::/machine.slice/libpod-{ID}.scope/container"), ContainerRuntime::Podman),
            (format!("11:cpu:/kubepods/besteffort/pod1/{ID}"), ContainerRuntime::Unknown),
            (format!("0::/../docker-{ID}.scope"), ContainerRuntime::Docker),
        ] {
            let container = Container::from_cgroup(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((container.id.as_str(), container.runtime), (ID, runtime), "{path}");
            assert_eq!(container.short_id(), "3f4a9b0c1d2e");
        }
    }

    #[test]
    fn the_innermost_of_nested_containers() {
        let inner = ID.replace('3', "7");
        let text = format!("0::/docker/{ID}/docker/{inner}\n");
        assert_eq!(Container::from_cgroup(&text).unwrap().id, inner);
    }

    #[test]
    fn not_in_a_container() {
        for text in ["0::/user.slice/user-1000.slice/session-2.scope", "0::/", "", "x"] {
            assert_eq!(Container::from_cgroup(text), None);
        }
        let monitor = format!("0::/machine.slice/libpod-conmon-{ID}.scope");
        assert_eq!(Container::from_cgroup(&monitor), None);
    }

    #[test]
    fn fargate_and_mountinfo() {
        let ecs = "9:perf_event:/ecs/0f1e/0123456789abcdef0123456789abcdef-1234567890";
        assert_eq!(Container::from_cgroup(ecs).unwrap().id, "0123456789abcdef0123456789abcdef-1234567890");
        let mount = format!(
            "612 590 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/x rw"
        );
        assert_eq!(Container::from_mountinfo(&mount).unwrap().id, ID);
        let sandbox =
            format!("1 1 0:1 /var/lib/containerd/sandboxes/{ID}/hostname /etc/hostname rw - ext4 x rw");
        assert_eq!(Container::from_mountinfo(&sandbox), None);
    }

    proptest! {
        #[test]
        fn anything_parses(text in ".{0,300}") {
            let _ = Container::from_cgroup(&text);
            let _ = Container::from_mountinfo(&text);
        }
    }
}
