//! What real clients and servers said to each other (`captures/record/sql.py`), and which exchanges it is.
//!
//! A line of an expectation is: text | p (with separate parameters) | name of the prepared statement |
//! rows returned | rows affected | error | cancelled | outcome, if it is not complete.

mod capture;

use capture::{Capture, describe, moment, play};
use tracekit_protocol::{Detection, Limits, Role, Segment, Session, mysql, postgres};

fn check(name: &str, expected: &[&str]) {
    let found = describe(&play(&Capture::load(name)));
    assert_eq!(found, expected, "{name}");
}

#[test]
fn every_connection_is_detected_at_its_start() {
    for capture in Capture::all() {
        let of_mysql = capture.protocol == "mysql";
        let (detect, other) = if of_mysql {
            (mysql::detect as fn(_, &[u8]) -> _, postgres::detect as fn(_, &[u8]) -> _)
        } else {
            (postgres::detect as _, mysql::detect as _)
        };
        let (direction, bytes) = capture.records.first().unwrap();
        assert_eq!(detect(*direction, bytes), Detection::Match(Role::Client), "{}", capture.name);
        assert_eq!(detect(direction.reverse(), bytes), Detection::Match(Role::Server), "{}", capture.name);
        assert_eq!(other(*direction, bytes), Detection::No, "{}", capture.name);
    }
}

#[test]
fn no_recording_holds_a_password() {
    for capture in Capture::all() {
        for (_, bytes) in &capture.records {
            assert!(!bytes.windows(9).any(|part| part == b"s3cr3t-pw"), "{}", capture.name);
        }
    }
}

#[test]
fn mysql_aiomysql_text() {
    check(
        "mysql_aiomysql_text",
        &[
            "SET AUTOCOMMIT = 0 | 0 affected",
            "SELECT id FROM users WHERE name = 'o\\'hara' | 1 rows",
            "INSERT INTO users (name) VALUES ('a'),('b') | 2 affected",
            "ROLLBACK | 0 affected",
        ],
    );
}

#[test]
fn mysql_connector_change_user() {
    check(
        "mysql_connector_change_user",
        &[
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci' | 0 affected",
            "SET @@session.autocommit = OFF | 0 affected",
            "SELECT id, name FROM users | 3 rows",
            "SELECT id, name FROM users WHERE id > ? | p | 3 rows",
            "SELECT id, name FROM users WHERE id > ? | p | 2 rows",
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci' | 0 affected",
            "SET @@session.autocommit = OFF | 0 affected",
            "SELECT DATABASE() | 1 rows",
        ],
    );
}

#[test]
fn mysql_connector_compressed() {
    check("mysql_connector_compressed", &[]);
}

#[test]
fn mysql_connector_pure() {
    check(
        "mysql_connector_pure",
        &[
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci' | 0 affected",
            "SET @@session.autocommit = OFF | 0 affected",
            "SELECT @@session.sql_mode | 1 rows",
            "SELECT id, name FROM users WHERE name = 'o\\'hara' | 1 rows",
            "SELECT id, name FROM users WHERE id > ? | p | 3 rows",
            "SELECT id, name FROM users WHERE id > ? | p | 2 rows",
            "SELECT id, name FROM users WHERE id > ? | p | 1 rows",
            "INSERT INTO users (name) VALUES (?) | p | 1 affected",
            "SELECT * FROM missing WHERE a = ? | p | error 1146 42S02",
            "ROLLBACK | 0 affected",
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci' | 0 affected",
            "SET @@session.autocommit = OFF | 0 affected",
            "SET @@session.sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_US… | 0 affected",
        ],
    );
}

#[test]
fn mysql_pymysql_cancel() {
    check(
        "mysql_pymysql_cancel",
        &[
            "SET NAMES utf8mb4 | 0 affected",
            "SET AUTOCOMMIT = 0 | 0 affected",
            "SELECT count(*) FROM seq_1_to_4000000000 a JOIN seq_1_to_4000000000 b | error 1317 70100 | cancelled",
            "SET STATEMENT max_statement_time=0.1 FOR SELECT count(*) FROM seq_1_to_4000000000 a, seq_1… | error 1969 70100 | cancelled",
        ],
    );
}

