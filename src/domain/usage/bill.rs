//! What a provider itself says that a response costs: read from the decimal text, exactly, and rounded up to a nano-dollar.

use crate::domain::json::{Raw, members};
use crate::domain::money::NanoUsd;

/// A decimal number that is not negative: `digits × 10^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    digits: u128,
    exponent: i32,
}

/// A number with more characters is no count and no charge.
const TEXT_BYTES_MAX: usize = 40;
/// Decimals of a dollar that are real; what stands behind them is the noise of a number that went through a double.
const REAL_DECIMALS: i32 = 12;
/// Pico-USD in a nano-USD.
const PICO_PER_NANO: u128 = 1_000;
/// xAI's unit: 10,000,000,000 are a dollar.
const TICKS_PER_NANO: u128 = 10;
/// No response costs a million dollars.
const CHARGE_MAX: NanoUsd = NanoUsd::new(1_000_000_000_000_000);

impl Decimal {
    /// Reads a JSON number. `None` for anything else and for negative ones.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let digits = whole.bytes().chain(fraction.bytes()).try_fold(0_u128, |sum, byte| {
            let digit = byte.is_ascii_digit().then(|| byte.checked_sub(b'0')).flatten()?;
            sum.checked_mul(10)?.checked_add(u128::from(digit))
        })?;
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Self { digits, exponent })
    }

    /// The number, if it is whole.
    pub(super) fn whole(self) -> Option<u128> {
        let (number, rest) = self.shifted(0)?;
        (rest == Rest::None).then_some(number)
    }

    /// The number, rounded up.
    pub(super) fn rounded_up(self) -> Option<u128> {
        let (number, rest) = self.shifted(0)?;
        if rest == Rest::None { Some(number) } else { number.checked_add(1) }
    }

    fn usd(self) -> Option<NanoUsd> {
        let (pico, rest) = self.shifted(REAL_DECIMALS)?;
        let pico = if rest == Rest::HalfOrMore { pico.checked_add(1)? } else { pico };
        charge(pico.div_ceil(PICO_PER_NANO))
    }

    /// The whole part of the number times `10^places`, and what is left of it.
    fn shifted(self, places: i32) -> Option<(u128, Rest)> {
        let exponent = self.exponent.checked_add(places)?;
        let power = 10_u128.checked_pow(exponent.unsigned_abs());
        if self.digits == 0 {
            return Some((0, Rest::None));
        }
        if exponent >= 0 {
            return Some((self.digits.checked_mul(power?)?, Rest::None));
        }
        let Some(power) = power else { return Some((0, Rest::LessThanHalf)) };
        let rest = self.digits.checked_rem(power)?;
        let rest = match (rest, rest >= power.checked_sub(rest)?) {
            (0, _) => Rest::None,
            (_, false) => Rest::LessThanHalf,
            (_, true) => Rest::HalfOrMore,
        };
        Some((self.digits.checked_div(power)?, rest))
    }
}

/// How much of one is left behind a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    LessThanHalf,
    HalfOrMore,
}

/// OpenRouter's `cost`, a number of dollars, or Perplexity's, an object with a total.
pub(super) fn cost(value: Raw<'_>) -> Option<NanoUsd> {
    if value.bytes().starts_with(b"{") { member(value, "total_cost") } else { usd(value) }
}

/// What the provider behind OpenRouter charges.
pub(super) fn upstream(value: Raw<'_>) -> Option<NanoUsd> {
    member(value, "upstream_inference_cost")
}

/// xAI's `cost_in_usd_ticks`.
pub(super) fn ticks(value: Raw<'_>) -> Option<NanoUsd> {
    let ticks = Decimal::parse(value.bytes())?.whole()?;
    charge(ticks.div_ceil(TICKS_PER_NANO))
}

fn member(object: Raw<'_>, name: &str) -> Option<NanoUsd> {
    members(object.bytes()).filter(|(key, _)| key.is(name)).last().and_then(|(_, value)| usd(value))
}

fn usd(value: Raw<'_>) -> Option<NanoUsd> {
    Decimal::parse(value.bytes())?.usd()
}

fn charge(nano: u128) -> Option<NanoUsd> {
    let charge = NanoUsd::new(i64::try_from(nano).ok()?);
    (charge <= CHARGE_MAX).then_some(charge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        let check = |text: &str, expected| {
            assert_eq!(
                Decimal::parse(text.as_bytes()).and_then(Decimal::whole),
                expected,
                "{text}"
            );
        };
        check("0", Some(0));
        check("17", Some(17));
        check("3.0", Some(3));
        check("1e3", Some(1000));
        check("1.5E+1", Some(15));
        check("100e-2", Some(1));
        check("0e-999", Some(0));
        for other in [
            "", "-1", "+1", "01", "1.", ".5", "1.5", "1e-3", "1e99", "NaN", "\"1\"", "[1]", "true",
            "1e", "1e1.0", "0x10", "1_0",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn charges_are_rounded_up_to_a_nano_dollar_without_the_noise_of_doubles() {
        let check = |text: &str, nano| {
            let usd = Decimal::parse(text.as_bytes()).and_then(Decimal::usd);
            assert_eq!(usd, nano, "{text}");
        };
        check("0.00341475", Some(NanoUsd::new(3_414_750)));
        check("0", Some(NanoUsd::ZERO));
        check("5e-10", Some(NanoUsd::new(1)));
        check("1.0000000001", Some(NanoUsd::new(1_000_000_001)));
        check("0.0014750000000000002", Some(NanoUsd::new(1_475_000)));
        check("0.00147499999999999998", Some(NanoUsd::new(1_475_000)));
        check("2000000", None);
        check("-0.1", None);
    }
}
