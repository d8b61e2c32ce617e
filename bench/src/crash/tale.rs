//! What a disk tells of a world, in few words: for whoever has nothing but the output of a harness.

use super::life::quick_store;
use everworld_persistence::{Control, Disk, LogOptions, LogReader, Record, Store};
use std::{fmt::Write as _, path::Path, sync::Arc};

/// Snapshots as `branch/tick<taken@lsn`, then the records that the log has, each with a letter of its own.
pub(super) fn tale(disk: &Arc<dyn Disk>, data: &Path) -> String {
    let dir = data.join("worlds/churn");
    let kept = match Store::open_read_only(disk.clone(), &dir, quick_store()) {
        Ok((store, _)) => store.snapshots().kept,
        Err(error) => return format!("no store: {error}"),
    };
    let mut text = String::from("snapshots");
    for meta in &kept {
        _ = write!(text, " {}/{}<{}@{}", meta.branch, meta.tick, meta.applied_seq, meta.lsn);
    }
    let options = LogOptions {
        oldest_needed: kept.iter().map(|meta| meta.lsn + 1).min().unwrap_or(1),
        ..LogOptions::new(everworld::spine::world_id("churn"), [0; 16])
    };
    match LogReader::open(disk.clone(), &dir.join("log"), &options) {
        Ok((log, report)) => {
            _ = write!(text, "; log from {}:", report.first_lsn);
            for entry in log.records(report.first_lsn) {
                match entry {
                    Ok((_, record)) => _ = write!(text, " {}", word(&record)),
                    Err(error) => _ = write!(text, " {error}"),
                }
            }
        }
        Err(error) => _ = write!(text, "; no log: {error}"),
    }
    text
}

/// A record in a word.
fn word(record: &Record) -> String {
    match record {
        Record::Create { .. } => "create".into(),
        Record::Input(input) => {
            let at = input.at_tick.map_or_else(String::new, |tick| format!("@{tick}"));
            format!("{}{}{at}", input.kind.get(..1).unwrap_or_default(), input.seq)
        }
        Record::Seal { tick, up_to_seq } => format!("S{tick}<{up_to_seq}"),
        Record::Horizon { tick } => format!("H{tick}"),
        Record::Checkpoint { tick, hash } => format!("C{tick}={:.4}", hash.to_string()),
        Record::Build { build_id } => format!("build{:02x}", build_id[0]),
        Record::Hung { tick, system } => format!("hung{tick}:{system}"),
        Record::Server { .. } => "server".into(),
        Record::Control { tick, control, .. } => match control {
            Control::Branch { branch, parent, tick, floor_seq, taken_seq } => {
                format!("B{branch}/{parent}@{tick}<{floor_seq},{taken_seq}")
            }
            Control::Quarantine { system } => format!("Q{tick}:{system}"),
            Control::Skip { seq } => format!("K{tick}:{seq}"),
            Control::Step { until } => format!("step{tick}-{until}"),
            other => format!("{:.5}{tick}", format!("{other:?}")),
        },
    }
}
