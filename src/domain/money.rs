//! Money and token counts as integers.

use std::fmt;

use thiserror::Error;

/// An amount of US dollars in nano-USD (10⁻⁹ USD). Signed, because adjustments may be negative. Holds up to
/// ±9.2 billion dollars; sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NanoUsd(i64);

/// A number of LLM tokens. Signed, because adjustments may be negative; sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tokens(i64);

/// An amount in the unit of its dimension: nano-USD, tokens or requests. The ledger's arithmetic is the same for
/// all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Units(i64);

/// What one response costs, or may cost, in both counted dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Money.
    pub cost: NanoUsd,
    /// LLM tokens.
    pub tokens: Tokens,
}

impl Amounts {
    /// The greater of each.
    #[must_use]
    pub fn greater(self, other: Self) -> Self {
        Self { cost: self.cost.max(other.cost), tokens: self.tokens.max(other.tokens) }
    }
}

/// Why a decimal text is no amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MoneyError {
    /// Not a decimal number such as `12`, `0.05` or `5e-7`.
    #[error("is not a decimal number")]
    NotANumber,
    /// Finer than a nano-dollar.
    #[error("has more than 9 decimals")]
    TooFine,
    /// Beyond ±9.2 billion dollars.
    #[error("is beyond 9200000000 dollars")]
    TooLarge,
}

macro_rules! integer_amount {
    ($name:ident) => {
        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// From the integer.
            #[must_use]
            pub const fn new(value: i64) -> Self {
                Self(value)
            }

            /// The integer.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }

            /// The sum, saturating.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, saturating.
            #[must_use]
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// Itself, or zero when it is negative.
            #[must_use]
            pub fn or_zero(self) -> Self {
                self.max(Self::ZERO)
            }
        }
    };
}

integer_amount!(NanoUsd);
integer_amount!(Tokens);
integer_amount!(Units);

impl Units {
    /// The least that a gate asks for.
    pub const ONE: Self = Self(1);
    /// More than any account holds.
    pub const MAX: Self = Self(i64::MAX);
}

impl From<NanoUsd> for Units {
    fn from(amount: NanoUsd) -> Self {
        Self(amount.0)
    }
}

impl From<Tokens> for Units {
    fn from(amount: Tokens) -> Self {
        Self(amount.0)
    }
}

/// Nano-USD in one dollar.
const NANO_PER_USD: i64 = 1_000_000_000;
/// Decimals of a dollar that a nano-USD can hold.
const DECIMALS: i32 = 9;
/// The longest decimal text that is looked at; JSON numbers of real money are far shorter.
const TEXT_BYTES_MAX: usize = 64;

impl NanoUsd {
    /// Reads dollars from their decimal text, exactly: `5`, `-0.25`, `1.5e-7`. Trailing zeros beyond the ninth decimal
    /// are accepted.
    ///
    /// # Errors
    /// [`MoneyError`] when the text is no number, is finer than a nano-dollar or too large.
    pub fn from_usd_text(text: &str) -> Result<Self, MoneyError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(MoneyError::TooLarge);
        }
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = split_exponent(rest)?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if whole.is_empty() || mantissa.ends_with('.') || !digits().all(|b| b.is_ascii_digit()) {
            return Err(MoneyError::NotANumber);
        }
        let fraction_len = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let shift = DECIMALS.saturating_add(exponent).saturating_sub(fraction_len);
        let value = digits()
            .try_fold(0i128, |sum, digit| {
                sum.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0')?))
            })
            .ok_or(MoneyError::TooLarge)?;
        let nano = shifted(value, shift)?;
        let nano = i64::try_from(nano).map_err(|_| MoneyError::TooLarge)?;
        Ok(Self(if negative { nano.saturating_neg() } else { nano }))
    }
}

/// Splits `1.5e-7` into `1.5` and −7.
fn split_exponent(text: &str) -> Result<(&str, i32), MoneyError> {
    match text.split_once(['e', 'E']) {
        None => Ok((text, 0)),
        Some((mantissa, exponent)) => exponent
            .parse()
            .map(|exponent| (mantissa, exponent))
            .map_err(|_| MoneyError::NotANumber),
    }
}

/// `value × 10^shift`, exactly or not at all.
fn shifted(value: i128, shift: i32) -> Result<i128, MoneyError> {
    if value == 0 {
        return Ok(0);
    }
    let power = 10i128.checked_pow(shift.unsigned_abs());
    if shift >= 0 {
        power.and_then(|power| value.checked_mul(power)).ok_or(MoneyError::TooLarge)
    } else {
        let power = power.ok_or(MoneyError::TooFine)?;
        match value.checked_rem(power) {
            Some(0) => value.checked_div(power).ok_or(MoneyError::TooFine),
            _ => Err(MoneyError::TooFine),
        }
    }
}

/// Dollars with exactly the decimals they need: `5`, `0.0000184`, `-2.5`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nano = self.0.unsigned_abs();
        let per_usd = NANO_PER_USD.unsigned_abs();
        let whole = nano.checked_div(per_usd).unwrap_or(0);
        let fraction = nano.checked_rem(per_usd).unwrap_or(0);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let (mut fraction, mut places) = (fraction, 9usize);
        while fraction.checked_rem(10) == Some(0) {
            fraction = fraction.checked_div(10).unwrap_or(0);
            places = places.saturating_sub(1);
        }
        write!(f, "{sign}{whole}.{fraction:0places$}")
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dollars_are_read_exactly_or_refused() {
        let check = |text: &str, nano| {
            assert_eq!(NanoUsd::from_usd_text(text), Ok(NanoUsd(nano)), "{text}")
        };
        check("5", 5_000_000_000);
        check("0.0000184", 18_400);
        check("1.840E-5", 18_400);
        check("5e-9", 5);
        check("-2.50", -2_500_000_000);
        check("0.0000000000", 0);
        check("9000000000", 9_000_000_000_000_000_000);
        let refuse = |text: &str, why| assert_eq!(NanoUsd::from_usd_text(text), Err(why), "{text}");
        for text in
            ["", "-", ".", "1.", ".5", "NaN", "inf", "1e", "0x1", "1_0", "+1", "1 ", "--1", "1.5.5"]
        {
            refuse(text, MoneyError::NotANumber);
        }
        refuse("0.0000000001", MoneyError::TooFine);
        refuse("1e-400", MoneyError::TooFine);
        refuse("9300000000", MoneyError::TooLarge);
        refuse("1e400", MoneyError::TooLarge);
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nano in any::<i64>().prop_filter("has no negation", |n| *n != i64::MIN)) {
            prop_assert_eq!(NanoUsd::from_usd_text(&NanoUsd(nano).to_string()), Ok(NanoUsd(nano)));
        }
    }
}
