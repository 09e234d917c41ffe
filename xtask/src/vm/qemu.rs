//! One emulated machine: booted, watched, and read from its serial console.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Memory of a guest in MiB: twice what the check uses with the root file system in it.
const MEMORY: u32 = 1024;

/// Architecture of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// That of the machine that runs this.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// Debian's name of it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The emulator.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Rust's name of it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C compiler that builds and links for it on another machine.
    pub fn cross_compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// What a Debian machine of another architecture needs to build for it and to emulate it.
    pub fn cross_packages(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["qemu-system-x86", "gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross", "cpio"],
            Self::Arm64 => &["qemu-system-arm", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "cpio"],
        }
    }

    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "pc",
            Self::Arm64 => "virt",
        }
    }

    /// The newest features that the emulator knows. On arm64 pointers are signed by a cheap algorithm in place of
    /// the architecture's own, which takes most of the time when emulated.
    fn processor(self) -> &'static str {
        match self {
            Self::Amd64 => "max",
            Self::Arm64 => "max,pauth-impdef=on",
        }
    }

    fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}

/// A machine to boot.
#[derive(Debug)]
pub struct Guest {
    /// Its architecture.
    pub arch: Arch,
    /// The kernel's boot image.
    pub kernel: PathBuf,
    /// Kernel parameters beside those that every guest gets.
    pub parameters: &'static str,
    /// The root file system.
    pub initramfs: PathBuf,
    /// Where its console is written to.
    pub log: PathBuf,
    /// Number of its processors.
    pub cpus: u8,
    /// How long it may take.
    pub timeout: Duration,
}

impl Guest {
    /// Boots it, waits until it turns itself off, and reads what it said.
    pub fn boot(&self) -> Result<Report> {
        let log = File::create(&self.log).with_context(|| format!("creating {}", self.log.display()))?;
        let errors = log.try_clone().with_context(|| format!("writing {}", self.log.display()))?;
        let mut child = self
            .command(&[])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}", self.arch.qemu()))?;
        let deadline = Instant::now() + self.timeout;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting for the emulator")? {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill().context("stopping the emulator")?;
                child.wait().context("waiting for the emulator")?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let console = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(Report::new(&String::from_utf8_lossy(&console), self.ending(status)))
    }

    /// Boots it with this terminal as its console; a shell follows the check.
    pub fn shell(&self) -> Result<()> {
        let status =
            self.command(&["vm.shell"]).status().with_context(|| format!("starting {}", self.arch.qemu()))?;
        if !status.success() {
            bail!("the emulator ended with {status}");
        }
        Ok(())
    }

    fn command(&self, parameters: &[&str]) -> Command {
        let mut command = Command::new(self.arch.qemu());
        command
            // Processors take turns in one thread: with a thread each, TCG now and then breaks while a kernel patches
            // its own text, which is what attaching a probe does.
            .args([
                "-accel",
                "tcg,thread=single",
                "-cpu",
                self.arch.processor(),
                "-machine",
                self.arch.machine(),
            ])
            .args(["-smp", &self.cpus.to_string(), "-m", &MEMORY.to_string()])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!(
                "console={} quiet panic=-1 {} {}",
                self.arch.console(),
                self.parameters,
                parameters.join(" ")
            ));
        command
    }

    /// What is wrong with how the emulator ended.
    fn ending(&self, status: Option<ExitStatus>) -> Option<String> {
        match status {
            None => Some(format!("not done after {} s; see {}", self.timeout.as_secs(), self.log.display())),
            Some(status) if !status.success() => Some(format!("the emulator ended with {status}")),
            Some(_) => None,
        }
    }
}

/// What a guest said on its console.
#[derive(Debug, Default)]
pub struct Report {
    /// Verdicts and notes of the check, without the marker.
    pub lines: Vec<String>,
    /// Every line of the console.
    pub console: Vec<String>,
    /// The check came to its end.
    pub done: bool,
    passed: usize,
    failed: usize,
    ending: Option<String>,
}

impl Report {
    /// Reads a console. The check marks its lines with `vm: ` and one of PASS, FAIL, NOTE, DONE.
    fn new(console: &str, ending: Option<String>) -> Self {
        let mut report = Self { ending, ..Self::default() };
        for line in console.lines().map(str::trim_end) {
            report.console.push(line.to_owned());
            let Some(said) = line.strip_prefix("vm: ") else { continue };
            match said.split_whitespace().next() {
                Some("PASS") => report.passed += 1,
                Some("FAIL") => report.failed += 1,
                Some("DONE") => report.done = true,
                _ => {}
            }
            report.lines.push(said.to_owned());
        }
        report
    }

    /// Why the check did not succeed; `None` if it did.
    pub fn failure(&self) -> Option<String> {
        if let Some(ending) = &self.ending {
            return Some(ending.clone());
        }
        match (self.done, self.failed, self.passed) {
            (false, ..) => Some("the guest went down before the check was done".to_owned()),
            (true, 0, 0) => Some("the check has checked nothing".to_owned()),
            (true, 0, _) => None,
            (true, failed, _) => Some(format!("{failed} expectations failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_needs_the_last_line() {
        let report = Report::new("boot\r\nvm: PASS one\r\nvm: NOTE ok\r\nvm: DONE 0 failures\r\n", None);
        assert_eq!(report.failure(), None);
        assert_eq!(report.lines, ["PASS one", "NOTE ok", "DONE 0 failures"]);
        assert!(Report::new("vm: PASS one\n", None).failure().is_some());
        assert!(Report::new("vm: DONE\n", None).failure().is_some());
    }

    #[test]
    fn one_failure_fails_all() {
        let report = Report::new("vm: PASS one\nvm: FAIL two: 3\nvm: DONE\n", None);
        assert_eq!(report.failure().unwrap(), "1 expectations failed");
    }

    #[test]
    fn an_emulator_that_is_stopped_fails() {
        let report = Report::new("vm: PASS one\nvm: DONE\n", Some("not done after 1 s".to_owned()));
        assert_eq!(report.failure().unwrap(), "not done after 1 s");
    }
}
