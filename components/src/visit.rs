//! A stay in a town that is not one's home.

use everworld_engine::component;

component! {
    /// A traveller's stay.
    pub struct Visit("visit", version 1) {
        /// The tick at which it is time to leave.
        until: u64,
        /// 1 once the timer for that is set.
        announced: u64,
    }
}
