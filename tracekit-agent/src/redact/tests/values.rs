//! Secrets in values of the target.

use crate::python::object::{Content, NotCaptured, Value};
use crate::redact::{Counts, CustomPattern, Kind, Mode, Redactor, Settings};

fn text(value: &str) -> Value {
    Value::new("str", Content::Str(value.to_owned()))
}

fn bytes(value: &str) -> Value {
    Value::new("bytes", Content::Bytes(value.as_bytes().to_vec()))
}

fn int(value: u64) -> Value {
    Value::new("int", Content::Int(value.to_string()))
}

fn none() -> Value {
    Value::new("NoneType", Content::None)
}

fn sequence(name: &str, items: Vec<Value>) -> Value {
    Value::new(name, Content::Elements(items))
}

fn list(items: Vec<Value>) -> Value {
    sequence("list", items)
}

fn tuple(items: Vec<Value>) -> Value {
    sequence("tuple", items)
}

fn dict(items: Vec<(Value, Value)>) -> Value {
    Value::new("dict", Content::Entries(items))
}

fn object(name: &str, fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Value::new(name, Content::Fields(fields))
}

fn after(redactor: &Redactor, mut value: Value) -> Value {
    redactor.value(&mut value, &mut Counts::new());
    value
}

/// Values with secrets, and what is shown of them.
fn corpus() -> Vec<(Value, &'static str)> {
    vec![
        (dict(vec![(text("password"), text("hunter2"))]), "{'password': [REDACTED:sensitive_name]}"),
        (dict(vec![(bytes("password"), bytes("hunter2"))]), "{b'password': [REDACTED:sensitive_name]}"),
        (dict(vec![(text("card_number"), text("4111 1111"))]), "{'card_number': [REDACTED:credit_card]}"),
        (dict(vec![(text("n"), int(4_111_111_111_111_111))]), "{'n': [REDACTED:credit_card]}"),
        (dict(vec![(text("pin"), int(1234))]), "{'pin': [REDACTED:sensitive_name]}"),
        (dict(vec![(text("email"), text("bob@example.com"))]), "{'email': '[REDACTED:email]'}"),
        (dict(vec![(text("bob@example.com"), int(1))]), "{'[REDACTED:email]': 1}"),
        (dict(vec![(text("note"), text("a eyJhbGci... b"))]), "{'note': 'a [REDACTED:jwt] b'}"),
        (
            dict(vec![(text("a"), dict(vec![(text("b"), dict(vec![(text("X-Api-Key"), text("x"))]))]))]),
            "{'a': {'b': {'X-Api-Key': [REDACTED:sensitive_name]}}}",
        ),
        (
            dict(vec![(text("tokens"), list(vec![text("Bearer abcdef123456")]))]),
            "{'tokens': ['Bearer [REDACTED:oauth_token]']}",
        ),
        (
            dict(vec![(text("credentials"), list(vec![text("x")]))]),
            "{'credentials': [REDACTED:sensitive_name]}",
        ),
        (
            dict(vec![(tuple(vec![text("db"), text("password")]), text("x"))]),
            "{('db', 'password'): [REDACTED:sensitive_name]}",
        ),
        (
            dict(vec![(Value::new("Field", Content::Text("<Field.PASSWORD: 1>".into())), text("x"))]),
            "{<Field.PASSWORD: [REDACTED:password]>: [REDACTED:sensitive_name]}",
        ),
        (
            dict(vec![(text("name"), text("DB_PASSWORD")), (text("value"), text("x"))]),
            "{'name': 'DB_PASSWORD', 'value': [REDACTED:sensitive_name]}",
        ),
        (
            dict(vec![(text("key"), text("Cookie")), (text("value"), text("x"))]),
            "{'key': 'Cookie', 'value': [REDACTED:sensitive_name]}",
        ),
        (
            dict(vec![(text("key"), text("Zk8vQ2xN7pRt4WsY")), (text("value"), int(1))]),
            "{'key': [REDACTED:sensitive_name], 'value': 1}",
        ),
        (dict(vec![(text("key"), text("x"))]), "{'key': [REDACTED:sensitive_name]}"),
        (
            object("Login", vec![("user", text("bob")), ("_password", text("x"))]),
            "Login(user='bob', _password=[REDACTED:sensitive_name])",
        ),
        (
            object("Header", vec![("name", text("authorization")), ("value", text("x"))]),
            "Header(name='authorization', value=[REDACTED:sensitive_name])",
        ),
        (
            object("SecretStr", vec![("_secret_value", text("x"))]),
            "SecretStr(_secret_value=[REDACTED:sensitive_name])",
        ),
        (
            object("ValueError", vec![("args", tuple(vec![text("bad password=hunter2 for bob")]))]),
            "ValueError(args=('bad password=[REDACTED:password] for bob',))",
        ),
        (
            object("ValueError", vec![("args", tuple(vec![text("token"), text("x")]))]),
            "ValueError(args=('token', [REDACTED:sensitive_name]))",
        ),
        (tuple(vec![text("password"), text("x")]), "('password', [REDACTED:sensitive_name])"),
        (
            list(vec![
                tuple(vec![bytes("host"), bytes("h")]),
                tuple(vec![bytes("authorization"), bytes("x")]),
            ]),
            "[(b'host', b'h'), (b'authorization', [REDACTED:sensitive_name])]",
        ),
        (
            list(vec![list(vec![text("a"), text("b")]), list(vec![text("password"), text("x")])]),
            "[['a', 'b'], ['password', [REDACTED:sensitive_name]]]",
        ),
        (
            list(vec![text("tool"), text("--password"), text("x"), text("run")]),
            "['tool', '--password', [REDACTED:sensitive_name], 'run']",
        ),
        (list(vec![text("tool"), text("--token=x")]), "['tool', '--token=[REDACTED:sensitive_name]']"),
        (list(vec![text("curl"), text("-u"), text("bob:x")]), "['curl', '-u', [REDACTED:credentials]]"),
        (list(vec![text("-e"), text("DB_PASSWORD=x")]), "['-e', 'DB_PASSWORD=[REDACTED:password]']"),
        (text(r#"{"password": "x", "n": 1}"#), r#"'{"password": "[REDACTED:sensitive_name]", "n": 1}'"#),
        (bytes("a=1&password=x&b=2"), "b'a=1&password=[REDACTED:password]&b=2'"),
        (bytes("\u{0}caf\u{e9} bob@example.com"), "b'\\x00caf\\xc3\\xa9 [REDACTED:email]'"),
        (text("SELECT a FROM b WHERE c = 'x'"), "'SELECT a FROM b WHERE c = ?'"),
        (text("postgres://u:p@h/d"), "'postgres://[REDACTED:credentials]@h/d'"),
        (
            Value::new("PosixPath", Content::Text("PosixPath('/x/password=abc')".into())),
            "PosixPath('/x/password=[REDACTED:password]')",
        ),
    ]
}

#[test]
fn secrets_are_hidden() {
    for (value, expected) in corpus() {
        let hidden = after(Redactor::standard(), value);
        assert_eq!(hidden.to_string(), expected);
        assert_eq!(after(Redactor::standard(), hidden.clone()), hidden, "again");
    }
}

#[test]
fn ordinary_values_stay() {
    for value in [
        none(),
        int(1_234_567_890_123_456),
        Value::new("float", Content::Float(1.5)),
        dict(vec![(text("password"), none()), (text("token"), text("")), (text("secret"), list(vec![]))]),
        dict(vec![(text("has_token"), Value::new("bool", Content::Bool(true)))]),
        dict(vec![(text("token_factory"), Value::new("function", Content::Text("<function f>".into())))]),
        dict(vec![(text("max_tokens"), int(5)), (text("author"), text("Ann")), (text("monkey"), text("x"))]),
        dict(vec![(text("key"), text("colour")), (text("value"), text("red"))]),
        dict(vec![(int(1), text("a")), (none(), text("b"))]),
        list(vec![text("password"), text("email")]),
        list(vec![text("--verbose"), text("--sort-key"), text("name")]),
        list(vec![text("--password"), text("--verbose")]),
        tuple(vec![text("user"), text("bob")]),
        sequence("set", vec![text("password"), text("email")]),
        Value::nothing("str", NotCaptured::Depth),
        bytes("\u{ff}\u{0}"),
    ] {
        let mut counts = Counts::new();
        let mut hidden = value.clone();
        Redactor::standard().value(&mut hidden, &mut counts);
        assert_eq!(hidden, value);
        assert!(counts.is_empty());
    }
}

#[test]
fn a_name_hides_a_value_of_any_kind() {
    for value in
        [text("x"), int(5), bytes("x"), list(vec![int(1)]), dict(vec![(int(1), int(2))]), object("A", vec![])]
    {
        let mut counts = Counts::new();
        let mut hidden = value.clone();
        Redactor::standard().named("db_password", &mut hidden, &mut counts);
        let expected = Value::nothing(value.type_name.clone(), NotCaptured::Redacted(Kind::SENSITIVE_NAME));
        assert_eq!(hidden, expected);
        assert_eq!(counts, Counts::from([(Kind::SENSITIVE_NAME, 1)]));
        let json = hidden.to_json();
        assert_eq!(json["value"], "[REDACTED:sensitive_name]");
        assert_eq!(json["not_captured_reason"], "redacted");
    }
}

#[test]
fn strict_mode_shows_numbers_and_names_only() {
    let strict = Redactor::new(&Settings { mode: Mode::Strict, ..Settings::default() }).unwrap();
    let value = object(
        "Order",
        vec![
            ("number", int(7)),
            ("paid", Value::new("bool", Content::Bool(true))),
            ("total", Value::new("Decimal", Content::Text("Decimal('19.99')".into()))),
            ("note", text("call me")),
            ("raw", bytes("x")),
            ("path", Value::new("PosixPath", Content::Text("PosixPath('/x')".into()))),
            ("factory", Value::new("function", Content::Text("<function f>".into()))),
            ("lines", list(vec![text("a"), none()])),
            ("extra", dict(vec![(text("colour"), text("red")), (text("Bob Smith"), int(1))])),
            ("password", text("x")),
            ("empty", text("")),
        ],
    );
    assert_eq!(
        after(&strict, value).to_string(),
        "Order(number=7, paid=True, total=Decimal('19.99'), note=[REDACTED:strict], raw=[REDACTED:strict], \
         path=[REDACTED:strict], factory=<function f>, lines=[[REDACTED:strict], None], extra={'colour': \
         [REDACTED:strict], [REDACTED:strict]: 1}, password=[REDACTED:sensitive_name], empty='')"
    );
}

#[test]
fn settings_are_followed() {
    let settings = Settings {
        identifiers: vec!["customer-number".into()],
        exclude: vec!["token".into()],
        types: vec!["Patient*".into()],
        patterns: vec![CustomPattern { name: "badge".into(), regex: r"badge (\d+)".into() }],
        high_entropy: false,
        ..Settings::default()
    };
    let redactor = Redactor::new(&settings).unwrap();
    let value = object(
        "Visit",
        vec![
            ("customerNumber", int(5)),
            ("token", text("visible")),
            ("who", object("PatientRecord", vec![("name", text("Bob"))])),
            ("note", text("badge 77, Zk8vQ2xN7pRt4WsYb1HcGd6JfKm3LoPq")),
        ],
    );
    assert_eq!(
        after(&redactor, value).to_string(),
        "Visit(customerNumber=[REDACTED:sensitive_name], token='visible', who=[REDACTED:sensitive_type], \
         note='badge [REDACTED:badge], Zk8vQ2xN7pRt4WsYb1HcGd6JfKm3LoPq')"
    );
    assert_eq!(
        redactor.text("customer_number=5 token=x").text,
        "customer_number=[REDACTED:sensitive_name] token=x"
    );
    for settings in [
        Settings { types: vec!["[".into()], ..Settings::default() },
        Settings {
            patterns: vec![CustomPattern { name: "badge".into(), regex: "(".into() }],
            ..Settings::default()
        },
    ] {
        assert!(Redactor::new(&settings).is_err());
    }
    let parsed: Settings = serde_json::from_str(r#"{"mode": "strict", "identifiers": ["x"]}"#).unwrap();
    assert_eq!((parsed.mode, parsed.high_entropy), (Mode::Strict, true));
    assert!(serde_json::from_str::<Settings>(r#"{"mod": "strict"}"#).is_err());
}

#[test]
fn headers_and_urls() {
    let redactor = Redactor::standard();
    for (name, value, expected) in [
        ("Authorization", "Bearer x", "[REDACTED:sensitive_name]"),
        ("cookie", "a=b", "[REDACTED:sensitive_name]"),
        ("X-API-KEY", "x", "[REDACTED:sensitive_name]"),
        ("Stripe-Signature", "t=1,v1=abc", "[REDACTED:sensitive_name]"),
        ("Referer", "https://h/x?token=abc", "https://h/x?token=[REDACTED:sensitive_name]"),
        ("X-User", "bob@example.com", "[REDACTED:email]"),
        ("Accept", "*/*", "*/*"),
        ("Content-Type", "text/html", "text/html"),
    ] {
        assert_eq!(redactor.header(name, value).text, expected, "{name}");
    }
    for (url, expected) in [
        ("https://u:p@h/x?a=1", "https://REDACTED:REDACTED@h/x?a=1"),
        ("https://h/x?sig=abc&b=2", "https://h/x?sig=REDACTED&b=2"),
        ("https://h/x?mail=bob%40example.com", "https://h/x?mail=[REDACTED:email]"),
        ("https://h/reset/eyJhbGciOi.eyJh.x", "https://h/reset/[REDACTED:jwt]"),
        ("https://h/x?a=1#top", "https://h/x?a=1#top"),
    ] {
        assert_eq!(redactor.url(url), expected);
        assert_eq!(redactor.url(&redactor.url(url)), expected);
    }
}

#[test]
fn a_secret_across_the_limit_is_hidden() {
    let mut value = text(&format!("{} {}", "x".repeat(250), "bob@example.com and more"));
    Redactor::standard().leaf(&mut value, 256, &mut Counts::new());
    assert_eq!(value.content, Content::Str(format!("{} [REDACTED:email]", "x".repeat(250))));
    let mut value = text(&"é".repeat(300));
    Redactor::standard().leaf(&mut value, 256, &mut Counts::new());
    assert_eq!(value.content, Content::Str("é".repeat(256)));
    let mut value = text(&format!("{} bob@example.com", "y".repeat(256)));
    let mut counts = Counts::new();
    Redactor::standard().leaf(&mut value, 256, &mut counts);
    assert_eq!((value.content, counts.len()), (Content::Str("y".repeat(256)), 0));
}
