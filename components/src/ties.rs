//! Whom someone knows.

use everworld_engine::{component, row};

row! {
    /// What someone is to somebody: 12 bytes.
    pub struct Tie {
        /// Who, by the number of their Uid; 0 for nobody.
        who: u32,
        /// From -1, hated, to 1, loved.
        affinity: f32,
        /// How well known, from 0 to 1.
        familiarity: f32,
    }
}

/// So many people someone can have ties to.
pub const TIES: usize = 16;

component! {
    /// Whom someone knows: the strongest ties, in no order.
    pub struct Ties("ties", version 1) {
        /// Each; those to nobody are free.
        known: [Tie; 16],
    }
}

impl Ties {
    /// What that one is to them.
    #[inline]
    pub fn to(&self, who: u32) -> Option<&Tie> {
        self.known.iter().find(|tie| tie.who == who && who != 0)
    }

    /// What that one is to them, to be changed; who is not known takes the place of the weakest tie.
    pub fn with(&mut self, who: u32) -> &mut Tie {
        let known = self.known.iter().position(|tie| tie.who == who);
        let at = known.unwrap_or_else(|| self.weakest());
        if known.is_none() {
            self.known[at] = Tie { who, affinity: 0.0, familiarity: 0.0 };
        }
        &mut self.known[at]
    }

    fn weakest(&self) -> usize {
        let strength = |i: usize| self.known[i].strength();
        (1..TIES).fold(0, |weakest, i| if strength(i) < strength(weakest) { i } else { weakest })
    }
}

impl Tie {
    /// How much there is to lose; of no tie less than of any.
    pub fn strength(&self) -> f32 {
        if self.who == 0 { -1.0 } else { self.familiarity + self.affinity.abs() }
    }
}
