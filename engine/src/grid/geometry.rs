//! Where things are, and which cells are near: rectangles and boxes, walled or wrapped around.

use std::ops::Range;

/// The space that a grid divides into cells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    low: [f64; 3],
    size: [f64; 3],
    wraps: bool,
    /// Cells along each axis.
    cells: [u32; 3],
    /// Cells a unit of length, along each axis.
    scale: [f64; 3],
    /// How many cells away something may be that is near.
    reach: u32,
}

/// A cell is at least this part larger than what has to fit: no rounding then brings a neighbour out of reach.
const SLACK: f64 = 1e-9;

impl Geometry {
    /// A rectangle from (0, 0) on with walls, in which things within `radius` are near.
    ///
    /// # Panics
    /// When a side or the radius is not positive and finite.
    pub fn bounded(size: [f64; 2], radius: f64) -> Self {
        Self::new([size[0], size[1], 0.0], radius, false)
    }

    /// A rectangle from (0, 0) on whose opposite sides are one, in which things within `radius` are near.
    ///
    /// # Panics
    /// When a side or the radius is not positive and finite, or the radius is not less than half of a side: something would
    /// be near in two directions.
    pub fn torus(size: [f64; 2], radius: f64) -> Self {
        Self::new([size[0], size[1], 0.0], radius, true)
    }

    /// A box from (0, 0, 0) on with walls, in which things within `radius` are near.
    ///
    /// # Panics
    /// As [`Geometry::bounded`].
    pub fn bounded_box(size: [f64; 3], radius: f64) -> Self {
        assert!(size[2] > 0.0, "a box has a height");
        Self::new(size, radius, false)
    }

    /// A box from (0, 0, 0) on whose opposite sides are one, in which things within `radius` are near.
    ///
    /// # Panics
    /// As [`Geometry::torus`].
    pub fn torus_box(size: [f64; 3], radius: f64) -> Self {
        assert!(size[2] > 0.0, "a box has a height");
        Self::new(size, radius, true)
    }

    /// Sites at whole numbers from (0, 0) on, each of them a cell; what is at most `reach` sites away along both axes is
    /// near.
    ///
    /// # Panics
    /// When there are no sites.
    pub fn lattice(sites: [u32; 2], reach: u32, wraps: bool) -> Self {
        assert!(sites[0] > 0 && sites[1] > 0, "a lattice has sites");
        let size = [f64::from(sites[0]), f64::from(sites[1]), 0.0];
        // Half a site lower: a site is in the middle of its cell.
        let low = [-0.5, -0.5, 0.0];
        Self { low, size, wraps, cells: [sites[0], sites[1], 1], scale: [1.0, 1.0, 0.0], reach }
    }

    fn new(size: [f64; 3], radius: f64, wraps: bool) -> Self {
        let is_good = |length: f64| length.is_finite() && length > 0.0;
        assert!(is_good(radius), "the radius is a positive number, not {radius}");
        let mut geometry = Self { low: [0.0; 3], size, wraps, cells: [1; 3], scale: [0.0; 3], reach: 1 };
        for axis in 0..3 {
            let length = size[axis];
            if axis == 2 && length == 0.0 {
                break;
            }
            assert!(is_good(length), "a side is a positive number, not {length}");
            assert!(
                !wraps || 2.0 * radius < length,
                "on a torus a side of {length} has two ways within {radius}"
            );
            let least = radius * (1.0 + SLACK);
            let fit = |cells: f64| cells.clamp(1.0, f64::from(u32::MAX)) as u32;
            // Within walls the last cell may be a part of one; across a seam all have to be as large.
            if wraps {
                geometry.cells[axis] = fit((length / least).floor());
                geometry.scale[axis] = f64::from(geometry.cells[axis]) / length;
            } else {
                geometry.cells[axis] = fit((length / least).ceil());
                geometry.scale[axis] = 1.0 / least;
            }
        }
        geometry
    }

    /// The same with fewer, larger cells, as far as there are more than `most`.
    pub(super) fn at_most(mut self, most: usize) -> Self {
        let axes = if self.size[2] > 0.0 { 3 } else { 2 };
        while self.count() > most {
            // The longest axis first: cells stay near to squares.
            let axis = (0..axes).max_by_key(|axis| self.cells[*axis]).unwrap_or(0);
            self.cells[axis] = self.cells[axis].div_ceil(2);
            self.scale[axis] = if self.wraps {
                f64::from(self.cells[axis]) / self.size[axis]
            } else {
                self.scale[axis] / 2.0
            };
        }
        self
    }

    /// How many cells there are.
    pub fn count(&self) -> usize {
        self.cells.iter().fold(1, |count: usize, cells| count.saturating_mul(*cells as usize))
    }

    /// The cell of a place; of one outside, the nearest.
    #[inline]
    pub fn cell_of(&self, place: [f64; 3]) -> usize {
        let along = |axis: usize| {
            // What is negative, or no number, becomes 0.
            (((place[axis] - self.low[axis]) * self.scale[axis]) as u32).min(self.cells[axis] - 1) as usize
        };
        let [x, y, z] = [along(0), along(1), along(2)];
        (z * self.cells[1] as usize + y) * self.cells[0] as usize + x
    }

