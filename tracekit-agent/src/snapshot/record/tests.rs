use proptest::prelude::*;

use super::testing::{breakpoint, int, snapshot};
use super::*;
use crate::python::object::NotCaptured;

#[test]
fn the_json_form() {
    let json = snapshot(Kind::Snapshot).to_json();
    assert_eq!(
        json,
        json!({
            "id": "sn-00000000000000ff", "kind": "snapshot", "time": "2026-11-21T10:00:00.5Z",
            "breakpoint": {
                "id": "bp-1", "file": "app/orders.py", "line": 42, "label": "checkout", "condition": null,
            },
            "hit": 3, "skipped": {"condition": 0, "rate": 2, "budget": 0, "error": 0},
            "process": {"pid": 10, "service": "shop"}, "thread": {"id": 11, "name": "worker"},
            "trace_id": "01010101010101010101010101010101", "span_id": "0202020202020202",
            "request": {
                "method": "POST", "url": "/checkout?id=7", "route": "/checkout",
                "headers": [["accept", "*/*"]], "client": "10.0.0.1",
            },
            "stack": [
                {
                    "function": "checkout", "file": "/srv/app/orders.py", "line": 42,
                    "locals": {
                        "order": {"type": "Order", "fields": {
                            "id": {"type": "int", "value": 7},
                            "items": {
                                "type": "list", "elements": [{"type": "int", "value": 1}],
                                "truncated": true, "length": 500,
                            },
                        }},
                        "password": {
                            "type": "str", "value": "[REDACTED:sensitive_name]", "not_captured_reason": "redacted",
                        },
                    },
                },
                {"function": "dispatch", "file": "/srv/app/orders.py", "line": 7},
            ],
            "watches": [
                {"expression": "order.total", "value": {"type": "int", "value": 120}},
                {"expression": "user.plan", "undefined": "user is not defined"},
            ],
            "message": null, "level": null, "truncated": [],
            "redacted": [{"path": "locals.password", "type": "sensitive_name"}],
        })
    );
    assert!(snapshot(Kind::Snapshot).is_truncated());
    assert_eq!(
        snapshot(Kind::Snapshot).stack_text(1000),
        "checkout at /srv/app/orders.py:42\ndispatch at /srv/app/orders.py:7"
    );
    assert_eq!(snapshot(Kind::Snapshot).stack_text(40), "checkout at /srv/app/orders.py:42");
}

#[test]
fn nothing_leaves_with_its_secrets() {
    let text = |text: &str| Value::new("str", Content::Str(text.to_owned()));
    let mut whole = snapshot(Kind::Log);
    let expected = whole.redacted.clone();
    whole.redact(Redactor::standard());
    assert_eq!(whole.redacted, expected);
    let user = Value::new(
        "User",
        Content::Fields(vec![("api_key".to_owned(), text("hunter2")), ("plan".to_owned(), text("pro"))]),
    );
    let headers = Value::new("dict", Content::Entries(vec![(text("Authorization"), text("hunter2"))]));
    whole.stack[0].locals.as_mut().unwrap().extend([
        ("user".to_owned(), user),
        ("rows".to_owned(), Value::new("list", Content::Elements(vec![int(1), headers]))),
    ]);
    whole.stack[1].locals = Some(vec![("dsn".to_owned(), text("postgres://shop:hunter2@db/x"))]);
    whole.watches[0].result = Ok(text("password=hunter2"));
    whole.watches[1].result = Err("no key password=hunter2".to_owned());
    whole.message = Some("token: hunter2 of a user".to_owned());
    let request = whole.request.as_mut().unwrap();
    request.url = "/checkout?token=hunter2&id=7".to_owned();
    request.headers.push(("cookie".to_owned(), "hunter2".to_owned()));
    whole.redact(Redactor::standard());
    let json = whole.to_json().to_string();
    assert!(!json.contains("hunter2") && json.contains("pro") && json.contains("id=7"), "{json}");
    let places: Vec<&str> = whole.redacted.iter().map(|redacted| redacted.path.as_str()).collect();
    let expected = [
        "locals.password",
        "locals.user.api_key",
        "locals.rows[1].Authorization",
        "stack[1].locals.dsn",
        "watches.order.total",
        "watches.user.plan",
        "message",
        "request.headers.cookie",
    ];
    for place in expected {
        assert!(places.contains(&place), "{place} is not in {places:?}");
    }
    let once = whole.clone();
    whole.redact(Redactor::standard());
    assert_eq!(whole, once);
}

#[test]
fn the_largest_values_make_room() {
    let mut large = snapshot(Kind::Snapshot);
    let text = |n| Value::new("str", Content::Str("x".repeat(n)));
    large.stack[0].locals.as_mut().unwrap().extend([
        ("body".to_owned(), text(50_000)),
        ("name".to_owned(), text(200)),
        ("page".to_owned(), text(17_000)),
    ]);
    large.fit();
    assert!(large.to_json().to_string().len() <= 16 * 1024);
    let locals = large.stack[0].locals.clone().unwrap();
    let gone: Vec<&str> = locals
        .iter()
        .filter(|(_, value)| value.content == Content::Nothing(NotCaptured::Budget))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(gone, ["body", "page"]);
    let notes: Vec<String> = large.truncated.iter().map(|t| format!("{} {}", t.what, t.by)).collect();
    assert_eq!(notes, ["locals.body payload_bytes", "locals.page payload_bytes"]);
    let small = snapshot(Kind::Snapshot);
    let mut same = small.clone();
    same.fit();
    assert_eq!(same, small);
}

#[test]
fn names_that_come_twice_fit_too() {
    let mut large = snapshot(Kind::Snapshot);
    let text = Value::new("str", Content::Str("x".repeat(1000)));
    let mut locals = vec![("same".to_owned(), text.clone()); 300];
    locals.extend((0..20).map(|n| (format!("v{n}"), text.clone())));
    large.stack[0].locals = Some(locals);
    large.fit();
    assert!(large.to_json().to_string().len() <= 16 * 1024);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in it, it fits: what is left at least is the location and the first frame.
    #[test]
    fn everything_fits(
        locals in prop::collection::vec(("[a-zé\"]{0,200}", 0usize..1500), 0..100),
        frames in 0usize..128,
        message in "[\\PC\u{1f600}]{0,3000}",
        limit in 2048u32..20_000,
    ) {
        let mut large = snapshot(Kind::Log);
        let mut breakpoint = breakpoint(Kind::Log);
        breakpoint.limits.payload_bytes = limit;
        large.breakpoint = Arc::new(breakpoint);
        large.message = Some(message);
        let values = locals.into_iter().map(|(name, size)| {
            let value = if size % 3 == 0 { int(size as i64) } else { Value::new("str", Content::Str("é".repeat(size))) };
            (name, value)
        });
        large.stack[0].locals = Some(values.collect());
        for _ in 0..frames {
            let outer = large.stack[1].clone();
            large.stack.push(outer);
        }
        large.fit();
        prop_assert!(large.to_json().to_string().len() <= limit as usize);
    }
}
