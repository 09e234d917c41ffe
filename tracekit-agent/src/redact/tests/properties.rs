//! Whatever the text is: no panic, twice is once, nothing planted survives, and time is bounded.

use std::time::Duration;

use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use crate::python::object::{Content, Value};
use crate::redact::{Counts, Redactor};

/// Pieces of which texts are made that mean something to the searches.
const PIECES: &[&str] = &[
    "password",
    "token",
    "api_key",
    "secret",
    "key",
    "name",
    "value",
    "auth",
    "=",
    ":",
    ": ",
    "\"",
    "'",
    "\\",
    "\\\"",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ";",
    "&",
    "?",
    "<",
    ">",
    "</",
    "--",
    "-",
    " ",
    "\n",
    "\\n",
    "@",
    "://",
    "https",
    "ann@example.org",
    "5555 5555 5555 4444",
    "078-05-1120",
    "eyJhbGci.eyJh.x",
    "AKIAIOSFODNN7EXAMPLF",
    "Bearer abcdef123456",
    "[REDACTED:jwt]",
    "[REDACTED:",
    "SELECT a FROM b WHERE c = ",
    "INSERT INTO t VALUES (",
    "[parameters: ",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "Authorization",
    "Cookie",
    "é",
    "日",
    "\u{0}",
    "hunter2",
    "None",
    "%5B",
    "\\u0070",
    "$2b$",
    "+1-555-987-6543",
    "form-data; name=",
    "\r\n\r\n",
    "```",
];

fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
        1 => "[a-zA-Z0-9_]{0,12}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Secrets that are known wherever they stand, given that they stand alone.
