//! Who is around someone.

use everworld_engine::component;

component! {
    /// Who is around someone, when that was looked at for the last time.
    pub struct Company("company", version 1) {
        /// People within earshot.
        near: u32,
    }
}
