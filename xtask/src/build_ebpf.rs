//! `cargo xtask build-ebpf`: builds the kernel objects with whichever toolchain can.
//!
//! There are two of the same sources: one that traces, and one that also puts headers into requests, which needs a
//! capability more to be loaded. They are committed, so that `cargo build` needs neither a compiler for `bpfel-unknown-none` nor
//! `bpf-linker`; `--check` builds it again and fails if it differs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use object::build::elf::{Builder, SectionData};
use tracekit_tests::{paths, process};

/// Where the objects are committed, and the features that they are built with.
const OBJECTS: &[(&str, &str)] =
    &[("tracekit-ebpf/object/tracing.bpf.o", ""), ("tracekit-ebpf/object/propagating.bpf.o", "propagate")];
/// The record of what built them.
const TOOLCHAIN: &str = "tracekit-ebpf/object/toolchain.txt";
const TARGET: &str = "bpfel-unknown-none";

/// Arguments of `cargo xtask build-ebpf`.
#[derive(Debug, clap::Args)]
pub struct BuildEbpfArgs {
    /// Build into target/ and fail if a committed object differs.
    #[arg(long)]
    check: bool,
}

/// A compiler that owns the sources of `core`.
#[derive(Debug)]
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    version: String,
}

/// Builds the objects, or checks the committed ones.
///
/// # Errors
/// No toolchain, a failed build, or a difference.
pub fn run(args: &BuildEbpfArgs) -> Result<()> {
    let root = paths::workspace();
    let linker = find_linker()?;
    let toolchain = Toolchain::find(&root.join(TOOLCHAIN))?;
    let record = format!("{}\n{}\n", toolchain.version, output(Command::new(&linker).arg("--version"))?);

    if args.check {
        let recorded =
            fs::read_to_string(root.join(TOOLCHAIN)).with_context(|| format!("{TOOLCHAIN} is not there"))?;
        ensure!(
            recorded == record,
            "can't compare: the objects were built with\n{recorded}here is\n{record}\
             install that toolchain (`cargo xtask setup` on Debian), or rebuild with `cargo xtask build-ebpf` and commit"
        );
    }
    for (object, features) in OBJECTS {
        let built = strip(&build(root, &toolchain, &linker, features)?)?;
        if args.check {
            compare(root, object, &built)?;
            continue;
        }
        fs::create_dir_all(root.join(object).parent().context("object has a folder")?)?;
        fs::write(root.join(object), &built)?;
        println!("{object}: {} bytes, built with {}", built.len(), toolchain.version);
    }
    if !args.check {
        fs::write(root.join(TOOLCHAIN), record)?;
    }
    Ok(())
}

/// Fails if the committed object is not what was just built.
fn compare(root: &Path, object: &str, built: &[u8]) -> Result<()> {
    let committed = fs::read(root.join(object)).with_context(|| format!("{object} is not there"))?;
    if committed != built {
        let fresh = root.join("target").join(Path::new(object).file_name().context("object has a name")?);
        fs::write(&fresh, built)?;
        bail!(
            "{object} is not what its sources give; the fresh build is {}. \
             Run `cargo xtask build-ebpf` and commit the result",
            fresh.display()
        );
    }
    println!("{object}: same as its sources give ({} bytes)", committed.len());
    Ok(())
}

fn build(root: &Path, toolchain: &Toolchain, linker: &Path, features: &str) -> Result<Vec<u8>> {
    // Paths of this machine must not reach the object: neither its strings nor its symbol hashes.
    let home = env::var("CARGO_HOME").map_or_else(|_| home().join(".cargo"), PathBuf::from);
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--remap-path-prefix={}=/tracekit", root.display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        format!("--remap-path-prefix={}=/rust", toolchain.sysroot.display()),
    ];
    // Of several prefixes the last counts: sources of crates are at one place, wherever they were fetched from.
    process::run(
        Command::new(&toolchain.cargo)
            .args(["fetch", "--locked", "--quiet"])
            .current_dir(root.join("tracekit-ebpf")),
    )
    .context("fetch the crates of the kernel side")?;
    for source in fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=/crates", source.path().display()));
    }
    let target_dir = root.join("target/bpf");
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(root.join("tracekit-ebpf"))
        .args(["build", "--release", "--locked", "--quiet", "-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .args(["--features", features])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What the outer cargo left for its own children would reach the inner one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let outer =
            ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
        if outer.contains(&name.as_str())
            || name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST")
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CARGO_PROFILE_")
        {
            command.env_remove(name);
        }
    }
    command.env("RUSTC", &toolchain.rustc);
    let status = command.status().with_context(|| format!("run {}", toolchain.cargo.display()))?;
    ensure!(status.success(), "the kernel object does not build with {}", toolchain.version);
    let path = target_dir.join(TARGET).join("release/tracing");
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// Removes DWARF: the kernel and the loader use BTF.
fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("the linker's output is not ELF")?;
    let debug: Vec<_> = builder
        .sections
        .iter()
        .filter(|section| {
            let name = section.name.to_string();
            name.starts_with(".debug_") || name.starts_with(".rel.debug_")
        })
        .map(|section| section.id())
        .collect();
    for id in debug {
        builder.sections.get_mut(id).delete = true;
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections in the table of symbol names; the writer wants their own.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut out = Vec::new();
    builder.write(&mut out).context("write the stripped object")?;
    Ok(out)
}

impl Toolchain {
    /// The one that built the committed object if it is here, else the first that can build.
    fn find(record: &Path) -> Result<Self> {
        let recorded = fs::read_to_string(record).unwrap_or_default();
        let candidates: Vec<Self> = [
            output(Command::new("rustup").args(["which", "rustc", "--toolchain", "nightly"]))
                .ok()
                .map(PathBuf::from),
            output(Command::new("rustup").args(["which", "rustc"])).ok().map(PathBuf::from),
            Some(PathBuf::from("/usr/bin/rustc")),
        ]
        .into_iter()
        .flatten()
        .filter_map(Self::probe)
        .collect();
        let preferred = candidates.iter().position(|c| recorded.lines().next() == Some(c.version.as_str()));
        candidates.into_iter().nth(preferred.unwrap_or(0)).context(
            "no Rust compiler here has the sources of `core`. On Debian: `cargo xtask setup`. Elsewhere: \
             `rustup toolchain install nightly --component rust-src`",
        )
    }

    fn probe(rustc: PathBuf) -> Option<Self> {
        let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"])).ok()?);
        sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists().then_some(())?;
        let version = output(Command::new(&rustc).arg("--version")).ok()?;
        let cargo = rustc.with_file_name("cargo");
        cargo.exists().then_some(Self { rustc, cargo, sysroot, version })
    }
}

fn find_linker() -> Result<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths)
        .chain([home().join(".cargo/bin")])
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.exists())
        .context("`bpf-linker` is not installed. On Debian: `cargo xtask setup`. Elsewhere: `cargo binstall bpf-linker`")
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// What a command prints, trimmed.
fn output(command: &mut Command) -> Result<String> {
    Ok(process::run(command)?.trim().to_owned())
}
