//! Rules about the project itself that a program can check: manifests, sources, the table of invariants.
//!
//! Keeps A1 (HTTP only in src/api), A2 (redb and zstd only in persistence) and A3 (the arrows between crates).
//! A check takes text and gives faults, each with file and line, so that it is tested on good and bad text too.
//! Deliberately simple: sources are looked at word by word with comments and strings blanked, not parsed.
#![allow(clippy::disallowed_methods, reason = "reads the files of the project")]

use std::{collections::BTreeMap, fs, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Which crates of the workspace each crate may use (A3).
const ARROWS: [(&str, &[&str]); 6] = [
    ("everworld-engine", &[]),
    ("everworld-components", &["everworld-engine"]),
    ("everworld-systems", &["everworld-engine", "everworld-components"]),
    ("everworld-persistence", &["everworld-engine"]),
    (
        "everworld",
        &["everworld-engine", "everworld-components", "everworld-systems", "everworld-persistence"],
    ),
    (
        "everworld-bench",
        &[
            "everworld",
            "everworld-engine",
            "everworld-components",
            "everworld-systems",
            "everworld-persistence",
        ],
    ),
];

/// The only crates that may use these crates from outside.
const HOMES: [(&[&str], &[&str]); 6] = [
    (
        &["tokio", "hyper", "hyper-util", "axum", "tower", "tower-http", "http-body-util"],
        &["everworld", "everworld-bench"],
    ),
    (&["prometheus-client", "sysinfo", "thread-priority", "ratatui", "arrow-ipc", "csv"], &["everworld"]),
    (&["redb", "zstd"], &["everworld-persistence"]),
    (&["plotters"], &["everworld-bench"]),
    (&["rayon"], &["everworld-engine", "everworld-persistence", "everworld-bench"]),
    (&["bevy_ecs"], &["everworld-engine", "everworld-components", "everworld-systems", "everworld-bench"]),
];

/// Crates whose tests may use what the crates themselves may not.
const WIDE_TESTS: [&str; 2] = ["everworld", "everworld-bench"];

/// Words of Rust code that have a home, and the start of the paths where they live.
const WORD_HOMES: [(&[&str], &str, &str); 2] = [
    (&["axum", "hyper", "hyper_util"], "src/api", "A1: HTTP lives below src/api"),
    (&["redb", "zstd"], "persistence/src/", "A2: redb and zstd live in persistence"),
];

#[test]
fn dependencies_follow_the_arrows_and_homes() {
    let mut faults = manifest_faults("Cargo.toml", &read("Cargo.toml"));
    for member in members() {
        let path = format!("{member}/Cargo.toml");
        faults.extend(manifest_faults(&path, &read(&path)));
    }
    none(&faults);
}

#[test]
fn cargo_test_tests_every_member() {
    none(&default_member_faults("Cargo.toml", &read("Cargo.toml")));
}

#[test]
fn sources_keep_the_rules() {
    let sources = sources();
    assert!(sources.contains_key("tests/it/tidy.rs"), "no sources found");
    none(&sources.iter().flat_map(|(path, text)| source_faults(path, text)).collect::<Vec<_>>());
}

#[test]
fn every_invariant_is_named_by_a_test() {
    let path = "docs/ARCHITECTURE.md";
    let document = fs::read_to_string(root().join(path)).unwrap_or_default();
    let tests: String = sources().iter().map(|(path, text)| test_code(path, text)).collect();
    none(&invariant_faults(path, &document, &tests));
}

// Manifests.

/// The arrows, the homes, and what every manifest inherits from the workspace.
fn manifest_faults(path: &str, text: &str) -> Vec<String> {
    let document = parse(path, text);
    let package = document.get("package").and_then(|package| package.get_ref().get("name"));
    let package = package.and_then(|name| name.get_ref().as_str()).expect("a package has a name");
    let Some((_, arrows)) = ARROWS.iter().find(|(name, _)| *name == package) else {
        return vec![format!("{path}:1: {package} has no arrows in tests/it/tidy.rs")];
    };
    let mut faults = Vec::new();
    if !inherits(document.get("lints").map(Spanned::get_ref)) {
        faults.push(format!("{path}:1: [lints] must say workspace = true"));
    }
    for (kind, name, offset, value) in dependencies(&document) {
        let at = format!("{path}:{}", line_of(text, offset));
        if !inherits(Some(value)) {
            faults.push(format!("{at}: {name} must come from [workspace.dependencies]"));
        }
        if kind == "dev-dependencies" && WIDE_TESTS.contains(&package) {
            continue;
        }
        if ARROWS.iter().any(|(known, _)| *known == name) && !arrows.contains(&name) {
            faults.push(format!("{at}: A3: {package} may not use {name}"));
        }
        for (outside, homes) in HOMES {
            if outside.contains(&name) && !homes.contains(&package) {
                faults.push(format!("{at}: {name} lives in {} only, not in {package}", homes.join(", ")));
            }
        }
    }
    faults
}

/// Every dependency as (kind, name, offset, value), those of single targets too.
fn dependencies<'d>(document: &'d DeTable<'_>) -> Vec<(&'static str, &'d str, usize, &'d DeValue<'d>)> {
    let targets = document.get("target").and_then(|targets| targets.get_ref().as_table());
    let targets =
        targets.into_iter().flat_map(DeTable::values).filter_map(|target| target.get_ref().as_table());
    let mut found = Vec::new();
    for table in targets.chain([document]) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(kind).and_then(|entries| entries.get_ref().as_table());
            for (name, value) in entries.into_iter().flatten() {
                found.push((kind, name.get_ref().as_ref(), name.span().start, value.get_ref()));
            }
        }
    }
    found.sort_by_key(|(_, _, offset, _)| *offset);
    found
}

