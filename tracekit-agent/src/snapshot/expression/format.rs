//! Format specifications as Python's `format()` has them: `[[fill]align][sign][#][0][width][,_][.precision][type]`.

use num_bigint::BigInt;
use num_traits::Signed as _;

use super::number::{Decimal, Number};
use super::operand::Undefined;
use crate::python::object::text;

/// Characters of a field at most.
const MAX_WIDTH: usize = 256;
/// Digits at most.
const MAX_PRECISION: usize = 100;

/// A format specification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    /// Reads a specification; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let characters: Vec<char> = text.chars().collect();
        let mut rest = characters.as_slice();
        let mut spec = Self::default();
        let is_align = |c: &char| matches!(c, '<' | '>' | '=' | '^');
        match rest {
            [fill, align, after @ ..] if is_align(align) => {
                (spec.fill, spec.align, rest) = (Some(*fill), Some(*align), after);
            }
            [align, after @ ..] if is_align(align) => (spec.align, rest) = (Some(*align), after),
            _ => {}
        }
        let mut take = |wanted: &[char]| match rest {
            [first, after @ ..] if wanted.contains(first) => {
                rest = after;
                Some(*first)
            }
            _ => None,
        };
        spec.sign = take(&['+', '-', ' ']);
        spec.alternate = take(&['#']).is_some();
        spec.zero = take(&['0']).is_some();
        let digits: Vec<char> = ('0'..='9').collect();
        let mut number = |most: usize, what: &str| -> Result<Option<usize>, String> {
            let mut found = None;
            while let Some(digit) = take(&digits) {
                let value = found.unwrap_or(0) * 10 + digit.to_digit(10).unwrap_or(0) as usize;
                if value > most {
                    return Err(format!("the {what} of a format is at most {most}"));
                }
                found = Some(value);
            }
            Ok(found)
        };
        spec.width = number(MAX_WIDTH, "width")?.unwrap_or(0);
        let mut take = |wanted: &[char]| match rest {
            [first, after @ ..] if wanted.contains(first) => {
                rest = after;
                Some(*first)
            }
            _ => None,
        };
        spec.group = take(&[',', '_']);
        let mut precision = None;
        if take(&['.']).is_some() {
            let mut value = None;
            while let Some(digit) = take(&digits) {
                let next = value.unwrap_or(0) * 10 + digit.to_digit(10).unwrap_or(0) as usize;
                if next > MAX_PRECISION {
                    return Err(format!("the precision of a format is at most {MAX_PRECISION}"));
                }
                value = Some(next);
            }
            precision = Some(value.ok_or("the precision of the format is missing")?);
        }
        spec.precision = precision;
        spec.kind = take(&['b', 'd', 'e', 'E', 'f', 'F', 'g', 'G', 'o', 's', 'x', 'X', '%']);
        if !rest.is_empty() {
            let rest: String = rest.iter().collect();
            return Err(format!("unknown format '{rest}': d, b, o, x, e, f, g, % and s are supported"));
        }
        if spec.zero && spec.group.is_some() {
            return Err("leading zeros together with separators are not supported".into());
        }
        Ok(spec)
    }

    /// The value is written as `str()` does it.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Only for strings.
    pub(super) fn string(&self, value: &str) -> Result<String, Undefined> {
        let fits = matches!(self.kind, None | Some('s'))
            && self.sign.is_none()
            && self.group.is_none()
            && !self.alternate
            && self.align != Some('=');
        if !fits {
            return Err(Undefined::Arithmetic("the format is not one for strings".into()));
        }
        let value: String = match self.precision {
            Some(most) => value.chars().take(most).collect(),
            None => value.to_owned(),
        };
        // To 3.9 a zero before the width is an error for strings.
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        Ok(self.padded("", &value, fill, self.align.unwrap_or('<')))
    }

    pub(super) fn number(&self, value: &Number) -> Result<String, Undefined> {
        match value {
            Number::Int(value) => match self.kind {
                None | Some('d' | 'b' | 'o' | 'x' | 'X') => self.integer(value),
                Some('s') => Err(Undefined::Arithmetic("the format is not one for numbers".into())),
                _ => self.float(Number::Int(value.clone()).float()?),
            },
            Number::Float(value) => self.float(*value),
            Number::Decimal(value) => self.decimal(value),
        }
    }

    fn integer(&self, value: &BigInt) -> Result<String, Undefined> {
        if self.precision.is_some() {
            return Err(Undefined::Arithmetic("an integer's format has no precision".into()));
        }
        let (radix, prefix) = match self.kind {
            Some('b') => (2, "0b"),
            Some('o') => (8, "0o"),
            Some('x') => (16, "0x"),
            Some('X') => (16, "0X"),
            _ => (10, ""),
        };
        if self.group == Some(',') && radix != 10 {
            return Err(Undefined::Arithmetic("',' is only for decimal digits".into()));
        }
        let mut digits = value.magnitude().to_str_radix(radix);
        if self.kind == Some('X') {
            digits = digits.to_uppercase();
        }
        let digits = grouped(&digits, self.group, if radix == 10 { 3 } else { 4 });
        let prefix = if self.alternate { prefix } else { "" };
        Ok(self.signed(value.is_negative(), prefix, &digits))
    }

    fn float(&self, value: f64) -> Result<String, Undefined> {
        if self.alternate || matches!(self.kind, Some('d' | 'b' | 'o' | 'x' | 'X' | 's')) {
            return Err(Undefined::Arithmetic("the format is not one for floats".into()));
        }
        let size = value.abs();
        let precision = self.precision.unwrap_or(6);
        let digits = match self.kind {
            _ if !value.is_finite() => {
                let word = if value.is_nan() { "nan" } else { "inf" };
                if self.kind == Some('%') { format!("{word}%") } else { word.to_owned() }
            }
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            Some('e' | 'E') => scientific(size, precision),
            Some('g' | 'G') => general(size, precision, false),
            _ => match self.precision {
                Some(precision) => general(size, precision, true),
                None => text::float(size),
            },
        };
        let digits = if matches!(self.kind, Some('E' | 'F' | 'G')) { digits.to_uppercase() } else { digits };
        let negative = value.is_sign_negative() && !value.is_nan();
        Ok(self.signed(negative, "", &self.grouped_whole(&digits)))
    }

    /// Only `f`, rounded half to even as the default context does.
    fn decimal(&self, value: &Decimal) -> Result<String, Undefined> {
        let (Decimal::Finite { coefficient, exponent }, Some('f' | 'F')) = (value, self.kind) else {
            return Err(Undefined::Unsupported("this format of a Decimal".into()));
        };
        let negative = coefficient.is_negative();
        let mut digits = coefficient.abs();
        let mut places = (-exponent).max(0);
        let wanted = self.precision.map_or(places, |precision| precision as i64);
        let scale = |by: i64| {
            let power = u32::try_from(by).ok().filter(|power| *power <= 6000);
            power.map(|power| BigInt::from(10).pow(power)).ok_or(Undefined::Limit("digits of an integer"))
        };
        digits *= scale((*exponent).max(0))?;
        if wanted < places {
            let unit = scale(places - wanted)?;
            let (quotient, remainder) = (&digits / &unit, (&digits % &unit) * 2);
            let up = remainder > unit || (remainder == unit && quotient.bit(0));
            digits = quotient + i32::from(up);
        } else {
            digits *= scale(wanted - places)?;
        }
        places = wanted;
        let places = usize::try_from(places).unwrap_or(0);
        let text = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = text.split_at(text.len() - places);
        let text = if places == 0 { whole.to_owned() } else { format!("{whole}.{fraction}") };
        Ok(self.signed(negative, "", &self.grouped_whole(&text)))
    }

    /// Separators in the part before the point.
    fn grouped_whole(&self, digits: &str) -> String {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (whole, rest) = digits.split_at(end);
        grouped(whole, self.group, 3) + rest
    }

    fn signed(&self, negative: bool, prefix: &str, digits: &str) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        let align = self.align.unwrap_or(if self.zero { '=' } else { '>' });
        self.padded(&format!("{sign}{prefix}"), digits, fill, align)
    }

    fn padded(&self, sign: &str, text: &str, fill: char, align: char) -> String {
        let missing = self.width.saturating_sub(sign.chars().count() + text.chars().count());
        let pad = |count: usize| fill.to_string().repeat(count);
        match align {
            '<' => format!("{sign}{text}{}", pad(missing)),
            '=' => format!("{sign}{}{text}", pad(missing)),
            '^' => format!("{}{sign}{text}{}", pad(missing / 2), pad(missing - missing / 2)),
            _ => format!("{}{sign}{text}", pad(missing)),
        }
    }
}

