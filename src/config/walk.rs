//! Walks a YAML file as a tree of sections. Scalars stay the text that was written, so that money is never a float and
//! `no` is a name like any other; what a text means is for the reader of the setting to say.

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData, YamlLoader};
use saphyr_parser::{Parser, ScanError};

use super::fault::FaultLog;

/// A value in the file, with the path that leads to it.
#[derive(Clone)]
pub(super) struct Node<'a> {
    path: String,
    line: usize,
    value: &'a MarkedYaml<'a>,
    log: &'a FaultLog,
}

/// A mapping whose entries are read by name. What nobody has read when it is closed is unknown, and a fault.
pub(super) struct Section<'a> {
    path: String,
    line: Option<usize>,
    entries: Vec<(String, Node<'a>)>,
    asked: Vec<&'static str>,
    log: &'a FaultLog,
}

/// Parses a file's text. An empty file is an empty list.
pub(super) fn documents(text: &str) -> Result<Vec<MarkedYaml<'_>>, ScanError> {
    let mut loader = YamlLoader::default();
    loader.early_parse(false);
    Parser::new_from_str(text).load(&mut loader, true)?;
    match loader.error() {
        Some(error) => Err(error.clone()),
        None => Ok(loader.into_documents()),
    }
}

impl<'a> Section<'a> {
    /// The file's top level.
    pub(super) fn root(documents: &'a [MarkedYaml<'a>], log: &'a FaultLog) -> Self {
        if let [_, second, ..] = documents {
            log.fault(
                Some(second.span.start.line()),
                "---",
                "starts a second document; a configuration is one",
            );
        }
        match documents.first() {
            Some(value) if !value.is_badvalue() => {
                Node { path: String::new(), line: 1, value, log }.section()
            }
            _ => Self::empty(String::new(), log),
        }
    }

    fn empty(path: String, log: &'a FaultLog) -> Self {
        Self { path, line: None, entries: Vec::new(), asked: Vec::new(), log }
    }

    /// The entry of this name. An entry without a value counts as not written, so that all of a section can be commented out.
    pub(super) fn node(&mut self, name: &'static str) -> Option<Node<'a>> {
        self.asked.push(name);
        let at = self.entries.iter().position(|(written, _)| written == name)?;
        let (_, node) = self.entries.swap_remove(at);
        (!node.is_blank()).then_some(node)
    }

    /// What the text of this entry says; `None` when it is not written or makes no sense, which is then a fault.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.node(name)?.read(parse)
    }

    /// As [`Section::read`], but not to write it is a fault too.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.node(name);
        if node.is_none() {
            self.log.fault(self.line, self.path.as_str(), format!("has no {name}"));
        }
        node?.read(parse)
    }

    /// The section of this name, empty when it is not written.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a> {
        let path = join(&self.path, name);
        self.node(name).map_or_else(|| Self::empty(path, self.log), |node| node.section())
    }

    /// The list of this name; `None` when it is not written.
    pub(super) fn list(&mut self, name: &'static str) -> Option<Vec<Node<'a>>> {
        Some(self.node(name)?.list())
    }

    /// Whether anything is written that was not read yet.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes a fault of every entry that nobody asked for.
    pub(super) fn close(self) {
        for (name, node) in &self.entries {
            let known = self.asked.join(", ");
            let hint = match nearest(name, &self.asked) {
                Some(near) => format!("did you mean {near}?"),
                None if self.path.is_empty() => format!("the settings are {known}"),
                None => format!("{} has {known}", self.path),
            };
            node.fault(format!("is no setting; {hint}"));
        }
    }
}

impl<'a> Node<'a> {
    /// Notes what is wrong with this value.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.fault_at(self.line, message);
    }

    fn fault_at(&self, line: usize, message: impl Into<String>) {
        let place = if self.path.is_empty() { "the file" } else { self.path.as_str() };
        self.log.fault(Some(line), place, message);
    }

    /// Notes what a person should look at.
    pub(super) fn warning(&self, message: impl Into<String>) {
        self.log.warning(Some(self.line), self.path.as_str(), message);
    }

    /// What its text says; `None` after a fault.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(text) = self.text() else {
            self.fault("is a list or a section; a single value is expected");
            return None;
        };
        parse(text).map_err(|message| self.fault(message)).ok()
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&'a str> {
        let YamlData::Representation(text, ..) = &self.value.data else { return None };
        Some(text)
    }

    /// Its entries, as a section; an empty one after a fault.
    pub(super) fn section(self) -> Section<'a> {
        let YamlData::Mapping(mapping) = &self.value.data else {
            self.fault("is not a section; settings are written as name: value");
            return Section::empty(self.path, self.log);
        };
        let entries = mapping.iter().filter_map(|(key, value)| self.entry(key, value)).collect();
        Section {
            path: self.path,
            line: Some(self.line),
            entries,
            asked: Vec::new(),
            log: self.log,
        }
    }

    /// Its elements; none after a fault. Their paths end in their place: `keys[0]`.
    pub(super) fn list(&self) -> Vec<Node<'a>> {
        let YamlData::Sequence(elements) = &self.value.data else {
            self.fault("is not a list; write it as [a, b] or one \"- a\" a line");
            return Vec::new();
        };
        let node = |(at, value): (usize, &'a MarkedYaml<'a>)| Node {
            path: format!("{}[{at}]", self.path),
            line: value.span.start.line(),
            value,
            log: self.log,
        };
        elements.iter().enumerate().map(node).collect()
    }

    fn entry(
        &self,
        key: &'a MarkedYaml<'a>,
        value: &'a MarkedYaml<'a>,
    ) -> Option<(String, Node<'a>)> {
        let line = key.span.start.line();
        let YamlData::Representation(name, ..) = &key.data else {
            self.fault_at(line, "has a name that is not a text");
            return None;
        };
        Some((name.to_string(), Node { path: join(&self.path, name), line, value, log: self.log }))
    }

    fn is_blank(&self) -> bool {
        matches!(&self.value.data, YamlData::Representation(text, saphyr::ScalarStyle::Plain, _)
            if matches!(text.as_ref(), "" | "~" | "null"))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// How many letters a misspelt name may be off to be recognised.
const TYPOS_MAX: usize = 2;

/// The known name that was probably meant.
pub(super) fn nearest<'n>(written: &str, known: &[&'n str]) -> Option<&'n str> {
    let (typos, name) = known.iter().map(|name| (distance(written, name), *name)).min()?;
    (typos <= TYPOS_MAX && typos < name.len()).then_some(name)
}

/// How many letters must be added, dropped or replaced to make one word of the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_recognised_and_a_strange_one_is_not() {
        assert_eq!(distance("grcp", "grpc"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("grcp", &["http", "grpc"]), Some("grpc"));
        assert_eq!(nearest("listens", &["listen", "log"]), Some("listen"));
        assert_eq!(nearest("database", &["listen", "store"]), None);
        assert_eq!(nearest("a", &["ab"]), Some("ab"));
    }
}
