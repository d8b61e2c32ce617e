//! How someone feels, by the circumplex model (Russell 1980, "A circumplex model of affect").

use everworld_engine::component;

component! {
    /// How someone feels.
    pub struct Mood("mood", version 1) {
        /// From -1, miserable, to 1, delighted.
        valence: f32 where -1.0..=1.0,
        /// From 0, calm, to 1, agitated.
        arousal: f32 where 0.0..=1.0,
    }
}
