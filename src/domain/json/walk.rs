//! Walks the members of an object or the elements of an array, skipping what is inside of them.

use crate::domain::json::{Extent, Raw, Text};

/// How an object or array ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With its bracket.
    Closed,
    /// The text ends within it.
    Cut,
    /// With something that is no JSON, or it is no such container.
    Malformed,
}

/// Walks the members of an object once, in the order in which they stand. The last one may be cut.
#[must_use]
pub fn members(object: &[u8]) -> Members<'_> {
    Members(Walk::into(object, b'{', b'}'))
}

/// Walks the elements of an array once. The last one may be cut.
#[must_use]
pub fn elements(array: &[u8]) -> Elements<'_> {
    Elements(Walk::into(array, b'[', b']'))
}

/// The members of an object: see [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a>(Walk<'a>);

/// The elements of an array: see [`elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a>(Walk<'a>);

impl Members<'_> {
    /// How the object ended; only meaningful after the last member.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.0.ending()
    }
}

impl Elements<'_> {
    /// How the array ended; only meaningful after the last element.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.0.ending()
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let walk = &mut self.0;
        walk.go(|walk| Ok((walk.key()?, walk.value()?)))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.go(Walk::value)
    }
}

/// A place inside a container.
#[derive(Debug, Clone)]
struct Walk<'a> {
    rest: &'a [u8],
    close: u8,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Opened,
    Between,
    Done(Ending),
}

impl<'a> Walk<'a> {
    fn into(text: &'a [u8], open: u8, close: u8) -> Self {
        let text = trimmed(without_mark(text));
        let (rest, place) = match text.split_first() {
            Some((first, rest)) if *first == open => (rest, Place::Opened),
            Some(_) => (text, Place::Done(Ending::Malformed)),
            None => (text, Place::Done(Ending::Cut)),
        };
        Self { rest, close, place }
    }

    fn ending(&self) -> Ending {
        match self.place {
            Place::Done(ending) => ending,
            Place::Opened | Place::Between => Ending::Cut,
        }
    }

    /// Reads one item, or notes how the container ended.
    fn go<T>(&mut self, item: impl FnOnce(&mut Self) -> Result<T, Ending>) -> Option<T> {
        let read = self.separator().and_then(|()| item(self));
        match read {
            Ok(item) => {
                if self.place == Place::Opened {
                    self.place = Place::Between;
                }
                Some(item)
            }
            Err(ending) => {
                self.place = Place::Done(ending);
                None
            }
        }
    }

    fn separator(&mut self) -> Result<(), Ending> {
        if let Place::Done(ending) = self.place {
            return Err(ending);
        }
        self.rest = trimmed(self.rest);
        match (self.place, self.rest.split_first()) {
            (_, None) => Err(Ending::Cut),
            (_, Some((first, _))) if *first == self.close => Err(Ending::Closed),
            (Place::Between, Some((b',', rest))) => {
                self.rest = trimmed(rest);
                Ok(())
            }
            (Place::Between, Some(_)) => Err(Ending::Malformed),
            (Place::Opened | Place::Done(_), Some(_)) => Ok(()),
        }
    }

    fn key(&mut self) -> Result<Text<'a>, Ending> {
        let (inside, rest) = match self.rest.split_first() {
            Some((b'"', rest)) => split_string(rest).ok_or(Ending::Cut)?,
            Some(_) => return Err(Ending::Malformed),
            None => return Err(Ending::Cut),
        };
        match trimmed(rest).split_first() {
            Some((b':', rest)) => self.rest = trimmed(rest),
            Some(_) => return Err(Ending::Malformed),
            None => return Err(Ending::Cut),
        }
        Ok(Text::new(inside))
    }

    /// The value here. One that is cut is the last item: the walk is done behind it.
    fn value(&mut self) -> Result<Raw<'a>, Ending> {
        let (value, rest) = match length(self.rest)? {
            Some(length) => {
                let (text, rest) = self.rest.split_at_checked(length).ok_or(Ending::Cut)?;
                (Raw::new(text, Extent::Whole), rest)
            }
            None => (Raw::new(self.rest, Extent::Cut), self.rest),
        };
        self.rest = rest;
        if value.extent() == Extent::Cut {
            self.place = Place::Done(Ending::Cut);
        }
        Ok(value)
    }
}

/// How many bytes the value at the start of `text` takes; `None` when it is cut.
pub(super) fn length(text: &[u8]) -> Result<Option<usize>, Ending> {
    match text.split_first() {
        None => Err(Ending::Cut),
        Some((b'"', rest)) => Ok(closing_quote(rest).map(|at| at.saturating_add(2))),
        Some((b'{' | b'[', _)) => Ok(container_length(text)),
        Some((b',' | b':' | b'}' | b']', _)) => Err(Ending::Malformed),
        Some(_) => {
            Ok(text.iter().position(|b| matches!(b, b',' | b':' | b'}' | b']') || is_space(*b)))
        }
    }
}

fn container_length(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next()?.1 {
                    b'"' => break,
                    b'\\' => bytes.next().map(drop)?,
                    _ => {}
                }
            },
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at.saturating_add(1));
                }
            }
            _ => {}
        }
    }
    None
}

/// What stands before the closing quote and behind it; `text` begins behind the opening one.
pub(super) fn split_string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (inside, rest) = text.split_at_checked(closing_quote(text)?)?;
    Some((inside, rest.split_first()?.1))
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => bytes.next().map(drop)?,
            _ => {}
        }
    }
    None
}

pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|b| is_space(**b)).count();
    text.get(spaces..).unwrap_or_default()
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Without the byte order mark that some clients send.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}
