//! What does not compile and why; bounds; memory that is hostile.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CompileError, Context, Expression, Limits, Scope, Template, Undefined};
use crate::python::hostile::{OBJECT_COUNT, OBJECT_SIZE, OBJECTS, image, layouts};
use crate::python::layout::Layout;
use crate::python::memory::Image;
use crate::python::reader::Reader;
use crate::redact::Redactor;

fn compile(text: &str) -> Result<Expression, CompileError> {
    Expression::compile(text, Redactor::standard())
}

/// Evaluates where there is nothing to read.
fn alone<T>(work: impl FnOnce(&Context<'_>) -> T) -> T {
    let memory = Image::default();
    let reader = Reader::new(&memory, Layout::table(12).unwrap());
    let scope = Scope::default();
    work(&Context {
        reader: &reader,
        scope: &scope,
        limits: Limits::default(),
        redactor: Redactor::standard(),
    })
}

fn value(text: &str) -> Result<String, Undefined> {
    alone(|context| Ok(compile(text).unwrap().value(context)?.to_string()))
}

#[test]
fn errors_say_what_where_and_what_to_do() {
    let cases = [
        ("", "the expression is empty at column 1"),
        ("a +", "the expression is not complete at column 4"),
        ("a b", "unexpected 'b' at column 3"),
        ("a = 5", "unexpected '=' at column 3: to compare, write =="),
        ("(a := 5)", "unexpected ':=' at column 4: an expression cannot assign"),
        ("a && b", "unexpected '&&' at column 3: write 'and'"),
        ("!a", "unexpected '!' at column 1: write 'not'"),
        ("lambda x: x", "unexpected 'lambda' at column 1: an expression cannot define functions"),
        ("await a", "unexpected 'await' at column 1: it would run code of the process"),
        ("a if b", "'else' is missing at column 7: write 'a if condition else b'"),
        ("a, b", "unexpected ',' at column 2: a tuple is written in parentheses"),
        ("a[1", "the expression is not complete at column 4"),
        ("(1", "')' is missing at column 3"),
        ("a.", "the name of an attribute is missing at column 3"),
        ("a[1:2:3:4]", "a slice has three parts at most at column 8"),
        ("a[1, 2]", "unexpected ',' at column 4: a key that is a tuple is written in parentheses"),
        ("len()", "len takes 1 argument, not 0, at column 1"),
        ("round(a, b, c)", "round takes 1 to 2 arguments, not 3, at column 1"),
        (
            "max(a, key=b)",
            "arguments by keyword are not supported at column 8: give them by position; to compare, write ==",
        ),
        ("len(*a)", "arguments cannot be unpacked at column 5"),
        ("a is 5", "'is' with a literal at column 3: only None, True and False have an identity; write =="),
        ("g(1)(2)", "unknown function 'g' at column 1"),
        ("a[0](2)", "unexpected '(' at column 5: only functions and methods by their name can be called"),
        (
            "hasattr(a, b)",
            "hasattr needs the attribute as a string at column 12: as in hasattr(order, \"total\")",
        ),
        (
            "f'{a}'",
            "a formatted string is not supported at column 1: write the parts of a log template as 'text {expression}'",
        ),
        ("x not 5", "'in' is missing at column 7"),
        ("import os", "unexpected 'import' at column 1: only expressions are supported, no statements"),
    ];
    for (text, expected) in cases {
        let error = compile(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let error = compile("[x for x in a]").unwrap_err().to_string();
    assert!(error.contains("any(item.price > 9 for item in items)"), "{error}");
    let error = compile("    foo(1)").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown function 'foo' at column 5: functions of the process are not called, they could change it; \
         these exist: abs, all, any, bool, float, getattr, hasattr, int, isinstance, len, max, min, round, \
         str, sum, type"
    );
    let error = compile("order.save()").unwrap_err().to_string();
    assert!(
        error.starts_with("method 'save' cannot be called at column 7: methods of the process"),
        "{error}"
    );
}

#[test]
fn names_of_secrets_do_not_compile() {
    let cases = [
        ("password", 1),
        ("user.password == 'x'", 6),
        ("a + settings['api_key']", 14),
        ("settings.get('auth_token', 1)", 14),
        ("getattr(user, 'secret')", 15),
        ("hasattr(user, 'passwd')", 15),
        ("any(token for token in tokens)", 5),
        ("len(a.b.client_secret)", 9),
        ("session_id.startswith('a')", 1),
        ("1 + key", 5),
        ("any(key == 'a' for value in key)", 5),
        ("any(key for key in a) and key", 27),
    ];
    for (text, column) in cases {
        let error = compile(text).unwrap_err();
        assert!(error.what.ends_with("is redacted"), "{text}: {error}");
        assert_eq!(error.column, column, "{text}");
    }
    // Of a generator's variables, these are the names of others.
    compile("any(key == 'age' and value > 30 for key, value in names.items() if len(key) > 2)").unwrap();
    let error = Template::compile("user={user.id} pass={user.password}", Redactor::standard()).unwrap_err();
    assert_eq!((error.what.as_str(), error.column), ("'password' is redacted", 27));
    // What is not written down is found out when it is used.
    for text in ["{'pass' + 'word': 1}['pass' + 'word']", "{'password': 1}.get('pass' 'word'.lower())"] {
        assert_eq!(value(text), Err(Undefined::Redacted("password".into())), "{text}");
    }
    assert_eq!(value("{'password': 1}").unwrap(), "{'password': [REDACTED:sensitive_name]}");
    assert_eq!(value("'postgres://u:pw@db/x'").unwrap(), "'postgres://[REDACTED:credentials]@db/x'");
}

#[test]
fn what_is_too_large_is_undefined() {
    let limit = |text: &str| matches!(value(text), Err(Undefined::Limit(_)));
    for text in [
        "10 ** 100000",
        "10 ** 10 ** 10",
        "1 << 1000000",
        "'x' * 1000000",
        "[1] * 10 ** 9",
        "('x' * 60000).replace('x', 'y' * 1000)",
        "str(10 ** 5000)",
        "sum(1 for a in 'x' * 60000 if [a] * 1000 == 'y')",
    ] {
        assert!(limit(text), "{text}: {:?}", value(text));
    }
    let nested = "sum(sum(sum(1 for a in 'x' * 300) for b in 'x' * 300) for c in 'x' * 300)";
    let start = Instant::now();
    assert!(limit(nested));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn bounds_of_the_text() {
    assert!(compile(&"1".repeat(1025)).unwrap_err().what.contains("1025 bytes"));
    assert!(compile(&format!("[{}]", "1,".repeat(210))).unwrap_err().what.contains("more than 200 parts"));
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{", "}"), ("not ", ""), ("-", ""), ("len(", ")"), ("2**", "")]
    {
        let deep = format!("{}1{}", open.repeat(200), close.repeat(200));
        assert!(compile(&deep).unwrap_err().what.contains("nested more than 40 levels"), "{open}");
    }
    assert!(compile(&format!("a{}", ".b".repeat(64))).unwrap_err().what.contains("more than 64 operations"));
    // The deepest trees that compile are evaluated on a small stack.
    let chains = [
        format!("a{}", ".b".repeat(63)),
        format!("1{}", "+1".repeat(63)),
        format!("1{}", " and 1".repeat(63)),
        format!("1{}", " if 1 else 1".repeat(38)),
        format!("{}1{}", "[".repeat(38), "]".repeat(38)),
        format!("{}1{}", "str(".repeat(38), ")".repeat(38)),
        format!("''{}", "[0:1]".repeat(63)),
        format!("''{}", ".upper()".repeat(63)),
        format!("{}1{}", "sum(".repeat(19), " for a in [1])".repeat(19)),
    ];
    let on_small_stack = std::thread::Builder::new().stack_size(1 << 20);
    let done = on_small_stack.spawn(move || {
        for chain in chains {
            alone(|context| {
                drop(compile(&chain).unwrap_or_else(|error| panic!("{chain}: {error}")).value(context))
            });
        }
    });
    done.unwrap().join().unwrap();
}

#[test]
fn templates() {
    let rendered =
        |text: &str| alone(|context| Template::compile(text, Redactor::standard()).unwrap().render(context));
    let cases = [
        ("a {1 + 1} b", "a 2 b"),
        ("{{x}} {'}'} {':'!r} {1 != 2}", "{x} } ':' True"),
        ("{1+1=} {'a' = !s:>3}", "1+1=2 'a' =   a"),
        ("{missing} {1 / 0:.2f} {5}", "UNDEFINED UNDEFINED 5"),
        (
            "{'postgres://u:pw@db'} {'postgres://u:pw@db'[0:15]}",
            "postgres://[REDACTED:credentials]@db postgres://u:pw",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(rendered(text).text, expected, "{text}");
    }
    let undefined = rendered("{missing} {1 / 0} {5}").undefined;
    assert_eq!(
        undefined,
        [
            ("missing".to_owned(), Undefined::NoName("missing".into())),
            ("1 / 0".to_owned(), Undefined::Arithmetic("division by zero".into())),
        ]
    );
    let errors = [
        ("a {b", "'}' is missing for the '{' at column 3"),
        ("a } b", "unexpected '}' at column 3"),
        ("{}", "the expression is empty at column 2"),
        ("ab {x +} c", "the expression is not complete at column 8"),
        ("{x!q}", "unknown conversion at column 4"),
        ("{x:{y}}", "unexpected '{' at column 4"),
        ("{x:9z}", "unknown format 'z': d, b, o, x, e, f, g, % and s are supported at column 4"),
        ("{x!r", "'}' is missing for the '{' at column 1"),
        ("{'x", "'}' is missing for the '{' at column 1"),
    ];
    for (text, expected) in errors {
        let error = Template::compile(text, Redactor::standard()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let many = "{1}".repeat(33);
    assert!(Template::compile(&many, Redactor::standard()).unwrap_err().what.contains("more than 32"));
    assert!(Template::compile(&"x".repeat(4097), Redactor::standard()).is_err());
    assert_eq!(rendered(&format!("{{'x' * 5000}}{}", "")).text.chars().count(), 4097);
}

/// Pieces of which texts are made.
const PIECES: &[&str] = &[
    "a",
    "b",
    "_x1",
    "5",
    "0x1f",
    "1.5e3",
    "'s'",
    "b'\\xff'",
    "None",
    "True",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ".",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "==",
    "!=",
    "<",
    ">=",
    " in ",
    " not in ",
    " is ",
    " not ",
    " and ",
    " or ",
    " if ",
    " else ",
    " for ",
    "len",
    "any",
    "sum",
    "isinstance",
    "getattr",
    "get",
    "split",
    "startswith",
    "=",
    "!",
    "~",
    "<<",
    "&",
    " ",
    "é",
    "\"",
    "'",
    "\\",
    "f'",
    "password",
    "{a}",
    "{{",
    "!r",
    ":>5",
];

/// Operations that reach every part of the evaluator.
const OPERATIONS: &[&str] = &[
    "a == b",
    "a != b",
    "a < b",
    "a >= b",
    "a in b",
    "a not in b",
    "a is b",
    "a is None",
    "a[0]",
    "a[-1]",
    "a[b]",
    "a['x']",
    "a[1:3]",
    "a[::-2]",
    "a.x",
    "a.args",
    "a.name",
    "a.year",
    "a.tzinfo",
    "a.__class__",
    "len(a)",
    "sum(a)",
    "max(a)",
    "min(a, b)",
    "str(a)",
    "int(a)",
    "float(a)",
    "abs(a)",
    "round(a, b)",
    "bool(a)",
    "isinstance(a, b)",
    "isinstance(a, (b, c))",
    "isinstance(a, Plain)",
    "hasattr(a, 'x')",
    "getattr(a, 'x', b)",
    "type(a).__name__",
    "a + b",
    "a * 3",
    "3 * a",
    "a % b",
    "a ** b",
    "a // b",
    "a << b",
    "-a",
    "~a",
    "a.get(b)",
    "a.keys()",
    "a.items()",
    "a.count(b)",
    "a.startswith(b)",
    "a.split()",
    "a.lower().strip()",
    "not a",
    "a and b",
    "any(x == b for x in a)",
    "all(k is v for k, v in a.items())",
    "sum(x.y for x in a if x)",
    "{a: b}[c]",
    "[a, b] == [b, a]",
    "{a, b, c}",
    "(a, b) < (b, c)",
    "c if a else b",
    "unknown",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_compiles_or_does_not(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        let text = pieces.concat();
        alone(|context| {
            if let Ok(expression) = compile(&text) {
                let _ = expression.value(context);
                let _ = expression.condition(context);
            }
            if let Ok(template) = Template::compile(&text, Redactor::standard()) {
                let _ = template.render(context);
            }
        });
    }

    #[test]
    fn any_characters_compile_or_do_not(text in "\\PC{0,80}") {
        let _ = compile(&text);
        let _ = Template::compile(&text, Redactor::standard());
        if let Err(error) = compile(&text) {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn objects_with_random_contents(
        words in proptest::collection::vec(any::<u64>(), 300..900),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..12),
        picks in proptest::collection::vec((0..OPERATIONS.len(), 0..OBJECT_COUNT, 0..OBJECT_COUNT, 0..OBJECT_COUNT), 60),
    ) {
        for layout in layouts() {
            let memory = image(&layout, &words, &damage);
            let reader = Reader::new(&memory, layout);
            for (operation, a, b, c) in &picks {
                let object = |at: &u64| OBJECTS + at * OBJECT_SIZE;
                let names = [("a", a), ("b", b), ("c", c)];
                let scope = Scope::of_locals(names.map(|(name, at)| (name.to_owned(), object(at))));
                let limits = Limits { steps: 20_000, time: Duration::from_millis(50), ..Limits::default() };
                let context = Context { reader: &reader, scope: &scope, limits, redactor: Redactor::standard() };
                let expression = compile(OPERATIONS[*operation]).unwrap();
                let start = Instant::now();
                if let Ok(value) = expression.value(&context) {
                    prop_assert!(value.to_string().len() < 16 << 20);
                }
                let _ = expression.condition(&context);
                let template = Template::compile(&format!("{{{}}}", expression.text()), Redactor::standard());
                if let Ok(template) = template {
                    let _ = template.render(&context);
                }
                prop_assert!(start.elapsed() < Duration::from_secs(5), "{} in 3.{}", expression.text(), layout.minor);
            }
        }
    }
}

#[test]
fn how_deep_expressions_look() {
    let cases = [
        ("x", 0),
        ("x + 1 > 2", 0),
        ("order.total > 100", 1),
        ("order.customer.address.country", 3),
        ("order['customer'].address[0]", 3),
        ("len(order.items)", 1),
        ("any(item.price > 9 for item in order.items)", 3),
        ("any(value.price > 9 for key, value in order.items())", 2),
        ("sum(prices)", 1),
        ("sum(order.prices)", 2),
        ("'x' in order.tags", 2),
        ("order.items == other.items", 2),
        ("order.get('a').b", 2),
        ("getattr(order, 'a').b", 2),
        ("a.b if c.d.e else f", 2),
        ("any(part.a for part in whole.parts) and all(part for part in parts)", 3),
        ("x[1:2]", 0),
        ("min(a.b, c)", 1),
    ];
    for (text, depth) in cases {
        let found = compile(text).unwrap().depth();
        assert_eq!(found, depth, "{text}");
    }
    let template = Template::compile("{a.b} of {c} {d.e.f!r}", Redactor::standard()).unwrap();
    assert_eq!(template.depth(), 2);
}