/// Whether it says `workspace = true`.
fn inherits(value: Option<&DeValue<'_>>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(|flag| flag.get_ref().as_bool()) == Some(true)
}

/// `cargo test` without arguments runs the default members: all of them.
fn default_member_faults(path: &str, text: &str) -> Vec<String> {
    let document = parse(path, text);
    let defaults = workspace_list(&document, "default-members");
    let members = workspace_list(&document, "members").into_iter().chain([".".to_owned()]);
    let missing = members.filter(|member| !defaults.contains(member));
    let line = text.lines().position(|line| line.starts_with("default-members")).map_or(1, |index| index + 1);
    missing.map(|member| format!("{path}:{line}: default-members lacks {member:?}")).collect()
}

fn workspace_list(document: &DeTable<'_>, key: &str) -> Vec<String> {
    let list = document.get("workspace").and_then(|workspace| workspace.get_ref().get(key));
    let list = list.and_then(|list| list.get_ref().as_array());
    list.into_iter().flatten().filter_map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

fn parse<'t>(path: &str, text: &'t str) -> DeTable<'t> {
    DeTable::parse(text).unwrap_or_else(|error| panic!("{path}: {error}")).into_inner()
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

// Sources.

/// All rules about one file of Rust code.
fn source_faults(path: &str, text: &str) -> Vec<String> {
    let code = blank_comments_and_strings(text);
    let shipped = in_directory(path, "src");
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{path}:1: a file opens with //! and says what it is for"));
    }
    if shipped || in_directory(path, "examples") {
        faults.extend(word_home_faults(path, &code));
    }
    if shipped {
        faults.extend(unwrap_faults(path, &code));
    }
    faults.extend(unsafe_faults(path, &code));
    faults
}

/// HTTP and storage crates are named only where they live (A1, A2); bench drives both.
fn word_home_faults(path: &str, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (names, home, rule) in WORD_HOMES {
        if path.starts_with(home) || path.starts_with("bench/") {
            continue;
        }
        for (index, line) in code.lines().enumerate() {
            let named = words(line).find(|word| names.contains(word));
            faults.extend(named.map(|word| format!("{path}:{}: {word}: {rule}", index + 1)));
        }
    }
    faults
}

/// What ships handles its errors, or says with `expect` why there can be none.
fn unwrap_faults(path: &str, code: &str) -> Vec<String> {
    let unwraps = |line: &str| line.contains(".unwrap()") || line.contains("::unwrap)");
    let lines = shipped_lines(path, code).filter(|(_, line)| unwraps(line));
    lines
        .map(|(line, _)| format!("{path}:{line}: unwrap() outside tests: handle it, or expect() why not"))
        .collect()
}

