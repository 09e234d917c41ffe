//! What an ELF file says about the Python in it. Every size and offset of the file is bounded before use:
//! the file belongs to the target, and it may be anything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use object::LittleEndian as LE;
use object::elf;
use object::pod::{Pod, slice_from_bytes};
use regex::bytes::Regex;

use super::version::{PythonVersion, VersionSource};

/// Sections and segments of a file that are looked at; interpreters have about 40.
const MAX_HEADERS: u64 = 1024;
/// Bytes of one symbol or string table. CPython with a thousand exported functions needs 0.3 MiB, its full
/// symbol table 1 MiB; a program that embeds it can be larger.
const MAX_TABLE: u64 = 48 << 20;
/// Bytes of read-only data that are searched for a version.
const MAX_RODATA: u64 = 24 << 20;
/// Bytes of a note section, of `PT_INTERP`, of a section name table.
const MAX_SMALL: u64 = 1 << 20;
/// Names longer than this are not compared.
const MAX_NAME: usize = 512;

/// Random access to the bytes of a file.
pub trait ReadAt {
    /// Exactly `length` bytes from `offset`.
    ///
    /// # Errors
    /// Also if the file ends before.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Length of the file.
    fn length(&self) -> u64;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn length(&self) -> u64 {
        self.metadata().map_or(0, |meta| meta.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    fn length(&self) -> u64 {
        self.len() as u64
    }
}

/// Why the file is CPython.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It defines `_PyRuntime` (3.7+).
    RuntimeSymbol,
    /// It has a section `.PyRuntime` (3.10+), though no symbol: static and stripped.
    RuntimeSection,
    /// It defines `Py_GetVersion`, but no runtime: before 3.7.
    ApiSymbol,
}

/// What an ELF file says about the Python in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BinaryFacts {
    /// 32 or 64; 0 if the file is not ELF.
    pub bits: u8,
    /// The file contains a CPython.
    pub evidence: Option<Evidence>,
    /// A library `libpythonX.Y` is loaded with it (`DT_NEEDED`).
    pub needs_libpython: bool,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// The version, from the most exact source in the file. [`VersionSource::Text`] is only looked for if
    /// there is evidence of CPython or the caller asks for it.
    pub version: Option<(PythonVersion, VersionSource)>,
    /// The debug offsets of the interpreter say whether it was built without the GIL (3.13+).
    pub free_threaded: Option<bool>,
    /// Built with reference tracing (`Py_DEBUG`).
    pub debug: bool,
    /// The just-in-time compiler is compiled in (3.13+; it may still be switched off).
    pub jit: bool,
    /// It has a full symbol table (`.symtab`): not stripped.
    pub has_symtab: bool,
    /// GNU build id, hexadecimal.
    pub build_id: Option<String>,
}

type Section = elf::SectionHeader64<LE>;
type Segment = elf::ProgramHeader64<LE>;
type Symbol = elf::Sym64<LE>;

struct Elf<'a, R: ?Sized> {
    file: &'a R,
    /// `ET_EXEC`, `ET_DYN`
    kind: u16,
    sections: Vec<Section>,
    segments: Vec<Segment>,
    names: Vec<u8>,
}

/// Symbols whose definition or value is of interest.
#[derive(Default)]
struct Symbols {
    runtime: Option<u64>,
    version: Option<u64>,
    get_version: bool,
    reference_total: bool,
    jit: bool,
}