    /// Where a cell is among the cells of each axis.
    fn position(&self, cell: usize) -> [i64; 3] {
        let [nx, ny] = [self.cells[0] as usize, self.cells[1] as usize];
        [(cell % nx) as i64, (cell / nx % ny) as i64, (cell / nx / ny) as i64]
    }

    /// The cells that are near to a cell, as runs of cells with consecutive numbers: `found` is given the cells, and what
    /// is to be added to the places in them to see them from here. A cell that is near in several directions comes for
    /// each of them. The order depends on nothing else.
    #[inline]
    pub fn near(&self, cell: usize, mut found: impl FnMut(Range<usize>, [f64; 3])) {
        let at = self.position(cell);
        let reach = i64::from(self.reach);
        let around = |axis: usize| {
            let (from, to, last) = (at[axis] - reach, at[axis] + reach, i64::from(self.cells[axis]) - 1);
            if self.size[axis] == 0.0 {
                (0, 0)
            } else if self.wraps {
                (from, to)
            } else {
                (from.max(0), to.min(last))
            }
        };
        let wrapped = |axis: usize, to: i64| {
            let cells = i64::from(self.cells[axis]);
            let turns = to.div_euclid(cells);
            (to - turns * cells, turns as f64 * self.size[axis])
        };
        let ((from_x, to_x), (from_y, to_y), (from_z, to_z)) = (around(0), around(1), around(2));
        for z in from_z..=to_z {
            let (z, shift_z) = wrapped(2, z);
            for y in from_y..=to_y {
                let (y, shift_y) = wrapped(1, y);
                let row = (z * i64::from(self.cells[1]) + y) * i64::from(self.cells[0]);
                let mut x = from_x;
                while x <= to_x {
                    let (start, shift_x) = wrapped(0, x);
                    // Up to the end of the row, or of what is near.
                    let len = (i64::from(self.cells[0]) - start).min(to_x - x + 1);
                    let first = (row + start) as usize;
                    found(first..first + len as usize, [shift_x, shift_y, shift_z]);
                    x += len;
                }
            }
        }
    }

    /// The cells along an axis that are at most so many away from `at`, each once; true when that is all there are.
    fn span(&self, axis: usize, at: i64, away: i64) -> (i64, i64, bool) {
        let cells = i64::from(self.cells[axis]);
        let (first, last) = if self.wraps { (at - (cells - 1) / 2, at + cells / 2) } else { (0, cells - 1) };
        let (from, to) = ((at - away).max(first), (at + away).min(last));
        (from, to, (from, to) == (first, last))
    }

    /// The cells that are exactly so many cells away from a place, along one axis at least, each of them once; and how far
    /// everything is that is in none of them, nor in those nearer by.
    pub(super) fn shell(&self, place: [f64; 3], away: i64, mut found: impl FnMut(usize)) -> f64 {
        let at = self.position(self.cell_of(place));
        let spans: [_; 3] = std::array::from_fn(|axis| self.span(axis, at[axis], away));
        let number = |axis: usize, to: i64| to.rem_euclid(i64::from(self.cells[axis])) as usize;
        let [(from_x, to_x, _), (from_y, to_y, _), (from_z, to_z, _)] = spans;
        for z in from_z..=to_z {
            for y in from_y..=to_y {
                let row = (number(2, z) * self.cells[1] as usize + number(1, y)) * self.cells[0] as usize;
                let is_face = (z - at[2]).abs() == away || (y - at[1]).abs() == away;
                let inner = if is_face { 1 } else { (2 * away).max(1) };
                // Of a row through the middle only the two ends.
                let mut x = if is_face { from_x } else { at[0] - away };
                while x <= to_x {
                    if x >= from_x {
                        found(row + number(0, x));
                    }
                    x += inner;
                }
            }
        }
        let beyond = |axis: usize| {
            let (from, to, is_all) = spans[axis];
            if is_all {
                return f64::INFINITY;
            }
            // On a torus, a place that is not within it is as far as it seems.
            let along = (place[axis] - self.low[axis]) * self.scale[axis];
            let low = if self.wraps || from > 0 { along - from as f64 } else { f64::INFINITY };
            let has_more = self.wraps || to < i64::from(self.cells[axis]) - 1;
            let high = if has_more { (to + 1) as f64 - along } else { f64::INFINITY };
            low.min(high).max(0.0) / self.scale[axis]
        };
        (0..3).map(beyond).fold(f64::INFINITY, f64::min) * (1.0 - SLACK)
    }

    /// The way from one place to another: on a torus the shorter one.
    #[inline]
    pub fn way(&self, from: [f64; 3], to: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| {
            let way = to[axis] - from[axis];
            if !self.wraps || self.size[axis] == 0.0 {
                way
            } else if way > self.size[axis] / 2.0 {
                way - self.size[axis]
            } else if way < -self.size[axis] / 2.0 {
                way + self.size[axis]
            } else {
                way
            }
        })
    }
}

impl Default for Geometry {
    /// One cell.
    fn default() -> Self {
        Self::lattice([1, 1], 0, false)
    }
}
