//! Flocking: its parameters, a bird, what a bird sees and how it then turns. The rules are those of bench/src/baseline.

/// The large variant, scaled.
pub(crate) const RADIUS: f64 = 15.0;
pub(crate) const SEPARATION: f64 = 1.0;
pub(crate) const COHERE: f64 = 0.03;
pub(crate) const SEPARATE: f64 = 0.015;
pub(crate) const ALIGN: f64 = 0.05;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bird {
    pub position: [f64; 2],
    pub velocity: [f64; 2],
}

/// The birds of a file; an error if they are none, or not on the torus.
pub(crate) fn read(bytes: &[u8], side: f64) -> Result<Vec<Bird>, String> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<f64> = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let (rows, part) = numbers.as_chunks::<4>();
    if rows.is_empty() || !part.is_empty() || !rest.is_empty() {
        return Err(format!("{} bytes are not birds of 32 bytes each", bytes.len()));
    }
    let birds: Vec<_> =
        rows.iter().map(|[x, y, vx, vy]| Bird { position: [*x, *y], velocity: [*vx, *vy] }).collect();
    let good = |bird: &Bird| {
        bird.position.iter().all(|at| (0.0..side).contains(at)) && bird.velocity.iter().all(|v| v.is_finite())
    };
    match birds.iter().position(|bird| !good(bird)) {
        Some(index) => Err(format!("bird {index} is not on a torus of side {side}: {:?}", birds[index])),
        None => Ok(birds),
    }
}

/// What a flock comes to: how much of one mind it is, and the sums of its positions.
#[derive(Default)]
pub(crate) struct Summary {
    pub order_parameter: f64,
    pub checksum: [f64; 2],
}

impl Summary {
    pub(crate) fn of(birds: &[Bird]) -> Self {
        let sum = |part: fn(&Bird) -> f64| birds.iter().map(part).sum::<f64>();
        let [vx, vy] = [sum(|bird| bird.velocity[0]), sum(|bird| bird.velocity[1])];
        Self {
            order_parameter: (vx * vx + vy * vy).sqrt() / birds.len() as f64,
            checksum: [sum(|bird| bird.position[0]), sum(|bird| bird.position[1])],
        }
    }
}

/// What a bird sees of the others.
#[derive(Default)]
pub(crate) struct Seen {
    others: f64,
    way: [f64; 2],
    near: [f64; 2],
    going: [f64; 2],
}

impl Seen {
    /// Looks at another bird, from `own`.
    #[inline]
    pub(crate) fn look(&mut self, side: f64, own: [f64; 2], bird: &Bird) {
        let way = [0, 1].map(|axis| {
            let way = bird.position[axis] - own[axis];
            if way > side / 2.0 {
                way - side
            } else if way < -side / 2.0 {
                way + side
            } else {
                way
            }
        });
        let square = way[0] * way[0] + way[1] * way[1];
        if square > RADIUS * RADIUS {
            return;
        }
        self.others += 1.0;
        for axis in 0..2 {
            self.way[axis] += way[axis];
            self.going[axis] += bird.velocity[axis];
            if square < SEPARATION * SEPARATION {
                self.near[axis] += way[axis];
            }
        }
    }

    /// Where a bird of this velocity then goes.
    #[inline]
    pub(crate) fn turn(&self, velocity: [f64; 2]) -> [f64; 2] {
        let k = self.others.max(1.0);
        let turned = [0, 1].map(|axis| {
            let way = COHERE * self.way[axis] - SEPARATE * self.near[axis];
            velocity[axis] + (way + ALIGN * self.going[axis]) / k
        });
        let length = (turned[0] * turned[0] + turned[1] * turned[1]).sqrt();
        if length > 0.0 { turned.map(|part| part / length) } else { turned }
    }
}

