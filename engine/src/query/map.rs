//! Where entities are: how many in each cell of a picture, or the places of some of them.
//!
//! Entities have a place if they have the component `position` with the fields `x` and `y`.

use super::{
    BoundFilter, Registry, Scalar, TableImage,
    bind::{NumberField, column_of, read},
    chunks_of, in_parallel, number_at, rows_of, single,
};
use crate::{
    image::Image,
    query::{Path, QueryError},
};

/// What gives places and, if wanted, a value of each.
pub struct Picture {
    position: usize,
    fields: [(usize, Scalar); 2],
    value: Option<(NumberField, &'static str)>,
}

/// A part of the plane, cut into cells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cells {
    /// The lower left corner.
    pub low: (f64, f64),
    /// The upper right corner.
    pub high: (f64, f64),
    /// How many cells beside each other.
    pub width: usize,
    /// How many above each other.
    pub height: usize,
}

/// What is in the cells, row by row from the lower left corner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Density {
    /// How many entities.
    pub counts: Vec<u32>,
    /// The mean of their values, none where nobody is; empty if no value was asked for.
    pub means: Vec<Option<f64>>,
}

/// An entity's place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where it is.
    pub x: f64,
    /// Where it is.
    pub y: f64,
    /// Its value, if one was asked for and it has it.
    pub value: Option<f64>,
}

impl Picture {
    /// Of the positions; coloured by a number, `needs.hunger`, if one is given.
    ///
    /// # Errors
    /// When the world's entities have no position in the plane, or there is no such number.
    pub fn bind(color_by: Option<&str>, registry: &Registry) -> Result<Self, QueryError> {
        let value = color_by.map(|name| {
            let path: Path = name.parse()?;
            let field = single(&path, registry)?;
            let column = registry.columns()[field.column].name;
            Ok::<_, QueryError>((field, column))
        });
        let (position, fields) = plane(registry)?;
        Ok(Self { position, fields, value: value.transpose()? })
    }

    /// The places of a chunk's entities that are meant, by row.
    fn each(
        &self,
        filter: &BoundFilter,
        image: &Image,
        (table, chunk): (usize, usize),
        mut see: impl FnMut(usize, f64, f64),
    ) {
        let table: &TableImage = &image.tables[table];
        let Some(column) = table.column(filter.registry().columns()[self.position].name) else { return };
        let (Some(bytes), Some(row_bytes)) = (column.chunks[chunk].plain(), column.schema.row_bytes()) else {
            return;
        };
        for row in rows_of(&filter.holds(table, chunk)) {
            let [x, y] =
                self.fields.map(|(place, scalar)| read(scalar, &bytes[row * row_bytes + place..]).as_f64());
            if x.is_finite() && y.is_finite() {
                see(row, x, y);
            }
        }
    }

    fn value(&self, image: &Image, (table, chunk): (usize, usize), row: usize) -> Option<f64> {
        let (field, column) = self.value.as_ref()?;
        number_at(field, column, &image.tables[table], chunk, row).map(super::Number::as_f64)
    }

    /// The corners of the smallest box that holds all; none when there is nobody.
    pub fn bounds(&self, filter: &BoundFilter, image: &Image) -> Option<((f64, f64), (f64, f64))> {
        let look = |place| {
            let mut found: Option<((f64, f64), (f64, f64))> = None;
            self.each(filter, image, place, |_, x, y| {
                let (low, high) = found.unwrap_or(((x, y), (x, y)));
                found = Some(((low.0.min(x), low.1.min(y)), (high.0.max(x), high.1.max(y))));
            });
            found
        };
        in_parallel(chunks_of(image), look).into_iter().flatten().reduce(|(low, high), (low2, high2)| {
            ((low.0.min(low2.0), low.1.min(low2.1)), (high.0.max(high2.0), high.1.max(high2.1)))
        })
    }

    /// How many entities are in each cell. Those on the upper and right borders count as inside.
    pub fn density(&self, filter: &BoundFilter, image: &Image, cells: &Cells) -> Density {
        let count = cells.width * cells.height;
        let mut counts = vec![0_u32; count];
        // In fixed order: the same sums for any number of threads.
        let mut sums = vec![(0.0_f64, 0_u32); if self.value.is_some() { count } else { 0 }];
        let look = |place| {
            let mut found: Vec<(u32, Option<f64>)> = Vec::new();
            self.each(filter, image, place, |row, x, y| {
                if let Some(cell) = cells.of(x, y) {
                    found.push((cell as u32, self.value(image, place, row)));
                }
            });
            found
        };
        for (cell, value) in in_parallel(chunks_of(image), look).into_iter().flatten() {
            counts[cell as usize] += 1;
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let (sum, count) = &mut sums[cell as usize];
                (*sum, *count) = (*sum + value, *count + 1);
            }
        }
        let means =
            sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / f64::from(count))).collect();
        Density { counts, means }
    }

    /// The places of at most so many entities within the cells' box, spread evenly over all of them; and how many there are.
    pub fn points(
        &self,
        filter: &BoundFilter,
        image: &Image,
        cells: &Cells,
        limit: usize,
    ) -> (Vec<Point>, usize) {
        let places = chunks_of(image);
        let count = |place| {
            let mut count = 0;
            self.each(filter, image, place, |_, x, y| count += usize::from(cells.of(x, y).is_some()));
            count
        };
        let counts: Vec<usize> = in_parallel(places.clone(), count);
        let total: usize = counts.iter().sum();
        let step = total.div_ceil(limit.max(1)).max(1);
        let mut before = 0;
        let work: Vec<_> = places
            .into_iter()
            .zip(counts)
            .map(|(place, count)| {
                before += count;
                (place, before - count)
            })
            .collect();
        let look = |(place, first): ((usize, usize), usize)| {
            let (mut number, mut found) = (first, Vec::new());
            self.each(filter, image, place, |row, x, y| {
                if cells.of(x, y).is_some() {
                    if number % step == 0 {
                        found.push(Point { x, y, value: self.value(image, place, row) });
                    }
                    number += 1;
                }
            });
            found
        };
        (in_parallel(work, look).into_iter().flatten().collect(), total)
    }
}

impl Cells {
    /// The number of the cell in which a place is.
    fn of(&self, x: f64, y: f64) -> Option<usize> {
        let within = |at: f64, low: f64, high: f64, count: usize| {
            if !(low..=high).contains(&at) {
                return None;
            }
            let share = if high > low { (at - low) / (high - low) } else { 0.0 };
            Some(((share * count as f64) as usize).min(count - 1))
        };
        let column = within(x, self.low.0, self.high.0, self.width)?;
        let row = within(y, self.low.1, self.high.1, self.height)?;
        Some(row * self.width + column)
    }
}

/// The column of the position, and where its two fields are.
pub(super) fn plane(registry: &Registry) -> Result<(usize, [(usize, Scalar); 2]), QueryError> {
    let none = || QueryError("this world's entities have no position in the plane".into());
    column_of("position", registry).map_err(|_| none())?;
    let at = |field: &str| {
        let path: Path = format!("position.{field}").parse()?;
        single(&path, registry).map_err(|_| none())
    };
    let (x, y) = (at("x")?, at("y")?);
    Ok((x.column, [(x.places[0], x.scalar), (y.places[0], y.scalar)]))
}