/// Reads the facts. A file that is not ELF or is broken gives what could be read of it: nothing at worst.
///
/// `named_python`: the file's name says that it is Python, so its version is looked for even if nothing else
/// in it speaks for Python (static, stripped, before 3.10).
pub fn read_facts<R: ReadAt + ?Sized>(file: &R, named_python: bool) -> BinaryFacts {
    let mut facts = BinaryFacts::default();
    let Ok(ident) = file.read_at(0, 16) else { return facts };
    if !ident.starts_with(&elf::ELFMAG) {
        return facts;
    }
    facts.bits = match ident.get(4) {
        Some(&elf::ELFCLASS64) => 64,
        Some(&elf::ELFCLASS32) => 32,
        _ => 0,
    };
    if facts.bits != 64 || ident.get(5) != Some(&elf::ELFDATA2LSB) {
        return facts;
    }
    let Some(elf) = Elf::open(file) else { return facts };
    facts.has_symtab = elf.section_of_type(elf::SHT_SYMTAB).is_some();
    facts.build_id = elf.build_id();
    elf.read_dynamic(&mut facts);

    let mut symbols = Symbols::default();
    elf.read_symbols(elf::SHT_DYNSYM, &mut symbols);
    let section = elf.section_named(b".PyRuntime").map(|section| section.sh_addr.get(LE));
    // A full symbol table can be huge, and any program may have one: not worth it without a reason.
    if symbols.runtime.is_none() && section.is_none() && named_python {
        elf.read_symbols(elf::SHT_SYMTAB, &mut symbols);
    }
    let runtime = symbols.runtime.or(section);
    facts.evidence = match (symbols.runtime, section) {
        (Some(_), _) => Some(Evidence::RuntimeSymbol),
        (None, Some(_)) => Some(Evidence::RuntimeSection),
        (None, None) => symbols.get_version.then_some(Evidence::ApiSymbol),
    };
    facts.debug = symbols.reference_total;
    if let Some(hex) = symbols.version.and_then(|address| elf.u64_at(address)) {
        facts.version = PythonVersion::from_hex(hex).map(|version| (version, VersionSource::VersionSymbol));
    }
    if let Some(address) = runtime {
        elf.read_debug_offsets(address, &mut facts);
    }
    if facts.evidence.is_some() || named_python {
        elf.search_text(&mut facts, symbols.jit);
    }
    facts
}

/// The address at which a running process has the first of these dynamic symbols that the file defines.
/// `start` and `offset` are those of one mapping of the file.
pub fn run_time_address<R: ReadAt + ?Sized>(
    file: &R,
    names: &[&[u8]],
    start: u64,
    offset: u64,
) -> Option<u64> {
    let elf = Elf::open(file)?;
    let address = elf.defined_symbol(names)?;
    elf.run_time(address, start, offset)
}

/// The address of `_PyRuntime` in a running process: from the dynamic symbols, the full symbol table, or
/// the section `.PyRuntime` (3.10+), in this order. `start` and `offset` are those of one mapping of the file.
pub fn runtime_address<R: ReadAt + ?Sized>(file: &R, start: u64, offset: u64) -> Option<u64> {
    let elf = Elf::open(file)?;
    let mut symbols = Symbols::default();
    elf.read_symbols(elf::SHT_DYNSYM, &mut symbols);
    if symbols.runtime.is_none() {
        elf.read_symbols(elf::SHT_SYMTAB, &mut symbols);
    }
    let section = || elf.section_named(b".PyRuntime").map(|section| section.sh_addr.get(LE));
    elf.run_time(symbols.runtime.or_else(section)?, start, offset)
}

fn table<T: Pod + Copy>(bytes: &[u8]) -> Vec<T> {
    slice_from_bytes::<T>(bytes, bytes.len() / std::mem::size_of::<T>())
        .map_or_else(|()| Vec::new(), |(items, _)| items.to_vec())
}

fn string_at(strings: &[u8], offset: u64) -> Option<&[u8]> {
    let rest = strings.get(usize::try_from(offset).ok()?..)?;
    let rest = rest.get(..MAX_NAME).unwrap_or(rest);
    rest.iter().position(|byte| *byte == 0).and_then(|end| rest.get(..end))
}

