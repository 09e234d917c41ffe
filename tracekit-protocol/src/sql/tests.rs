use proptest::prelude::*;

use super::*;
use SqlSystem::{MariaDb, MySql, PostgreSql};

fn text(sql: &str, system: SqlSystem) -> String {
    sanitize(sql, system).text
}

#[test]
fn literals_become_placeholders() {
    for (sql, expected) in [
        ("SELECT * FROM t WHERE a = 'x' AND b = 1.5e3", "SELECT * FROM t WHERE a = ? AND b = ?"),
        ("SELECT E'a\\'b', $$c$$, $q$d'$q$, N'e', x'ff', B'10', U&'f'", "SELECT ?, ?, ?, ?, ?, ?, ?"),
        ("SELECT \"Quoted\".\"na\"\"me\" FROM \"T\"", "SELECT \"Quoted\".\"na\"\"me\" FROM \"T\""),
        ("select a from t where id = $1 and b = :b", "select a from t where id = $1 and b = :b"),
        ("SELECT -5, +3, 0x1F, 0b101, 1_000", "SELECT -?, +?, ?, ?, ?"),
        ("SELECT 'it''s', 'a' 'b'", "SELECT ?, ? ?"),
        ("SELECT a->>'key', b::text, c @> '{}'", "SELECT a->>?, b::text, c @> ?"),
        ("SELECT 1 -- secret\n, 2 /* secret /* nested */ x */", "SELECT ? , ?"),
        ("/* app:secret */ SELECT 1 /*traceparent='00-1'*/", "SELECT ?"),
        ("SELECT  1\n\tFROM   t", "SELECT ? FROM t"),
        ("SELECT now() AT TIME ZONE 'UTC' + INTERVAL '1 day'", "SELECT now() AT TIME ZONE ? + INTERVAL ?"),
    ] {
        assert_eq!(text(sql, PostgreSql), expected, "{sql}");
    }
    for (sql, expected) in [
        ("SELECT \"x\", 'a\\'b', 'it''s', _utf8mb4'y', 0xFF, x'ff'", "SELECT ?, ?, ?, _utf8mb4?, ?, ?"),
        ("SELECT `a`.`b` FROM `t` WHERE c = ? # secret", "SELECT `a`.`b` FROM `t` WHERE c = ?"),
        ("SELECT /*! STRAIGHT_JOIN */ 1 /* secret */ FROM t", "SELECT STRAIGHT_JOIN ? FROM t"),
        ("SELECT * FROM t WHERE a=%s AND b=%(name)s", "SELECT * FROM t WHERE a=%s AND b=%(name)s"),
    ] {
        for system in [MySql, MariaDb] {
            assert_eq!(text(sql, system), expected, "{sql}");
        }
    }
}

#[test]
fn lists_collapse() {
    for (sql, expected) in [
        ("SELECT 1 FROM t WHERE a IN (1, 2, 3)", "SELECT ? FROM t WHERE a IN (?)"),
        ("SELECT 1 FROM t WHERE a NOT IN ('x','y') AND b", "SELECT ? FROM t WHERE a NOT IN (?) AND b"),
        ("SELECT 1 FROM t WHERE a IN (SELECT 1)", "SELECT ? FROM t WHERE a IN (SELECT ?)"),
        ("SELECT 1 FROM t WHERE a IN ($1, $2)", "SELECT ? FROM t WHERE a IN ($1, $2)"),
        ("SELECT 1 FROM t WHERE a IN (b, 2)", "SELECT ? FROM t WHERE a IN (b, ?)"),
        ("SELECT 1 FROM t WHERE a IN (-1, NULL)", "SELECT ? FROM t WHERE a IN (?)"),
        ("SELECT 1 FROM t WHERE a IN (1, 2", "SELECT ? FROM t WHERE a IN (?, ?"),
    ] {
        assert_eq!(text(sql, PostgreSql), expected, "{sql}");
    }
    assert_eq!(text("SELECT 1 FROM t WHERE a IN (?, ?)", MySql), "SELECT ? FROM t WHERE a IN (?)");
}

