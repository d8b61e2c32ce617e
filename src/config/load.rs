//! Reading the layers: each value goes through the one gate of its key, whichever layer it comes from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue, Error};

use super::{
    keys::{Config, KEYS, Key, SECTIONS, Scope},
    value::describe,
};

/// A configuration without faults, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// One entry per key, in the order of the list.
    pub sources: Vec<Sourced>,
}

/// The value of one key in force, and its layer.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The key.
    pub key: &'static Key,
    /// Its value; null where `""` means none.
    pub value: serde_json::Value,
    /// The layer that set it last.
    pub source: Source,
}

/// A layer, and the place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The list of keys.
    Default,
    /// The configuration file.
    File {
        /// As it was given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The environment variable of that name.
    Env(String),
    /// `--set section.key=value`.
    Set,
    /// A flag of its own.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Set => f.write_str("--set"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Everything that is wrong with a configuration, one line each. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// `file:line`, the environment variable, `--set` or `flag`.
    pub place: String,
    /// The key as it was written, if it is about one.
    pub key: Option<String>,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

impl std::error::Error for ConfigFaults {}
impl std::error::Error for ConfigFault {}

impl Config {
    /// The file with the bearer tokens.
    pub fn token_file(&self) -> PathBuf {
        self.http.token_file.as_ref().map_or_else(|| self.data.dir.join("tokens"), PathBuf::from)
    }

    /// Reads all layers: defaults, `file`, `env`, `sets` (`section.key=value`), `flags` (key and value).
    ///
    /// # Errors
    /// All faults of all layers: a file that cannot be read or is not TOML, unknown keys, sections and
    /// variables, values of a wrong type or out of range.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
        flags: &[(&str, String)],
    ) -> Result<Loaded, ConfigFaults> {
        let mut layers = Layers {
            config: Self::default(),
            sources: vec![Source::Default; KEYS.len()],
            faults: Vec::new(),
        };
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => layers.file(path, &text),
                Err(error) => {
                    layers.fault(path.display(), None, format!("could not read the configuration: {error}"));
                }
            }
        }
        layers.env(env);
        for set in sets {
            match set.split_once('=') {
                Some((path, text)) => layers.argument(Source::Set, path.trim(), text),
                None => {
                    layers.fault(Source::Set, None, format!("expected section.key=value, found {set:?}"));
                }
            }
        }
        for (path, text) in flags {
            layers.argument(Source::Flag, path, text);
        }
        layers.finish()
    }
}

/// What the layers so far have come to.
struct Layers {
    config: Config,
    /// By the index of the key in [`KEYS`].
    sources: Vec<Source>,
    faults: Vec<ConfigFault>,
}

