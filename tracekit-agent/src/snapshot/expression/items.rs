//! Containers: their items, parts of them, and what is put together from them.

use std::ops::ControlFlow;
use std::rc::Rc;

use num_bigint::BigInt;
use num_traits::{Signed as _, ToPrimitive as _};

use super::evaluate::{Evaluated, Evaluation};
use super::number::Number;
use super::operand::{Category, Operand, Remote, Undefined};
use super::syntax::Binary;
use crate::python::object::Content;
use crate::python::object::access::Container;

impl Evaluation<'_> {
    /// `object[key]`
    pub fn subscript(&self, object: &Operand, key: &Operand) -> Evaluated {
        let object = self.load(object)?;
        if let Operand::Object(remote) = &object {
            self.check_method(remote, "__getitem__")?;
        }
        match &object {
            Operand::Str(text) => {
                let at = self.index(key, text.chars().count() as u64)?;
                let found = text.chars().nth(at as usize).map(|c| Operand::text(&c.to_string()));
                found.ok_or(Undefined::Limit("characters of a string"))
            }
            Operand::Bytes(bytes, _) => {
                let at = self.index(key, bytes.len() as u64)?;
                let found = bytes.get(at as usize).map(|byte| Operand::int(*byte));
                found.ok_or(Undefined::Limit("bytes of a value"))
            }
            Operand::List(items) | Operand::Tuple(items) => {
                let at = self.index(key, items.len() as u64)?;
                items.get(at as usize).cloned().ok_or(Undefined::Limit("items"))
            }
            Operand::Dict(_) => self.lookup(&object, key)?.ok_or_else(|| self.no_key(key)),
            Operand::Object(remote) => match Category::of(&remote.kind) {
                Category::Container(Container::Dict) => {
                    if let Some(found) = self.lookup(&object, key)? {
                        return Ok(found);
                    }
                    self.check_method_before(remote, "__missing__", None)?;
                    if remote.kind.native_names.iter().any(|name| name == "collections.defaultdict") {
                        return Err(Undefined::WouldRunCode("the default of a defaultdict".into()));
                    }
                    Err(self.no_key(key))
                }
                Category::Container(container @ (Container::List | Container::Tuple)) => {
                    let objects = self.at(remote);
                    let at = self.index(key, objects.length(remote.address, container)?)?;
                    self.part(remote, objects.item_at(remote.address, container, at)?)
                }
                Category::Container(Container::Deque) => {
                    let at = self.index(key, self.length(&object)?)?;
                    let (items, _) = self.addresses(remote, Container::Deque)?;
                    let item = usize::try_from(at).ok().and_then(|at| items.get(at));
                    self.part(remote, *item.ok_or(Undefined::NotCaptured)?)
                }
                _ => Err(not_subscriptable(&object)),
            },
            _ => Err(not_subscriptable(&object)),
        }
    }

    fn no_key(&self, key: &Operand) -> Undefined {
        Undefined::NoKey(match self.load(key) {
            Ok(Operand::Str(text)) => match self.used_secret() {
                Ok(None) => format!("{:?}", self.hidden(key, Content::Str(text.to_string()))),
                _ => "of type str".to_owned(),
            },
            Ok(Operand::Int(value)) => self.hidden(key, Content::Int(value.to_string())),
            _ => format!("of type {}", key.type_name()),
        })
    }

    /// An index of a sequence of this length, counted from the start.
    fn index(&self, key: &Operand, length: u64) -> Result<u64, Undefined> {
        let Some(Number::Int(index)) = self.number(key)? else {
            return Err(Undefined::Type(format!("an index must be an integer, not '{}'", key.type_name())));
        };
        let from_start = if index.is_negative() { &index + BigInt::from(length) } else { index.clone() };
        from_start
            .to_u64()
            .filter(|at| *at < length)
            .ok_or_else(|| Undefined::NoItem { index: index.to_string(), length })
    }

    pub fn slice_bound(&self, operand: &Operand) -> Result<Option<i64>, Undefined> {
        match self.load(operand)? {
            Operand::None => Ok(None),
            loaded => match Number::of(&loaded) {
                // Beyond any length.
                Some(Number::Int(value)) => {
                    let far = if value.is_negative() { -(1 << 50) } else { 1 << 50 };
                    Ok(Some(value.to_i64().filter(|at| at.unsigned_abs() < 1 << 50).unwrap_or(far)))
                }
                _ => Err(Undefined::Unsupported("a slice with parts other than integers or None".into())),
            },
        }
    }

    pub fn slice(&self, object: &Operand, bounds: &[Option<i64>; 3]) -> Evaluated {
        let object = self.load(object)?;
        if let Operand::Object(remote) = &object {
            self.check_method(remote, "__getitem__")?;
        }
        Ok(match &object {
            Operand::Str(text) => {
                let characters: Vec<char> = text.chars().collect();
                let text: String = self.sliced(&characters, bounds)?.into_iter().collect();
                Operand::text(&text)
            }
            Operand::Bytes(bytes, array) => Operand::Bytes(self.sliced(bytes, bounds)?.into(), *array),
            Operand::List(items) => Operand::List(self.sliced(items, bounds)?.into()),
            Operand::Tuple(items) => Operand::Tuple(self.sliced(items, bounds)?.into()),
            Operand::Object(remote) => match Category::of(&remote.kind) {
                Category::Container(Container::List) => {
                    Operand::List(self.sliced(&self.items(&object)?, bounds)?.into())
                }
                Category::Container(Container::Tuple) => {
                    Operand::Tuple(self.sliced(&self.items(&object)?, bounds)?.into())
                }
                // Since 3.12 a slice can be a key.
                Category::Container(Container::Dict) => {
                    return Err(Undefined::Unsupported("a slice as a key".into()));
                }
                _ => return Err(not_subscriptable(&object)),
            },
            _ => return Err(not_subscriptable(&object)),
        })
    }

    /// CPython `Objects/sliceobject.c` `PySlice_AdjustIndices`.
    fn sliced<T: Clone>(&self, items: &[T], bounds: &[Option<i64>; 3]) -> Result<Vec<T>, Undefined> {
        let length = items.len() as i64;
        let [start, stop, step] = *bounds;
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Undefined::Arithmetic("the step of a slice cannot be zero".into()));
        }
        let (least, most) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let place = |bound: Option<i64>, otherwise: i64| match bound {
            Some(at) if at < 0 => (at + length).max(least),
            Some(at) => at.min(most),
            None => otherwise,
        };
        let (first, last) = if step > 0 { (0, length) } else { (length - 1, -1) };
        let (mut at, stop) = (place(start, first), place(stop, last));
        let mut found = Vec::new();
        while (step > 0 && at < stop) || (step < 0 && at > stop) {
            self.objects.budget.take(usize::from(found.len() % 64 == 0))?;
            found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned());
            at = at.saturating_add(step);
        }
        Ok(found)
    }

    /// Calls `each` with the items of a container, until it breaks. If not all were captured, and none of the others
    /// breaks, it has no result.
    pub fn each_item<T>(
        &self,
        operand: &Operand,
        mut each: impl FnMut(Operand) -> Result<ControlFlow<T>, Undefined>,
    ) -> Result<Option<T>, Undefined> {
        if let Operand::Object(remote) = operand
            && let Category::Container(container) = Category::of(&remote.kind)
        {
            self.check_method(remote, "__iter__")?;
            let (items, whole) = self.addresses(remote, container)?;
            for item in items {
                self.objects.budget.take(1)?;
                if let ControlFlow::Break(found) = each(self.part(remote, item)?)? {
                    return Ok(Some(found));
                }
            }
            return if whole { Ok(None) } else { Err(Undefined::NotCaptured) };
        }
        for item in self.items(operand)? {
            self.objects.budget.take(1)?;
            if let ControlFlow::Break(found) = each(item)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Addresses of the items of a container, of the keys of a dict; and whether these are all.
    pub fn addresses(&self, remote: &Remote, container: Container) -> Result<(Vec<u64>, bool), Undefined> {
        let (objects, limit) = (self.at(remote), self.context.limits.items);
        if container != Container::Dict {
            return Ok(objects.items(remote.address, container, limit)?);
        }
        let mut keys = Vec::new();
        let done = objects.each_entry(remote.address, |key, _| -> Result<ControlFlow<()>, Undefined> {
            if keys.len() >= limit {
                return Err(Undefined::Limit("items"));
            }
            keys.push(key);
            Ok(ControlFlow::Continue(()))
        });
        match done {
            Ok(_) => Ok((keys, true)),
            Err(Undefined::NotCaptured) => Ok((keys, false)),
            Err(error) => Err(error),
        }
    }

    /// The items that iterating over a value gives.
    pub fn items(&self, operand: &Operand) -> Result<Vec<Operand>, Undefined> {
        let loaded = self.load(operand)?;
        let remote = match &loaded {
            Operand::Str(text) => return Ok(text.chars().map(|c| Operand::text(&c.to_string())).collect()),
            Operand::Bytes(bytes, _) => return Ok(bytes.iter().map(|byte| Operand::int(*byte)).collect()),
            Operand::List(items) | Operand::Tuple(items) | Operand::View(items, _) => {
                return Ok(items.to_vec());
            }
            Operand::Set(items) => return self.distinct(items),
            Operand::Dict(entries) => {
                let keys: Vec<Operand> = entries.iter().map(|(key, _)| key.clone()).collect();
                return self.distinct(&keys);
            }
            Operand::Object(remote) => remote,
            other => {
                return Err(Undefined::Type(format!("a '{}' cannot be iterated over", other.type_name())));
            }
        };
        self.check_method(remote, "__iter__")?;
        let Category::Container(container) = Category::of(&remote.kind) else {
            let what = format!("iterating over a '{}'", remote.kind.full_name);
            return Err(Undefined::Unsupported(what));
        };
        let (items, whole) = self.addresses(remote, container)?;
        if !whole {
            return Err(Undefined::NotCaptured);
        }
        items.into_iter().map(|item| self.part(remote, item)).collect()
    }

    /// Keys and values of a dict of the target; values whose key is the name of a secret are not given.
    pub fn entries(&self, remote: &Remote) -> Result<Vec<(Operand, Operand)>, Undefined> {
        let mut entries = Vec::new();
        let limit = self.context.limits.items;
        self.at(remote).each_entry(remote.address, |key, value| -> Result<ControlFlow<()>, Undefined> {
            if entries.len() >= limit {
                return Err(Undefined::Limit("items"));
            }
            let key = self.part(remote, key)?;
            let value = match self.secret_key(&key)? {
                Some(name) => Operand::Redacted(name),
                None => self.part(remote, value)?,
            };
            entries.push((key, value));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(entries)
    }

    /// The key, if it is the name of a secret.
    pub fn secret_key(&self, key: &Operand) -> Result<Option<Rc<str>>, Undefined> {
        let is_text = match key {
            Operand::Object(remote) => Category::of(&remote.kind) == Category::Str,
            Operand::Str(_) => true,
            _ => false,
        };
        Ok(match is_text.then(|| self.load(key)).transpose()? {
            Some(Operand::Str(name)) if self.context.redactor.sensitive(&name).is_some() => Some(name),
            _ => None,
        })
    }

    /// Operators of strings and sequences.
    pub fn sequences(&self, operator: Binary, left: &Operand, right: &Operand) -> Evaluated {
        let (a, b) = (self.sequence(left)?, self.sequence(right)?);
        let limit = self.context.limits.text;
        let total = |a: usize, b: usize| {
            if a.saturating_add(b) > limit { Err(Undefined::Limit("characters of a string")) } else { Ok(()) }
        };
        match (operator, &a, &b) {
            (Binary::Add, Operand::Str(a), Operand::Str(b)) => {
                total(a.len(), b.len())?;
                return Ok(Operand::text(&format!("{a}{b}")));
            }
            (Binary::Add, Operand::Bytes(a, array), Operand::Bytes(b, _)) => {
                total(a.len(), b.len())?;
                return Ok(Operand::Bytes([a.as_ref(), b.as_ref()].concat().into(), *array));
            }
            (Binary::Add, Operand::List(a), Operand::List(b)) => {
                self.objects.budget.take(a.len() + b.len())?;
                return Ok(Operand::List([a.as_ref(), b.as_ref()].concat().into()));
            }
            (Binary::Add, Operand::Tuple(a), Operand::Tuple(b)) => {
                self.objects.budget.take(a.len() + b.len())?;
                return Ok(Operand::Tuple([a.as_ref(), b.as_ref()].concat().into()));
            }
            (Binary::Multiply, ..) => {
                let (sequence, count) = match (self.number(left)?, self.number(right)?) {
                    (None, Some(Number::Int(count))) => (a, count),
                    (Some(Number::Int(count)), None) => (b, count),
                    _ => return Err(mismatch(operator, left, right)),
                };
                let length = match &sequence {
                    Operand::Object(_) => return Err(unsupported(operator, left, right)),
                    Operand::Str(text) => text.len(),
                    Operand::Bytes(bytes, _) => bytes.len(),
                    Operand::List(items) | Operand::Tuple(items) => items.len(),
                    _ => return Err(mismatch(operator, left, right)),
                };
                let Some(count) = count.to_i64() else {
                    return Err(Undefined::Arithmetic("the count of a repetition is too large".into()));
                };
                let count = usize::try_from(count).unwrap_or(0);
                if length.saturating_mul(count) > limit {
                    return Err(Undefined::Limit("characters of a string"));
                }
                let count = if length == 0 { 0 } else { count };
                self.objects.budget.take(length * count / 16)?;
                return Ok(match sequence {
                    Operand::Str(text) => Operand::text(&text.repeat(count)),
                    Operand::Bytes(bytes, array) => Operand::Bytes(bytes.repeat(count).into(), array),
                    Operand::List(items) => Operand::List(repeated(&items, count)),
                    Operand::Tuple(items) => Operand::Tuple(repeated(&items, count)),
                    other => other,
                });
            }
            _ => {}
        }
        let simple = |operand: &Operand| {
            matches!(
                operand,
                Operand::None | Operand::Bool(_) | Operand::Int(_) | Operand::Float(_) | Operand::Str(_)
            )
        };
        if simple(&a) && simple(&b) && !(operator == Binary::Remainder && matches!(a, Operand::Str(_))) {
            return Err(mismatch(operator, left, right));
        }
        Err(unsupported(operator, left, right))
    }

    /// A list or tuple with its items, others as they are.
    fn sequence(&self, operand: &Operand) -> Evaluated {
        let loaded = self.load(operand)?;
        let Operand::Object(remote) = &loaded else { return Ok(loaded) };
        Ok(match Category::of(&remote.kind) {
            Category::Container(Container::List) => Operand::List(self.items(&loaded)?.into()),
            Category::Container(Container::Tuple) => Operand::Tuple(self.items(&loaded)?.into()),
            _ => loaded,
        })
    }
}

fn repeated(items: &[Operand], count: usize) -> Rc<[Operand]> {
    std::iter::repeat_n(items, count).flatten().cloned().collect()
}

fn not_subscriptable(object: &Operand) -> Undefined {
    Undefined::Type(format!("a '{}' has no items", object.type_name()))
}

fn unsupported(operator: Binary, left: &Operand, right: &Operand) -> Undefined {
    Undefined::Unsupported(format!(
        "'{}' between '{}' and '{}'",
        operator.symbol(),
        left.type_name(),
        right.type_name()
    ))
}

fn mismatch(operator: Binary, left: &Operand, right: &Operand) -> Undefined {
    Undefined::Type(format!(
        "'{}' is not possible between '{}' and '{}'",
        operator.symbol(),
        left.type_name(),
        right.type_name()
    ))
}