#[test]
fn text_that_was_cut_does_not_leak() {
    for sql in [
        "INSERT INTO t VALUES ('secret",
        "INSERT INTO t VALUES (E'secret\\",
        "INSERT INTO t VALUES ($$secret",
    ] {
        assert_eq!(text(sql, PostgreSql), "INSERT INTO t VALUES ( ?", "{sql}");
    }
    assert_eq!(text("INSERT INTO t VALUES ('secret\\'", MySql), "INSERT INTO t VALUES ( ?");
    assert_eq!(text("SELECT 1 /* secret", PostgreSql), "SELECT ? ?");
    // standard_conforming_strings = off: the string goes on behind the quote.
    assert_eq!(text(r"SELECT 'a\', secret, 'b'", PostgreSql), "SELECT ?");
    assert_eq!(text(r"SELECT a LIKE 'x' ESCAPE '\' FROM t", PostgreSql), "SELECT a LIKE ? ESCAPE ? FROM t");
}

#[test]
fn summaries() {
    for (sql, summary, operation, collection) in [
        ("SELECT * FROM users WHERE id=1", "SELECT users", "SELECT", "users"),
        ("select 1", "SELECT", "SELECT", ""),
        ("SELECT * FROM users u JOIN orders o ON u.id = o.user_id", "SELECT users orders", "SELECT", ""),
        ("SELECT * FROM a, b LEFT JOIN c USING (id), d WHERE a.x IN (1)", "SELECT a b c d", "SELECT", ""),
        (
            "SELECT * FROM (SELECT * FROM orders o JOIN customers c ON true) s",
            "SELECT SELECT orders customers",
            "SELECT",
            "",
        ),
        ("SELECT a FROM t WHERE b IN (SELECT c FROM d)", "SELECT t SELECT d", "SELECT", ""),
        ("SELECT a FROM t UNION ALL SELECT b FROM u", "SELECT t SELECT u", "SELECT", ""),
        ("INSERT INTO orders (start, end, comment) VALUES (1, 2, 3)", "INSERT orders", "INSERT", "orders"),
        ("INSERT INTO a SELECT * FROM b", "INSERT a SELECT b", "INSERT", ""),
        ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 2", "INSERT a", "INSERT", "a"),
        ("UPDATE \"My Table\" SET a = 1", "UPDATE My Table", "UPDATE", "My Table"),
        ("UPDATE a SET x = b.x FROM b WHERE a.id = b.id", "UPDATE a b", "UPDATE", ""),
        ("DELETE FROM public.users", "DELETE public.users", "DELETE", "public.users"),
        ("DELETE FROM a USING b WHERE a.id = b.id", "DELETE a b", "DELETE", ""),
        ("WITH x AS (SELECT * FROM t) SELECT * FROM x JOIN y ON true", "SELECT t SELECT y", "SELECT", ""),
        (
            "WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x",
            "DELETE t INSERT u SELECT",
            "DELETE",
            "",
        ),
        ("CREATE TABLE IF NOT EXISTS t (a int, start date)", "CREATE TABLE t", "CREATE", "t"),
        ("CREATE TEMP TABLE t AS SELECT * FROM u", "CREATE TABLE t SELECT u", "CREATE", ""),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX i", "CREATE", ""),
        ("CREATE USER bob PASSWORD 'x'", "CREATE USER", "CREATE", ""),
        ("ALTER TABLE t ADD COLUMN c int", "ALTER TABLE t", "ALTER", "t"),
        ("DROP TABLE IF EXISTS t", "DROP TABLE t", "DROP", "t"),
        ("TRUNCATE TABLE t", "TRUNCATE t", "TRUNCATE", "t"),
        ("COPY t (a, b) FROM STDIN", "COPY t", "COPY", "t"),
        ("COPY (SELECT * FROM t) TO STDOUT", "COPY SELECT t", "COPY", "t"),
        ("CALL proc(1, 2)", "CALL proc", "CALL", ""),
        ("BEGIN", "BEGIN", "BEGIN", ""),
        ("SAVEPOINT \"s1_x2\"", "SAVEPOINT", "SAVEPOINT", ""),
        ("BEGIN; SELECT * FROM t; COMMIT", "BEGIN SELECT t COMMIT", "BEGIN", "t"),
        ("EXPLAIN ANALYZE SELECT * FROM t", "EXPLAIN SELECT t", "EXPLAIN", "t"),
        ("SELECT EXTRACT(year FROM ts), replace(a, 'b', 'c') FROM t", "SELECT t", "SELECT", "t"),
        ("SELECT * FROM generate_series(1, 10) g", "SELECT", "SELECT", ""),
        ("SELECT * FROM t WHERE a IS DISTINCT FROM b", "SELECT t", "SELECT", "t"),
        ("SELECT * FROM t FOR UPDATE", "SELECT t", "SELECT", "t"),
        ("SELECT * FROM (a JOIN b ON true) JOIN c ON true", "SELECT a b c", "SELECT", ""),
        ("DECLARE \"cur\" CURSOR FOR SELECT * FROM t", "DECLARE SELECT t", "DECLARE", "t"),
        ("GRANT SELECT ON t TO bob", "GRANT", "GRANT", ""),
        ("SET search_path TO x", "SET", "SET", ""),
        ("MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN UPDATE SET x = 1", "MERGE a b", "MERGE", ""),
        ("SELECT u.from, u.select FROM u", "SELECT u", "SELECT", "u"),
        ("", "", "", ""),
        ("SELECT * FROM users WHERE name = 'cut", "SELECT users", "SELECT", "users"),
    ] {
        let sanitized = sanitize(sql, PostgreSql);
        assert_eq!(sanitized.summary, summary, "{sql}");
        assert_eq!(sanitized.operation.unwrap_or_default(), operation, "{sql}");
        assert_eq!(sanitized.collection.unwrap_or_default(), collection, "{sql}");
    }
    for (sql, summary) in [
        ("REPLACE INTO `t` VALUES (1)", "REPLACE t"),
        ("INSERT IGNORE INTO t SET a=1 ON DUPLICATE KEY UPDATE a=2", "INSERT t"),
        ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t", "LOAD t"),
        ("SHOW CREATE TABLE t", "SHOW"),
        ("USE `db`", "USE"),
        ("LOCK TABLES t WRITE", "LOCK t"),
        ("DELETE a FROM a JOIN b ON a.i=b.i", "DELETE a b"),
        ("SELECT * FROM db.`t x`", "SELECT db.t x"),
    ] {
        assert_eq!(sanitize(sql, MySql).summary, summary, "{sql}");
    }
}

