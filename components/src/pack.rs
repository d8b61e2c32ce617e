//! What someone has with them and at home.

use everworld_engine::component;

component! {
    /// Goods that someone owns, in pieces.
    pub struct Pack("pack", version 1) {
        /// Meals.
        food: u16,
        /// Things of use: cloth, tools, furniture.
        wares: u16,
    }
}
