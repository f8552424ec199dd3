//! The law of the source tree: which module imports which, who may name which crate, and what no file may contain.

use std::fs;
use std::path::Path;

/// The layers from the top, each with what it may import beside itself. `coord` has its place before it exists.
const LAYERS: &[(&str, &[&str])] = &[
    ("sim", &["cli", "server", "api", "shard", "partition", "coord", "cluster", "log", "client", "wire", "rt", "base"]),
    ("cli", &["client", "log", "wire", "rt", "base"]),
    ("server", &["api", "shard", "wire", "rt", "base"]),
    ("api", &["partition", "coord", "cluster", "wire", "base"]),
    ("shard", &["partition", "coord", "cluster", "log", "client", "wire", "rt", "base"]),
    ("partition", &["wire", "base"]),
    ("coord", &["wire", "base"]),
    ("cluster", &["wire", "base"]),
    ("log", &["wire", "rt", "base"]),
    ("client", &["wire", "rt", "base"]),
    ("wire", &["base"]),
    ("rt", &["base"]),
    ("base", &[]),
];

/// Layers without clock, I/O, tasks or shared state.
const PURE: &[&str] = &["api", "partition", "coord", "cluster", "wire"];
/// What those must not contain.
const IMPURE: &[&str] = &[
    "async",
    "Rc<",
    "Rc::",
    "RefCell",
    "Instant",
    "SystemTime",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::thread",
    "std::process",
];

/// Names, and where alone they may stand (`unsafe` anywhere in the tree, the others in src): beginnings of paths. The benches measure the
/// system itself: a ring without the broker, an executor without the runtime, the processor time and memory of another process.
const CONFINED: &[(&str, &[&str])] = &[
    (
        "unsafe",
        &[
            "src/rt/uring",
            "src/rt/mem.rs",
            "src/rt/heap.rs",
            "benches/limits.rs",
            "benches/load/echo.rs",
            "benches/load/sys.rs",
            "benches/wakeup/bare.rs",
        ],
    ),
    ("glommio", &["src/rt/uring"]),
    ("io_uring", &["src/rt/uring"]),
    ("kafka_wire", &["src/wire"]),
    ("kafka_wire_core", &["src/wire"]),
];

/// What no finished code contains.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Longest file.
const LINES: usize = 800;

#[test]
fn the_tree_keeps_the_law() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz"] {
        collect(&root.join(dir), &mut files);
    }
    assert!(files.len() > 10, "no sources found");
    let found: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("Unicode path");
            violations(name, &fs::read_to_string(path).expect("readable source"))
        })
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable directory").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with one file, a line each.
fn violations(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.lines().count();
    if lines > LINES {
        found.push(format!("{path}: {lines} lines, more than {LINES}: split it"));
    }
    if !source.starts_with("//!") {
        found.push(format!("{path}:1: the first line must say what the file is (//! …)"));
    }
    let code = without_text(source);
    for name in UNFINISHED {
        report(path, &code, name, "unfinished code", &mut found);
    }
    for (name, places) in CONFINED {
        let bound = *name == "unsafe" || path.starts_with("src/");
        if bound && !places.iter().any(|place| path.starts_with(place)) {
            report(path, &code, name, &format!("only allowed in {}", places.join(", ")), &mut found);
        }
    }
    if let Some(inside) = path.strip_prefix("src/") {
        layer_violations(path, inside, &without_tests(inside, code), &mut found);
    }
    found
}

/// Import law and purity of a file at `inside` of src. Tests are not bound by either.
fn layer_violations(path: &str, inside: &str, code: &str, found: &mut Vec<String>) {
    if matches!(inside, "lib.rs" | "main.rs") {
        return;
    }
    let layer = inside.split(['/', '.']).next().unwrap_or_default();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        found.push(format!("{path}: {layer} is not in the table of layers"));
        return;
    };
    for (line, import) in imports(inside, code) {
        let target = import.split("::").next().unwrap_or_default();
        let known = LAYERS.iter().any(|(name, _)| *name == target);
        if known && target != layer && !allowed.contains(&target) {
            found.push(format!("{path}:{line}: {layer} must not import {import} (it may import {})", allowed.join(", ")));
        }
        if layer == "sim" && (import == "rt::uring" || import.starts_with("rt::uring::")) {
            found.push(format!("{path}:{line}: sim must not import rt::uring"));
        }
    }
    for name in IMPURE.iter().filter(|_| PURE.contains(&layer)) {
        report(path, code, name, &format!("not allowed in {layer}, which is pure"), found);
    }
}

/// Reports each place where `name` stands as a word of its own.
fn report(path: &str, code: &str, name: &str, why: &str, found: &mut Vec<String>) {
    for at in words(code, name) {
        found.push(format!("{path}:{}: {name}: {why}", line_of(code, at)));
    }
}

