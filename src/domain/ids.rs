//! Identifiers: bounded text that people choose, and random numbers that Bursar makes.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use ulid::Ulid;

/// The longest text identifier that is accepted, in bytes. Longer ones are mistakes or attacks.
pub const ID_BYTES_MAX: usize = 256;

/// A workspace, project, identity, key, provider or model name: 1 to 256 bytes of UTF-8 without control
/// characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Arc<str>);

/// Why a text is no [`Id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// No text at all.
    #[error("is empty; an id has 1 to 256 bytes")]
    Empty,
    /// More than [`ID_BYTES_MAX`] bytes.
    #[error("has {0} bytes; an id has at most 256")]
    TooLong(usize),
    /// A control character (U+0000–U+001F, U+007F–U+009F).
    #[error("contains a control character at byte {0}")]
    ControlCharacter(usize),
}

impl Id {
    /// Checks a text and takes it as an id.
    ///
    /// # Errors
    /// [`IdError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong(text.len()));
        }
        match text.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, _)) => Err(IdError::ControlCharacter(at)),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// A name of our own, which needs no checking.
    pub(in crate::domain) fn literal(name: &'static str) -> Self {
        Self(Arc::from(name))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets a map keyed by ids be asked with a text.
impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not {0}")]
pub struct Malformed(&'static str);

/// A budget's id, shown as a ULID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetId(pub u128);

/// One start of one replica, shown as a ULID. A restarted process is a new holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub u128);

/// Names a reservation and the holder that made it: two ULIDs joined by a dot. The second part is 128 random
/// bits, so that nobody can guess the reservation of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId {
    /// Who made the reservation and can settle it.
    pub holder: HolderId,
    /// Random bits.
    pub nonce: u128,
}

impl BudgetId {
    /// Reads a ULID.
    ///
    /// # Errors
    /// [`Malformed`] when the text is no ULID.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        ulid(text).map(Self).ok_or(Malformed("a budget id (a ULID of 26 characters)"))
    }
}

impl HolderId {
    /// Reads a ULID.
    ///
    /// # Errors
    /// [`Malformed`] when the text is no ULID.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        ulid(text).map(Self).ok_or(Malformed("a holder id (a ULID of 26 characters)"))
    }
}

impl ReservationId {
    /// The settlement id under which it is charged when nobody settles it in time.
    #[must_use]
    pub fn timeout_settlement(self) -> Id {
        Id(Arc::from(format!("timeout:{self}")))
    }

    /// A settlement id that follows from the reservation and what is said about it, so that saying it again counts once.
    #[must_use]
    pub fn settlement(self, what: &'static str) -> Id {
        Id(Arc::from(format!("{what}:{self}")))
    }

    /// Reads `HOLDER.NONCE`.
    ///
    /// # Errors
    /// [`Malformed`] when the text is not two ULIDs joined by a dot.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        text.split_once('.')
            .and_then(|(holder, nonce)| {
                Some(Self { holder: HolderId(ulid(holder)?), nonce: ulid(nonce)? })
            })
            .ok_or(Malformed("a reservation id (two ULIDs joined by a dot)"))
    }
}

impl fmt::Display for BudgetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid(self.0).fmt(f)
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid(self.0).fmt(f)
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.holder, Ulid(self.nonce))
    }
}

/// Reads the canonical form of a ULID, upper or lower case. A first character above 7 stands for more than 128 bits.
fn ulid(text: &str) -> Option<u128> {
    let fits = text.as_bytes().first().is_some_and(|first| (b'0'..=b'7').contains(first));
    Ulid::from_string(text).ok().filter(|_| fits).map(|ulid| ulid.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_free_of_control_characters() {
        assert_eq!(Id::parse(""), Err(IdError::Empty));
        assert!(Id::parse(&"x".repeat(256)).is_ok());
        assert_eq!(Id::parse(&"x".repeat(257)), Err(IdError::TooLong(257)));
        assert_eq!(Id::parse("a\nb"), Err(IdError::ControlCharacter(1)));
        assert_eq!(Id::parse("a\u{85}"), Err(IdError::ControlCharacter(1)));
        assert_eq!(Id::parse("Müller/42").map(|id| id.to_string()), Ok("Müller/42".to_owned()));
    }

    #[test]
    fn a_reservation_id_reads_back_what_it_shows() {
        let id = ReservationId { holder: HolderId(7), nonce: u128::MAX };
        assert_eq!(ReservationId::parse(&id.to_string()), Ok(id));
        for bad in [
            "",
            ".",
            "x.y",
            "00000000000000000000000007",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ.00000000000000000000000007",
        ] {
            assert!(ReservationId::parse(bad).is_err(), "{bad}");
        }
    }
}
