//! The kernels to check, and how they come here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::qemu::Arch;
use crate::apt::{Mirrors, Package, Suite, unpack};

/// One kernel of the matrix.
#[derive(Debug)]
pub struct Kernel {
    /// Its name on the command line: the series, or `newest`.
    pub name: &'static str,
    /// The Debian suite that carries it.
    pub suite: &'static str,
    /// What its version must begin with.
    series: &'static str,
    /// Boot parameters beside those that every guest gets.
    pub parameters: &'static str,
}

/// The oldest kernel supported, those of Debian's current releases, one as hardened hosts run it, and what comes next.
pub const KERNELS: [Kernel; 5] = [
    Kernel { name: "5.10", suite: "bullseye", series: "5.10.", parameters: "" },
    Kernel { name: "6.1", suite: "bookworm", series: "6.1.", parameters: "" },
    Kernel { name: "6.12", suite: "trixie", series: "6.12.", parameters: "" },
    // What a machine that boots with Secure Boot does by itself (kernel_lockdown(7)).
    Kernel { name: "6.12-lockdown", suite: "trixie", series: "6.12.", parameters: "lockdown=integrity" },
    Kernel { name: "newest", suite: "sid", series: "", parameters: "" },
];

impl Kernel {
    /// The kernel's boot image: downloaded, or kept from an earlier run if it is still the newest of its suite.
    ///
    /// The cloud flavour has the same options as the generic one where BPF is concerned, and is a third of its size.
    pub fn fetch(&self, root: &Path, arch: Arch, mirrors: &Mirrors) -> Result<PathBuf> {
        let directory = root.join("kernels").join(format!("{}-{}", self.suite, arch.debian()));
        let image = directory.join("vmlinuz");
        let stamp = directory.join("package");
        let kept = fs::read_to_string(&stamp).ok().filter(|_| image.is_file());
        let suite = Suite::open(root, self.suite, arch.debian(), mirrors)?;
        let (packages, mut problem) = match self.resolve(&suite, arch) {
            Ok(packages) => (packages, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        // Security archives move on faster than mirrors: an older version may be there when the newest is not.
        for package in packages {
            if kept.as_ref().is_some_and(|kept| *kept == package.pinned()) {
                return Ok(image);
            }
            match download(&suite, &package, &directory, &image) {
                Ok(()) => {
                    fs::write(&stamp, package.pinned())
                        .with_context(|| format!("writing {}", stamp.display()))?;
                    return Ok(image);
                }
                Err(error) => {
                    eprintln!("warning: {error:#}");
                    problem = Some(error);
                }
            }
        }
        let problem =
            problem.unwrap_or_else(|| anyhow!("Debian {} carries no Linux {}", self.suite, self.name));
        let Some(kept) = kept else { return Err(problem) };
        eprintln!("warning: taking {kept} from an earlier run: {problem:#}");
        Ok(image)
    }

    /// The packages that hold an image of this kernel, the newest first: `linux-image-cloud-<arch>` leads to them.
    fn resolve(&self, suite: &Suite, arch: Arch) -> Result<Vec<Package>> {
        let mut found = Vec::new();
        for mut package in suite.versions(&format!("linux-image-cloud-{}", arch.debian()))? {
            if !package.version.starts_with(self.series) {
                continue;
            }
            // Up to trixie the image is in linux-image-<version>; since 7.0 that leads on to linux-binary-<version>.
            for prefix in ["linux-image-", "linux-binary-"] {
                let next = package.dependencies().find(|name| name.starts_with(prefix)).map(str::to_owned);
                if let Some(next) = next {
                    package = newest(suite, &next)?;
                }
            }
            found.push(package);
        }
        Ok(found)
    }
}

/// Downloads a package into `directory` and puts its boot image at `image`.
fn download(suite: &Suite, package: &Package, directory: &Path, image: &Path) -> Result<()> {
    println!("downloading {}", package.pinned());
    let unpacked = directory.join("unpacked");
    for file in suite.download(std::slice::from_ref(package), directory)? {
        unpack(&file, &unpacked)?;
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    let found =
        boot_image(&unpacked).with_context(|| format!("package {} holds no boot image", package.pinned()))?;
    fs::rename(&found, image).with_context(|| format!("moving {}", found.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("removing {}", unpacked.display()))
}

fn newest(suite: &Suite, name: &str) -> Result<Package> {
    suite.newest(&[name])?.pop().with_context(|| format!("no package {name}"))
}

/// `boot/vmlinuz-<version>`, or `usr/lib/modules/<version>/vmlinuz` in newer packages.
fn boot_image(unpacked: &Path) -> Option<PathBuf> {
    let entries =
        |path: PathBuf| fs::read_dir(path).ok().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_image = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz"))
    };
    entries(unpacked.join("boot"))
        .chain(entries(unpacked.join("usr/lib/modules")).flat_map(entries))
        .find(is_image)
}
