//! Numbers as Python has them: integers of any size, floats, and decimals, which are only compared.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};
use num_traits::{FromPrimitive as _, Signed as _, ToPrimitive as _, Zero as _};

use super::operand::{Operand, Undefined};
use super::syntax::Binary;

/// Bits of an integer at most: some 6000 decimal digits.
const MAX_BITS: u64 = 20_000;

/// A `Decimal`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decimal {
    Finite { coefficient: BigInt, exponent: i64 },
    Infinite { negative: bool },
    NotANumber,
}

impl Decimal {
    /// From the text of `Decimal.__str__`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        match rest {
            "Infinity" => return Some(Self::Infinite { negative }),
            "NaN" | "sNaN" => return Some(Self::NotANumber),
            _ => {}
        }
        let (digits, exponent) = rest.split_once('E').unwrap_or((rest, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let coefficient: BigInt = format!("{whole}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(fraction.len() as i64)?;
        Some(Self::Finite { coefficient: if negative { -coefficient } else { coefficient }, exponent })
    }

    /// Exactly the float: `m × 2^-k` is `m × 5^k × 10^-k`.
    fn from_float(value: f64) -> Self {
        if value.is_nan() {
            return Self::NotANumber;
        }
        if value.is_infinite() {
            return Self::Infinite { negative: value < 0.0 };
        }
        let (mantissa, exponent) = split(value);
        let mantissa = BigInt::from(mantissa);
        let shift = exponent.unsigned_abs();
        if exponent >= 0 {
            return Self::Finite { coefficient: mantissa << shift, exponent: 0 };
        }
        Self::Finite { coefficient: mantissa * BigInt::from(5).pow(shift), exponent: exponent.into() }
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        let sign = |value: &Self| match value {
            Self::Finite { coefficient, .. } => match coefficient.sign() {
                Sign::Minus => -1,
                Sign::NoSign => 0,
                Sign::Plus => 1,
            },
            Self::Infinite { negative } => {
                if *negative {
                    -2
                } else {
                    2
                }
            }
            Self::NotANumber => 0,
        };
        match (self, other) {
            (Self::NotANumber, _) | (_, Self::NotANumber) => None,
            (
                Self::Finite { coefficient: a, exponent: by_a },
                Self::Finite { coefficient: b, exponent: by_b },
            ) if sign(self) == sign(other) && sign(self) != 0 => {
                // The place of the first digit decides; if it is the same, the exponents are as far apart as
                // the lengths are.
                let digits = |value: &BigInt| value.magnitude().to_string().len() as i64;
                let (first_a, first_b) = (digits(a).saturating_add(*by_a), digits(b).saturating_add(*by_b));
                let magnitudes = first_a.cmp(&first_b).then_with(|| {
                    let scaled = |value: &BigInt, by: i64| {
                        value.abs() * BigInt::from(10).pow(u32::try_from(by).unwrap_or(0))
                    };
                    let least = *by_a.min(by_b);
                    scaled(a, by_a - least).cmp(&scaled(b, by_b - least))
                });
                Some(if a.is_negative() { magnitudes.reverse() } else { magnitudes })
            }
            _ => Some(sign(self).cmp(&sign(other))),
        }
    }

    /// `int(value)`
    pub(super) fn truncated(&self) -> Result<BigInt, Undefined> {
        match self {
            Self::Finite { coefficient, exponent } => {
                let power = u32::try_from(exponent.unsigned_abs()).ok().filter(|power| *power <= 6000);
                let power = power.ok_or(Undefined::Limit("digits of an integer"))?;
                let scale = BigInt::from(10).pow(power);
                Ok(if *exponent >= 0 { coefficient * scale } else { coefficient / scale })
            }
            _ => Err(Undefined::Arithmetic("cannot convert an infinite Decimal or NaN to an integer".into())),
        }
    }
}

/// A finite float as `mantissa × 2^exponent`.
fn split(value: f64) -> (i64, i32) {
    let bits = value.to_bits();
    let fraction = (bits & ((1 << 52) - 1)).cast_signed();
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    let (mantissa, exponent) =
        if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    (if value.is_sign_negative() { -mantissa } else { mantissa }, exponent)
}

/// A number.
#[derive(Debug, Clone)]
pub(super) enum Number {
    Int(BigInt),
    Float(f64),
    Decimal(Decimal),
}

impl Number {
    /// The number that an operand is, unless it is an object.
    pub(super) fn of(operand: &Operand) -> Option<Self> {
        Some(match operand {
            Operand::Bool(value) => Self::Int(i32::from(*value).into()),
            Operand::Int(value) => Self::Int(value.clone()),
            Operand::Float(value) => Self::Float(*value),
            _ => return None,
        })
    }

    /// Exact, whatever the types; `None` if one is not a number.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Float(b)) => int_with_float(a, *b),
            (Self::Float(a), Self::Int(b)) => int_with_float(b, *a).map(Ordering::reverse),
            (a, b) => a.decimal().compare(&b.decimal()),
        }
    }

    fn decimal(&self) -> Decimal {
        match self {
            Self::Int(value) => Decimal::Finite { coefficient: value.clone(), exponent: 0 },
            Self::Float(value) => Decimal::from_float(*value),
            Self::Decimal(value) => value.clone(),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Int(value) => value.is_zero(),
            Self::Float(value) => *value == 0.0,
            Self::Decimal(Decimal::Finite { coefficient, .. }) => coefficient.is_zero(),
            Self::Decimal(_) => false,
        }
    }

    /// As a float, as `float(value)`.
    pub(super) fn float(&self) -> Result<f64, Undefined> {
        match self {
            Self::Int(value) => int_to_float(value),
            Self::Float(value) => Ok(*value),
            Self::Decimal(_) => Err(Undefined::Unsupported("arithmetic with a Decimal".into())),
        }
    }
}

