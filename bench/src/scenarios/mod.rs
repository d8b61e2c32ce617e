//! Worlds of the harnesses: `churn`, in which all happens that could depend on an order or be lost at a crash, `chatter`, in which only events do, and
//! the worlds of the canaries, each with one planted bug.
//!
//! Nothing here is part of the product. A canary is never in [`PLUGINS`]: only `canaries` runs it.

pub(crate) mod chatter;
pub(crate) mod churn;
pub(crate) mod models_planted;
pub(crate) mod planted;

use everworld::Plugin;

/// What the harnesses know of: the worlds of the product, and those of its own.
pub(crate) fn plugins() -> &'static [Plugin] {
    static ALL: std::sync::OnceLock<Vec<Plugin>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| everworld::PLUGINS.iter().copied().chain([churn::PLUGIN, chatter::PLUGIN]).collect())
}

/// By what a log tells the build of those plugins from the other.
pub(crate) fn build_id_of(plugins: &'static [Plugin]) -> [u8; 16] {
    if std::ptr::eq(plugins, plugins_before()) { [0x0E; 16] } else { everworld::spine::build_id() }
}

/// What the build before this one knew of.
pub(crate) fn plugins_before() -> &'static [Plugin] {
    static BEFORE: &[Plugin] = &[churn::PLUGIN_BEFORE];
    BEFORE
}
