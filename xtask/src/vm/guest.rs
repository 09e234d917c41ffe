//! The guest's root file system: Python, Redis and busybox of Debian, the agent, and the check, in one initramfs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::qemu::Arch;
use crate::apt::{Mirrors, Package, Suite, unpack};

/// The suite whose programs run in the guest. An agent built on this release or an older one runs there.
const SUITE: &str = "bookworm";

/// Packages unpacked into the root file system: these and no dependencies, so the list has every library needed.
const PACKAGES: &[&str] = &[
    "busybox-static",
    // The agent needs no more than these two.
    "libc6",
    "libgcc-s1",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libexpat1",
    "libffi8",
    "libssl3",
    "zlib1g",
    // The server's program is in redis-tools under the name of a checker.
    "redis-tools",
    "libatomic1",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "libjemalloc2",
    "liblz4-1",
    "liblzf1",
    "liblzma5",
    "libstdc++6",
    "libsystemd0",
    "libzstd1",
];

/// What no program in the guest reads.
const PRUNED: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/bin/redis-benchmark",
    "usr/bin/redis-check-aof",
];

/// Builds the initramfs of a run and returns its path.
///
/// It is not compressed: emulated processors unpack slower than QEMU reads the file.
pub fn initramfs(
    root: &Path,
    arch: Arch,
    mirrors: &Mirrors,
    agent: &Path,
    scripts: &Path,
) -> Result<PathBuf> {
    let base = base(root, arch, mirrors)?;
    let overlay = overlay(root, arch, agent, scripts)?;
    let path = root.join(format!("initramfs-{}.cpio", arch.debian()));
    // The kernel unpacks archives that follow one another (Documentation/driver-api/early-userspace/buffer-format).
    let mut out = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    for part in [base, overlay] {
        let mut part = File::open(&part).with_context(|| format!("opening {}", part.display()))?;
        io::copy(&mut part, &mut out).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(path)
}

/// Debian's programs as an archive; kept until one of the packages has a new version.
fn base(root: &Path, arch: Arch, mirrors: &Mirrors) -> Result<PathBuf> {
    let archive = root.join(format!("base-{}.cpio", arch.debian()));
    let stamp = archive.with_extension("packages");
    let kept = fs::read_to_string(&stamp).ok().filter(|_| archive.is_file());
    let suite = Suite::open(root, SUITE, arch.debian(), mirrors)?;
    let packages = match suite.newest(PACKAGES) {
        Ok(packages) => packages,
        Err(error) if kept.is_some() => {
            eprintln!("warning: taking the root file system of an earlier run: {error:#}");
            return Ok(archive);
        }
        Err(error) => return Err(error),
    };
    let wanted: String = packages.iter().map(|package| package.pinned() + "\n").collect();
    if kept.is_some_and(|kept| kept == wanted) {
        return Ok(archive);
    }
    let tree = root.join(format!("base-{}", arch.debian()));
    empty(&tree)?;
    fill(&suite, &packages, &root.join(format!("debs-{}", arch.debian())), &tree)?;
    pack(&tree, &archive)?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(archive)
}

fn fill(suite: &Suite, packages: &[Package], downloads: &Path, tree: &Path) -> Result<()> {
    empty(downloads)?;
    for file in suite.download(packages, downloads)? {
        unpack(&file, tree)?;
    }
    for pruned in PRUNED {
        let path = tree.join(pruned);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    // As Debian's redis-server package has it: the program looks at the name that it was called by.
    let server = tree.join("usr/bin/redis-server");
    std::os::unix::fs::symlink("redis-check-rdb", &server)
        .with_context(|| format!("linking {}", server.display()))
}

/// The agent and the check as an archive.
fn overlay(root: &Path, arch: Arch, agent: &Path, scripts: &Path) -> Result<PathBuf> {
    let tree = root.join(format!("overlay-{}", arch.debian()));
    empty(&tree)?;
    let home = tree.join("vm");
    fs::create_dir(&home).with_context(|| format!("creating {}", home.display()))?;
    copy(agent, &home.join("tracekit"))?;
    for entry in fs::read_dir(scripts).with_context(|| format!("reading {}", scripts.display()))? {
        let path = entry.with_context(|| format!("reading {}", scripts.display()))?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("init") => copy(&path, &tree.join("init"))?,
            Some(name) if name.ends_with(".py") => copy(&path, &home.join(name))?,
            _ => {}
        }
    }
    let archive = root.join(format!("overlay-{}.cpio", arch.debian()));
    pack(&tree, &archive)?;
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Makes `directory` exist and be empty.
fn empty(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", directory.display()));
        }
        _ => {}
    }
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))
}

/// Writes a directory as an archive that the kernel can unpack (`newc`), all files owned by root.
fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let out = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut find = Command::new("find")
        .args([".", "-mindepth", "1", "-print0"])
        .current_dir(tree)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting find")?;
    let names = find.stdout.take().context("find has no output")?;
    let packed = Command::new("cpio")
        .args(["--quiet", "--null", "--create", "--format=newc", "--owner=+0:+0"])
        .current_dir(tree)
        .stdin(names)
        .stdout(out)
        .status()
        .context("starting cpio")?;
    let found = find.wait().context("waiting for find")?;
    if !packed.success() || !found.success() {
        bail!("packing {} into {}: find {found}, cpio {packed}", tree.display(), archive.display());
    }
    Ok(())
}