#[test]
fn mysql_pymysql_text() {
    check(
        "mysql_pymysql_text",
        &[
            "SET NAMES utf8mb4 | 0 affected",
            "SET AUTOCOMMIT = 0 | 0 affected",
            "SELECT id, name FROM users WHERE name = 'o\\'hara' | 1 rows",
            "INSERT INTO users (name) VALUES ('x'), ('y') | 2 affected",
            "UPDATE users SET name = 'z' WHERE name = 'x' | 1 affected",
            "SELECT 1; SELECT 2 UNION SELECT 3; DELETE FROM users WHERE name = 'y' | 3 rows | 1 affected",
            "COMMIT | 0 affected",
            "SELECT * FROM missing | error 1146 42S02",
            "CALL `two_results`() | 3 rows | 0 affected",
            "SELECT seq, repeat('x', 40) FROM seq_1_to_400 | 400 rows",
            "LOAD DATA LOCAL INFILE 'rows.tsv' INTO TABLE copied | 30 affected",
            "SELECT DATABASE() | 1 rows",
            "USE shop | 0 affected",
            "SELECT DATABASE() | 1 rows",
        ],
    );
}

#[test]
fn postgres_asyncpg_introspection() {
    check(
        "postgres_asyncpg_introspection",
        &[
            "\n                    SELECT\n                        current_setting('jit') AS cur,\n       … | p | name __asyncpg_stmt_b__ | 1 rows",
            "WITH RECURSIVE typeinfo_tree(\n    oid, ns, name, kind, basetype, elemtype, elemdelim,\n    … | p | name __asyncpg_stmt_c__ | 1 rows",
            "\n                SELECT\n                    set_config('jit', $1, false)\n                 | p | name __asyncpg_stmt_d__ | 1 rows",
            "SELECT 'happy'::mood | p | name __asyncpg_stmt_a__ | 1 rows",
        ],
    );
}

#[test]
fn postgres_asyncpg_mixed() {
    check(
        "postgres_asyncpg_mixed",
        &[
            "SELECT id, name FROM users WHERE id = $1 | p | name __asyncpg_stmt_1__ | 1 rows",
            "SELECT id, name FROM users WHERE id = $1 | p | name __asyncpg_stmt_1__ | 1 rows",
            "CREATE TEMP TABLE tmp (a int)",
            "INSERT INTO tmp VALUES ($1) | p | name __asyncpg_stmt_2__ | 1 affected",
            "SELEC 1 | p | name __asyncpg_stmt_3__ | error 42601",
            "SELECT 1 / $1::int | p | name __asyncpg_stmt_4__ | error 22012",
            "BEGIN;",
            "SELECT generate_series(1, 7) | p | name __asyncpg_stmt_5__ | 3 rows",
            "SELECT generate_series(1, 7) | p | name __asyncpg_stmt_5__ | 3 rows",
            "SELECT generate_series(1, 7) | p | name __asyncpg_stmt_5__ | 1 rows",
            "COMMIT;",
            "INSERT INTO tmp VALUES ($1) | p | name __asyncpg_stmt_2__ | 1 affected",
            "INSERT INTO tmp VALUES ($1) | p | name __asyncpg_stmt_2__ | 1 affected",
            "INSERT INTO tmp VALUES ($1) | p | name __asyncpg_stmt_2__ | 1 affected",
            "COPY \"tmp\" FROM STDIN (FORMAT binary)  | 2 affected",
            "SELECT n, repeat('y', 30) FROM generate_series(1, 500) n | p | name __asyncpg_stmt_8__ | 500 rows",
            "SELECT pg_sleep(5) | p | name __asyncpg_stmt_9__ | error 57014 | cancelled",
        ],
    );
}

#[test]
fn postgres_asyncpg_mixed_1() {
    check("postgres_asyncpg_mixed_1", &[]);
}

#[test]
fn postgres_pg8000_mixed() {
    check(
        "postgres_pg8000_mixed",
        &[
            "begin transaction",
            "SELECT id FROM users WHERE name = $1 | p | 1 rows",
            "INSERT INTO users (name) VALUES ($1) | p | 1 affected",
            "SELECT * FROM missing WHERE a = $1 | p | error 42P01",
            "rollback | p",
        ],
    );
}

#[test]
fn postgres_psycopg2_cancel() {
    check(
        "postgres_psycopg2_cancel",
        &[
            "SELECT pg_sleep(5) | error 57014 | cancelled",
            "SET statement_timeout = 100",
            "SELECT pg_sleep(5) | error 57014 | cancelled",
        ],
    );
}

#[test]
fn postgres_psycopg2_copy() {
    check(
        "postgres_psycopg2_copy",
        &[
            "COPY copied FROM STDIN | 50 affected",
            "COPY copied TO STDOUT | 50 rows",
            "COPY copied FROM STDIN | error 22P02",
        ],
    );
}

#[test]
fn postgres_psycopg2_killed() {
    check("postgres_psycopg2_killed", &["SELECT pg_sleep(5) | error 57P01 | ClosedByPeer"]);
}