#[test]
fn summaries_are_bounded() {
    let tables: Vec<String> = (0..200).map(|n| format!("table_{n}")).collect();
    let sanitized = sanitize(&format!("SELECT * FROM {}", tables.join(", ")), PostgreSql);
    assert!(sanitized.summary.len() <= 255);
    assert!(sanitized.summary.ends_with(|c: char| c.is_ascii_digit()));
    assert_eq!(sanitize(&"(".repeat(100_000), PostgreSql).summary, "");
    assert_eq!(sanitize(&"/*!".repeat(5_000), MySql).summary, "");
    assert_eq!(sanitize(&format!("{}{}", "/*! ".repeat(5_000), "*/".repeat(5_000)), MySql).summary, "");
}

const SECRET: &str = "s3cr3t";

/// The secret in every way that a literal or comment can be written.
fn quoted(secret: &str) -> Vec<(SqlSystem, String)> {
    let postgres = [
        format!("'{secret}'"),
        format!("'a''{secret}'"),
        format!("E'a\\'{secret}\\\\'"),
        format!("e'\\x41{secret}'"),
        format!("$${secret}$$"),
        format!("$a$ ' {secret} $b$ $a$"),
        format!("N'{secret}'"),
        format!("U&'\\0041{secret}'"),
        format!("'x'\n'{secret}'"),
        format!("1 /* '{secret} */"),
        format!("1 /* a /* b */ {secret} */"),
        format!("1 -- {secret}'\n"),
    ];
    let mysql = [
        format!("'{secret}'"),
        format!("'a\\'{secret}'"),
        format!("'a''{secret}'"),
        format!("\"{secret}\""),
        format!("\"a\\\"{secret}\""),
        format!("\"a\"\"{secret}\""),
        format!("_utf8mb4'{secret}'"),
        format!("_binary \"{secret}\""),
        format!("N'{secret}'"),
        format!("1 /* '{secret} */"),
        format!("1 -- {secret}'\n"),
        format!("1 # {secret}'\n"),
        format!("/*!50000 '{secret}' */"),
    ];
    let of = |system| move |text| (system, text);
    postgres.into_iter().map(of(PostgreSql)).chain(mysql.into_iter().map(of(MySql))).collect()
}