fn int_with_float(int: &BigInt, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    let Some(whole) = BigInt::from_f64(float.trunc()) else {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    };
    Some(int.cmp(&whole).then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal)))
}

/// Rounded to the nearest, ties to even.
fn int_to_float(value: &BigInt) -> Result<f64, Undefined> {
    quotient(value, &BigInt::from(1))
}

/// `a / b`, rounded once, ties to even: CPython `Objects/longobject.c` `long_true_divide`.
fn quotient(a: &BigInt, b: &BigInt) -> Result<f64, Undefined> {
    let too_large = || Undefined::Arithmetic("the integer is too large for a float".into());
    if a.is_zero() {
        return Ok(0.0);
    }
    let negative = a.is_negative() != b.is_negative();
    let (a, b) = (a.magnitude(), b.magnitude());
    // A quotient of 66 bits or so, whose last says whether something is left.
    let shift = 66 + b.bits() as i64 - a.bits() as i64;
    let (a, b) = if shift >= 0 { (a << shift, b.clone()) } else { (a.clone(), b << -shift) };
    let whole = &a / &b;
    let sticky = !(&a % &b).is_zero();
    let whole = whole.to_u128().ok_or_else(too_large)? | u128::from(sticky);
    let exponent = i32::try_from(-shift).map_err(|_| too_large())?;
    if exponent + 66 < -1000 {
        return Err(Undefined::Unsupported("a quotient near zero".into()));
    }
    // The conversion rounds once; the scaling is exact above the subnormal numbers.
    let half = exponent / 2;
    let value = whole as f64 * 2_f64.powi(half) * 2_f64.powi(exponent - half);
    if value.is_infinite() {
        return Err(too_large());
    }
    Ok(if negative { -value } else { value })
}

fn zero_division() -> Undefined {
    Undefined::Arithmetic("division by zero".into())
}

fn bounded(value: BigInt) -> Result<Operand, Undefined> {
    if value.bits() > MAX_BITS {
        Err(Undefined::Limit("digits of an integer"))
    } else {
        Ok(Operand::Int(value))
    }
}