impl Layers {
    fn file(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| Source::File { path: path.to_owned(), line: line_of(text, offset) };
        let (document, mut errors) = DeTable::parse_recoverable(text);
        let offset = |error: &Error| error.span().map_or(text.len(), |span| span.start);
        errors.sort_by_key(offset);
        for error in &errors {
            self.fault(at(offset(error)), None, format!("not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return; // What the parser makes of the rest is guesswork.
        }
        let mut entries = Vec::new();
        for (name, value) in document.get_ref() {
            match value.get_ref() {
                DeValue::Table(keys) if is_section(name.get_ref()) => {
                    let section = name.get_ref();
                    entries.extend(keys.iter().map(|(name, value)| {
                        (name.span().start, format!("{section}.{}", name.get_ref()), value.get_ref())
                    }));
                }
                value => entries.push((name.span().start, name.get_ref().clone().into_owned(), value)),
            }
        }
        entries.sort_by_key(|(offset, ..)| *offset); // The parser sorts by name; readers go by line.
        for (offset, path, value) in entries {
            let source = at(offset);
            match KEYS.iter().position(|key| key.path == path) {
                Some(index) => self.set(index, source, value),
                None if is_section(&path) => {
                    let message = format!("expected a section [{path}], found {}", describe(value));
                    self.fault(source, Some(&path), message);
                }
                None if value.is_table() && !path.contains('.') => {
                    let near = nearest(&path, SECTIONS.iter().map(|section| section.name));
                    self.fault(source, Some(&path), unknown("section", near));
                }
                None => self.fault(source, Some(&path), unknown("key", nearest_key(&path))),
            }
        }
    }

    fn env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let ours = |name: &str| name.strip_prefix("EVERWORLD_").is_some_and(|rest| rest.contains("__"));
        let mut variables: Vec<_> = env.into_iter().filter(|(name, _)| ours(name)).collect();
        variables.sort(); // The system's order is arbitrary; that of messages is not.
        let names: Vec<_> = KEYS.iter().map(Key::env_name).collect();
        for (name, text) in variables {
            if let Some(index) = names.iter().position(|known| *known == name) {
                self.set_text(index, Source::Env(name), &text);
            } else {
                let near = nearest(&name.to_uppercase(), names.iter().map(String::as_str));
                self.fault(&name, None, unknown("variable", near));
            }
        }
    }

    fn argument(&mut self, source: Source, path: &str, text: &str) {
        match KEYS.iter().position(|key| key.path == path) {
            Some(index) => self.set_text(index, source, text),
            None => self.fault(source, Some(path), unknown("key", nearest_key(path))),
        }
    }

    /// Outside the file text needs no quotes: what the key accepts as a plain string is one.
    fn set_text(&mut self, index: usize, source: Source, text: &str) {
        let string = DeValue::String(text.into());
        let value = DeValue::parse(text).map_or_else(|_| string.clone(), toml::Spanned::into_inner);
        let quoted = value.is_str();
        let plain = !quoted && (KEYS[index].set)(&mut self.config, &string);
        self.set(index, source, if plain { &string } else { &value });
    }

    fn set(&mut self, index: usize, source: Source, value: &DeValue<'_>) {
        let key = &KEYS[index];
        if (key.set)(&mut self.config, value) {
            self.sources[index] = source;
        } else {
            let message = format!("expected {}, found {}", (key.expected)(), describe(value));
            self.fault(source, Some(key.path), message);
        }
    }

    fn fault(&mut self, place: impl fmt::Display, key: Option<&str>, message: String) {
        let (place, key) = (place.to_string(), key.map(str::to_owned));
        self.faults.push(ConfigFault { place, key, message });
    }

    fn finish(self) -> Result<Loaded, ConfigFaults> {
        if !self.faults.is_empty() {
            return Err(ConfigFaults(self.faults));
        }
        let sources = KEYS.iter().zip(self.sources);
        let sources = sources.map(|(key, source)| Sourced { key, value: (key.get)(&self.config), source });
        Ok(Loaded { sources: sources.collect(), config: self.config })
    }
}

impl Config {
    /// With other values of keys that may change while a server runs, by their paths.
    ///
    /// # Errors
    /// Each key with what is wrong with it.
    pub fn changed(
        &self,
        values: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(Self, Vec<&'static Key>), Vec<(String, String)>> {
        let (mut config, mut keys, mut faults) = (self.clone(), Vec::new(), Vec::new());
        for (path, value) in values {
            let mut fault = |message: String| faults.push((path.clone(), message));
            let Some(key) = KEYS.iter().find(|key| key.path == path) else {
                fault(unknown("key", nearest_key(path)));
                continue;
            };
            if key.scope != Scope::Live {
                fault(format!("\"{path}\" takes effect at the next start only: set it in the configuration"));
                continue;
            }
            // JSON's numbers, texts and truths are written as TOML's are.
            let text = value.to_string();
            let is_set = match DeValue::parse(&text) {
                Ok(value) => (key.set)(&mut config, value.get_ref()),
                Err(_) => false,
            };
            if is_set {
                keys.push(key);
            } else {
                fault(format!("expected {}, found {text}", (key.expected)()));
            }
        }
        if faults.is_empty() { Ok((config, keys)) } else { Err(faults) }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|section| section.name == name)
}

fn unknown(what: &str, near: Option<&str>) -> String {
    let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    format!("unknown {what}{hint}")
}

/// A key that is spelt alike, or the same one in another section.
fn nearest_key(path: &str) -> Option<&'static str> {
    let name = path.rsplit('.').next();
    let elsewhere = || KEYS.iter().find(|key| Some(key.name) == name).map(|key| key.path);
    nearest(path, KEYS.iter().map(|key| key.path)).or_else(elsewhere)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, near) = known.map(|known| (edit_distance(name, known), known)).min()?;
    (edits <= 2 + name.len() / 6).then_some(near)
}