#[test]
fn no_quoting_style_leaks() {
    for (system, literal) in quoted(SECRET) {
        for sql in [
            format!("SELECT {literal}"),
            format!("INSERT INTO t (a, b) VALUES ({literal}, 1)"),
            format!("SELECT * FROM t WHERE a IN (1, {literal}) AND b = 2"),
            format!("SELECT a FROM t WHERE x={literal} AND y={literal}"),
        ] {
            for cut in 0..=sql.len() {
                let sanitized = sanitize(&sql[..cut], system);
                assert!(!format!("{sanitized:?}").contains(SECRET), "{sql} cut at {cut}: {sanitized:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn sanitize_takes_anything(sql in "\\PC*") {
        for system in [PostgreSql, MySql] {
            let sanitized = sanitize(&sql, system);
            prop_assert!(sanitized.summary.len() <= 255);
        }
    }

    #[test]
    fn sanitize_takes_anything_like_sql(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "SELECT", "FROM", "(", ")", ",", "JOIN", "'", "\"", "`", "$$", "$a$", "/*", "*/", "--", "\n", "E'", "\\",
                "WITH", "AS", ".", ";", "t", "1", "0x", "0b", "IN", "CREATE", "TABLE", "?", "$1", ":a", "/*!", "#", "\u{e9}",
            ]),
            0..60,
        ),
    ) {
        for glue in ["", " "] {
            for system in [PostgreSql, MySql] {
                let _ = sanitize(&parts.join(glue), system);
            }
        }
    }

    #[test]
    fn numbers_do_not_leak(digits in "[1-9][0-9]{5,15}", shape in 0..7_usize) {
        let number = match shape {
            0 => digits.clone(),
            1 => format!("{digits}.5"),
            2 => format!("0.{digits}"),
            3 => format!("1e{digits}"),
            4 => format!("0x{digits}"),
            5 => format!("-{digits}"),
            _ => format!("x'{digits}'"),
        };
        for system in [PostgreSql, MySql] {
            for sql in [format!("SELECT {number}"), format!("UPDATE t SET a={number} WHERE b IN ({number})")] {
                let sanitized = format!("{:?}", sanitize(&sql, system));
                prop_assert!(!sanitized.contains(&digits), "{} -> {}", sql, sanitized);
            }
        }
    }

    #[test]
    fn strings_do_not_leak(
        before in "[a-z '\"\\\\$/*#-]{0,12}",
        after in "[a-z '\"\\\\$/*#-]{0,12}",
        mysql in any::<bool>(),
    ) {
        let raw = format!("{before}{SECRET}{after}");
        let (system, literal) = if mysql {
            (MySql, raw.replace('\\', "\\\\").replace('\'', "\\'").replace('"', "\\\""))
        } else {
            (PostgreSql, raw.replace('\'', "''"))
        };
        let sql = format!("SELECT a FROM t WHERE b = '{literal}' AND c = 1");
        let sanitized = format!("{:?}", sanitize(&sql, system));
        prop_assert!(!sanitized.contains(SECRET), "{} -> {}", sql, sanitized);
    }
}
