//! Values of expressions as they leave the agent: bounded, and without secrets.

use super::Rendering;
use super::evaluate::Evaluation;
use super::number::Number;
use super::operand::{Operand, Undefined};
use crate::python::object::{Content, Decoder, NotCaptured, Value};
use crate::redact::{Counts, Kind};

/// Levels of computed containers in a value that is shown.
const MAX_DEPTH: usize = 8;

/// The value, for a snapshot.
pub(super) fn shown(evaluation: &Evaluation<'_>, value: &Operand) -> Result<Value, Undefined> {
    let mut shown = part(evaluation, value, 0)?;
    if !matches!(value, Operand::Object(_)) {
        // The expression may have put a name and its value together.
        evaluation.context.redactor.value(&mut shown, &mut Counts::new());
    }
    Ok(shown)
}

/// The value, for a template.
pub(super) fn written(
    evaluation: &Evaluation<'_>,
    value: &Operand,
    rendering: &Rendering,
) -> Result<String, Undefined> {
    let Rendering { repr, spec } = rendering;
    if *repr == Some(true) {
        return spec.string(&shown(evaluation, value)?.to_string());
    }
    let loaded = evaluation.load(value)?;
    if let Operand::Str(text) = &loaded {
        if let Operand::Object(remote) = value {
            // Classes may have a form of their own in formatted strings, or as strings.
            let formatted = match repr {
                None => evaluation.check_method_before(remote, "__format__", None),
                Some(_) => Ok(()),
            };
            if let Err(error) = formatted.and_then(|()| evaluation.to_text(value).map(drop)) {
                return if spec.is_empty() { Ok(shown(evaluation, value)?.to_string()) } else { Err(error) };
            }
        } else if let Some(kind) = evaluation.used_secret()? {
            return spec.string(&kind.marker());
        }
        return spec.string(&evaluation.hidden(value, Content::Str(text.to_string())));
    }
    if *repr == Some(false) || spec.is_empty() {
        // What has no simple text is shown as a value: nothing of the process is run for it.
        let text = match evaluation.to_text(value) {
            Ok(text) => match loaded {
                Operand::None | Operand::Bool(_) | Operand::Float(_) => text,
                Operand::Int(_) => evaluation.hidden(value, Content::Int(text)),
                _ => evaluation.hidden(value, Content::Text(text)),
            },
            Err(Undefined::WouldRunCode(_) | Undefined::Unsupported(_)) => {
                shown(evaluation, value)?.to_string()
            }
            Err(error) => return Err(error),
        };
        return spec.string(&text);
    }
    if let Operand::Object(remote) = value {
        evaluation.check_method_before(remote, "__format__", None)?;
    }
    match evaluation.number(value)? {
        Some(Number::Int(number)) => {
            let digits = number.to_string();
            match evaluation.hidden(value, Content::Int(digits.clone())) {
                same if same == digits => spec.number(&Number::Int(number)),
                marker => spec.string(&marker),
            }
        }
        Some(number) => spec.number(&number),
        None => Err(Undefined::Type(format!("a '{}' has no such format", value.type_name()))),
    }
}

fn part(evaluation: &Evaluation<'_>, value: &Operand, depth: usize) -> Result<Value, Undefined> {
    if depth > MAX_DEPTH {
        return Ok(Value::nothing(value.type_name(), NotCaptured::Depth));
    }
    let redactor = evaluation.context.redactor;
    let items = |items: &[Operand]| -> Result<Content, Undefined> {
        let shown: Result<Vec<Value>, _> =
            items.iter().map(|item| part(evaluation, item, depth + 1)).collect();
        Ok(Content::Elements(shown?))
    };
    let limits = evaluation.context.limits.value;
    let most = limits.items;
    let first = |all: &[Operand]| items(all.get(..most).unwrap_or(all));
    let cut = |length: usize, shown: usize| (length > shown).then_some(length as u64);
    let (content, truncated) = match value {
        Operand::Object(remote) => {
            evaluation.objects.budget.take(1)?;
            let mut decoder = Decoder::with_redactor(evaluation.at(remote).reader, limits, Some(redactor));
            return Ok(decoder.value(remote.address));
        }
        Operand::Redacted(name) if depth == 0 => return Err(Undefined::Redacted(name.to_string())),
        Operand::Redacted(name) => {
            let kind = redactor.sensitive_type(name).or_else(|| redactor.sensitive(name));
            return Ok(Value::nothing("", NotCaptured::Redacted(kind.unwrap_or(Kind::SENSITIVE_NAME))));
        }
        Operand::Str(text) => {
            if let Some(kind) = evaluation.used_secret()? {
                return Ok(Value::nothing(value.type_name(), NotCaptured::Redacted(kind)));
            }
            (Content::Str(text.to_string()), cut(text.chars().count(), limits.text))
        }
        Operand::Bytes(bytes, _) => {
            if let Some(kind) = evaluation.used_secret()? {
                return Ok(Value::nothing(value.type_name(), NotCaptured::Redacted(kind)));
            }
            (Content::Bytes(bytes.to_vec()), cut(bytes.len(), limits.text))
        }
        Operand::None => (Content::None, None),
        Operand::Bool(value) => (Content::Bool(*value), None),
        Operand::Int(value) => (Content::Int(value.to_string()), None),
        Operand::Float(value) => (Content::Float(*value), None),
        Operand::List(all) | Operand::Tuple(all) | Operand::View(all, _) => {
            (first(all)?, cut(all.len(), most))
        }
        Operand::Set(all) => {
            let all = evaluation.distinct(all)?;
            (first(&all)?, cut(all.len(), most))
        }
        Operand::Dict(_) => {
            let pairs = evaluation.pairs(value)?;
            let mut entries = Vec::new();
            for (key, value) in pairs.iter().take(most) {
                let name = evaluation.secret_key(key)?;
                let hidden = name.map(Operand::Redacted);
                let value = part(evaluation, hidden.as_ref().unwrap_or(value), depth + 1)?;
                entries.push((part(evaluation, key, depth + 1)?, value));
            }
            (Content::Entries(entries), cut(pairs.len(), most))
        }
    };
    let mut shown = Value { truncated, ..Value::new(value.type_name(), content) };
    redactor.leaf(&mut shown, limits.text, &mut Counts::new());
    Ok(shown)
}
