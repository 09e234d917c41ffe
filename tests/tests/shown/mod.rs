//! Values as py-spy prints them.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value as Json;

/// A value that py-spy printed.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// A word or a number as it stands there.
    Word(String),
    /// A string, without its quotes.
    Text(String),
    /// Items of a list or tuple; the second value says that there are more.
    Items(Vec<Shown>, bool),
    /// Items of a dict; the second value says that there are more.
    Pairs(Vec<(Shown, Shown)>, bool),
    /// The type of an object that it does not decode.
    Object(String),
}

impl Shown {
    /// Reads what py-spy printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rest = text;
        let shown = value(&mut rest)?;
        ensure!(rest.is_empty(), "`{rest}` is left of `{text}`");
        Ok(shown)
    }

    /// Whether tracekit's value (its JSON form) is the same, or says more.
    pub fn agrees(&self, ours: &Json) -> Result<()> {
        ensure!(ours["not_captured_reason"].is_null(), "is {ours}");
        let holds = match self {
            Self::Word(word) => is_word(word, ours),
            Self::Text(text) => is_text(text, ours),
            Self::Items(items, _) => {
                let Some(found) = ours["elements"].as_array() else { bail!("is {ours}") };
                for (item, found) in items.iter().zip(found) {
                    item.agrees(found)?;
                }
                self.is_as_long(items.len(), found.len(), ours)
            }
            Self::Pairs(pairs, _) => {
                let Some(found) = ours["entries"].as_array() else { bail!("is {ours}") };
                for ((key, value), found) in pairs.iter().zip(found) {
                    key.agrees(&found[0])?;
                    value.agrees(&found[1])?;
                }
                self.is_as_long(pairs.len(), found.len(), ours)
            }
            Self::Object(name) if name == "cell" => true,
            Self::Object(name) => name.rsplit('.').next() == ours["type"].as_str(),
        };
        ensure!(holds, "is {ours}");
        Ok(())
    }

    /// Either may be cut short, but says so.
    fn is_as_long(&self, shown: usize, found: usize, ours: &Json) -> bool {
        let cut = matches!(self, Self::Items(_, true) | Self::Pairs(_, true));
        shown == found || (cut && shown < found) || (ours["truncated"] == true && shown > found)
    }
}

fn is_word(word: &str, ours: &Json) -> bool {
    let value = &ours["value"];
    let digits = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match word {
        "None" => ours["type"] == "NoneType",
        "True" | "False" => value.as_bool() == Some(word == "True"),
        "+bigint" | "-bigint" => digits.len() > 18,
        _ if ours["type"] == "float" => match (digits.parse::<f64>(), word.parse::<f64>()) {
            // serde_json may be one unit off when it reads what tracekit printed.
            (Ok(found), Ok(shown)) => found == shown || ((found - shown) / shown).abs() <= f64::EPSILON,
            _ => false,
        },
        _ => digits == word,
    }
}

fn is_text(text: &str, ours: &Json) -> bool {
    let Some(found) = ours["value"].as_str() else { return false };
    match text.strip_suffix("...") {
        Some(begin) if found != text => found.starts_with(begin),
        _ => found == text || (ours["truncated"] == true && text.starts_with(found)),
    }
}

fn value(rest: &mut &str) -> Result<Shown> {
    if let Some(inner) = rest.strip_prefix('"') {
        let end = inner.find('"').with_context(|| format!("no end of {rest}"))?;
        let (text, after) = inner.split_at(end);
        *rest = after.get(1..).unwrap_or_default();
        return Ok(Shown::Text(text.to_owned()));
    }
    if let Some(inner) = rest.strip_prefix('<') {
        let (inner, after) = inner.split_once('>').with_context(|| format!("no end of {rest}"))?;
        let (name, _) = inner.split_once(" at 0x").with_context(|| format!("no address in {rest}"))?;
        *rest = after;
        return Ok(Shown::Object(name.to_owned()));
    }
    for (open, close) in [("[", "]"), ("(", ")")] {
        if let Some(inner) = rest.strip_prefix(open) {
            *rest = inner;
            let mut items = Vec::new();
            let more = list(rest, close, |rest| {
                items.push(value(rest)?);
                Ok(())
            })?;
            return Ok(Shown::Items(items, more));
        }
    }
    if let Some(inner) = rest.strip_prefix('{') {
        *rest = inner;
        let mut pairs = Vec::new();
        let more = list(rest, "}", |rest| {
            let key = value(rest)?;
            *rest = rest.strip_prefix(": ").with_context(|| format!("no value in {rest}"))?;
            pairs.push((key, value(rest)?));
            Ok(())
        })?;
        return Ok(Shown::Pairs(pairs, more));
    }
    let end = rest.find([',', ']', ')', '}', ':']).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    ensure!(!word.is_empty(), "nothing at {rest}");
    *rest = after;
    Ok(Shown::Word(word.to_owned()))
}

/// Items up to the closing bracket; returns whether there are more that are not shown.
fn list(rest: &mut &str, close: &str, mut item: impl FnMut(&mut &str) -> Result<()>) -> Result<bool> {
    loop {
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return Ok(false);
        }
        if let Some(after) = rest.strip_prefix("...").and_then(|after| after.strip_prefix(close)) {
            *rest = after;
            return Ok(true);
        }
        item(rest)?;
        *rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
}
