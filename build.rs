//! Computes the build id: a hash of what decides the result of a tick, namely compiler, target features, profile
//! and the sources of the tick crates with their locked dependencies.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a build script reads files and environment"
)]

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    process::Command,
};

/// The crates whose sources decide results, and what pins their dependencies.
const SOURCES: [&str; 4] = ["engine/src", "components/src", "systems/src", "Cargo.lock"];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let mut hasher = DefaultHasher::new();
    let rustc = Command::new(env::var("RUSTC").expect("cargo sets it")).arg("-vV").output();
    rustc.expect("rustc runs: it is building us").stdout.hash(&mut hasher);
    for name in ["TARGET", "PROFILE", "OPT_LEVEL", "CARGO_CFG_TARGET_FEATURE", "CARGO_ENCODED_RUSTFLAGS"] {
        env::var(name).unwrap_or_default().hash(&mut hasher);
    }
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        hash_path(&Path::new(&root).join(source), &mut hasher);
    }
    let first = hasher.finish();
    0xE4E7u16.hash(&mut hasher);
    println!("cargo::rustc-env=EVERWORLD_BUILD_ID={first:016x}{:016x}", hasher.finish());
}

fn hash_path(path: &Path, hasher: &mut DefaultHasher) {
    if path.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(path).expect("readable sources").flatten().map(|e| e.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| hash_path(entry, hasher));
    } else {
        path.file_name().hash(hasher);
        fs::read(path).unwrap_or_default().hash(hasher);
    }
}