/// Unsafe code lives in files named raw.rs, and in the macros that declare columns.
fn unsafe_faults(path: &str, code: &str) -> Vec<String> {
    if path.ends_with("/raw.rs") {
        return Vec::new();
    }
    let mut in_macro = false;
    let mut faults = Vec::new();
    for (index, line) in code.lines().enumerate() {
        in_macro |= line.starts_with("macro_rules!");
        let allowed = in_macro && path == "engine/src/column/mod.rs";
        if !allowed && words(line).any(|word| word == "unsafe") {
            faults.push(format!("{path}:{}: unsafe outside raw.rs", index + 1));
        }
        in_macro &= line != "}";
    }
    faults
}

/// The lines, counted from 1, without those below `#[cfg(test)]`.
fn shipped_lines<'c>(path: &str, code: &'c str) -> impl Iterator<Item = (usize, &'c str)> {
    let end = if in_directory(path, "tests") || path.ends_with("/tests.rs") {
        0
    } else {
        start_of_tests(code).unwrap_or(usize::MAX)
    };
    code.lines().enumerate().take(end).map(|(index, line)| (index + 1, line))
}

/// The index of the line `#[cfg(test)]` that begins the tests; such a line on a `mod tests;` begins none.
fn start_of_tests(code: &str) -> Option<usize> {
    let lines: Vec<_> = code.lines().map(str::trim).collect();
    (0..lines.len()).filter(|index| lines[*index] == "#[cfg(test)]").find(|index| {
        let item = lines[index + 1..].iter().find(|line| !line.is_empty() && !line.starts_with('#'));
        item.is_some_and(|item| !item.ends_with(';'))
    })
}

/// The identifiers of a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Whether a file lies in the directory of that name, of whichever crate.
fn in_directory(path: &str, name: &str) -> bool {
    path.rsplit('/').skip(1).any(|part| part == name)
}

/// The text with comments and the insides of strings and characters blanked; every line keeps its number.
fn blank_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let glued = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let (blank, length) = match first {
            '/' if rest.starts_with("//") => (true, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (true, block_comment(rest)),
            '"' => (true, string(rest)),
            '\'' => (true, character(rest)),
            'r' | 'b' | 'c' if !glued => raw_string(rest).map_or((false, 1), |length| (true, length)),
            _ => (false, first.len_utf8()),
        };
        let (token, after) = rest.split_at(length);
        if blank {
            code.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(token);
        }
        rest = after;
    }
    code
}

/// The length of the block comment at the start; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while let Some(next) = text[at..].find(['/', '*']) {
        at += next;
        let (step, length) = match text.get(at..at + 2) {
            Some("/*") => (1, 2),
            Some("*/") => (-1, 2),
            _ => (0, 1),
        };
        depth += step;
        at += length;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string at the start.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let end = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// The length of the character at the start, or 1 for the mark of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3.min(text.len())..].find('\'').map_or(1, |at| at + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

/// The length of the raw string at the start, if there is one: `r".."`, `r#".."#`, `br".."`.
fn raw_string(text: &str) -> Option<usize> {
    let quoted = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let hashes = quoted.len() - quoted.trim_start_matches('#').len();
    let inside = quoted[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&close).map_or(inside.len(), |at| at + close.len());
    Some(text.len() - inside.len() + length)
}

// Invariants.

/// Rows `| W1 | ... |` of the table whose id no test names, unless the last column says "later".
fn invariant_faults(path: &str, document: &str, tests: &str) -> Vec<String> {
    let named: Vec<_> = words(tests).collect();
    let mut faults = Vec::new();
    for (index, line) in document.lines().enumerate() {
        let columns: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let later = columns.last().is_some_and(|last| last.to_lowercase().contains("later"));
        let id = columns[0].trim_matches(['*', '`']);
        if line.starts_with('|') && is_invariant(id) && !later && !named.contains(&id) {
            faults.push(format!("{path}:{}: no test names {id}", index + 1));
        }
    }
    faults
}

