//! What the source must keep to: which module may know which (the floors), what some must not even name, how long a
//! file may be, and that each says what it is for. Code of `#[cfg(test)]` is free of the floors.

use std::fs;
use std::path::{Path, PathBuf};

/// A top-level module and what it may know of the others.
struct Room {
    name: &'static str,
    floor: u8,
    /// Modules that it may import. All are on floors below.
    may_import: &'static [&'static str],
    /// Words that must not occur in its code.
    must_not_name: &'static [&'static str],
}

const ROOMS: [Room; 9] = [
    Room {
        name: "domain",
        floor: 0,
        may_import: &[],
        must_not_name: &[
            "tokio",
            "sqlx",
            "tonic",
            "axum",
            "hyper",
            "prost",
            "envoy_types",
            "tracing",
            "rustix",
            "getrandom",
            // Wire shapes stop at the adapters.
            "Serialize",
            "Deserialize",
            // Time comes in as a value, and no float comes near money.
            "Instant",
            "SystemTime",
            "f32",
            "f64",
        ],
    },
    Room {
        name: "store",
        floor: 1,
        may_import: &["domain"],
        must_not_name: &["tonic", "axum", "envoy_types"],
    },
    Room {
        name: "config",
        floor: 1,
        may_import: &["domain"],
        must_not_name: &["tonic", "axum", "envoy_types"],
    },
    Room {
        name: "telemetry",
        floor: 1,
        may_import: &[],
        must_not_name: &["tonic", "axum", "envoy_types"],
    },
    Room {
        name: "engine",
        floor: 2,
        may_import: &["domain", "store", "telemetry"],
        must_not_name: &["sqlx", "tonic", "axum"],
    },
    Room {
        name: "envoy",
        floor: 3,
        may_import: &["domain", "engine", "telemetry"],
        must_not_name: &["sqlx", "axum"],
    },
    Room {
        name: "admin",
        floor: 3,
        may_import: &["domain", "engine", "telemetry", "store"],
        must_not_name: &["sqlx"],
    },
    Room {
        name: "notify",
        floor: 3,
        may_import: &["domain", "engine", "telemetry"],
        must_not_name: &["sqlx", "tonic", "axum"],
    },
    Room { name: "inject", floor: 3, may_import: &["config"], must_not_name: &["sqlx"] },
];

/// The top floor puts everything together and may know everything.
const TOP_FLOOR: [&str; 4] = ["serve", "cli", "main", "lib"];

/// Past this many lines a file wants splitting.
const FILE_LINES_MAX: usize = 500;

#[test]
fn every_source_file_keeps_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    let mut seen = 0;
    for directory in ["src", "tests", "benches", "examples"] {
        for path in rust_files(&root.join(directory)) {
            let source = fs::read_to_string(&path).expect("a source file is readable");
            let path = path.strip_prefix(root).expect("a source file lies in the repository");
            faults.extend(shape_faults(path, &source));
            if directory == "src" {
                seen += 1;
                faults.extend(floor_faults(path, &source));
            }
        }
    }
    assert!(
        seen > 10,
        "only {seen} files found under src: is this test looking at the right place?"
    );
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// All files under a directory, in a stable order. A directory that is not there has none.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("a directory entry is readable").path()).collect();
    paths.sort();
    let (directories, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let mut found: Vec<_> =
        files.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")).collect();
    found.extend(directories.iter().flat_map(|directory| rust_files(directory)));
    found
}

fn shape_faults(path: &Path, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(format!(
            "{}: has {lines} lines; split it below {FILE_LINES_MAX}",
            path.display()
        ));
    }
    if !source.starts_with("//! ") {
        faults.push(format!(
            "{}:1: must start with a `//!` sentence that says what it is for",
            path.display()
        ));
    }
    faults
}

