//! `/proc/PID/maps`: which files a process has mapped.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file that a process has mapped; its first mapping stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedFile {
    /// First address of the file's first mapping.
    pub start: u64,
    /// Address after that mapping.
    pub end: u64,
    /// Offset of that mapping in the file.
    pub offset: u64,
    /// Inode number.
    pub inode: u64,
    /// Path as the kernel prints it, without ` (deleted)`.
    pub path: PathBuf,
    /// The file has been removed, or replaced by an upgrade, since.
    pub deleted: bool,
}

impl MappedFile {
    /// The last component, empty if it is not UTF-8.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }
}

/// The mapped files of a process, in the order of their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Each file once.
    pub files: Vec<MappedFile>,
}

impl Mappings {
    /// Parses `proc_pid_maps(5)`. Lines that do not parse are skipped: a strange one must not hide the rest.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut files: Vec<MappedFile> = Vec::new();
        let mut seen = HashSet::new();
        for line in text.split(|byte| *byte == b'\n') {
            let Some(file) = parse_line(line) else { continue };
            let key = (file.inode, file.path.as_os_str().as_bytes().to_vec());
            if seen.insert(key) {
                files.push(file);
            }
        }
        Self { files }
    }

    /// The first file whose last path component satisfies the test.
    pub fn find(&self, mut test: impl FnMut(&str) -> bool) -> Option<&MappedFile> {
        self.files.iter().find(|file| test(file.file_name()))
    }
}

/// The mapping of a file that has this address, by `proc_pid_maps(5)`.
#[must_use]
pub fn mapping_at(text: &[u8], address: u64) -> Option<MappedFile> {
    let mut mappings = text.split(|byte| *byte == b'\n').filter_map(parse_line);
    mappings.find(|mapping| (mapping.start..mapping.end).contains(&address))
}

/// `start-end perms offset dev inode  path`
fn parse_line(line: &[u8]) -> Option<MappedFile> {
    let slash = line.iter().position(|byte| *byte == b'/')?;
    let (fields, path) = line.split_at(slash);
    let fields = std::str::from_utf8(fields).ok()?;
    let mut words = fields.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (_permissions, offset, _device, inode) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let (path, deleted) = without_deleted(Path::new(OsStr::from_bytes(&unescaped(path))));
    Some(MappedFile {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        inode: inode.parse().ok()?,
        path,
        deleted,
    })
}

/// The kernel writes a newline in a path as `\012`, and nothing else is escaped.
fn unescaped(path: &[u8]) -> Vec<u8> {
    const ESCAPE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPE) {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

/// Splits off the ` (deleted)` that the kernel appends to a path without a directory entry.
#[must_use]
pub fn without_deleted(path: &Path) -> (PathBuf, bool) {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(kept) => (PathBuf::from(OsStr::from_bytes(kept)), true),
        None => (path.to_path_buf(), false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 123  /srv/my app/bin/python3.11 (deleted)\n\
55d0c0001000-55d0c0002000 r-xp 00001000 fe:01 123  /srv/my app/bin/python3.11 (deleted)\n\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
7f0000002000-7f0000003000 r--p 00000000 fe:01 77   /usr/lib/libpython3.11.so.1.0\n\
garbage /x\n\
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0    [stack]\n";

    #[test]
    fn files_once_and_deleted_marked() {
        let maps = Mappings::parse(TEXT);
        assert_eq!(maps.files.len(), 2);
        assert_eq!(maps.files[0].path, Path::new("/srv/my app/bin/python3.11"));
        assert!(maps.files[0].deleted);
        assert_eq!(maps.files[0].start, 0x55d0_c000_0000);
        assert_eq!(maps.find(|name| name.starts_with("libpython")).unwrap().inode, 77);
    }

    #[test]
    fn a_newline_in_a_path_is_one_line() {
        let maps = Mappings::parse(b"1000-2000 r--p 00000000 fe:01 5 /a\\012b\n");
        assert_eq!(maps.files[0].path, Path::new("/a\nb"));
    }

    proptest! {
        #[test]
        fn anything_parses(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Mappings::parse(&bytes);
        }

        #[test]
        fn corrupted_maps_parse(at in 0..TEXT.len(), byte in any::<u8>()) {
            let mut text = TEXT.to_vec();
            text[at] = byte;
            let _ = Mappings::parse(&text);
        }
    }
}