impl<'a, R: ReadAt + ?Sized> Elf<'a, R> {
    fn open(file: &'a R) -> Option<Self> {
        let header = file.read_at(0, std::mem::size_of::<elf::FileHeader64<LE>>()).ok()?;
        let header = *table::<elf::FileHeader64<LE>>(&header).first()?;
        let mut elf = Self {
            file,
            kind: header.e_type.get(LE),
            sections: Vec::new(),
            segments: Vec::new(),
            names: Vec::new(),
        };
        // e_shnum == 0 would mean more than 65 279 sections: no interpreter has that.
        elf.sections = elf.headers(header.e_shoff.get(LE), header.e_shnum.get(LE));
        elf.segments = elf.headers(header.e_phoff.get(LE), header.e_phnum.get(LE));
        if let Some(names) = elf.sections.get(usize::from(header.e_shstrndx.get(LE))) {
            elf.names = elf.contents(names, MAX_SMALL).unwrap_or_default();
        }
        Some(elf)
    }

    /// Where a process that has mapped the file's part from `offset` at `start` has a linked address.
    fn run_time(&self, address: u64, start: u64, offset: u64) -> Option<u64> {
        if self.kind == elf::ET_EXEC {
            return Some(address);
        }
        let segment = self.segments.iter().find(|segment| {
            let from = segment.p_offset.get(LE);
            segment.p_type.get(LE) == elf::PT_LOAD
                && offset >= from & !0xfff
                && offset < from.saturating_add(segment.p_filesz.get(LE))
        })?;
        // Segments are mapped by whole pages, so the addresses that belong to `start` are rounded down too.
        let linked = segment.p_vaddr.get(LE).wrapping_sub(segment.p_offset.get(LE)).wrapping_add(offset);
        Some(address.wrapping_add(start.wrapping_sub(linked)))
    }

    fn headers<T: Pod + Copy>(&self, offset: u64, count: u16) -> Vec<T> {
        let count = u64::from(count).min(MAX_HEADERS);
        let length = count as usize * std::mem::size_of::<T>();
        self.file.read_at(offset, length).map(|bytes| table(&bytes)).unwrap_or_default()
    }

    /// The bytes of a section, if there are at most `limit` and all are in the file.
    fn contents(&self, section: &Section, limit: u64) -> Option<Vec<u8>> {
        let size = section.sh_size.get(LE);
        if section.sh_type.get(LE) == elf::SHT_NOBITS || size > limit || size > self.file.length() {
            return None;
        }
        self.file.read_at(section.sh_offset.get(LE), usize::try_from(size).ok()?).ok()
    }

