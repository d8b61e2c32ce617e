//! Reductions whose result row order cannot change (invariant W3).
//!
//! Either the sum itself is free of order (integers, fixed point), or the fold goes in the order of Uids.

use crate::ids::Uid;
use serde::{Deserialize, Serialize};
use std::{iter::Sum, ops::Add};

/// A sum of reals as a fixed-point number with 32 binary digits after the point, kept in 128 bits:
/// the same for any order of the summands, exact for summands of at most 2^63 with 32 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FixedSum(i128);

impl FixedSum {
    const ONE: f64 = 4_294_967_296.0;

    /// The summand, rounded to the nearest 2^-32; what is not finite counts as 0.
    pub fn of(value: f64) -> Self {
        if value.is_finite() { Self((value * Self::ONE).round_ties_even() as i128) } else { Self(0) }
    }

    /// The sum as a float.
    pub fn get(self) -> f64 {
        self.0 as f64 / Self::ONE
    }
}

impl Add for FixedSum {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Sum for FixedSum {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}

/// A sum that does not depend on the order of its summands: what [`Rows::sum`](crate::Rows::sum) may add up.
pub trait OrderFree: Default + Send + Copy {
    /// Both together.
    fn plus(self, other: Self) -> Self;
}

macro_rules! order_free_integers {
    ($($ty:ty),*) => {$(
        impl OrderFree for $ty {
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
        }
    )*};
}
order_free_integers!(u32, u64, i32, i64, i128);

impl OrderFree for () {
    fn plus(self, (): Self) -> Self {}
}

impl OrderFree for FixedSum {
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

impl<T: OrderFree, const N: usize> OrderFree for [T; N]
where
    [T; N]: Default,
{
    fn plus(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a = a.plus(b));
        self
    }
}

/// Folds items in the order of their Uids, whatever order they come in.
pub fn in_uid_order<T, A>(
    items: impl IntoIterator<Item = (Uid, T)>,
    start: A,
    step: impl FnMut(A, (Uid, T)) -> A,
) -> A {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_by_key(|(uid, _)| *uid);
    items.into_iter().fold(start, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w3_sums_do_not_depend_on_order() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i) * 1e-3 + 1e6 / f64::from(i + 1)).collect();
        let forward: FixedSum = values.iter().copied().map(FixedSum::of).sum();
        let backward: FixedSum = values.iter().rev().copied().map(FixedSum::of).sum();
        assert_eq!(forward, backward);
        let (forward, backward): (f64, f64) = (values.iter().sum(), values.iter().rev().sum());
        assert_ne!(forward, backward, "the plain sum depends on order: otherwise this test shows nothing");
    }

    #[test]
    fn w3_folds_go_by_uid() {
        let items = [3u64, 1, 2].map(|uid| (Uid::new(uid), uid.to_string()));
        assert_eq!(in_uid_order(items, String::new(), |text, (_, item)| text + &item), "123");
    }
}
