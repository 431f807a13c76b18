//! What one token or unit costs, exact to a femto-dollar.

use std::fmt;

use thiserror::Error;

/// A price in nano-USD per million tokens, which is femto-USD per token: $1 per million tokens is
/// 1,000,000,000. Every published price of a token is a whole number of these. The price of another unit, such as an image
/// or a second of sound, is likewise in femto-USD per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(u64);

/// Why a decimal text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RateError {
    /// Not a decimal number such as `0.000003` or `2.5e-07`.
    #[error("is not a decimal number of USD per token, such as 0.0000025 or 2.5e-06")]
    NotANumber,
    /// Below zero.
    #[error("is negative")]
    Negative,
    /// Above a dollar, which is a price per thousand or per million tokens by mistake.
    #[error("is above 1 USD per token; rates are per single token")]
    TooLarge,
    /// Above a thousand dollars.
    #[error("is above 1000 USD per unit")]
    TooLargePerUnit,
}

/// No token costs a dollar: the dearest on record costs a hundredth of one.
const USD_PER_TOKEN_MAX: u64 = 1;
/// Nor does an image, a page or a second cost a thousand: the dearest on record costs half of one.
const USD_PER_UNIT_MAX: u64 = 1_000;
/// Decimals of a dollar that a femto-USD has.
const DECIMALS: i32 = 15;
/// A million tokens or characters, in decimals.
const MILLION: i32 = 6;
/// A thousand units, in decimals.
const THOUSAND: i32 = 3;
/// Seconds in an hour.
const SECONDS_PER_HOUR: u64 = 3_600;
/// Femto-USD in a dollar.
const FEMTO_PER_USD: u64 = 1_000_000_000_000_000;
/// The longest text that is looked at; a number printed from a double has at most 25 characters.
const TEXT_BYTES_MAX: usize = 64;

impl Rate {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From nano-USD per million tokens.
    #[must_use]
    pub const fn per_million(nano_usd: u64) -> Self {
        Self(nano_usd)
    }

    /// Nano-USD per million tokens.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads USD per token from its decimal text: `2.5e-06`, `0.00001`. Rounds half to even at the 15th decimal, which takes
    /// the noise off numbers such as `3.0001999999999996e-07` that went through a double.
    ///
    /// # Errors
    /// [`RateError`] when the text is no number, is negative or too large for a price of one token.
    pub fn from_usd_per_token(text: &str) -> Result<Self, RateError> {
        femto_usd(text, DECIMALS)?.at_most(USD_PER_TOKEN_MAX, RateError::TooLarge)
    }

    /// Reads USD per million tokens from its decimal text, likewise: `2.5`.
    ///
    /// # Errors
    /// [`RateError`], likewise.
    pub fn from_usd_per_million(text: &str) -> Result<Self, RateError> {
        femto_usd(text, DECIMALS.saturating_sub(MILLION))?
            .at_most(USD_PER_TOKEN_MAX, RateError::TooLarge)
    }

    /// Reads USD per image, page, second or another unit from its decimal text.
    ///
    /// # Errors
    /// [`RateError`] when the text is no number, is negative or too large for a price of one unit.
    pub fn from_usd_per_unit(text: &str) -> Result<Self, RateError> {
        femto_usd(text, DECIMALS)?.at_most(USD_PER_UNIT_MAX, RateError::TooLargePerUnit)
    }

    /// Reads USD per thousand units from its decimal text.
    ///
    /// # Errors
    /// [`RateError`], likewise.
    pub fn from_usd_per_thousand(text: &str) -> Result<Self, RateError> {
        femto_usd(text, DECIMALS.saturating_sub(THOUSAND))?
            .at_most(USD_PER_UNIT_MAX, RateError::TooLargePerUnit)
    }

    /// Reads USD per hour from its decimal text, as a price per second, rounded up to a femto-USD.
    ///
    /// # Errors
    /// [`RateError`], likewise.
    pub fn from_usd_per_hour(text: &str) -> Result<Self, RateError> {
        let Self(hour) = Self::from_usd_per_unit(text)?;
        Ok(Self(hour.div_ceil(SECONDS_PER_HOUR)))
    }

    const fn at_most(self, usd: u64, error: RateError) -> Result<Self, RateError> {
        if self.0 > usd.saturating_mul(FEMTO_PER_USD) { Err(error) } else { Ok(self) }
    }
}

