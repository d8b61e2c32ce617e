//! Character, by the five-factor model (Goldberg 1990).

use everworld_engine::component;

component! {
    /// Character: each trait from 0 to 1, 0.5 is the average.
    pub struct Traits("traits", version 1) {
        /// Curious rather than cautious.
        openness: f32 where 0.0..=1.0,
        /// Orderly rather than careless.
        conscientiousness: f32 where 0.0..=1.0,
        /// Outgoing rather than reserved.
        extraversion: f32 where 0.0..=1.0,
        /// Friendly rather than challenging.
        agreeableness: f32 where 0.0..=1.0,
        /// Nervous rather than confident.
        neuroticism: f32 where 0.0..=1.0,
    }
}