    fn section_of_type(&self, kind: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.sh_type.get(LE) == kind)
    }

    fn section_named(&self, name: &[u8]) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| string_at(&self.names, u64::from(section.sh_name.get(LE))) == Some(name))
    }

    fn linked_strings(&self, section: &Section) -> Option<Vec<u8>> {
        self.contents(self.sections.get(section.sh_link.get(LE) as usize)?, MAX_TABLE)
    }

    fn defined_symbol(&self, names: &[&[u8]]) -> Option<u64> {
        let section = self.section_of_type(elf::SHT_DYNSYM)?;
        let strings = self.linked_strings(section)?;
        let symbols = table::<Symbol>(&self.contents(section, MAX_TABLE)?);
        let found = symbols.iter().find(|symbol| {
            symbol.st_shndx.get(LE) != elf::SHN_UNDEF
                && string_at(&strings, u64::from(symbol.st_name.get(LE)))
                    .is_some_and(|name| names.contains(&name))
        })?;
        Some(found.st_value.get(LE))
    }

    fn read_symbols(&self, kind: u32, found: &mut Symbols) {
        let Some(section) = self.section_of_type(kind) else { return };
        let Some(strings) = self.linked_strings(section) else { return };
        let Some(bytes) = self.contents(section, MAX_TABLE) else { return };
        for symbol in table::<Symbol>(&bytes) {
            // Undefined symbols are what other files must bring.
            if symbol.st_shndx.get(LE) == elf::SHN_UNDEF {
                continue;
            }
            let address = symbol.st_value.get(LE);
            match string_at(&strings, u64::from(symbol.st_name.get(LE))) {
                Some(b"_PyRuntime") => found.runtime = Some(address),
                Some(b"Py_Version") => found.version = Some(address),
                Some(b"Py_GetVersion") => found.get_version = true,
                // 3.8–3.11 keep a global total under Py_REF_DEBUG, 3.12+ export its reader.
                Some(b"_Py_RefTotal" | b"_Py_GetGlobalRefTotal") => found.reference_total = true,
                Some(b"_PyJIT_Compile") => found.jit = true,
                _ => {}
            }
        }
    }

    fn read_dynamic(&self, facts: &mut BinaryFacts) {
        let Some(section) = self.section_of_type(elf::SHT_DYNAMIC) else { return };
        let Some(strings) = self.linked_strings(section) else { return };
        let Some(bytes) = self.contents(section, MAX_SMALL) else { return };
        for entry in table::<elf::Dyn64<LE>>(&bytes) {
            let text = || string_at(&strings, entry.d_val.get(LE)).map(String::from_utf8_lossy);
            match u32::try_from(entry.d_tag.get(LE)) {
                Ok(elf::DT_NULL) => break,
                Ok(elf::DT_SONAME) => facts.soname = text().map(std::borrow::Cow::into_owned),
                Ok(elf::DT_NEEDED) => {
                    facts.needs_libpython |= text().is_some_and(|name| name.starts_with("libpython"));
                }
                _ => {}
            }
        }
    }

    fn build_id(&self) -> Option<String> {
        let section = self.section_named(b".note.gnu.build-id")?;
        let bytes = self.contents(section, MAX_SMALL)?;
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
        let (name_size, size) = (word(0)?, word(4)?);
        if word(8)? != elf::NT_GNU_BUILD_ID as usize || size > 64 {
            return None;
        }
        let start = 12_usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let id = bytes.get(start..start.checked_add(size)?)?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The bytes that the file has for an address of the image.
    fn at_address(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let segment = self.segments.iter().find(|segment| {
            let start = segment.p_vaddr.get(LE);
            segment.p_type.get(LE) == elf::PT_LOAD
                && address >= start
                && address - start < segment.p_filesz.get(LE)
        })?;
        let offset = segment.p_offset.get(LE).checked_add(address - segment.p_vaddr.get(LE))?;
        self.file.read_at(offset, length).ok()
    }

    fn u64_at(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.at_address(address, 8)?.try_into().ok()?))
    }

    /// CPython 3.13+ `pycore_debug_offsets.h`: `_PyRuntime` begins with `char cookie[8]; uint64_t version;
    /// uint64_t free_threaded;`, and all three are initialised in the file.
    fn read_debug_offsets(&self, runtime: u64, facts: &mut BinaryFacts) {
        let Some(bytes) = self.at_address(runtime, 24) else { return };
        if !bytes.starts_with(b"xdebugpy") {
            return;
        }
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if let Some(version) = word(8).and_then(PythonVersion::from_hex) {
            facts.version = Some((version, VersionSource::DebugOffsets));
        }
        facts.free_threaded = word(16).map(|value| value != 0);
    }

    /// Looks in the read-only data for what no symbol tells: the version of `PY_VERSION`, and the name of the
    /// variable that only a build with the JIT reads.
    fn search_text(&self, facts: &mut BinaryFacts, jit_symbol: bool) {
        facts.jit = jit_symbol;
        let needs_version = facts.version.is_none();
        let may_have_jit = facts.version.as_ref().is_some_and(|(version, _)| version.minor >= 13);
        if !needs_version && (!may_have_jit || jit_symbol) {
            return;
        }
        let mut versions: Vec<(PythonVersion, usize)> = Vec::new();
        for (offset, size) in self.read_only_ranges() {
            let Ok(length) = usize::try_from(size.min(MAX_RODATA).min(self.file.length())) else { continue };
            let Ok(bytes) = self.file.read_at(offset, length) else { continue };
            if may_have_jit && memory_contains(&bytes, b"\0PYTHON_JIT\0") {
                facts.jit = true;
            }
            if needs_version {
                count_versions(&bytes, &mut versions);
            }
        }
        let named = facts.soname.as_deref().and_then(PythonVersion::from_file_name);
        let fits = |version: &PythonVersion| {
            named.as_ref().is_none_or(|n| (n.major, n.minor) == (version.major, version.minor))
        };
        if let Some((version, _)) =
            versions.into_iter().filter(|(version, _)| fits(version)).max_by_key(|(_, count)| *count)
        {
            facts.version = Some((version, VersionSource::Text));
        }
    }

    /// `.rodata`, or without section headers every segment that is not writable.
    fn read_only_ranges(&self) -> Vec<(u64, u64)> {
        if let Some(section) = self.section_named(b".rodata") {
            return vec![(section.sh_offset.get(LE), section.sh_size.get(LE))];
        }
        self.segments
            .iter()
            .filter(|s| s.p_type.get(LE) == elf::PT_LOAD && s.p_flags.get(LE) & elf::PF_W == 0)
            .take(4)
            .map(|segment| (segment.p_offset.get(LE), segment.p_filesz.get(LE)))
            .collect()
    }
}