/// Levenshtein's, by bytes.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
#[allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// A case is the text of a file `s.toml`, then lines `env NAME=text`, `set section.key=text` and
    /// `flag section.key=text`. Its outcome: all faults, or what differs from the defaults.
    fn outcome(case: &str) -> String {
        let lines = |layer: &'static str| case.lines().filter_map(move |line| line.strip_prefix(layer));
        let sets: Vec<_> = lines("set ").map(str::to_owned).collect();
        let pair = |line: &str| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let flags: Vec<_> = lines("flag ").map(pair).collect();
        let flags: Vec<_> = flags.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        let other = |line: &&str| ["env ", "set ", "flag "].iter().any(|layer| line.starts_with(layer));
        let file: Vec<_> = case.split('\n').take_while(|line| !other(line)).collect();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.toml");
        std::fs::write(&path, file.join("\n")).unwrap();
        let text = match Config::load(Some(&path), lines("env ").map(pair), &sets, &flags) {
            Err(faults) => faults.to_string(),
            Ok(loaded) => {
                let changed = loaded.sources.iter().filter(|s| s.source != Source::Default);
                let lines: Vec<_> =
                    changed.map(|s| format!("{} = {}   # {}", s.key.path, s.toml(), s.source)).collect();
                if lines.is_empty() { "defaults".to_owned() } else { lines.join("\n") }
            }
        };
        text.replace(&format!("{}/", dir.path().display()), "")
    }

    fn check(cases: &[&str], expected: Expect) {
        let outcomes: Vec<_> = cases.iter().map(|case| outcome(case)).collect();
        expected.assert_eq(&(outcomes.join("\n") + "\n"));
    }

    #[test]
    fn every_type_is_read_from_a_file() {
        check(
            &[
                "",
                "# Only a comment.",
                "data.dir = 'x'",
                "[http]\nbind = '[::1]:0'\nbacklog = 0x10\nheader_timeout_millis = 1_000",
                "[world]\nseed = 0\npopulation = ''",
                "world = { scenario = 'my/town.toml', population = 1_000_000 }",
                "[tick]\nrate_hz = 5",
                "[logging]\nformat = 'json'\nfilter = 'warn,everworld::api=debug'",
            ],
            expect![[r#"
                defaults
                defaults
                data.dir = "x"   # s.toml:1
                http.bind = "[::1]:0"   # s.toml:2
                http.header_timeout_millis = 1000   # s.toml:4
                http.backlog = 16   # s.toml:3
                world.seed = 0   # s.toml:2
                world.population = ""   # s.toml:3
                world.scenario = "my/town.toml"   # s.toml:1
                world.population = 1000000   # s.toml:1
                tick.rate_hz = 5.0   # s.toml:2
                logging.filter = "warn,everworld::api=debug"   # s.toml:3
                logging.format = "json"   # s.toml:2
            "#]],
        );
    }

    #[test]
    fn wrong_types() {
        check(
            &[
                "[http]\nbind = 7170",
                "[http]\nbind = 'localhost'",
                "[http]\nbacklog = 'many'",
                "[http]\nbacklog = 1.5",
                "[http]\nbacklog = [1]",
                "[http]\nbacklog.max = 1",
                "[tick]\nrate_hz = true",
                "[tick]\nrate_hz = 'fast'",
                "[data]\ndir = ''",
                "[data]\ndir = 2024-01-01",
                "[world]\nscenario = ''",
                "[world]\nseed = 'dice'",
                "[logging]\nformat = 'yaml'",
                "[logging]\nfilter = 'info,a=b=c'",
            ],
            expect![[r#"
                s.toml:2: http.bind: expected an IP address with a port, such as "127.0.0.1:7170" or "[::1]:7170", found 7170
                s.toml:2: http.bind: expected an IP address with a port, such as "127.0.0.1:7170" or "[::1]:7170", found "localhost"
                s.toml:2: http.backlog: expected a whole number from 1 to 65535, found "many"
                s.toml:2: http.backlog: expected a whole number from 1 to 65535, found 1.5
                s.toml:2: http.backlog: expected a whole number from 1 to 65535, found an array
                s.toml:2: http.backlog: expected a whole number from 1 to 65535, found a table
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found true
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found "fast"
                s.toml:2: data.dir: expected a path, found ""
                s.toml:2: data.dir: expected a path, found 2024-01-01
                s.toml:2: world.scenario: expected text that is not empty, found ""
                s.toml:2: world.seed: expected a whole number from 0 to 18446744073709551615, or "", found "dice"
                s.toml:2: logging.format: expected "auto", "pretty" or "json", found "yaml"
                s.toml:2: logging.filter: expected a log level or filter directives, such as "info" or "info,everworld::api=debug", found "info,a=b=c"
            "#]],
        );
    }

    #[test]
    fn out_of_range() {
        check(
            &[
                "[http]\nconnections_max = 0",
                "[http]\nconnections_max = -1",
                "[http]\nbody_bytes_max = 16777217",
                "[tick]\nrate_hz = 1000.5",
                "[tick]\nrate_hz = -0.5",
                "[tick]\nrate_hz = nan",
                "[tick]\nrate_hz = inf",
                "[threads]\nworkers = 257",
                "[log]\nsegment_bytes = 65_535",
                "[snapshot]\nkept = 1",
            ],
            expect![[r#"
                s.toml:2: http.connections_max: expected a whole number from 1 to 65536, found 0
                s.toml:2: http.connections_max: expected a whole number from 1 to 65536, found -1
                s.toml:2: http.body_bytes_max: expected a whole number from 1024 to 16777216, found 16777217
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found 1000.5
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found -0.5
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found nan
                s.toml:2: tick.rate_hz: expected a number from 0 to 1000, found inf
                s.toml:2: threads.workers: expected a whole number from 0 to 256, found 257
                s.toml:2: log.segment_bytes: expected a whole number from 65536 to 1073741824, found 65535
                s.toml:2: snapshot.kept: unknown key
            "#]],
        );
    }

    #[test]
    fn seeds_may_exceed_the_integers_of_toml() {
        check(
            &[
                "world.seed = 18446744073709551615",
                "world.seed = 0xffff_ffff_ffff_ffff",
                "world.seed = 18446744073709551616",
                "world.seed = -1",
            ],
            expect![[r#"
                world.seed = 18446744073709551615   # s.toml:1
                world.seed = 18446744073709551615   # s.toml:1
                s.toml:1: world.seed: expected a whole number from 0 to 18446744073709551615, or "", found 18446744073709551616
                s.toml:1: world.seed: expected a whole number from 0 to 18446744073709551615, or "", found -1
            "#]],
        );
    }

    #[test]
    fn unknown_keys_and_sections() {
        check(
            &[
                "[http]\nbnid = '127.0.0.1:1'",
                "[http]\ncolour = 'red'",
                "[http]\nsegment_bytes = 1",
                "bind = '127.0.0.1:1'",
                "[htpp]\nbind = 1\nbacklog = 2",
                "[plugins]\nname = 1",
                "[http.tls]\ncert = 1",
                "[[http]]\nbacklog = 1",
                "http = 1",
            ],
            expect![[r#"
                s.toml:2: http.bnid: unknown key, did you mean http.bind?
                s.toml:2: http.colour: unknown key
                s.toml:2: http.segment_bytes: unknown key, did you mean log.segment_bytes?
                s.toml:1: bind: unknown key, did you mean http.bind?
                s.toml:1: htpp: unknown section, did you mean http?
                s.toml:1: plugins: unknown section
                s.toml:1: http.tls: unknown key
                s.toml:1: http: expected a section [http], found an array
                s.toml:1: http: expected a section [http], found 1
            "#]],
        );
    }

    #[test]
    fn all_faults_at_once_by_layer_and_line() {
        check(
            &["# A comment.\n\n[tick]\nrate_hz = -1\n\n[http]\nbacklog = 0\nbidn = 1\n[data]\ndri = ''\n\
               flag data.dir=\nset tick.rate=5\nset nonsense\nenv EVERWORLD_TICK__RATE_HZ=fast\n\
               env EVERWORLD_DATA__DRI=x"],
            expect![[r#"
                s.toml:4: tick.rate_hz: expected a number from 0 to 1000, found -1
                s.toml:7: http.backlog: expected a whole number from 1 to 65535, found 0
                s.toml:8: http.bidn: unknown key, did you mean http.bind?
                s.toml:10: data.dri: unknown key, did you mean data.dir?
                EVERWORLD_DATA__DRI: unknown variable, did you mean EVERWORLD_DATA__DIR?
                EVERWORLD_TICK__RATE_HZ: tick.rate_hz: expected a number from 0 to 1000, found "fast"
                --set: tick.rate: unknown key, did you mean tick.rate_hz?
                --set: expected section.key=value, found "nonsense"
                flag: data.dir: expected a path, found ""
            "#]],
        );
    }

    #[test]
    fn syntax_errors_name_their_lines() {
        check(
            &[
                "[http]\nbacklog = ",
                "[http\nbacklog = 1",
                "[http]\nbacklog = 1\nbacklog = 2",
                "[http]\nbind = localhost\n\n[tick]\nrate_hz = = 1",
                "[tick]\n\nrate_hz = 5\n[data]\ndir = \"x\nset http.backlog=0",
            ],
            expect![[r#"
                s.toml:2: not TOML: string values must be quoted, expected literal string
                s.toml:1: not TOML: unclosed table, expected `]`
                s.toml:3: not TOML: duplicate key
                s.toml:2: not TOML: string values must be quoted, expected literal string
                s.toml:5: not TOML: extra `=`, expected nothing
                s.toml:5: not TOML: unexpected key or value, expected newline, `#`
                s.toml:5: not TOML: invalid basic string, expected `"`
                --set: http.backlog: expected a whole number from 1 to 65535, found 0
            "#]],
        );
    }

    #[test]
    fn later_layers_win() {
        check(
            &[
                "http.backlog = 1",
                "http.backlog = 1\nenv EVERWORLD_HTTP__BACKLOG=2",
                "http.backlog = 1\nset http.backlog=3\nenv EVERWORLD_HTTP__BACKLOG=2",
                "http.backlog = 1\nset http.backlog=3\nset http.backlog=4",
                "http.backlog = 1\nflag http.backlog=5\nset http.backlog=3",
                "world.seed = 1\nset world.seed=",
            ],
            expect![[r#"
                http.backlog = 1   # s.toml:1
                http.backlog = 2   # EVERWORLD_HTTP__BACKLOG
                http.backlog = 3   # --set
                http.backlog = 4   # --set
                http.backlog = 5   # flag
                world.seed = ""   # --set
            "#]],
        );
    }

    #[test]
    fn an_overridden_fault_is_still_one() {
        check(
            &["http.backlog = 0\nflag http.backlog=5"],
            expect![[r#"
            s.toml:1: http.backlog: expected a whole number from 1 to 65535, found 0
        "#]],
        );
    }

    #[test]
    fn text_outside_the_file_needs_no_quotes() {
        check(
            &[
                "set logging.filter=debug",
                "set logging.filter=\"debug\"",
                "set data.dir=2024",
                "set data.dir=a b=c\"d\\e",
                "env EVERWORLD_TICK__RATE_HZ=20",
                "env EVERWORLD_HTTP__BIND=0.0.0.0:80",
                "set http.backlog=\"5\"",
                "set http.backlog=",
                "set  http.backlog =5",
            ],
            expect![[r#"
                logging.filter = "debug"   # --set
                logging.filter = "debug"   # --set
                data.dir = "2024"   # --set
                data.dir = 'a b=c"d\e'   # --set
                tick.rate_hz = 20.0   # EVERWORLD_TICK__RATE_HZ
                http.bind = "0.0.0.0:80"   # EVERWORLD_HTTP__BIND
                --set: http.backlog: expected a whole number from 1 to 65535, found "5"
                --set: http.backlog: expected a whole number from 1 to 65535, found ""
                http.backlog = 5   # --set
            "#]],
        );
    }

    #[test]
    fn only_variables_with_two_underscores_are_keys() {
        check(
            &[
                "env PATH=x\nenv EVERWORLD_SLOW=1\nenv MY_EVERWORLD_HTTP__BIND=1",
                "env EVERWORLD_HTTP__BNID=1",
                "env EVERWORLD_http__bind=1",
                "env EVERWORLD_GAME__OF_THRONES=1",
            ],
            expect![[r#"
                defaults
                EVERWORLD_HTTP__BNID: unknown variable, did you mean EVERWORLD_HTTP__BIND?
                EVERWORLD_http__bind: unknown variable, did you mean EVERWORLD_HTTP__BIND?
                EVERWORLD_GAME__OF_THRONES: unknown variable
            "#]],
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_fault() {
        let faults = Config::load(Some(Path::new("no/such.toml")), [], &[], &[]).unwrap_err();
        let text = faults.to_string();
        assert!(text.starts_with("no/such.toml: could not read the configuration: "), "{text}");
    }

    #[test]
    fn no_file_is_none() {
        let loaded = Config::load(None, [], &[], &[]).unwrap();
        assert_eq!(loaded.config, Config::default());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}", index in 0..KEYS.len()) {
            let path = KEYS[index].path;
            outcome(&format!("{path} = {text}"));
            outcome(&format!("set {path}={text}"));
        }
    }
}
