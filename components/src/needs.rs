//! What a body and a heart lack.

use everworld_engine::component;

component! {
    /// What someone lacks: 0 is content, 1 is desperate.
    pub struct Needs("needs", version 1) {
        /// For food.
        hunger: f32 where 0.0..=1.0,
        /// For sleep.
        fatigue: f32 where 0.0..=1.0,
        /// For company.
        loneliness: f32 where 0.0..=1.0,
        /// For something worth doing.
        purpose: f32 where 0.0..=1.0,
    }
}
