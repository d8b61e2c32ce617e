//! The configuration as text: the commented default file and `config show`.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    keys::{Config, KEYS, SECTIONS, Scope},
    load::{Loaded, Sourced},
    value::to_toml,
};

const HEAD: &str = "\
# The configuration of an Everworld server: every key with its meaning and its default.
#
# Layers, the later wins: defaults, this file, the environment (EVERWORLD_HTTP__BIND=...),
# --set http.bind=..., flags. `everworld config show` tells where each value in force came from.
#
# (host)   a property of this server: may change from start to start.
# (world)  part of a world's record: used only when a world is created.
#
# Generated from the list of keys in src/config/keys.rs; renew with UPDATE_EXPECT=1 cargo test config
";

/// The text of `configs/server.toml`: every key with its meaning and its default.
pub fn default_file() -> String {
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        write!(text, "\n#{}\n[{}]\n", section.doc, section.name).expect("a string grows");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let (doc, scope) = (key.doc.join("\n#"), key.scope.name());
            let range = key.range.map(|range| format!(", {range}")).unwrap_or_default();
            writeln!(text, "#{doc} ({scope}{range})\n{} = {}", key.name, key.default)
                .expect("a string grows");
        }
    }
    text
}

impl Loaded {
    /// A line per key, `key = value   # where it came from`; valid as a configuration file.
    pub fn show(&self) -> String {
        let lines: Vec<_> = self.sources.iter().map(|s| format!("{} = {}", s.key.path, s.toml())).collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for (line, Sourced { key, source, .. }) in lines.iter().zip(&self.sources) {
            let scope = if key.scope == Scope::World { " (world)" } else { "" };
            writeln!(text, "{line:width$}   # {source}{scope}").expect("a string grows");
        }
        text
    }

    /// An array with an object per key: `key`, `value`, `source`, `scope`, `default`, `meaning`.
    pub fn show_json(&self) -> Value {
        let defaults = Config::default();
        self.sources
            .iter()
            .map(|Sourced { key, value, source }| {
                json!({
                    "key": key.path,
                    "value": value,
                    "source": source.to_string(),
                    "scope": key.scope.name(),
                    "default": (key.get)(&defaults),
                    "meaning": key.doc.concat().trim(),
                })
            })
            .collect()
    }
}

impl Sourced {
    /// The value as it would stand in the file.
    pub fn toml(&self) -> String {
        to_toml(&self.value)
    }
}

#[cfg(test)]
#[allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]
mod tests {
    use expect_test::{expect, expect_file};

    use super::*;
    use crate::config::Source;

    fn load(file: &str, sets: &[&str]) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.toml");
        std::fs::write(&path, file).unwrap();
        let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::load(Some(&path), [], &sets, &[]).unwrap()
    }

    #[test]
    fn the_default_file_is_up_to_date() {
        expect_file!["../../configs/server.toml"].assert_eq(&default_file());
    }

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        let loaded = load(&default_file(), &[]);
        assert_eq!(loaded.config, Config::default());
        let named = |s: &Sourced| matches!(s.source, Source::File { .. });
        assert!(loaded.sources.iter().all(named), "a key is missing in the file");
    }

    #[test]
    fn what_is_shown_is_a_configuration_file() {
        let sets = ["world.seed=18446744073709551615", "data.dir=a\\b \"c\"", "tick.rate_hz=0.1"];
        let shown = load("", &sets);
        assert_eq!(load(&shown.show(), &[]).config, shown.config);
    }

    #[test]
    fn show_tells_the_sources() {
        let shown = load("", &["tick.rate_hz=0", "world.seed=7"]).show();
        expect![[r#"
            data.dir = "./data"                   # default
            data.worlds_max = 16                  # default
            http.bind = "127.0.0.1:7170"          # default
            http.token_file = ""                  # default
            http.allow_plaintext = false          # default
            http.tls_certificate = ""             # default
            http.tls_key = ""                     # default
            http.rate_per_sec = 0.0               # default
            http.connections_max = 1024           # default
            http.in_flight_max = 512              # default
            http.streams_max = 256                # default
            http.bulk_rows = 20000                # default
            http.header_timeout_millis = 3000     # default
            http.body_timeout_millis = 10000      # default
            http.request_timeout_millis = 30000   # default
            http.body_bytes_max = 65536           # default
            http.batch_bytes_max = 4194304        # default
            http.headers_max = 64                 # default
            http.drain_timeout_millis = 3000      # default
            http.backlog = 4096                   # default
            world.scenario = "town"               # default (world)
            world.name = ""                       # default
            world.seed = 7                        # --set (world)
            world.population = ""                 # default (world)
            tick.rate_hz = 0.0                    # --set
            tick.inputs_max = 4096                # default
            tick.pending_inputs_max = 65536       # default
            tick.events_max = 10000               # default
            tick.soft_limit_millis = 5000         # default
            tick.hard_limit_millis = 60000        # default
            inputs.idempotency_keys_max = 65536   # default
            inputs.ahead_ticks_max = 10000000     # default
            threads.workers = 0                   # default
            log.segment_bytes = 4194304           # default
            log.queue_len_max = 8192              # default
            log.horizon_lease_millis = 1000       # default
            log.checkpoint_ticks = 100000         # default
            recovery.on_panic = "quarantine"      # default
            recovery.target_secs = 5.0            # default
            recovery.fallback_secs = 600          # default
            recovery.linger_secs = 3.0            # default
            verify.enabled = true                 # default
            verify.pause_secs = 10.0              # default
            verify.ticks_max = 200                # default
            verify.memory_bytes_max = 536870912   # default
            scrub.mb_per_sec = 4.0                # default
            scrub.every_secs = 3600.0             # default
            statistics.every_secs = 10.0          # default
            mirror.period_millis = 0              # default
            snapshot.period_millis = 0            # default
            snapshot.dense_secs = 600             # default
            snapshot.sparse_every_secs = 600      # default
            snapshot.keep_secs = 86400            # default
            history.workers = 1                   # default
            history.queue_len_max = 16            # default
            logging.filter = "info"               # default
            logging.format = "auto"               # default
            logging.summary_ticks = 600           # default
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn show_json_has_an_object_per_key() {
        let rows = load("", &["world.seed=7"]).show_json();
        assert_eq!(rows.as_array().map(Vec::len), Some(KEYS.len()));
        let named = ["world.seed", "world.population", "tick.rate_hz"];
        let rows =
            rows.as_array().into_iter().flatten().filter(|row| named.iter().any(|key| row["key"] == *key));
        let rows: Vec<_> = rows.map(Value::to_string).collect();
        expect![[r#"
            {"default":null,"key":"world.seed","meaning":"The seed of all chance; \"\" = the scenario's.","scope":"world","source":"--set","value":7}
            {"default":null,"key":"world.population","meaning":"How many NPCs to begin with; \"\" = the scenario's.","scope":"world","source":"default","value":null}
            {"default":10.0,"key":"tick.rate_hz","meaning":"Ticks per second; 0 = as fast as possible.","scope":"host","source":"default","value":10.0}
        "#]].assert_eq(&(rows.join("\n") + "\n"));
    }
}
