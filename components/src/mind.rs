//! How a mind weighs what it might do: data, which an input may replace.

use crate::Action;
use everworld_engine::resource;
use serde::{Deserialize, Serialize};

/// How a consideration turns what it looks at, x from 0 to 1, into a score, which is held within 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurveKind {
    /// slope (x - shift) + lift
    Linear,
    /// slope |x - shift|^exponent + lift
    Quadratic,
    /// 1 / (1 + e^(-slope (x - shift))) + lift
    Logistic,
    /// 1/2 + slope ln(u / (1 - u)) / (2 ln 99) + lift, with u = x - shift held within 0.01 to 0.99
    Logit,
}

/// A response curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Its form.
    pub kind: CurveKind,
    /// How steep it is.
    pub slope: f32,
    /// The power of a quadratic one.
    pub exponent: f32,
    /// How far to the right it lies.
    pub shift: f32,
    /// How far up.
    pub lift: f32,
}

/// Something that an action's worth depends on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consideration {
    /// What it looks at, by its number among [`Mind::AXES`].
    pub axis: u8,
    /// What it makes of it.
    pub curve: Curve,
}

/// Something that may be done, and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What: the number of an [`Action`].
    pub action: u8,
    /// The score where all considerations are content.
    pub weight: f32,
    /// What it depends on: their scores are multiplied.
    pub considerations: Vec<Consideration>,
}

resource! {
    /// How the townsfolk decide.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Mind("mind", version 1) {
        /// What is being done is worth so many times more.
        pub momentum: f32,
        /// What may be done; an action may be there more than once.
        pub choices: Vec<Choice>,
    }
}

impl Choice {
    /// What it is.
    pub fn action(&self) -> Action {
        Action(self.action)
    }
}

impl Mind {
    /// What considerations may look at, each from 0 to 1.
    pub const AXES: &'static [&'static str] = &[
        "hunger",
        "fatigue",
        "loneliness",
        "purpose",
        "valence",
        "arousal",
        "openness",
        "conscientiousness",
        "extraversion",
        "agreeableness",
        "neuroticism",
        "light",
        "night",
        "hour",
        "work_time",
        "market_time",
        "coins",
        "food",
        "produce",
        "wares",
        "company",
        "illness",
    ];
}