/// Both are numbers, neither a `Decimal`.
pub(super) fn arithmetic(operator: Binary, a: &Number, b: &Number) -> Result<Operand, Undefined> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => integers(operator, a, b),
        (Number::Decimal(_), _) | (_, Number::Decimal(_)) => {
            // Its result depends on the precision and the traps of the thread's decimal context.
            Err(Undefined::Unsupported("arithmetic with a Decimal".into()))
        }
        (a, b) => floats(operator, a.float()?, b.float()?),
    }
}

fn integers(operator: Binary, a: &BigInt, b: &BigInt) -> Result<Operand, Undefined> {
    match operator {
        Binary::Add => bounded(a + b),
        Binary::Subtract => bounded(a - b),
        Binary::Multiply if a.bits() + b.bits() > MAX_BITS => Err(Undefined::Limit("digits of an integer")),
        Binary::Multiply => bounded(a * b),
        Binary::Divide | Binary::FloorDivide | Binary::Remainder if b.is_zero() => Err(zero_division()),
        Binary::Divide => quotient(a, b).map(Operand::Float),
        Binary::FloorDivide => Ok(Operand::Int(floor(a, b).0)),
        Binary::Remainder => Ok(Operand::Int(floor(a, b).1)),
        Binary::Power if b.is_negative() => {
            if a.is_zero() {
                return Err(zero_division());
            }
            floats(operator, int_to_float(a)?, int_to_float(b)?)
        }
        Binary::Power => {
            let exponent = b
                .to_u32()
                .filter(|exponent| a.bits() <= 1 || a.bits().saturating_mul((*exponent).into()) <= MAX_BITS);
            bounded(a.pow(exponent.ok_or(Undefined::Limit("digits of an integer"))?))
        }
        Binary::And => bounded(a & b),
        Binary::Or => bounded(a | b),
        Binary::Xor => bounded(a ^ b),
        Binary::Left | Binary::Right if b.is_negative() => {
            Err(Undefined::Arithmetic("negative shift count".into()))
        }
        Binary::Left => {
            let by = b.to_u64().filter(|by| a.bits().saturating_add(*by) <= MAX_BITS);
            bounded(a << by.ok_or(Undefined::Limit("digits of an integer"))?)
        }
        Binary::Right => bounded(a >> b.to_u64().unwrap_or(u64::MAX).min(MAX_BITS * 2)),
    }
}

/// Quotient and remainder, rounded down as Python does it.
fn floor(a: &BigInt, b: &BigInt) -> (BigInt, BigInt) {
    let (quotient, remainder) = (a / b, a % b);
    if !remainder.is_zero() && remainder.is_negative() != b.is_negative() {
        (quotient - 1, remainder + b)
    } else {
        (quotient, remainder)
    }
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<Operand, Undefined> {
    let value = match operator {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide | Binary::FloorDivide | Binary::Remainder if b == 0.0 => return Err(zero_division()),
        Binary::Divide => a / b,
        Binary::FloorDivide => float_floor(a, b).0,
        Binary::Remainder => float_floor(a, b).1,
        Binary::Power => return power(a, b).map(Operand::Float),
        _ => {
            let what = format!("'{}' is not supported between floats", operator.symbol());
            return Err(Undefined::Type(what));
        }
    };
    Ok(Operand::Float(value))
}

/// CPython `Objects/floatobject.c` `_float_div_mod`.
fn float_floor(a: f64, b: f64) -> (f64, f64) {
    let mut remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder == 0.0 {
        remainder = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (remainder < 0.0) {
        remainder += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), remainder);
    }
    let down = quotient.floor();
    (if quotient - down > 0.5 { down + 1.0 } else { down }, remainder)
}

/// CPython `Objects/floatobject.c` `float_pow`.
fn power(a: f64, b: f64) -> Result<f64, Undefined> {
    if a == 0.0 && b < 0.0 {
        return Err(zero_division());
    }
    if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
        return Err(Undefined::Unsupported("a complex number".into()));
    }
    let value = a.powf(b);
    if value.is_infinite() && a.is_finite() && b.is_finite() {
        return Err(Undefined::Arithmetic("the result is too large for a float".into()));
    }
    Ok(value)
}

