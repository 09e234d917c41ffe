//! What real clients and servers said to each other (`captures/record/sql.py`), and which exchanges it is.

mod capture;

use capture::{Capture, describe, play, play_bounded};
use tracekit_protocol::{Detection, Direction, Role, mysql, postgres};

fn check(name: &str, expected: &[&str]) {
    let capture = Capture::load(name);
    let found = describe(&play(&capture));
    assert_eq!(found, expected, "{name}: found {found:#?}");
}

#[test]
fn every_connection_is_detected_at_its_start() {
    for capture in Capture::all() {
        let detect = if capture.protocol == "mysql" { mysql::detect } else { postgres::detect };
        let (direction, bytes) = capture.records.first().unwrap();
        assert_eq!(detect(*direction, bytes), Detection::Match(Role::Client), "{}", capture.name);
        let other = if capture.protocol == "mysql" { postgres::detect } else { mysql::detect };
        assert_eq!(other(*direction, bytes), Detection::No, "{}", capture.name);
        assert!(matches!(*direction, Direction::Inbound | Direction::Outbound));
    }
}
