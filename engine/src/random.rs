//! Chance: a counter-based generator, so that a draw depends on who draws and when, never on who drew before.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The
//! key comes from (seed, tick, stream); the counter is (Uid, block). Each system has a stream of its own.

use crate::{ids::Uid, state::TickTime, system::CurrentSystem};
use bevy_ecs::{prelude::*, system::SystemParam};
use xxhash_rust::xxh3::xxh3_64;

/// Chance for a system: `random.of(uid)` gives that entity's draws of this tick and system.
#[derive(SystemParam)]
pub struct Random<'w, 's> {
    time: Res<'w, TickTime>,
    stream: Local<'s, Stream>,
}

impl Random<'_, '_> {
    /// The draws of that entity in this system and tick. Asked twice, they come twice: keep the value.
    #[inline]
    pub fn of(&self, uid: Uid) -> Draws {
        Draws::new(self.time.seed, self.time.tick.0, self.stream.0, uid.get())
    }
}

/// The stream of a system: the hash of its name, which registration order does not change.
struct Stream(u64);

impl FromWorld for Stream {
    fn from_world(world: &mut World) -> Self {
        let current = world.resource::<CurrentSystem>();
        Self(xxh3_64(current.name.as_bytes()))
    }
}

/// A sequence of draws.
#[derive(Clone, Debug)]
pub struct Draws {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Draws {
    /// The sequence of (seed, tick, stream, who).
    pub fn new(seed: u64, tick: u64, stream: u64, who: u64) -> Self {
        let key = mix(mix(mix(seed) ^ tick) ^ stream);
        Self {
            key: [key as u32, (key >> 32) as u32],
            counter: [who as u32, (who >> 32) as u32, 0, 0],
            block: [0; 4],
            used: 4,
        }
    }

    /// 32 random bits.
    #[inline]
    pub fn u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[2] = self.counter[2].wrapping_add(1);
            self.used = 0;
        }
        let value = self.block[self.used];
        self.used += 1;
        value
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | (u64::from(self.u32()) << 32)
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    #[inline]
    pub fn unit32(&mut self) -> f32 {
        (self.u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn unit64(&mut self) -> f64 {
        (self.u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in [low, high).
    pub fn between32(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit32()
    }

    /// Uniform in 0..bound, by multiplication (Lemire 2019) without the rejection step: the bias is below
    /// bound / 2^32.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "nothing lies below 0");
        ((u64::from(self.u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Puts items in an order that is uniform among all (Fisher and Yates, as Durstenfeld 1964 has it).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }

    /// True with that probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit32() < probability
    }
}

/// A number that is scattered over all 64 bits: the finaliser of splitmix (Steele, Lea and Flood 2014) over value + the
/// golden ratio.
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[inline]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 library for philox4x32-10.
    #[test]
    fn philox_gives_the_known_answers() {
        let check = |counter, key, expected: [u32; 4]| assert_eq!(philox4x32_10(counter, key), expected);
        check([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        check(
            [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
            [0xa4093822, 0x299f31d0],
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        );
    }

    #[test]
    fn w3_draws_depend_on_who_and_when_only() {
        let draw = |seed, tick, stream, who| Draws::new(seed, tick, stream, who).u64();
        assert_eq!(draw(1, 2, 3, 4), draw(1, 2, 3, 4));
        let all = [draw(1, 2, 3, 4), draw(9, 2, 3, 4), draw(1, 9, 3, 4), draw(1, 2, 9, 4), draw(1, 2, 3, 9)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "a changed key must change the draw");
        }
    }

    #[test]
    fn units_are_uniform() {
        let mut draws = Draws::new(7, 0, 0, 0);
        let mut tenths = [0u32; 10];
        for _ in 0..100_000 {
            tenths[(draws.unit32() * 10.0) as usize] += 1;
        }
        // 10,000 expected each, standard deviation 95: five of them either side.
        assert!(tenths.iter().all(|count| (9_525..10_475).contains(count)), "{tenths:?}");
    }
}