/// `round(value)`: half to even.
pub(super) fn round(value: &Number, digits: Option<i32>) -> Result<Operand, Undefined> {
    match (value, digits) {
        (Number::Int(value), Some(digits)) if digits < 0 => {
            let places = digits.unsigned_abs();
            if places > 6000 {
                return Ok(Operand::int(0));
            }
            let unit = BigInt::from(10).pow(places);
            let (quotient, remainder) = floor(value, &unit);
            let twice = remainder * 2;
            let up = twice > unit || (twice == unit && quotient.bit(0));
            Ok(Operand::Int((quotient + i32::from(up)) * unit))
        }
        (Number::Int(value), _) => Ok(Operand::Int(value.clone())),
        (Number::Float(value), None) => {
            let whole = BigInt::from_f64(value.round_ties_even());
            let not_whole = || Undefined::Arithmetic("cannot convert infinity or NaN to an integer".into());
            whole.map(Operand::Int).ok_or_else(not_whole)
        }
        (Number::Float(value), Some(digits)) => {
            let Ok(places) = usize::try_from(digits) else {
                return Err(Undefined::Unsupported("rounding a float to tens".into()));
            };
            // More digits than a float can have.
            if places > 340 || !value.is_finite() {
                return Ok(Operand::Float(*value));
            }
            let rounded = format!("{value:.places$}").parse().unwrap_or(*value);
            Ok(Operand::Float(rounded))
        }
        (Number::Decimal(_), _) => Err(Undefined::Unsupported("arithmetic with a Decimal".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(text: &str) -> Number {
        Number::Int(text.parse().unwrap())
    }

    fn decimal(text: &str) -> Number {
        Number::Decimal(Decimal::parse(text).unwrap())
    }

    #[test]
    fn comparisons_are_exact() {
        let cases = [
            (int("9007199254740993"), Number::Float(9007199254740992.0), Ordering::Greater),
            (int("3"), Number::Float(3.5), Ordering::Less),
            (int("-3"), Number::Float(-3.5), Ordering::Greater),
            (int("100"), Number::Float(f64::INFINITY), Ordering::Less),
            (decimal("100.00"), int("100"), Ordering::Equal),
            (decimal("0.1"), Number::Float(0.1), Ordering::Less),
            (decimal("0.5"), Number::Float(0.5), Ordering::Equal),
            (decimal("-1.5"), decimal("-1.25"), Ordering::Less),
            (decimal("1E+5000"), decimal("9E+4999"), Ordering::Greater),
            (decimal("0E-10"), int("0"), Ordering::Equal),
            (decimal("-Infinity"), int("-5"), Ordering::Less),
        ];
        for (a, b, expected) in cases {
            assert_eq!(a.compare(&b), Some(expected), "{a:?} {b:?}");
            assert_eq!(b.compare(&a), Some(expected.reverse()), "{b:?} {a:?}");
        }
        assert_eq!(decimal("NaN").compare(&int("1")), None);
    }

    #[test]
    fn divisions_round_once() {
        assert_eq!(quotient(&BigInt::from(1), &BigInt::from(3)).unwrap(), 1.0 / 3.0);
        let large: BigInt = BigInt::from(10).pow(400);
        assert_eq!(quotient(&large, &(large.clone() / 3)).unwrap(), 3.0);
        assert!(int_to_float(&large).is_err());
        assert_eq!(int_to_float(&BigInt::from(u64::MAX)).unwrap(), u64::MAX as f64);
        assert_eq!(float_floor(-7.5, 2.0), (-4.0, 0.5));
    }

    #[test]
    fn powers_are_bounded() {
        let huge = integers(Binary::Power, &BigInt::from(10), &BigInt::from(1_000_000));
        assert_eq!(huge.unwrap_err(), Undefined::Limit("digits of an integer"));
        assert!(integers(Binary::Left, &BigInt::from(1), &BigInt::from(u64::MAX)).is_err());
        assert!(integers(Binary::Power, &BigInt::from(1), &BigInt::from(1_000_000)).is_ok());
    }
}
