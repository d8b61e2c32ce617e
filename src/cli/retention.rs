//! `everworld retention`: for how long a world keeps old snapshots, and the log with them.

use super::{
    Failed, exit,
    inspect::plain,
    snapshot::options,
    source::{Source, SourceArgs},
};
use crate::{
    questions,
    spine::{Spine, SpineOptions},
};
use clap::Args;
use everworld_persistence::Retention;
use everworld_systems::Plugin;
use serde_json::{Value, json};

/// Show or set for how long a world keeps old snapshots
///
/// What is set is kept in the world's log: it goes before the configuration, also after a restart.
#[derive(Args, Debug)]
pub struct RetentionArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Of so many seconds every snapshot is kept
    #[arg(long, value_name = "S")]
    dense_secs: Option<u64>,
    /// Of older ones whole states are kept, so many seconds apart
    #[arg(long, value_name = "S")]
    sparse_every_secs: Option<u64>,
    /// Those are kept for so many seconds, and the log back to the oldest of them
    #[arg(long, value_name = "S")]
    keep_secs: Option<u64>,
}

pub(super) fn run(args: &RetentionArgs, plugins: &'static [Plugin]) -> Result<(), Failed> {
    let RetentionArgs { source, dense_secs, sparse_every_secs, keep_secs } = args;
    let sets = [dense_secs, sparse_every_secs, keep_secs].iter().any(|secs| secs.is_some());
    let answer = match source.open(plugins)? {
        Source::Live(mut remote) if !sets => remote.ask("GET", "/retention", &Value::Null)?,
        Source::Live(mut remote) => {
            let mut body = json!({});
            for (name, secs) in [
                ("dense_secs", dense_secs),
                ("sparse_every_secs", sparse_every_secs),
                ("keep_secs", keep_secs),
            ] {
                if let Some(secs) = secs {
                    body[name] = (*secs).into();
                }
            }
            remote.ask("PUT", "/retention", &body)?
        }
        Source::Stopped(past) => {
            let world = past.world.clone();
            match past.told.retention {
                None if !sets => json!({"world": world, "as_configured": true}),
                Some(retention) if !sets => questions::retention(&world, retention),
                now => {
                    let now = now.unwrap_or_else(|| past.history.store.retention());
                    let wanted = Retention {
                        dense_secs: dense_secs.unwrap_or(now.dense_secs),
                        sparse_every_secs: sparse_every_secs.unwrap_or(now.sparse_every_secs),
                        keep_secs: keep_secs.unwrap_or(now.keep_secs),
                    };
                    if let Some((field, detail)) = questions::retention_faults(&wanted).first() {
                        return Err(exit::usage(&format!("--{}: {detail}", field.replace('_', "-"))));
                    }
                    let record = past.record()?.clone();
                    drop(past);
                    let data = source.data.as_deref().unwrap_or_else(|| std::path::Path::new("."));
                    let (options, spine_options) = (options()?, SpineOptions::default());
                    let (mut spine, mut live) = Spine::open(data, &record, plugins, options, &spine_options)?;
                    spine.set_retention(live.now(), wanted)?;
                    spine.close(&mut live)?;
                    questions::retention(&world, wanted)
                }
            }
        }
    };
    source.print(&answer, |answer| {
        if answer["as_configured"] == true {
            return "as the server's configuration says: snapshot.dense_secs, sparse_every_secs, keep_secs\n".into();
        }
        let [dense, every, keep] =
            ["dense_secs", "sparse_every_secs", "keep_secs"].map(|key| plain(&answer[key]));
        format!(
            "every snapshot for {dense} s, then one each {every} s for {keep} s, and the log back to the oldest of them\n"
        )
    })
}
