//! What the text of one setting means. Each reader says what was written, what is wrong with it and what is accepted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::ids::Id;
use crate::domain::keys::KeyHash;
use crate::domain::money::{NanoUsd, Tokens};
use crate::domain::pricing::Rate;

use super::settings::StoreUrl;

/// An address to listen on; `off` for none.
pub(super) fn optional_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == OFF { Ok(None) } else { address(text).map(Some) }
}

/// An address to listen on. A name is refused: which of its addresses would be meant is not clear.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:9191"))
}

/// A path; `off` for none.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text == OFF { Ok(None) } else { path(text).map(Some) }
}

/// A path of a file.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("is empty; a path is expected".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

/// The word that turns a listener off.
const OFF: &str = "off";

/// Where the store is.
pub(super) fn store_url(text: &str) -> Result<StoreUrl, String> {
    if let Some(rest) = text.strip_prefix("sqlite:") {
        let file = rest.strip_prefix("//").unwrap_or(rest);
        if file.is_empty() || file.starts_with(':') || file.contains('?') {
            return Err(format!("{text:?} is not sqlite:PATH, such as sqlite:bursar.db"));
        }
        return Ok(StoreUrl::Sqlite { url: text.to_owned(), file: PathBuf::from(file) });
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Ok(StoreUrl::Postgres { url: text.to_owned() });
    }
    // The text may hold a password, so it is not repeated.
    Err("is not a store such as sqlite:bursar.db or postgres://user@host/database".to_owned())
}

/// The word for a migration URL that is the store's own.
pub(super) const SAME: &str = "same";

/// Where a database's schema is brought up to date; `same` for the store's own URL.
pub(super) fn migration_url(text: &str) -> Result<Option<String>, String> {
    if text == SAME {
        return Ok(None);
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Ok(Some(text.to_owned()));
    }
    // The text may hold a password, so it is not repeated.
    Err("is neither \"same\" nor a URL such as postgres://user@host/database".to_owned())
}

/// A number of connections to a database.
pub(super) fn connections(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number of connections from 1 to 1000"))
}

/// An identifier.
pub(super) fn id(text: &str) -> Result<Id, String> {
    Id::parse(text).map_err(|cause| cause.to_string())
}

/// The units that a duration may be written in, with their milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A duration such as `50ms`, `10s`, `10m` or `24h`, within bounds.
pub(super) fn duration_within(
    least: Duration,
    most: Duration,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let duration = duration(text)?;
        if duration < least || duration > most {
            return Err(format!("{text} is not between {} and {}", shown(least), shown(most)));
        }
        Ok(duration)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let ms = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| ms);
    let total = ms.and_then(|ms| count.parse::<u64>().ok()?.checked_mul(*ms));
    total
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a duration such as 50ms, 10s, 10m or 24h"))
}

/// A duration as it is written in a file, in the largest unit that divides it.
pub(super) fn shown(duration: Duration) -> String {
    let total = duration.as_millis();
    let whole = |ms: &u64| total >= u128::from(*ms) && total.is_multiple_of(u128::from(*ms));
    let (unit, ms) =
        DURATION_UNITS.iter().rev().find(|(_, ms)| whole(ms)).copied().unwrap_or(("ms", 1));
    format!("{}{unit}", total / u128::from(ms))
}

/// An amount of US dollars that is not negative.
pub(super) fn usd(text: &str) -> Result<NanoUsd, String> {
    let amount = NanoUsd::from_usd_text(text)
        .map_err(|cause| format!("{text:?} {cause}; dollars such as 0.05 are expected"))?;
    if amount < NanoUsd::ZERO { Err(format!("{text} is negative")) } else { Ok(amount) }
}

/// A price in US dollars per million tokens.
pub(super) fn usd_per_million(text: &str) -> Result<Rate, String> {
    let amount = usd(text)?;
    if amount > USD_PER_MILLION_MAX {
        return Err(format!("{text} is above {USD_PER_MILLION_MAX} dollars per million tokens"));
    }
    u64::try_from(amount.get()).map(Rate::per_million).map_err(|_| format!("{text} is negative"))
}

/// No token costs a dollar; the products that rates are used in are bounded by it.
const USD_PER_MILLION_MAX: NanoUsd = NanoUsd::new(1_000_000_000_000_000);

/// A number of LLM tokens.
pub(super) fn tokens(text: &str) -> Result<Tokens, String> {
    let count = text.parse().ok().filter(|count: &i64| *count >= 0);
    count
        .map(Tokens::new)
        .ok_or_else(|| format!("{text:?} is not a whole number of tokens such as 4096"))
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    |text| {
        let known = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| format!("{text:?} is not one of {}", known()))
    }
}

/// The name of a header, in lower case as Envoy sends it.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.bytes().all(token) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not a header name such as x-bursar-workspace"))
}

/// A place in a JSON body, by RFC 6901.
pub(super) fn json_pointer(text: &str) -> Result<String, String> {
    let escaped = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if text.starts_with('/') && escaped {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a JSON pointer such as /model; in a name, ~ is written ~0 and / is written ~1"
    ))
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(text: &str) -> Result<KeyHash, String> {
    let mut hash = KeyHash::default();
    let digit = |b: Option<&u8>| {
        b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    let complete = text.len() == 2 * hash.len()
        && hash.iter_mut().zip(pairs).all(|(byte, pair)| {
            match (digit(pair.first()), digit(pair.get(1))) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            }
        });
    // What was written may be the secret itself, so it is not repeated.
    complete.then_some(hash).ok_or_else(|| "is not a SHA-256 of 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_shown() {
        for text in ["0ms", "50ms", "1500ms", "10s", "90s", "10m", "24h"] {
            assert_eq!(duration(text).map(shown), Ok(text.to_owned()));
        }
        assert_eq!(duration("60s").map(shown), Ok("1m".to_owned()));
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", "10d", "1h30m", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        let patience = duration_within(Duration::ZERO, Duration::from_secs(10));
        assert_eq!(patience("11s"), Err("11s is not between 0ms and 10s".to_owned()));
    }

    #[test]
    fn a_store_is_named_by_its_url() {
        let file = |url: &str| match store_url(url) {
            Ok(StoreUrl::Sqlite { file, .. }) => file.display().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(file("sqlite:bursar.db"), "bursar.db");
        assert_eq!(file("sqlite:///var/lib/bursar.db"), "/var/lib/bursar.db");
        assert!(matches!(store_url("postgres://u:p@h/d"), Ok(StoreUrl::Postgres { .. })));
        for bad in ["", "sqlite:", "sqlite::memory:", "sqlite:b.db?mode=ro", "mysql://u:secret@h/d"]
        {
            assert!(store_url(bad).is_err_and(|message| !message.contains("secret")), "{bad}");
        }
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits_and_is_never_repeated() {
        assert_eq!(sha256(&"0aF".repeat(22)[..64]).map(|hash| hash[0]), Ok(0x0a));
        assert!(sha256(&"g".repeat(64)).is_err());
        assert_eq!(sha256("hunter2"), Err("is not a SHA-256 of 64 hexadecimal digits".to_owned()));
        assert!(sha256(&"é".repeat(32)).is_err());
    }

    #[test]
    fn a_header_name_is_a_token_in_lower_case() {
        assert_eq!(header_name("X-Team"), Ok("x-team".to_owned()));
        for bad in ["", "x team", "x:y", "ünicode", "a\nb"] {
            assert!(header_name(bad).is_err(), "{bad}");
        }
    }
}
