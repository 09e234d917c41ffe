//! Every interpreter of `cargo xtask interpreters` is recognised from outside as what it is.

use std::process::Stdio;

use anyhow::{Result, bail, ensure};
use tracekit_agent::discovery::interpreter::{Libc, Linkage};
use tracekit_agent::discovery::{Inspected, Inspector};
use tracekit_tests::interpreters::{Interpreter, Running, installed};

/// Starts an interpreter and waits until it runs Python code.
fn start(interpreter: &Interpreter) -> Result<(Running, String)> {
    let program = "import sys, time; print(sys.version.split()[0], flush=True); time.sleep(60)";
    let mut command = interpreter.command();
    command.args(["-c", program]);
    let running = Running::start(command, Stdio::null())?;
    let told = running.said.trim().trim_end_matches('+').to_owned();
    Ok((running, told))
}

fn compare(interpreter: &Interpreter, told: &str, inspected: &Inspected) -> Result<()> {
    let found = &inspected.interpreter;
    ensure!(told == interpreter.version, "it says that it is {told}");
    let version = found.version.as_ref().map(|(version, _)| version.to_string());
    ensure!(version.as_deref() == Some(told), "version {version:?} instead of {told}");
    let linkage = if interpreter.is("shared") { Linkage::Shared } else { Linkage::Static };
    ensure!(found.linkage == linkage, "{:?}", found.linkage);
    ensure!(found.stripped == Some(interpreter.is("stripped")), "stripped: {:?}", found.stripped);
    ensure!(found.free_threaded == interpreter.is("freethreaded"), "free-threaded: {}", found.free_threaded);
    let libc = match (interpreter.is("whole"), interpreter.is("musl")) {
        (true, _) => Libc::Static,
        (false, true) => Libc::Musl,
        (false, false) => Libc::Glibc,
    };
    ensure!(found.libc == libc, "{:?} instead of {libc:?}", found.libc);
    ensure!(!found.embedded, "taken for a program that embeds Python");
    ensure!(found.debug == interpreter.is("debug"), "debug build: {}", found.debug);
    ensure!(found.bits == 64, "{} bits", found.bits);
    // `python.rs` reads them all.
    ensure!(found.unreadable().is_none(), "said to be unreadable: {:?}", found.unreadable());
    Ok(())
}

#[test]
fn every_interpreter_is_recognised() -> Result<()> {
    let mut failures = Vec::new();
    for interpreter in installed()? {
        let outcome = start(&interpreter).and_then(|(running, told)| {
            let inspected = Inspector::default().inspect(running.pid())?;
            compare(&interpreter, &told, &inspected)?;
            println!(
                "{}: {} ({})",
                interpreter.id,
                inspected.interpreter.version_text(),
                inspected.interpreter.build_text()
            );
            Ok(())
        });
        if let Err(error) = outcome {
            failures.push(format!("{}: {error:#}", interpreter.id));
        }
    }
    if !failures.is_empty() {
        bail!("{} interpreters are not recognised:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}
