//! Debian packages of any suite, through the machine's own `apt`, without touching the machine's packages.
//!
//! Each suite has an own configuration, own lists and an empty `dpkg` status under `<root>/apt/<suite>`. Mirrors are
//! those that the machine's apt uses, and so are its proxies and keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use tracekit_tests::process::run;

/// Package lists younger than this are taken as they are.
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// One package in the version that apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name without architecture.
    pub name: String,
    /// Version, epoch included.
    pub version: String,
    /// The field `Depends` as the archive has it.
    pub depends: String,
}

impl Package {
    /// What `apt-get download` takes.
    pub fn pinned(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// Names of the packages it depends on; of alternatives the first.
    pub fn dependencies(&self) -> impl Iterator<Item = &str> {
        self.depends
            .split(',')
            .filter_map(|clause| clause.split(['(', '|', ':']).next())
            .map(str::trim)
            .filter(|name| !name.is_empty())
    }
}

/// Where Debian's packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Root of the main archive.
    pub main: String,
    /// Root of the security archive.
    pub security: String,
}

impl Mirrors {
    /// Those that this machine's apt uses for the release that the machine runs.
    pub fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename = os_codename(&release)
            .context("/etc/os-release has no VERSION_CODENAME: give Debian's mirror with --mirror")?;
        let listing = run(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        Self::from_targets(&listing, codename).with_context(|| {
            format!("apt on this machine has no Debian archive for {codename}: give one with --mirror")
        })
    }

    /// The main archive at `url`, and the security archive where Debian's mirrors have it: beside it.
    pub fn at(url: &str) -> Self {
        let main = url.trim_end_matches('/').to_owned();
        let security = format!("{main}-security");
        Self { main, security }
    }

    /// Reads lines of `release component uri`.
    fn from_targets(listing: &str, codename: &str) -> Option<Self> {
        let uri_of = |wanted: &str| {
            listing.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let (release, component, uri) = (words.next()?, words.next()?, words.next()?);
                (release == wanted && component == "main").then(|| uri.trim_end_matches('/').to_owned())
            })
        };
        let found = Self::at(&uri_of(codename)?);
        Some(match uri_of(&format!("{codename}-security")) {
            Some(security) => Self { security, ..found },
            None => found,
        })
    }
}

/// `VERSION_CODENAME` of an `os-release` file (os-release(5)).
fn os_codename(release: &str) -> Option<&str> {
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"'))
}

/// What an archive has lists of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Binary,
    Source,
}

/// One Debian suite as apt sees it.
#[derive(Debug)]
pub struct Suite {
    name: &'static str,
    directory: PathBuf,
    config: PathBuf,
}

impl Suite {
    /// Prepares `<root>/apt/<name>` and brings its package lists up to date.
    ///
    /// # Errors
    /// If there are no lists at all; lists that cannot be renewed are used as they are, with a word on stderr.
    pub fn open(root: &Path, name: &'static str, arch: &str, mirrors: &Mirrors) -> Result<Self> {
        Self::prepare(root, name, arch, Kind::Binary, mirrors)
    }

    /// As [`Self::open`], for the suite's sources: [`Self::download_source`].
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn open_sources(root: &Path, name: &'static str, mirrors: &Mirrors) -> Result<Self> {
        Self::prepare(root, name, "source", Kind::Source, mirrors)
    }

    fn prepare(root: &Path, name: &'static str, arch: &str, kind: Kind, mirrors: &Mirrors) -> Result<Self> {
        let directory = root.join("apt").join(format!("{name}-{arch}"));
        for sub in ["lists/partial", "archives/partial", "state"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let suite = Self { name, config: directory.join("apt.conf"), directory };
        suite.write_config(arch, kind, mirrors)?;
        suite.update()?;
        Ok(suite)
    }

    fn write_config(&self, arch: &str, kind: Kind, mirrors: &Mirrors) -> Result<()> {
        let (line, architectures) = match kind {
            Kind::Binary => (
                format!("deb [arch={arch}]"),
                format!("APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n"),
            ),
            Kind::Source => ("deb-src".to_owned(), String::new()),
        };
        let mut sources = format!("{line} {} {} main\n", mirrors.main, self.name);
        if self.name != "sid" {
            sources += &format!("{line} {} {}-security main\n", mirrors.security, self.name);
        }
        let directory = self.directory.display();
        let config = format!(
            r#"Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{directory}/state";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/state/status";
Dir::Cache "{directory}";
{architectures}APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"#
        );
        for (path, text) in [
            (self.directory.join("sources.list"), sources.as_str()),
            (self.directory.join("state/status"), ""),
            (self.config.clone(), config.as_str()),
        ] {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<()> {
        let stamp = self.directory.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age < LISTS_LAST) {
            return Ok(());
        }
        match run(self.apt("apt-get").args(["update", "-qq", "--error-on=any"])) {
            Ok(_) => fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display())),
            // What is known of the suite may be enough; if not, the look-up of a package says so.
            Err(error) => {
                eprintln!("warning: package lists of {} are not renewed: {error:#}", self.name);
                Ok(())
            }
        }
    }

    /// The newest version of each named package, in the order asked for.
    pub fn newest(&self, names: &[&str]) -> Result<Vec<Package>> {
        let known = self.show(names)?;
        names
            .iter()
            .map(|name| {
                known
                    .iter()
                    .find(|package| package.name == *name)
                    .cloned()
                    .with_context(|| format!("Debian {} has no package {name}", self.name))
            })
            .collect()
    }