/// Reads a decimal text of dollars, of which one has this many more decimals.
fn femto_usd(text: &str, decimals: i32) -> Result<Rate, RateError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(RateError::NotANumber);
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.parse().map_err(|_| RateError::NotANumber)?)
        }
        None => (text, 0_i32),
    };
    let (negative, mantissa) =
        mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(RateError::NotANumber);
    }
    let value = digits(whole, fraction).ok_or(RateError::NotANumber)?;
    if negative && value != 0 {
        return Err(RateError::Negative);
    }
    let fraction_len = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let femto = scaled(value, decimals.saturating_add(exponent).saturating_sub(fraction_len));
    let femto = femto.and_then(|femto| u64::try_from(femto).ok());
    Ok(Rate(femto.unwrap_or(u64::MAX)))
}

/// All digits as one number, or `None` when there are more than 38 that count.
fn digits(whole: &str, fraction: &str) -> Option<u128> {
    whole.bytes().chain(fraction.bytes()).try_fold(0_u128, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u128::from(digit.checked_sub(b'0')?))
    })
}

/// `value × 10^shift`, rounded half to even; `None` when it is too large.
fn scaled(value: u128, shift: i32) -> Option<u128> {
    if value == 0 {
        return Some(0);
    }
    let power = 10_u128.checked_pow(shift.unsigned_abs());
    if shift >= 0 {
        return value.checked_mul(power?);
    }
    // A power beyond 10^38 leaves less than half of anything that fits.
    let Some(power) = power else { return Some(0) };
    let (quotient, rest) = (value.checked_div(power)?, value.checked_rem(power)?);
    let up = match rest.cmp(&power.checked_sub(rest)?) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => quotient.checked_rem(2)?,
        std::cmp::Ordering::Greater => 1,
    };
    quotient.checked_add(up)
}

/// The integer, as in the audit trail.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_from_their_decimal_text() {
        let check =
            |text: &str, rate| assert_eq!(Rate::from_usd_per_token(text), Ok(Rate(rate)), "{text}");
        check("2.5e-06", 2_500_000_000);
        check("5e-7", 500_000_000);
        check("0.00001", 10_000_000_000);
        check("3.0001999999999996e-07", 300_020_000);
        check("8.25e-8", 82_500_000);
        check("0.00971", 9_710_000_000_000);
        check("0", 0);
        check("0.0", 0);
        check("-0.0", 0);
        check("1e-400", 0);
        check("1", 1_000_000_000_000_000);
        check("0.5e-15", 0);
        check("1.5e-15", 2);
        check("2.5e-15", 2);
        check("2.5000001e-15", 3);
    }

    #[test]
    fn what_is_no_price_of_a_token_is_refused() {
        let refuse =
            |text: &str, why| assert_eq!(Rate::from_usd_per_token(text), Err(why), "{text}");
        for text in [
            "", "-", ".5", "1.", "NaN", "Infinity", "1e", "1e1.5", "0x1", "1 ", "+1", "\"1\"",
            "null",
        ] {
            refuse(text, RateError::NotANumber);
        }
        refuse(&"1".repeat(65), RateError::NotANumber);
        refuse("-1e-06", RateError::Negative);
        refuse("2.5", RateError::TooLarge);
        refuse("1e300", RateError::TooLarge);
    }

    #[test]
    fn prices_of_other_sizes_come_to_the_same_rate() {
        let million = Rate::from_usd_per_million;
        assert_eq!(million("2.5"), Rate::from_usd_per_token("2.5e-06"));
        assert_eq!(million("0.08333333333333333"), Ok(Rate(83_333_333)));
        assert_eq!(million("1000001"), Err(RateError::TooLarge));
        assert_eq!(Rate::from_usd_per_thousand("10"), Rate::from_usd_per_unit("0.01"));
        assert_eq!(Rate::from_usd_per_hour("0.36"), Rate::from_usd_per_unit("0.0001"));
        assert_eq!(Rate::from_usd_per_hour("1e-15"), Ok(Rate(1)));
        assert_eq!(Rate::from_usd_per_unit("1000.01"), Err(RateError::TooLargePerUnit));
        assert_eq!(Rate::from_usd_per_unit("1e30"), Err(RateError::TooLargePerUnit));
    }

    proptest! {
        #[test]
        fn every_femto_dollar_reads_back(femto in 0..=1_000_000_000_000_000_u64) {
            prop_assert_eq!(Rate::from_usd_per_token(&format!("{femto}e-15")), Ok(Rate(femto)));
        }
    }
}
