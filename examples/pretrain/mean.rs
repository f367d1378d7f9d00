//! A running mean.

/// Returns the mean of each point and the `n - 1` before it, where there are so many, in one pass.
///
/// Sums begin anew every `n` points, and nothing is subtracted: a large value leaves no rounding behind.
pub fn running(points: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    let mut means = Vec::with_capacity(points.len());
    // The sums of the last 0, 1, … points of the block before.
    let mut ends = Vec::new();
    for block in points.chunks(n) {
        let mut sum = 0.0;
        for (i, &(x, y)) in block.iter().enumerate() {
            sum += y;
            let mean = match ends.get(n - 1 - i) {
                Some(before) => (before + sum) / n as f64,
                None => sum / (i + 1) as f64,
            };
            means.push((x, mean));
        }
        ends = vec![0.0];
        let mut sum = 0.0;
        ends.extend(block.iter().rev().map(|(_, y)| {
            sum += y;
            sum
        }));
    }
    means
}