fn floor_faults(path: &Path, source: &str) -> Vec<String> {
    let modules: Vec<_> =
        path.components().skip(1).filter_map(|part| part.as_os_str().to_str()).collect();
    let name = modules.first().map_or("", |first| first.trim_end_matches(".rs"));
    let is_test = modules.iter().any(|part| part.trim_end_matches(".rs") == "tests");
    if TOP_FLOOR.contains(&name) || is_test {
        return Vec::new();
    }
    let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
        return vec![format!("{}: `{name}` has no floor yet; add it to ROOMS", path.display())];
    };
    let depth = modules.len() - usize::from(path.file_stem().is_some_and(|stem| stem == "mod"));
    let code = without_tests(&tokens(source));
    let mut faults = Vec::new();
    for (at, token) in code.iter().enumerate() {
        let mut fault =
            |what: String| faults.push(format!("{}:{}: {what}", path.display(), token.line));
        if room.must_not_name.contains(&token.text) {
            fault(format!("`{name}` must not name `{}`", token.text));
        }
        for import in imports(&code[at..]) {
            if import != name && !room.may_import.contains(&import) {
                fault(format!("`{name}` must not import `{import}`"));
            }
        }
        if supers(&code[at..]) >= depth {
            fault(format!(
                "leaves `{name}` by `super`; say `crate::` so that the floors can be checked"
            ));
        }
    }
    faults
}

/// The top-level modules that a path starting here names: one for `crate::a`, several for `crate::{a, b::c}`.
fn imports<'a>(code: &[Token<'a>]) -> Vec<&'a str> {
    let [first, colons, rest @ ..] = code else { return Vec::new() };
    if first.text != "crate" || colons.text != "::" {
        return Vec::new();
    }
    if rest.first().is_some_and(|token| token.text != "{") {
        return vec![rest[0].text];
    }
    let mut depth = 0;
    let mut names = Vec::new();
    for pair in rest.windows(2) {
        match pair[0].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0].text, "{" | ",") && pair[1].text != "}" {
            names.push(pair[1].text);
        }
    }
    names
}

/// How many `super::` a path starting here begins with.
fn supers(code: &[Token<'_>]) -> usize {
    code.chunks(2)
        .take_while(
            |pair| matches!(pair, [word, colons] if word.text == "super" && colons.text == "::"),
        )
        .count()
}

/// Leaves out what is compiled for tests only: each item under `#[cfg(test)]`, to its closing brace or semicolon.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if rest.len() >= CFG_TEST.len()
            && rest.iter().zip(CFG_TEST).all(|(token, expected)| token.text == expected)
        {
            rest = after_item(&rest[CFG_TEST.len()..]);
        } else {
            kept.push(*first);
            rest = after;
        }
    }
    kept
}

/// What follows the item that starts here. Brackets nest, so that the `;` in `[u8; 4]` ends nothing.
fn after_item<'a, 'b>(tokens: &'b [Token<'a>]) -> &'b [Token<'a>] {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(token.text, "}" | ";") {
            return &tokens[at + 1..];
        }
    }
    &[]
}

/// A word, `::`, or another single character of code.
#[derive(Clone, Copy)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

/// The code of a source text without comments, strings, characters and spaces.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < source.len() {
        let rest = &source[at..];
        let (length, is_code) = next_piece(rest);
        let piece = &rest[..length];
        if is_code {
            found.push(Token { line, text: piece });
        }
        line += piece.matches('\n').count();
        at += length;
    }
    found
}

/// How long the piece at the start of a text is, and whether it is code.
fn next_piece(text: &str) -> (usize, bool) {
    let end_after = |mark: &str| text.find(mark).map_or(text.len(), |at| at + mark.len());
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let first = text.chars().next().map_or(1, char::len_utf8);
    if text.starts_with("//") {
        (end_after("\n"), false)
    } else if text.starts_with("/*") {
        (block_comment(text), false)
    } else if let Some(length) = string(text) {
        (length, false)
    } else if text.starts_with('\'') {
        (character(text), false)
    } else if word > 0 {
        (word, true)
    } else if text.starts_with("::") {
        (2, true)
    } else {
        (first, !text.starts_with(char::is_whitespace))
    }
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal of any kind, if there is one at the start.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            let quoted = if prefix.ends_with('r') { rest.trim_start_matches('#') } else { rest };
            quoted.starts_with('"')
        })
    })?;
    let hashes = text[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let start = prefix.len() + hashes + 1;
    let body = &text[start..];
    if prefix.ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&close).map_or(text.len(), |at| start + at + close.len()));
    }
    let mut escaped = false;
    let close = body.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    Some(close.map_or(text.len(), |at| start + at + 1))
}

