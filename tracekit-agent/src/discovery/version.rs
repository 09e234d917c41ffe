//! Versions of Python.

use std::fmt;

/// Where a version was found, most exact first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionSource {
    /// `_Py_DebugOffsets.version` (3.13+).
    DebugOffsets,
    /// The exported constant `Py_Version` (3.11+).
    VersionSymbol,
    /// The text of `PY_VERSION` in the read-only data.
    Text,
    /// The name of a file: no patch level.
    FileName,
}

/// A version of Python.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PythonVersion {
    /// `sys.version_info.major`
    pub major: u8,
    /// `sys.version_info.minor`
    pub minor: u8,
    /// `sys.version_info.micro`; `None` if only a file name told the version.
    pub micro: Option<u8>,
    /// `a1`, `b2`, `rc3`, empty for a final release.
    pub pre_release: String,
}

impl PythonVersion {
    /// A version without patch level.
    #[must_use]
    pub fn new(major: u8, minor: u8) -> Self {
        Self { major, minor, micro: None, pre_release: String::new() }
    }

    /// Decodes `PY_VERSION_HEX` (CPython `patchlevel.h`); `None` for what cannot be one.
    #[must_use]
    pub fn from_hex(hex: u64) -> Option<Self> {
        let [major, minor, micro, release] = u32::try_from(hex).ok()?.to_be_bytes();
        if !(2..=4).contains(&major) {
            return None;
        }
        let kind = match release >> 4 {
            0xa => "a",
            0xb => "b",
            0xc => "rc",
            0xf => "",
            _ => return None,
        };
        let pre_release = if kind.is_empty() { String::new() } else { format!("{kind}{}", release & 0xf) };
        Some(Self { major, minor, micro: Some(micro), pre_release })
    }

    /// Parses `3.11`, `3.11.2`, `3.15.0rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mut version = Self::new(major, minor);
        if let Some(rest) = parts.next() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (micro, pre_release) = rest.split_at(digits);
            version.micro = Some(micro.parse().ok()?);
            version.pre_release = pre_release.to_owned();
        }
        Some(version)
    }

    /// The version in `python3.11`, `libpython3.13t.so.1.0`, `python3.9-dbg`.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("lib").unwrap_or(name).strip_prefix("python")?;
        let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
        let (major, minor) = (numbers.next()?, numbers.next()?);
        if !rest.get(major.len()..)?.starts_with('.') {
            return None;
        }
        Some(Self::new(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(micro) = self.micro {
            write!(f, ".{micro}")?;
        }
        f.write_str(&self.pre_release)
    }
}

/// The ABI flags (`sys.abiflags`) in the name of an interpreter or its library: `t` free-threaded, `d` debug.
#[must_use]
pub fn abi_flags(name: &str) -> &str {
    let rest = name.strip_prefix("lib").unwrap_or(name).strip_prefix("python").unwrap_or_default();
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let flags = rest.get(..end).unwrap_or_default();
    // In `libpython3.11.so` the trimming has eaten the dot before `so`.
    if flags == "so" { "" } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_one() {
        let text = |version: Option<PythonVersion>| version.map(|v| v.to_string());
        assert_eq!(text(PythonVersion::from_hex(0x030E_0AF0)), Some("3.14.10".into()));
        assert_eq!(text(PythonVersion::from_hex(0x030F_00C2)), Some("3.15.0rc2".into()));
        assert_eq!(text(PythonVersion::from_hex(0)), None);
        assert_eq!(text(PythonVersion::from_hex(u64::MAX)), None);
        assert_eq!(text(PythonVersion::parse("3.8.18")), Some("3.8.18".into()));
        assert_eq!(text(PythonVersion::parse("3.15.0b1")), Some("3.15.0b1".into()));
        assert_eq!(text(PythonVersion::parse("3.x")), None);
        for (name, expected) in [
            ("python3.11", Some("3.11")),
            ("libpython3.13t.so.1.0", Some("3.13")),
            ("python3.9-dbg", Some("3.9")),
            ("python3", None),
            ("libpython3.so", None),
            ("python", None),
            ("python311", None),
        ] {
            assert_eq!(text(PythonVersion::from_file_name(name)).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn flags() {
        assert_eq!(abi_flags("libpython3.13t.so.1.0"), "t");
        assert_eq!(abi_flags("libpython3.13td.so.1.0"), "td");
        assert_eq!(abi_flags("libpython3.7m.so.1.0"), "m");
        assert_eq!(abi_flags("libpython3.11.so.1.0"), "");
        assert_eq!(abi_flags("python3.13t"), "t");
        assert_eq!(abi_flags("python3.11-dbg"), "");
        assert_eq!(abi_flags("python3.11d"), "d");
    }
}
