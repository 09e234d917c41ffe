//! The `tracekit` binary.

fn main() -> std::process::ExitCode {
    tracekit_agent::cli::main().into()
}
