//! The bytes of a chunk before compression.
//!
//! Rows of a plain column are turned into byte planes (all first bytes, all second bytes, ...): the bytes of
//! equal weight of a number are alike over the rows, and compress. Values of a slow column are a postcard list.

use everworld_engine::Chunk;

/// Rows whose bytes are moved together, so that they stay in the cache while the planes are written.
const BLOCK_ROWS: usize = 64;

/// Turns rows into planes. `rows` holds whole rows.
pub(super) fn to_planes(rows: &[u8], row_bytes: usize) -> Vec<u8> {
    let mut planes = vec![0; rows.len()];
    let count = rows.len().checked_div(row_bytes).unwrap_or(0);
    for start in (0..count).step_by(BLOCK_ROWS) {
        let end = count.min(start + BLOCK_ROWS);
        for byte in 0..row_bytes {
            let plane = &mut planes[byte * count..][start..end];
            let source = rows[start * row_bytes + byte..].iter().step_by(row_bytes);
            plane.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
        }
    }
    planes
}

/// Turns planes into rows. `planes` holds whole rows.
pub(super) fn from_planes(planes: &[u8], row_bytes: usize) -> Vec<u8> {
    let mut rows = vec![0; planes.len()];
    let count = planes.len().checked_div(row_bytes).unwrap_or(0);
    for start in (0..count).step_by(BLOCK_ROWS) {
        let end = count.min(start + BLOCK_ROWS);
        for byte in 0..row_bytes {
            let plane = &planes[byte * count..][start..end];
            let target = rows[start * row_bytes + byte..].iter_mut().step_by(row_bytes);
            target.zip(plane).for_each(|(to, from)| *to = *from);
        }
    }
    rows
}

/// The values of a slow chunk as one list.
pub(super) fn pack_values(values: &[Vec<u8>]) -> Vec<u8> {
    postcard::to_allocvec(values).expect("postcard always encodes a list of byte strings")
}

/// The slow chunk of a list, if it is one of that many values.
pub(super) fn unpack_values(bytes: &[u8], rows: usize) -> Result<Chunk, String> {
    match postcard::take_from_bytes::<Vec<Vec<u8>>>(bytes) {
        Ok((values, [])) if values.len() == rows => Ok(Chunk::Slow(values)),
        Ok(_) => Err(format!("it does not hold {rows} values")),
        Err(error) => Err(format!("it does not decode: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_the_bytes_of_equal_weight() {
        assert_eq!(to_planes(&[1, 2, 3, 4, 5, 6], 2), [1, 3, 5, 2, 4, 6]);
        assert_eq!(from_planes(&[1, 3, 5, 2, 4, 6], 2), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn rows_come_back_from_planes() {
        for (count, row_bytes) in [(0, 8), (1, 1), (63, 3), (64, 12), (65, 12), (200, 7), (5, 0)] {
            let rows: Vec<u8> = (0..count * row_bytes).map(|i| (i * 7 % 251) as u8).collect();
            assert_eq!(
                from_planes(&to_planes(&rows, row_bytes), row_bytes),
                rows,
                "{count} rows of {row_bytes}"
            );
        }
    }
}
