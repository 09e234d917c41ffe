//! Values of snapshots, from their JSON form, as Python writes them.

use serde_json::Value as Json;

use crate::discovery::ps::printable;

/// Containers in containers; the API gives fewer.
const MAX_DEPTH: usize = 32;

/// `{'a': [1, 2]}`, `<Order id=7>`
pub fn python(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out, 0);
    out
}

fn write(value: &Json, out: &mut String, depth: usize) {
    if depth > MAX_DEPTH {
        return out.push('…');
    }
    let kind = value["type"].as_str().unwrap_or_default();
    let more = match value["length"].as_u64() {
        Some(length) => format!("… {length} in all"),
        None => String::new(),
    };
    if let Some(reason) = value["not_captured_reason"].as_str() {
        out.push_str(&format!("<{}>", printable(reason)));
    } else if let Some(items) = value["elements"].as_array() {
        let (open, close) = match kind {
            "tuple" => ("(", ")"),
            "set" => ("{", "}"),
            "list" => ("[", "]"),
            _ => {
                out.push_str(&printable(kind));
                ("([", "])")
            }
        };
        out.push_str(open);
        list(items.iter(), &more, out, ", ", |item, out| write(item, out, depth + 1));
        if kind == "tuple" && items.len() == 1 && more.is_empty() {
            out.push(',');
        }
        out.push_str(close);
    } else if let Some(entries) = value["entries"].as_array() {
        let plain = kind == "dict";
        if !plain {
            out.push_str(&format!("{}(", printable(kind)));
        }
        out.push('{');
        list(entries.iter(), &more, out, ", ", |entry, out| {
            write(&entry[0], out, depth + 1);
            out.push_str(": ");
            write(&entry[1], out, depth + 1);
        });
        out.push_str(if plain { "}" } else { "})" });
    } else if let Some(fields) = value["fields"].as_object() {
        out.push('<');
        out.push_str(&printable(kind));
        if !fields.is_empty() {
            out.push(' ');
        }
        list(fields.iter(), &more, out, " ", |(name, value), out| {
            out.push_str(&printable(name));
            out.push('=');
            write(value, out, depth + 1);
        });
        out.push('>');
    } else {
        scalar(kind, &value["value"], out);
        out.push_str(&more);
    }
}

fn list<T>(
    items: impl Iterator<Item = T>,
    more: &str,
    out: &mut String,
    separator: &str,
    mut write: impl FnMut(T, &mut String),
) {
    for (n, item) in items.enumerate() {
        if n > 0 {
            out.push_str(separator);
        }
        write(item, out);
    }
    if !more.is_empty() {
        out.push_str(separator);
        out.push_str(more);
    }
}

fn scalar(kind: &str, value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("None"),
        Json::Bool(true) => out.push_str("True"),
        Json::Bool(false) => out.push_str("False"),
        // Numbers that JSON readers would round, and what has no literal, come as text.
        Json::String(text) if kind != "str" => out.extend(text.chars().filter(|c| !c.is_control())),
        Json::String(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.push(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\\' => out.push_str("\\\\"),
                    c if c == quote => out.extend(['\\', c]),
                    c if c.is_control() => out.extend(c.escape_unicode()),
                    c => out.push(c),
                }
            }
            out.push(quote);
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values() {
        let int = |n: i64| json!({"type": "int", "value": n});
        for (value, expected) in [
            (json!({"type": "NoneType", "value": null}), "None"),
            (json!({"type": "bool", "value": true}), "True"),
            (
                json!({"type": "int", "value": "123456789012345678901234567890"}),
                "123456789012345678901234567890",
            ),
            (json!({"type": "str", "value": "it's\n\u{1b}"}), "\"it's\\n\\u{1b}\""),
            (json!({"type": "str", "value": "abc", "truncated": true, "length": 300}), "'abc'… 300 in all"),
            (json!({"type": "bytes", "value": "b'x'"}), "b'x'"),
            (json!({"type": "tuple", "elements": [int(1)]}), "(1,)"),
            (json!({"type": "deque", "elements": [int(1)]}), "deque([1])"),
            (json!({"type": "dict", "entries": [[int(1), int(2)]]}), "{1: 2}"),
            (json!({"type": "OrderedDict", "entries": []}), "OrderedDict({})"),
            (json!({"type": "Empty", "fields": {}}), "<Empty>"),
            (json!({}), "None"),
        ] {
            assert_eq!(python(&value), expected);
        }
        let mut deep = int(1);
        for _ in 0..100 {
            deep = json!({"type": "list", "elements": [deep]});
        }
        assert!(python(&deep).contains('…'));
    }
}