const PLANTED: &[&str] = &[
    "bob@example.com",
    "4111111111111111",
    "123-45-6789",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N",
    "https://bob:hunter2@example.com",
    "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY",
    "+1-555-123-4567",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn twice_is_once(text in texts()) {
        let redactor = Redactor::standard();
        let once = redactor.text(&text);
        for finding in &once.findings {
            prop_assert!(text.get(finding.range.clone()).is_some_and(|hidden| !hidden.is_empty()));
        }
        prop_assert!(once.findings.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        let twice = redactor.text(&once.text);
        prop_assert_eq!(&twice.text, &once.text);
        prop_assert!(twice.findings.is_empty());
    }

    #[test]
    fn nothing_planted_survives(
        before in texts(),
        after in texts(),
        secret in proptest::sample::select(PLANTED),
        (open, close) in proptest::sample::select(&[(" ", " "), ("\n", "\n"), ("<", ">"), (" '", "' "), ("(", ")")][..]),
    ) {
        let redactor = Redactor::standard();
        let text = format!("{before}{open}{secret}{close}{after}");
        let hidden = redactor.text(&text);
        prop_assert!(!hidden.text.contains(secret), "{}", hidden.text);
        let mut value = Value::new("bytes", Content::Bytes(text.clone().into_bytes()));
        redactor.value(&mut value, &mut Counts::new());
        prop_assert!(!value.to_string().contains(secret), "{value}");
    }

    #[test]
    fn what_a_name_hides_does_not_survive(
        before in "[a-zA-Z0-9 .,;:!?\n]{0,40}",
        after in "[a-zA-Z0-9 .,;:!?\n]{0,40}",
        secret in "[a-z]{4}[A-Z0-9]{4}[a-z!$%*+#~^]{0,6}Z",
        form in proptest::sample::select(&[
            "password=#", "{\"password\": \"#\", \"n\": 1}", "{'api_key': '#'}", "Authorization: #", "a=1&client_secret=#&b=2",
            "('db_password', '#')", "['--auth-token', '#']", "--password #", "<password>#</password>",
            "User(password='#')", "{\\\"token\\\": \\\"#\\\"}", "X-Api-Key: #",
        ][..]),
    ) {
        let text = format!("{before}\n{}\n{after}", form.replacen('#', &secret, 1));
        let hidden = Redactor::standard().text(&text);
        prop_assert!(!hidden.text.contains(&secret), "{}", hidden.text);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let redactor = Redactor::standard();
        let _ = redactor.text(&text);
        let _ = redactor.url(&text);
        let _ = redactor.header(&text, &text);
        let _ = redactor.sensitive(&text);
        let mut value = Value::new("bytes", Content::Bytes(bytes));
        redactor.leaf(&mut value, cut, &mut Counts::new());
    }
}

/// A value that holds `inner` among ordinary ones, as `form` says.
fn around(inner: Value, form: u8) -> Value {
    let text = |text: &str| Value::new("str", Content::Str(text.to_owned()));
    let other = Value::new("int", Content::Int("7".to_owned()));
    match form % 5 {
        0 => Value::new("list", Content::Elements(vec![other, inner])),
        1 => Value::new("tuple", Content::Elements(vec![inner, other])),
        2 => Value::new("dict", Content::Entries(vec![(text("colour"), other), (text("inner"), inner)])),
        3 => Value::new(
            "Order",
            Content::Fields(vec![("lines".to_owned(), inner), ("size".to_owned(), other)]),
        ),
        _ => Value::new("deque", Content::Elements(vec![other.clone(), inner, other])),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_depth_saves_a_secret(
        forms in proptest::collection::vec(any::<u8>(), 0..12),
        secret in "[a-z]{6}[0-9]{2}Z",
        name in proptest::sample::select(&["password", "X-Api-Key", "userToken", "DB_PASS", "client-secret"][..]),
        place in 0..6,
    ) {
        let text = |text: &str| Value::new("str", Content::Str(text.to_owned()));
        let planted = match place {
            0 => Value::new("dict", Content::Entries(vec![(text(name), text(&secret))])),
            1 => Value::new("A", Content::Fields(vec![(name.to_owned(), text(&secret))])),
            2 => Value::new("tuple", Content::Elements(vec![text(name), text(&secret)])),
            3 => Value::new("list", Content::Elements(vec![text(&format!("--{name}")), text(&secret)])),
            4 => text(&format!("{{\"a\": 1, \"{name}\": \"{secret}\"}}")),
            _ => Value::new("dict", Content::Entries(vec![(text("name"), text(name)), (text("value"), text(&secret))])),
        };
        let mut value = forms.into_iter().fold(planted, around);
        let mut counts = Counts::new();
        Redactor::standard().value(&mut value, &mut counts);
        let shown = format!("{value} {}", value.to_json());
        prop_assert!(!shown.contains(&secret), "{shown}");
        prop_assert_eq!(counts.values().sum::<usize>(), 1, "{}", shown);
        let once = value.clone();
        Redactor::standard().value(&mut value, &mut counts);
        prop_assert_eq!(value, once);
    }
}

/// Seconds that this thread has computed: the machine may have others to do.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Texts that would take long if anything were read again and again. A build for tests is not optimised.
#[test]
fn time_is_bounded() {
    let redactor = Redactor::standard();
    let _ = redactor.text("to compile the patterns");
    let mut slow = String::new();
    for piece in [
        "{",
        "[",
        "(",
        "{\"",
        "=",
        ":",
        "a=",
        "key: [",
        "key=",
        "token: (",
        "password",
        "password=",
        "password:[",
        "('password', ",
        "('password', [",
        "\"",
        "'",
        "\\",
        "\\\"",
        "--",
        "--token ",
        "<password>",
        "name=\"password\"",
        "{\"key\": \"token\", ",
        "form-data; name=\"x\"",
        "1 ",
        "4",
        "4111 ",
        "a@",
        "a@b.",
        "://",
        "a://b:",
        "eyJ",
        "eyJhbGci.",
        "SELECT ",
        "SELECT a FROM ",
        "INSERT INTO ",
        "select\n",
        "[parameters: ",
        "[REDACTED:",
        "[REDACTED:jwt]",
        "-----BEGIN PRIVATE KEY-----",
        "aB3",
        "+1 ",
        "bearer ",
        "aws",
        "aws secret ",
        "$2b$",
        "é",
        "Authorization: ",
        "UPDATE a SET b = 'c\n",
        "\"password\": \\n",
    ] {
        let size = if piece.len() == 1 { 1 << 20 } else { 1 << 17 };
        let text = piece.repeat(size / piece.len());
        let start = processor_time();
        let hidden = redactor.text(&text);
        let took = processor_time() - start;
        if took > Duration::from_secs(8) {
            slow += &format!("{piece:?} takes {took:?}, {} found\n", hidden.findings.len());
        }
    }
    assert!(slow.is_empty(), "{slow}");
}
