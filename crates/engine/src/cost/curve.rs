//! What several rows cost that share a read of the weights: a curve of straight pieces that never
//! falls.

/// Rows at which the curve has a point. It is 1 at one row, and beyond the last point it goes on as
/// the last piece does.
pub(super) const POINTS: [usize; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 128];

/// Pieces of the curve: the parameters are what it grows by over each.
pub(super) const INCREMENTS: usize = POINTS.len() - 1;

/// How much of each increment the curve has at this many rows.
pub(super) fn reached(rows: usize) -> [f64; INCREMENTS] {
    std::array::from_fn(|piece| {
        let (from, to) = (POINTS[piece] as f64, POINTS[piece + 1] as f64);
        let share = ((rows as f64 - from) / (to - from)).max(0.0);
        if piece + 1 == INCREMENTS { share } else { share.min(1.0) }
    })
}

/// Increments of a curve whose first `values.len()` points were measured; beyond, it goes on as it
/// did on average. Whatever disturbs a pass makes it slower, so where fewer rows seem to cost more,
/// it is the fewer that were disturbed.
pub(super) fn increments(values: &[f64]) -> [f64; INCREMENTS] {
    let mut ascending = values.to_vec();
    let mut least = f64::INFINITY;
    for value in ascending.iter_mut().rev() {
        least = least.min(*value);
        *value = least.max(1.0);
    }
    if let Some(first) = ascending.first_mut() {
        *first = 1.0;
    }
    let last = ascending.len().saturating_sub(1);
    let most = ascending.last().copied().unwrap_or(1.0);
    let for_each_row = (most - 1.0) / (POINTS[last] - 1).max(1) as f64;
    std::array::from_fn(|piece| match ascending.get(piece + 1) {
        Some(value) => value - ascending[piece],
        None => for_each_row * (POINTS[piece + 1] - POINTS[piece]) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_adds_up_to_the_rows() {
        for rows in [1, 2, 3, 9, 14, 64, 100, 128, 200] {
            let widths = POINTS.windows(2).map(|pair| (pair[1] - pair[0]) as f64);
            let sum: f64 = widths.zip(reached(rows)).map(|(width, share)| width * share).sum();
            assert!((sum - (rows - 1) as f64).abs() < 1e-9, "{rows} rows: {sum}");
        }
    }

    #[test]
    fn a_disturbed_measurement_does_not_make_more_rows_dear() {
        let found = increments(&[1.0, 1.6, 1.2, 1.3, 0.9, 2.0, 1.9]);
        assert_eq!(found[..4], [0.0; 4]);
        assert!((found[4] - 0.9).abs() < 1e-12 && found[5] == 0.0, "{found:?}");
        assert!((found[6] - 0.15).abs() < 1e-12, "goes on: {found:?}");
        assert_eq!(increments(&[]), [0.0; INCREMENTS]);
    }
}