    /// Every version of one package that the suite offers, the newest first.
    pub fn versions(&self, name: &str) -> Result<Vec<Package>> {
        self.show(&[name])
    }

    /// The named packages and all that they need, as apt would install them on an empty machine.
    ///
    /// # Errors
    /// The suite lacks one of them.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Package>> {
        let arguments = ["install", "--simulate", "-qq", "--no-install-recommends"];
        let plan = run(self.apt("apt-get").args(arguments).args(names))
            .with_context(|| format!("resolving packages of Debian {}", self.name))?;
        Ok(parse_plan(&plan))
    }

    /// Downloads the upstream tarball (`*.orig.tar.*`) of a source package into `into`.
    ///
    /// # Errors
    /// The suite was not opened with [`Self::open_sources`], or has no such package.
    pub fn download_source(&self, name: &str, into: &Path) -> Result<PathBuf> {
        fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
        run(self.apt("apt-get").args(["source", "-qq", "--download-only", name]).current_dir(into))?;
        find(into, |file| file.contains(".orig.tar.") && !file.ends_with(".asc"))
            .with_context(|| format!("the source package {name} of Debian {} has no tarball", self.name))
    }

    /// All versions of the named packages. apt lists a package's versions from the newest down.
    fn show(&self, names: &[&str]) -> Result<Vec<Package>> {
        let listing = run(self.apt("apt-cache").arg("show").args(names))
            .with_context(|| format!("looking up packages of Debian {}", self.name))?;
        Ok(parse_packages(&listing))
    }

    /// Downloads packages into `into`; returns the files in the order of the packages.
    pub fn download(&self, packages: &[Package], into: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
        let wanted = packages.iter().map(Package::pinned);
        run(self.apt("apt-get").args(["download", "-qq"]).args(wanted).current_dir(into))?;
        packages
            .iter()
            .map(|package| {
                // apt escapes the colon of an epoch in file names.
                let prefix = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
                find(into, |file| file.starts_with(&prefix)).with_context(|| {
                    format!("apt-get downloaded no file {prefix}*.deb into {}", into.display())
                })
            })
            .collect()
    }
}

/// The first file of a directory whose name passes `test`.
fn find(directory: &Path, test: impl Fn(&str) -> bool) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(&test))
        .map(|entry| entry.path())
}

/// Unpacks the files of a package below `root`; its maintainer scripts don't run.
pub fn unpack(package: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root)).map(drop)
}

/// Reads what `apt-get install --simulate` prints: `Inst name (version suite [architecture])`.
fn parse_plan(plan: &str) -> Vec<Package> {
    plan.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            let version = rest.split_whitespace().next()?;
            let name = name.split(':').next().unwrap_or(name);
            Some(Package { name: name.to_owned(), version: version.to_owned(), depends: String::new() })
        })
        .collect()
}

/// Reads the paragraphs that `apt-cache show` prints.
fn parse_packages(listing: &str) -> Vec<Package> {
    listing
        .split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .map(|value| value.trim().to_owned())
            };
            Some(Package {
                name: field("Package")?,
                version: field("Version")?,
                depends: field("Depends").unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_from_apts_index_targets() {
        let listing = "nodistro main https://elsewhere.test/node\n\
                       bookworm main http://mirror.test/debian/\n\
                       bookworm contrib http://other.test/debian/\n\
                       bookworm-security main http://mirror.test/sec/\n";
        let mirrors = Mirrors::from_targets(listing, "bookworm").unwrap();
        assert_eq!(mirrors.main, "http://mirror.test/debian");
        assert_eq!(mirrors.security, "http://mirror.test/sec");
        assert_eq!(Mirrors::from_targets(listing, "noble"), None);
    }

    #[test]
    fn the_security_archive_stands_beside_the_main_one() {
        let mirrors = Mirrors::at("http://mirror.test/debian/");
        assert_eq!(mirrors.security, "http://mirror.test/debian-security");
    }

    #[test]
    fn codename_of_os_release() {
        assert_eq!(os_codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(os_codename("VERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
        assert_eq!(os_codename("ID=alpine\n"), None);
    }

    #[test]
    fn what_apt_would_install() {
        let plan = "Inst gcc-14-base (14.2.0-19 Debian:13.5/stable [amd64])\n\
                    Inst libexpat1 (2.7.1-2 Debian:13.5/stable, Debian-Security:13/stable-security [amd64])\n\
                    Conf libexpat1 (2.7.1-2 Debian:13.5/stable [amd64])\n";
        let pinned: Vec<_> = parse_plan(plan).iter().map(Package::pinned).collect();
        assert_eq!(pinned, ["gcc-14-base=14.2.0-19", "libexpat1=2.7.1-2"]);
    }

    #[test]
    fn a_packages_paragraphs() {
        let listing = "Package: linux-image-cloud-amd64\nVersion: 1:7.2.13-1\n\
                       Depends: linux-image-7.2.13-cloud-amd64 (= 7.2.13-1), kmod | module-tools, python3:any\n\
                       Description: text\n more text\n\n\
                       Package: zlib1g\nVersion: 1.2\n";
        let packages = parse_packages(listing);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].pinned(), "linux-image-cloud-amd64=1:7.2.13-1");
        let dependencies: Vec<_> = packages[0].dependencies().collect();
        assert_eq!(dependencies, ["linux-image-7.2.13-cloud-amd64", "kmod", "python3"]);
        assert_eq!(packages[1].dependencies().count(), 0);
    }
}