/// The length of a character literal; of a lifetime, only its quote.
fn character(text: &str) -> usize {
    let body = &text[1..];
    let second = body.chars().next().map_or(0, char::len_utf8);
    if body.starts_with('\\') {
        // The escaped character may itself be a quote.
        return body[second..]
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(text.len(), |(at, _)| 1 + second + at + 1);
    }
    if body[second..].starts_with('\'') { 1 + second + 1 } else { 1 }
}

mod the_scanner {
    use super::*;

    fn faults(path: &str, source: &str) -> Vec<String> {
        floor_faults(Path::new(path), source)
    }

    #[test]
    fn finds_what_breaks_the_floors() {
        for (path, source, expected) in [
            (
                "src/domain/a.rs",
                "use crate::engine::Engine;",
                "src/domain/a.rs:1: `domain` must not import `engine`",
            ),
            (
                "src/store/a.rs",
                "\nfn f() { crate::engine::g() }",
                "src/store/a.rs:2: `store` must not import `engine`",
            ),
            (
                "src/envoy/a.rs",
                "use crate::{domain::ids::Id, store::Store};",
                "src/envoy/a.rs:1: `envoy` must not import `store`",
            ),
            ("src/engine/mod.rs", "use super::envoy::x;", "leaves `engine` by `super`"),
            ("src/engine/a.rs", "use super::super::envoy::x;", "leaves `engine` by `super`"),
            (
                "src/domain/a.rs",
                "#[derive(serde::Serialize)] struct A;",
                "`domain` must not name `Serialize`",
            ),
            ("src/domain/a.rs", "fn f(x: f64) {}", "`domain` must not name `f64`"),
            (
                "src/engine/a.rs",
                "async fn f(pool: sqlx::SqlitePool) {}",
                "`engine` must not name `sqlx`",
            ),
            (
                "src/domain/a.rs",
                "#[cfg(test)]\nmod tests { fn f() {} }\nuse tokio::x;",
                "src/domain/a.rs:3: `domain` must not name `tokio`",
            ),
            (
                "src/domain/a.rs",
                "const A: char = '\"'; use tokio::x; const B: char = '\"';",
                "must not name `tokio`",
            ),
            ("src/attic/a.rs", "", "`attic` has no floor yet"),
        ] {
            let found = faults(path, source).join("\n");
            assert!(found.contains(expected), "{source}\nfound: {found}");
        }
    }

    #[test]
    fn leaves_good_code_alone() {
        for (path, source) in [
            (
                "src/domain/a.rs",
                "// tokio and crate::engine\n/* sqlx /* f64 */ axum */ use crate::domain::ids::Id;",
            ),
            (
                "src/domain/a.rs",
                r###"const A: &str = "tokio \" crate::engine::x"; const B: &str = r#"f64 " sqlx"#;"###,
            ),
            (
                "src/domain/a.rs",
                "#[cfg(test)]\n#[derive(Debug)]\nstruct A { a: [f64; 2] }\nfn f<'a>(x: &'a str) {}",
            ),
            (
                "src/domain/a.rs",
                "#[cfg(test)]\nuse crate::engine::{a, b};\n#[cfg(test)]\nmod tests { use tokio::x; }",
            ),
            ("src/domain/ledger/tests.rs", "use tokio::x;"),
            (
                "src/engine/a.rs",
                "use super::b; use crate::{domain::{ids::Id, money::{A, B}}, store, telemetry::C,};",
            ),
            ("src/engine/a/b.rs", "use super::super::c;"),
            ("src/serve.rs", "use crate::{engine, envoy, admin, store}; use sqlx::x;"),
        ] {
            assert_eq!(faults(path, source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn finds_files_without_a_purpose_or_without_an_end() {
        let shape = |source: &str| shape_faults(Path::new("src/a.rs"), source).len();
        assert_eq!(shape("//! Says what it is for.\n"), 0);
        assert_eq!(shape("fn main() {}\n"), 1);
        assert_eq!(shape(&"// A line.\n".repeat(501)), 2);
    }

    #[test]
    fn imports_go_down_only() {
        for room in &ROOMS {
            for import in room.may_import {
                let below =
                    ROOMS.iter().find(|other| other.name == *import).expect("an import is a room");
                assert!(below.floor < room.floor, "{} imports {import}", room.name);
            }
        }
    }
}