fn words<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).map(|(at, _)| at).filter(move |&at| {
        let after = code[at + name.len()..].chars().next();
        !(code[..at].ends_with(part) || name.ends_with(part) && after.is_some_and(part))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Every path of the crate that the code names, from its top-level module on, with its line: `crate::a::b`, `use crate::{a, b::c}`,
/// and as many `super::` as lead from the file to the root.
fn imports(inside: &str, code: &str) -> Vec<(usize, String)> {
    let depth = inside.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for at in words(code, prefix) {
            let mut paths = Vec::new();
            expand("", code[at + prefix.len()..].trim_start(), &mut paths);
            found.extend(paths.into_iter().map(|path| (line_of(code, at), path)));
        }
    }
    found
}

/// Expands one use tree behind `base`; returns what follows it.
fn expand<'a>(base: &str, tree: &'a str, paths: &mut Vec<String>) -> &'a str {
    let end = tree.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(tree.len());
    let (path, rest) = tree.split_at(end);
    let full = format!("{base}{path}");
    let Some(mut rest) = rest.strip_prefix('{').filter(|_| path.is_empty() || path.ends_with("::")) else {
        paths.push(full.trim_end_matches(':').to_owned());
        return rest;
    };
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        match rest.strip_prefix('}') {
            Some(after) => return after,
            None if rest.is_empty() => return rest,
            None => {}
        }
        let after = expand(&full, rest, paths);
        // Up to the next branch: `as` names, `*`.
        rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
    }
}

/// The code with everything under `#[cfg(test)]` blanked; nothing at all of a file that is a test module.
fn without_tests(inside: &str, code: String) -> String {
    if inside.ends_with("/tests.rs") || inside.contains("/tests/") || inside.ends_with("_tests.rs") {
        return String::new();
    }
    let mut code = code;
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = item_end(&code, start);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// Where the item that starts at `start` ends: at its closing brace, or at a `;` before any brace.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return start + at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The source with comments, strings and character literals blanked, line by line in place.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skip = text_len(rest, code.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        if skip == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skip].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skip..];
        }
    }
    code
}

/// Length of the comment or literal at the beginning of `rest`, 0 if there is none.
fn text_len(rest: &str, in_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if !in_word && let Some(raw) = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = rest.len() - raw.len() + hashes + 1;
            return rest[start..].find(&close).map_or(rest.len(), |end| start + end + close.len());
        }
        return 0;
    }
    if let Some(string) = rest.strip_prefix('"') {
        return 1 + quoted_len(string, '"');
    }
    // A character literal, not a lifetime: 'x' or '\…'.
    if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && rest.starts_with('\'') {
        return 1 + quoted_len(&rest[1..], '\'');
    }
    0
}

/// Length up to and with the closing quote.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

#[test]
fn violations_are_found() {
    let found = |path: &str, code: &str| violations(path, &format!("//! x\n{code}")).join("\n");
    for (path, code, expected) in [
        ("src/log/a.rs", "use crate::partition::X;", "src/log/a.rs:2: log must not import partition::X"),
        ("src/wire/mod.rs", "use crate::{base::ids, rt::{mem, Rt as R}};", "wire must not import rt::mem"),
        ("src/wire/mod.rs", "use crate::{base::{ids as i, error::*}, log};", "wire must not import log"),
        ("src/rt/mem.rs", "fn f() { crate::log::f() }", "rt must not import log::f"),
        ("src/rt/mem.rs", "use super::super::log;", "rt must not import log"),
        ("src/sim/net.rs", "use crate::rt::uring::ring;", "sim must not import rt::uring"),
        ("src/new/mod.rs", "", "new is not in the table"),
        ("src/cluster/a.rs", "async fn f() {}", "async: not allowed in cluster"),
        ("src/cluster/a.rs", "fn f(x: Rc<u8>) {}", "Rc<: not allowed"),
        ("src/api/a.rs", "use std::net::TcpStream;", "TcpStream: not allowed"),
        ("src/log/a.rs", "fn f() { unsafe { g() } }", "src/log/a.rs:2: unsafe: only allowed in src/rt/uring"),
        ("benches/load/wire.rs", "fn f() { unsafe { g() } }", "unsafe: only allowed in"),
        ("src/server/a.rs", "use io_uring::IoUring;", "io_uring: only allowed"),
        ("tests/a.rs", "fn f() { todo!() }", "todo!: unfinished code"),
    ] {
        assert!(found(path, code).contains(expected), "{path} {code}: {}", found(path, code));
    }
    assert!(violations("src/log/a.rs", "use x;").join("").contains("first line"));
    assert!(found("src/log/a.rs", &"\n".repeat(LINES)).contains("more than 800"));
}

#[test]
fn lawful_code_passes() {
    for (path, code) in [
        (
            "src/log/a.rs",
            "/// See [`crate::shard`], todo!, unsafe.\nuse crate::{base::ids, rt::Rt};\nconst X: &str = \"unsafe todo!() \\\" async\";",
        ),
        ("src/log/a.rs", "#[cfg(test)]\nmod tests {\n use crate::sim::rt::SimRt; fn f() { if x { '{'; } }\n}\nuse crate::wire::batch;"),
        ("src/log/tests.rs", "use crate::sim::rt::SimRt;"),
        ("src/log/mod.rs", "#[cfg(test)]\nmod tests;\n"),
        ("src/cluster/a.rs", "use std::sync::Arc; fn f<'a>(x: Arc<&'a u8>) -> Arc<&'a u8> { r#\"RefCell \"async\" \"#; x }"),
        ("src/sim/a.rs", "use crate::rt::{Rt, mem}; use super::net;"),
        ("src/rt/uring/ring.rs", "use io_uring::IoUring; use glommio::x; fn f() { unsafe {} }"),
        ("benches/limits.rs", "use io_uring::IoUring; fn f() { unsafe {} }"),
        ("src/main.rs", "fn main() { corelane::cli::run(corelane::server::run) }"),
    ] {
        let found = violations(path, &format!("//! x\n{code}"));
        assert!(found.is_empty(), "{path}: {found:?}");
    }
}
