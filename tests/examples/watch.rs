use tracekit_agent::probes::{ProbeOptions, Probes};
fn main() {
    let (mut probes, _r) = Probes::load(ProbeOptions::default()).unwrap();
    let (w, _h) = match probes.watchpoints() { Ok(w) => w, Err(e) => { eprintln!("{e} {e:?}"); std::process::exit(1) } };
    println!("{:?} {}", w.self_test(), w.free_slots(8));
}