/// `W1`, `D8`: a letter of a family and a number.
fn is_invariant(id: &str) -> bool {
    let number = id.strip_prefix(['W', 'D', 'T', 'L', 'A']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The part of a file that is test code; this file, which names ids to test itself, does not count.
fn test_code(path: &str, text: &str) -> String {
    if path == "tests/it/tidy.rs" {
        // The ids in its own cases are examples; those in its header are what it keeps.
        return text.lines().take_while(|line| line.starts_with("//!")).collect();
    }
    let skipped = match path {
        _ if in_directory(path, "tests") || path.ends_with("/tests.rs") => 0,
        _ => start_of_tests(text).unwrap_or(usize::MAX),
    };
    text.lines().skip(skipped).flat_map(|line| [line, "\n"]).collect()
}

// Files.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("could not read {path}: {error}"))
}

fn members() -> Vec<String> {
    workspace_list(&parse("Cargo.toml", &read("Cargo.toml")), "members")
}

/// Path and text of every file of Rust code of the crates.
fn sources() -> BTreeMap<String, String> {
    let members = members();
    let mut files = BTreeMap::new();
    for part in ["src", "tests", "examples", "benches"] {
        collect(part, &mut files);
        for member in &members {
            collect(&format!("{member}/{part}"), &mut files);
        }
    }
    files
}

fn collect(directory: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(root().join(directory)).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            collect(&path, files);
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            files.insert(path.clone(), read(&path));
        }
    }
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// Each check can fail.

#[test]
fn manifests_that_break_a_rule_are_found() {
    let check = |package: &str, rest: &str, expected: &[&str]| {
        let text = format!("[package]\nname = \"{package}\"\n[lints]\nworkspace = true\n{rest}");
        assert_eq!(manifest_faults("C", &text), expected, "{text}");
    };
    check("everworld-engine", "[dependencies]\nbevy_ecs = { workspace = true, features = [] }", &[]);
    check("everworld-systems", "[dependencies]\neverworld-components.workspace = true", &[]);
    check("everworld", "[dev-dependencies]\nredb.workspace = true\neverworld-bench.workspace = true", &[]);
    check("everworld-bench", "[dependencies]\ntokio.workspace = true\neverworld.workspace = true", &[]);

    check(
        "everworld-persistence",
        "[dependencies]\neverworld-systems.workspace = true",
        &["C:6: A3: everworld-persistence may not use everworld-systems"],
    );
    check(
        "everworld-engine",
        "[dev-dependencies]\neverworld-components.workspace = true",
        &["C:6: A3: everworld-engine may not use everworld-components"],
    );
    check(
        "everworld",
        "[dependencies]\neverworld-bench.workspace = true",
        &["C:6: A3: everworld may not use everworld-bench"],
    );
    check(
        "everworld",
        "[dependencies]\nredb.workspace = true",
        &["C:6: redb lives in everworld-persistence only, not in everworld"],
    );
    check(
        "everworld-systems",
        "[target.'cfg(unix)'.dependencies]\ntokio.workspace = true",
        &["C:6: tokio lives in everworld, everworld-bench only, not in everworld-systems"],
    );
    check(
        "everworld-engine",
        "[dependencies]\nserde = \"1\"\n[build-dependencies]\ncc = { version = \"1\" }",
        &[
            "C:6: serde must come from [workspace.dependencies]",
            "C:8: cc must come from [workspace.dependencies]",
        ],
    );
    check("everworld-extra", "", &["C:1: everworld-extra has no arrows in tests/it/tidy.rs"]);
    let text = "[package]\nname = \"everworld-engine\"";
    assert_eq!(manifest_faults("C", text), ["C:1: [lints] must say workspace = true"]);
}

