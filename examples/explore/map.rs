//! A flat map of vectors: the two directions in which they differ most (principal components).

use crate::rows::dot;

/// On the map when no others are named: words of one kind each.
pub const WORDS: [&str; 6] = [
    "one,two,three,four,five,six,seven,ten,hundred,thousand",
    "father,mother,son,daughter,brother,sister,wife,husband,children",
    "king,priest,servant,lord,prophet,people,men",
    "Egypt,Israel,Jerusalem,David,Moses,Jacob,Abraham",
    "said,went,came,took,gave,saw,made,called,sent,died",
    "hand,eyes,head,feet,heart,mouth,face,blood",
];

/// Enough for four decimals where two components do not share their size.
const ROUNDS: usize = 300;

/// Vectors along their first two principal components, largest first.
#[derive(Default)]
pub struct Flat {
    pub points: Vec<(f64, f64)>,
    /// How much of the variance each component has.
    pub shares: [f64; 2],
}

/// Returns the coordinates of each vector.
pub fn flat(vectors: &[Vec<f32>]) -> Flat {
    let n = vectors.len();
    let Some(width) = vectors.first().map(Vec::len) else { return Flat::default() };
    let mean: Vec<f32> = (0..width).map(|c| vectors.iter().map(|v| v[c]).sum::<f32>() / n as f32).collect();
    let centred: Vec<Vec<f32>> =
        vectors.iter().map(|v| v.iter().zip(&mean).map(|(x, mean)| x - mean).collect()).collect();
    // The eigenvectors of the Gram matrix are the coordinates, but for their lengths.
    let gram: Vec<Vec<f64>> = centred.iter().map(|v| centred.iter().map(|w| f64::from(dot(v, w))).collect()).collect();
    let first = component(&gram, None);
    let second = component(&gram, Some(&first));
    let variance = (0..n).map(|i| gram[i][i]).sum::<f64>().max(f64::MIN_POSITIVE);
    let shares = [&first, &second].map(|component| component.iter().map(|x| x * x).sum::<f64>() / variance);
    Flat { points: first.into_iter().zip(second).collect(), shares }
}

/// Power iteration, orthogonal to `other`; scaled to the spread of the points along it.
fn component(gram: &[Vec<f64>], other: Option<&[f64]>) -> Vec<f64> {
    let n = gram.len();
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let mut vector: Vec<f64> = (0..n).map(|i| (1.0 + i as f64).sin()).collect();
    let mut size = 0.0;
    for _ in 0..ROUNDS {
        if let Some(other) = other {
            let share = product(&vector, other) / product(other, other).max(f64::MIN_POSITIVE);
            vector.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
        }
        let length = product(&vector, &vector).sqrt().max(f64::MIN_POSITIVE);
        let unit: Vec<f64> = vector.iter().map(|x| x / length).collect();
        vector = gram.iter().map(|row| product(row, &unit)).collect();
        size = product(&vector, &unit).max(0.0);
    }
    let length = product(&vector, &vector).sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|x| x / length * size.sqrt()).collect()
}
