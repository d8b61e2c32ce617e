//! Functions on floats that give the same bits on every machine: `libm` instead of the platform's.
//!
//! Square root, floor, abs and the four operations are exact in IEEE 754 and may be used as they are. And the bits of a word,
//! which marks of rows and masks of neighbours are gone through by.

pub use libm::{
    acosf as acos32, atan2f as atan232, cos as cos64, cosf as cos32, exp as exp64, expf as exp32,
    log as ln64, logf as ln32, pow as pow64, powf as pow32, sin as sin64, sinf as sin32, tanhf as tanh32,
};

/// The logistic curve 1 / (1 + e^-x).
pub fn logistic32(x: f32) -> f32 {
    1.0 / (1.0 + exp32(-x))
}

/// Clamps to 0..=1; what is not a number becomes 0.
pub fn unit32(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// The bits of a word that are set, in order.
#[inline]
pub fn bits_of(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