#[test]
fn postgres_psycopg2_simple() {
    check(
        "postgres_psycopg2_simple",
        &[
            "BEGIN",
            "SELECT id, name FROM users WHERE name = 'o''hara' | 1 rows",
            "INSERT INTO users (name) VALUES ('x'), ('y') | 2 affected",
            "UPDATE users SET name = 'z' WHERE name = 'x' | 1 affected",
            "SELECT 1; SELECT 2; DELETE FROM users WHERE name = 'y' | 2 rows | 1 affected",
            "COMMIT",
            "BEGIN",
            "SELECT * FROM missing | error 42P01",
            "ROLLBACK",
            "BEGIN",
            "SELECT n, repeat('x', 40) FROM generate_series(1, 400) n | 400 rows",
            "INSERT INTO users (name) VALUES ('r') RETURNING id | 1 rows | 1 affected",
            "ROLLBACK",
        ],
    );
}

#[test]
fn postgres_psycopg2_tls() {
    check("postgres_psycopg2_tls", &[]);
}

#[test]
fn postgres_psycopg3_extended() {
    check(
        "postgres_psycopg3_extended",
        &[
            "BEGIN",
            "SELECT name FROM users WHERE id = $1 | p | 0 rows",
            "SELECT name FROM users WHERE id = $1 | p | 1 rows",
            "SELECT name FROM users WHERE id = $1 | p | 1 rows",
            "SELECT name FROM users WHERE id = $1 | p | 1 rows",
            "SELECT name FROM users WHERE id = $1 | p | 0 rows",
            "SELECT name FROM users WHERE id = $1 | p | name _pg3_0 | 0 rows",
            "SELECT name FROM users WHERE id = $1 | p | name _pg3_0 | 0 rows",
            "SELECT id, $1::int FROM users | p | 3 rows",
            "INSERT INTO users (name) VALUES ($1) | p | 1 affected",
            "SELECT 1 / $1 | p | error 22012",
            "ROLLBACK",
            "DEALLOCATE ALL",
            "BEGIN",
            "SELEC $1 | p | error 42601",
            "ROLLBACK",
            "BEGIN",
            "DECLARE \"named\" CURSOR FOR SELECT n FROM generate_series(1, 5) n | p",
            "FETCH FORWARD 2 FROM \"named\" | 2 rows",
            "CLOSE \"named\"",
            "COMMIT",
        ],
    );
}

#[test]
fn postgres_psycopg3_pipeline() {
    check(
        "postgres_psycopg3_pipeline",
        &[
            "INSERT INTO users (name) VALUES ($1) | p | 1 affected",
            "SELECT id FROM users WHERE name = $1 | p | 1 rows",
            "DELETE FROM users WHERE name = $1 | p | 1 affected",
            "SELECT $1::int | p | 1 rows",
            "SELECT 1 / $1::int | p | error 22012",
            "SELECT $1::int | p | Unknown",
            "INSERT INTO copied VALUES ($1, $2) | p | name _pg3_0 | 1 affected",
            "INSERT INTO copied VALUES ($1, $2) | p | name _pg3_0 | 1 affected",
            "INSERT INTO copied VALUES ($1, $2) | p | name _pg3_0 | 1 affected",
            "COPY copied FROM STDIN | 10 affected",
            "COPY copied TO STDOUT | 63 rows",
        ],
    );
}

#[test]
fn sessions_find_the_protocol_and_the_same_exchanges() {
    for capture in Capture::all() {
        let mut session = Session::new(Limits::default());
        let mut events = Vec::new();
        for (n, (direction, data)) in capture.records.iter().enumerate() {
            session.segment(*direction, Segment::Data(data), &moment(n, true), &mut events);
        }
        session.close(capture.close, &moment(capture.records.len(), false), &mut events);
        assert_eq!(describe(&events), describe(&play(&capture)), "{}", capture.name);
    }
}

#[test]
fn sessions_that_begin_late_find_the_statements_that_follow() {
    for name in [
        "postgres_psycopg2_simple",
        "postgres_psycopg3_extended",
        "postgres_asyncpg_mixed",
        "mysql_pymysql_text",
    ] {
        let capture = Capture::load(name);
        let whole = play(&capture).len();
        let from = capture.records.len() / 2;
        let mut session = Session::new(Limits::default());
        let mut events = Vec::new();
        for (n, (direction, data)) in capture.records.iter().enumerate().skip(from) {
            session.segment(*direction, Segment::Data(data), &moment(n, true), &mut events);
        }
        session.close(capture.close, &moment(capture.records.len(), false), &mut events);
        let found = describe(&events);
        assert!(found.len() >= whole / 8, "{name}: {found:?} of {whole}");
        assert!(found.iter().all(|line| !line.contains("Unknown")), "{name}: {found:#?}");
    }
}