#[test]
fn members_that_cargo_test_would_skip_are_found() {
    let check = |defaults: &str, expected: &[&str]| {
        let text = format!("[workspace]\nmembers = [\"a\", \"b\"]\ndefault-members = {defaults}");
        assert_eq!(default_member_faults("C", &text), expected);
    };
    check(r#"[".", "a", "b"]"#, &[]);
    check(r#"["a"]"#, &["C:3: default-members lacks \"b\"", "C:3: default-members lacks \".\""]);
}

#[test]
fn sources_that_break_a_rule_are_found() {
    let check = |path: &str, rest: &str, expected: &[&str]| {
        assert_eq!(source_faults(path, &format!("//! A file.\n{rest}")), expected, "{path}: {rest}");
    };
    assert_eq!(
        source_faults("examples/a.rs", "fn main() {}"),
        ["examples/a.rs:1: a file opens with //! and says what it is for"]
    );

    check("src/api/worlds.rs", "use axum::Router;", &[]);
    check("src/api.rs", "use hyper::Request;", &[]);
    check("bench/src/load.rs", "use hyper::Request;", &[]);
    check("tests/it/http.rs", "use hyper::Request;", &[]);
    check("src/host.rs", "// axum\nlet axumish = \"hyper\";", &[]);
    check("src/host.rs", "\nuse axum::Router;", &["src/host.rs:3: axum: A1: HTTP lives below src/api"]);
    check("src/main.rs", "hyper_util::x()", &["src/main.rs:2: hyper_util: A1: HTTP lives below src/api"]);

    check("persistence/src/store.rs", "use redb::Database;", &[]);
    check("src/host.rs", "zstd::decode()", &["src/host.rs:2: zstd: A2: redb and zstd live in persistence"]);

    check("src/a.rs", "x.unwrap_or(1); // .unwrap()\n#[cfg(test)]\nmod tests { x.unwrap(); }", &[]);
    check("tests/it/a.rs", "x.unwrap();", &[]);
    check("src/a/tests.rs", "x.unwrap();", &[]);
    let fault = "src/a.rs:4: unwrap() outside tests: handle it, or expect() why not";
    check("src/a.rs", "#[cfg(test)]\nmod tests;\nx.unwrap();", &[fault]);
    check("src/a.rs", "\n\nx.map(Option::unwrap)", &[fault]);

    let unsafe_row = "macro_rules! row {\n    () => { unsafe impl X for Y {} };\n}";
    check("engine/src/raw.rs", "unsafe { x() }", &[]);
    check("engine/src/column/mod.rs", unsafe_row, &[]);
    check("src/a.rs", "#[allow(unsafe_code)] // unsafe", &[]);
    check("engine/src/plan.rs", unsafe_row, &["engine/src/plan.rs:3: unsafe outside raw.rs"]);
    check(
        "engine/src/column/mod.rs",
        &format!("{unsafe_row}\nunsafe fn x() {{}}"),
        &["engine/src/column/mod.rs:5: unsafe outside raw.rs"],
    );
}

#[test]
fn only_code_is_looked_at() {
    let check = |text: &str, expected: &[&str]| {
        let code = blank_comments_and_strings(text);
        assert_eq!(words(&code).collect::<Vec<_>>(), expected, "{text}");
        assert_eq!(code.matches('\n').count(), text.matches('\n').count(), "{text}");
    };
    check("a // b\nc", &["a", "c"]);
    check("a /* b /* c\n */ * / \n*/ d", &["a", "d"]);
    check(r#"f("a\"b", x, "\\", y)"#, &["f", "x", "y"]);
    check("r#\"a\"b\"# c r\"\\\" d r##\"\"# e\"## f", &["c", "d", "f"]);
    check("br\"a\" b\"c\" cr#\"d\"# e", &["b", "e"]);
    check("attr\"a\" bar", &["attr", "bar"]);
    check(
        "for 'a' b '\\'' c '\\u{1F600}' d 'é' e <'f, 'g> '\"' h",
        &["for", "b", "c", "d", "e", "f", "g", "h"],
    );
    check("a \"open\nend", &["a"]);
    check("a /* open\nend", &["a"]);
    check("r#type", &["r", "type"]);
}

#[test]
fn invariants_that_no_test_names_are_found() {
    let table = "# Invariants\n| id | what | kept by |\n|---|---|---|\n| W1 | one hash | a |\n| **D2** | shown | later |\n";
    let check = |tests: &str, expected: &[&str]| assert_eq!(invariant_faults("A.md", table, tests), expected);
    check("// W1: for 1, 2 and 8 threads", &[]);
    check("// W10, W1x", &["A.md:4: no test names W1"]);

    assert_eq!(test_code("src/a.rs", "// W1\n#[cfg(test)]\nmod tests {}"), "#[cfg(test)]\nmod tests {}\n");
    assert_eq!(test_code("src/a.rs", "// W1"), "");
    assert_eq!(test_code("tests/it/a.rs", "// W1"), "// W1\n");
    assert_eq!(test_code("tests/it/tidy.rs", "// W1"), "");
}