/// Where a bird of this velocity then is.
#[inline]
pub(crate) fn flown(side: f64, position: [f64; 2], velocity: [f64; 2]) -> [f64; 2] {
    [0, 1].map(|axis| (position[axis] + velocity[axis]).rem_euclid(side))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contestant, flecs_flock, krab_flock};

    /// The way from one place to another.
    fn way(side: f64, from: [f64; 2], to: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| {
            let way = to[axis] - from[axis];
            way - side * (way / side).round()
        })
    }

    fn length([x, y]: [f64; 2]) -> f64 {
        (x * x + y * y).sqrt()
    }

    /// Every bird looks at every other.
    fn slow_step(side: f64, birds: &[Bird]) -> Vec<Bird> {
        let stepped = birds.iter().enumerate().map(|(i, bird)| {
            let (mut count, mut by) = (0.0_f64, [0.0; 2]);
            for (j, other) in birds.iter().enumerate() {
                let way = way(side, bird.position, other.position);
                let distance = length(way);
                if i == j || distance > RADIUS {
                    continue;
                }
                count += 1.0;
                let towards = if distance < SEPARATION { COHERE - SEPARATE } else { COHERE };
                for axis in 0..2 {
                    by[axis] += towards * way[axis] + ALIGN * other.velocity[axis];
                }
            }
            let velocity = [0, 1].map(|axis| bird.velocity[axis] + by[axis] / count.max(1.0));
            let speed = length(velocity);
            let velocity = if speed > 0.0 { velocity.map(|part| part / speed) } else { velocity };
            Bird { position: flown(side, bird.position, velocity), velocity }
        });
        stepped.collect()
    }

    /// Birds anywhere, at the density of the model, from a xorshift.
    fn scattered(count: usize) -> (f64, Vec<Bird>) {
        let side = 150.0 * (count as f64 / 400.0).sqrt();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let birds = (0..count).map(|_| Bird {
            position: [draw() * side, draw() * side],
            velocity: [2.0 * draw() - 1.0, 2.0 * draw() - 1.0],
        });
        (side, birds.collect())
    }

    const STEPS: usize = 10;

    /// Flies the contestant: how far each of `these` birds then is from where it should be, the nearest first.
    fn offs(
        mut contestant: impl Contestant,
        expected: &[Bird],
        side: f64,
        these: impl Fn(&Bird) -> bool,
    ) -> Vec<f64> {
        (0..STEPS).for_each(|_| contestant.step());
        let birds = contestant.birds();
        assert_eq!(birds.len(), expected.len());
        let pairs = birds.iter().zip(expected).filter(|(_, should)| these(should));
        let mut offs: Vec<_> =
            pairs.map(|(is, should)| length(way(side, is.position, should.position))).collect();
        offs.sort_by(f64::total_cmp);
        let (is, should) = (Summary::of(&birds), Summary::of(expected));
        println!("order {} for {}", is.order_parameter, should.order_parameter);
        println!("sums {:?} for {:?}", is.checksum, should.checksum);
        println!("{} birds, off by at most {:?}", offs.len(), offs.last());
        offs
    }

    fn check(count: usize) {
        let (side, birds) = scattered(count);
        let mut slow = birds.clone();
        (0..STEPS).for_each(|_| slow = slow_step(side, &slow));
        for threads in [1, 2] {
            for world in [flecs_flock::idiomatic, flecs_flock::sorted] {
                let offs = offs(world(side, &birds, threads), &slow, side, |_| true);
                assert!(offs[count - 1] < 1e-9, "flecs on {threads} threads is off by {}", offs[count - 1]);
            }
        }
        // So far from the seam that nobody there has heard of it. In single floats one in a thousand sees a neighbour
        // more or less at the very end of its sight.
        let margin = STEPS as f64 * (RADIUS + 1.0);
        let inside = |bird: &Bird| bird.position.iter().all(|at| (margin..side - margin).contains(at));
        let offs = offs(krab_flock::Flock::new(side, &birds), &slow, side, inside);
        let most = offs[offs.len() * 99 / 100];
        assert!(most < 1e-3, "krABMaga is off by {most}");
    }

    #[test]
    fn contestants_fly_as_the_model_does() {
        check(2_000);
    }

    #[test]
    #[ignore = "every bird looks at every other: minutes"]
    fn many_fly_as_the_model_does() {
        check(20_000);
    }

    #[test]
    fn files_are_checked() {
        let bytes = |numbers: &[f64]| -> Vec<u8> { numbers.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let check = |bytes: &[u8], expected: &str| {
            let error = read(bytes, 150.0).err().unwrap_or_default();
            assert!(error.contains(expected) && error.is_empty() == expected.is_empty(), "{error}");
        };
        check(&bytes(&[0.0, 149.0, 1.0, -1.0]), "");
        check(&[], "0 bytes");
        check(&bytes(&[0.0; 5]), "40 bytes");
        check(&bytes(&[0.0; 8])[..63], "63 bytes");
        check(&bytes(&[0.0, 1.0, 0.0, 0.0, 150.0, 0.0, 0.0, 0.0]), "bird 1 is not on");
        check(&bytes(&[0.0, 1.0, f64::NAN, 0.0]), "bird 0 is not on");
    }
}