fn memory_contains(bytes: &[u8], text: &[u8]) -> bool {
    Regex::new(&format!("(?-u){}", regex::escape(&String::from_utf8_lossy(text))))
        .is_ok_and(|pattern| pattern.is_match(bytes))
}

/// Counts strings that are a whole `PY_VERSION`. Other libraries linked into the same file have versions too
/// (SQLite 3.45.1), so only numbers that CPython has or may soon have are counted.
fn count_versions(bytes: &[u8], versions: &mut Vec<(PythonVersion, usize)>) {
    let Ok(pattern) = Regex::new(r"(?-u)(?:2\.7|3\.[0-9]{1,2})\.[0-9]{1,2}(?:(?:a|b|rc)[0-9]{1,2})?\+?\x00")
    else {
        return;
    };
    for found in pattern.find_iter(bytes) {
        let before = found.start().checked_sub(1).and_then(|at| bytes.get(at));
        if before.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
            continue;
        }
        let text = String::from_utf8_lossy(found.as_bytes());
        let Some(version) = PythonVersion::parse(text.trim_end_matches(['\0', '+'])) else { continue };
        if version.major == 3 && !(4..=24).contains(&version.minor) {
            continue;
        }
        if let Some((_, count)) = versions.iter_mut().find(|(known, _)| *known == version) {
            *count += 1;
        } else if versions.len() < 256 {
            versions.push((version, 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Debian's Python, which the test run needs anyway.
    fn system_python() -> Vec<u8> {
        std::fs::read("/usr/bin/python3").expect("/usr/bin/python3 must be installed for the tests")
    }

    #[test]
    fn debian_is_static_and_stripped() {
        let facts = read_facts(system_python().as_slice(), true);
        assert_eq!((facts.bits, facts.evidence), (64, Some(Evidence::RuntimeSymbol)));
        let (version, _) = facts.version.clone().unwrap();
        assert_eq!(version.major, 3);
        assert!(version.micro.is_some());
        assert!(!facts.has_symtab && !facts.needs_libpython && !facts.debug, "{facts:?}");
        assert!(facts.build_id.is_some());
    }

    #[test]
    fn the_version_is_found_as_text_too() {
        let bytes = system_python();
        let by_symbol = read_facts(bytes.as_slice(), true).version.unwrap().0;
        let elf = Elf::open(bytes.as_slice()).unwrap();
        let mut facts = BinaryFacts { evidence: Some(Evidence::ApiSymbol), ..BinaryFacts::default() };
        elf.search_text(&mut facts, false);
        assert_eq!(facts.version, Some((by_symbol, VersionSource::Text)));
    }

    #[test]
    fn not_python_and_not_elf() {
        let facts = read_facts(std::fs::read("/bin/sh").unwrap().as_slice(), false);
        assert_eq!((facts.bits, facts.evidence, facts.version), (64, None, None));
        assert_eq!(read_facts(b"#!/bin/sh\n".as_slice(), true), BinaryFacts::default());
        assert_eq!(read_facts([].as_slice(), true), BinaryFacts::default());
    }

    #[test]
    fn versions_of_linked_libraries_are_not_pythons() {
        let mut versions = Vec::new();
        count_versions(b"\x003.45.1\x00x\x003.2.0\x00 3.12.4\x0013.11.2\x003.12.4+\x00", &mut versions);
        assert_eq!(versions, [(PythonVersion::parse("3.12.4").unwrap(), 2)]);
    }

    /// A linked, static, fully stripped executable in miniature: one segment, `.PyRuntime`, no symbols.
    fn stripped_static(cookie: &[u8], version: u64, free_threaded: u64) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.PyRuntime\0.shstrtab\0";
        const RUNTIME: u64 = 120;
        const ADDRESS: u64 = 0x40_0000;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let names_at = RUNTIME + 24;
        let sections_at = names_at + NAMES.len() as u64;
        let half = |file: &mut Vec<u8>, values: &[u16]| {
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        let word = |file: &mut Vec<u8>, values: &[u32]| {
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        let long = |file: &mut Vec<u8>, values: &[u64]| {
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        half(&mut file, &[elf::ET_EXEC, elf::EM_X86_64]);
        word(&mut file, &[1]);
        long(&mut file, &[ADDRESS, 64, sections_at]);
        word(&mut file, &[0]);
        half(&mut file, &[64, 56, 1, 64, 3, 2]);
        word(&mut file, &[elf::PT_LOAD, elf::PF_R]);
        long(&mut file, &[0, ADDRESS, ADDRESS, sections_at, sections_at, 4096]);
        file.extend(cookie);
        long(&mut file, &[version, free_threaded]);
        file.extend(NAMES);
        for (name, kind, address, offset, size) in [
            (0, elf::SHT_NULL, 0, 0, 0),
            (1, elf::SHT_PROGBITS, ADDRESS + RUNTIME, RUNTIME, 24),
            (12, elf::SHT_STRTAB, 0, names_at, NAMES.len() as u64),
        ] {
            word(&mut file, &[name, kind]);
            long(&mut file, &[0, address, offset, size]);
            word(&mut file, &[0, 0]);
            long(&mut file, &[1, 0]);
        }
        file
    }

    #[test]
    fn static_stripped_and_free_threaded() {
        let facts = read_facts(stripped_static(b"xdebugpy", 0x030E_01F0, 1).as_slice(), true);
        assert_eq!(facts.evidence, Some(Evidence::RuntimeSection));
        let version = PythonVersion::parse("3.14.1").unwrap();
        assert_eq!(facts.version, Some((version, VersionSource::DebugOffsets)));
        assert_eq!((facts.free_threaded, facts.has_symtab), (Some(true), false));
        // Before 3.13 the runtime begins with something else.
        let facts = read_facts(stripped_static(b"whatever", 0x030E_01F0, 1).as_slice(), true);
        assert_eq!(
            (facts.evidence, facts.version, facts.free_threaded),
            (Some(Evidence::RuntimeSection), None, None)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Headers, tables and sizes of a real interpreter overwritten at random: no panic, no huge read.
        #[test]
        fn mutated_elf(changes in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<bool>()), 1..40)) {
            let mut bytes = system_python();
            let sections = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
            for (at, byte, header) in changes {
                let at = if header { usize::from(at) % 64 } else { sections + usize::from(at) % 2000 };
                if let Some(target) = bytes.get_mut(at) {
                    *target = byte;
                }
            }
            // Keep it an ELF file, so that the parser gets further.
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let _ = read_facts(bytes.as_slice(), true);
            let _ = run_time_address(bytes.as_slice(), &[b"environ"], 0x7f00_0000_0000, 4096);
        }

        #[test]
        fn random_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 64..600)) {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let _ = read_facts(bytes.as_slice(), true);
            let _ = run_time_address(bytes.as_slice(), &[b"environ"], 0x7f00_0000_0000, 4096);
        }
    }
}