fn grouped(digits: &str, separator: Option<char>, size: usize) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(size) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}

/// `d.ddde+dd`
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `g`; with `point` as for a format without a type, which keeps a digit behind the point.
fn general(value: f64, precision: usize, point: bool) -> String {
    let digits = precision.max(1);
    let text = scientific(value, digits - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    let place: i64 = exponent.parse().unwrap_or(0);
    let plain = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let most = digits as i64 - i64::from(point);
    if place < -4 || place >= most {
        return format!("{}e{exponent}", plain(mantissa));
    }
    let decimals = usize::try_from(digits as i64 - 1 - place).unwrap_or(0);
    let text = plain(&format!("{value:.decimals$}"));
    if point && !text.contains('.') { text + ".0" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_formats_them() {
        let int = |text: &str| Number::Int(text.parse().unwrap());
        let decimal = |text: &str| Number::Decimal(Decimal::parse(text).unwrap());
        let cases = [
            (int("1234567"), ",", "1,234,567"),
            (int("-255"), "#x", "-0xff"),
            (int("5"), "08b", "00000101"),
            (int("5"), "+d", "+5"),
            (int("5"), "^7", "   5   "),
            (int("5"), "*>4", "***5"),
            (int("1"), ".1f", "1.0"),
            (Number::Float(1234.5678), ",.2f", "1,234.57"),
            (Number::Float(-0.5), "08.2f", "-0000.50"),
            (Number::Float(0.256), ".1%", "25.6%"),
            (Number::Float(12345.678), ".3e", "1.235e+04"),
            (Number::Float(0.00001234), "g", "1.234e-05"),
            (Number::Float(123456789.0), "g", "1.23457e+08"),
            (Number::Float(100.0), "g", "100"),
            (Number::Float(100.0), ".3", "1e+02"),
            (Number::Float(12.0), ".3", "12.0"),
            (Number::Float(f64::NEG_INFINITY), "8", "    -inf"),
            (decimal("12.345"), ".2f", "12.34"),
            (decimal("12.355"), ".2f", "12.36"),
            (decimal("-1E+3"), ",.1f", "-1,000.0"),
        ];
        for (value, spec, expected) in cases {
            assert_eq!(Spec::parse(spec).unwrap().number(&value).unwrap(), expected, "{value:?} {spec}");
        }
        assert_eq!(Spec::parse(">6.3").unwrap().string("abcdef").unwrap(), "   abc");
        assert!(Spec::parse("d").unwrap().string("x").is_err());
        for wrong in ["99999", ".", "q", ".999f", "010,d", "5s5"] {
            assert!(Spec::parse(wrong).is_err(), "{wrong}");
        }
    }
}
