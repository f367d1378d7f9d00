//! Positions as in the papers: loops over f64 that share nothing with the library.

use candle_core::{DType, Device, Tensor};

/// Elements `[B, H, T, D]` in f64.
pub struct Heads {
    values: Vec<f64>,
    pub dims: [usize; 4],
}

impl Heads {
    pub fn of(x: &Tensor) -> Self {
        let (b, h, t, d) = x.dims4().unwrap();
        Self { values: numbers(x), dims: [b, h, t, d] }
    }

    pub fn row(&self, b: usize, h: usize, t: usize) -> &[f64] {
        let [_, n_head, n, d] = self.dims;
        &self.values[((b * n_head + h) * n + t) * d..][..d]
    }
}

/// Returns all elements of a tensor in f64, in logical order.
pub fn numbers(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
    x.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

pub fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(x, y)| x * y).sum()
}

fn plus(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|(x, y)| x + y).collect()
}

/// Computes `score(h, q_i, k_j, i, j)` of every pair, `[B, H, T_q, T_k]`; query `i` counts from `start`.
pub fn scores(
    q: &Tensor,
    k: &Tensor,
    start: usize,
    score: impl Fn(usize, &[f64], &[f64], i64, i64) -> f64,
) -> Vec<f64> {
    let (q, k) = (Heads::of(q), Heads::of(k));
    let ([n_b, n_h, t_q, _], [_, _, t_k, _]) = (q.dims, k.dims);
    let mut all = Vec::new();
    for b in 0..n_b {
        for h in 0..n_h {
            for i in 0..t_q {
                for j in 0..t_k {
                    all.push(score(h, q.row(b, h, i), k.row(b, h, j), (start + i) as i64, j as i64));
                }
            }
        }
    }
    all
}

/// Returns the row of a position or distance: sin(t θ_0), sin(t θ_1), …, cos(t θ_0), …
pub fn sines(t: f64, width: usize) -> Vec<f64> {
    let angle = |i: usize| t / 10000f64.powf(2. * i as f64 / width as f64);
    (0..width / 2).map(|i| angle(i).sin()).chain((0..width / 2).map(|i| angle(i).cos())).collect()
}

/// Computes ((q + u) · k + (q + v) · (W R_{i-j})) / √D, with `w` `[H D, C]`, `u` and `v` `[H, D]`.
pub fn transformer_xl(q: &Tensor, k: &Tensor, start: usize, [w, u, v]: [&Tensor; 3]) -> Vec<f64> {
    let (width, d) = (w.dim(1).unwrap(), u.dim(1).unwrap());
    let (w, u, v) = (numbers(w), numbers(u), numbers(v));
    scores(q, k, start, |h, q, k, i, j| {
        let r = sines((i - j) as f64, width);
        let projected: Vec<f64> = (0..d).map(|n| dot(&w[(h * d + n) * width..][..width], &r)).collect();
        let with = |bias: &[f64]| plus(q, &bias[h * d..][..d]);
        (dot(&with(&u), k) + dot(&with(&v), &projected)) / (d as f64).sqrt()
    })
}

/// Computes q · (k + a_clip(j - i)) / √D.
pub fn shaw(q: &Tensor, k: &Tensor, start: usize, table: &Tensor, left: i64, right: i64) -> Vec<f64> {
    let (a, d) = (numbers(table), table.dim(1).unwrap());
    scores(q, k, start, |_, q, k, i, j| {
        let row = ((j - i).clamp(-left, right) + left) as usize;
        dot(q, &plus(k, &a[row * d..][..d])) / (d as f64).sqrt()
    })
}

/// Computes -m_h (i - j).
pub fn alibi(h: usize, n_head: usize, i: i64, j: i64) -> f64 {
    let mut below = 1;
    while 2 * below <= n_head {
        below *= 2;
    }
    let slope = match h < below {
        true => 2f64.powf(-8. * (h + 1) as f64 / below as f64),
        false => 2f64.powf(-8. * (2 * (h - below) + 1) as f64 / (2 * below) as f64),
    };
    -slope * (i - j) as f64
}

/// Returns T5's bucket of the distance j - i, as mesh_tensorflow's comments describe it.
pub fn t5_bucket(distance: i64, n: usize, max_distance: usize, bidirectional: bool) -> usize {
    if bidirectional {
        let upper = if distance > 0 { n / 2 } else { 0 };
        return upper + t5_bucket(-distance.abs(), n / 2, max_distance, false);
    }
    let (back, exact) = ((-distance).max(0) as f64, (n / 2) as f64);
    if back < exact {
        return back as usize;
    }
    let further = (back / exact).ln() / (max_distance as f64 / exact).ln() * (n as f64 - exact);
    ((exact + further) as usize).min(n - 1)
}

/// Returns DeBERTa-v2's bucket of the distance i - j.
pub fn log_bucket(distance: i64, buckets: i64, max_position: i64) -> i64 {
    let mid = buckets / 2;
    if distance.abs() <= mid {
        return distance;
    }
    let log = (distance.abs() as f64 / mid as f64).ln() / ((max_position - 1) as f64 / mid as f64).ln();
    ((log * (mid - 1) as f64).ceil() as i64 + mid) * distance.signum()
}

/// A linear projection: `weight` `[N, C]`, `bias` `[N]`.
pub struct Projected {
    weight: Vec<f64>,
    bias: Vec<f64>,
    width: usize,
}

impl Projected {
    pub fn of((weight, bias): &(Tensor, Tensor)) -> Self {
        Self { weight: numbers(weight), bias: numbers(bias), width: weight.dim(1).unwrap() }
    }

    /// Returns elements `from..from + d` of the projection of `row`.
    fn part(&self, row: &[f64], from: usize, d: usize) -> Vec<f64> {
        (from..from + d).map(|n| dot(&self.weight[n * self.width..][..self.width], row) + self.bias[n]).collect()
    }
}

/// Computes (Qc · Kc + Qc · Kr_δ(i,j) + Kc · Qr_δ(i,j)) / √(n D); `delta(i - j)` is a row of the table, counted from
/// its middle.
///
/// The paper writes δ(j, i) in the last term; its authors' code uses the mirrored row.
pub fn deberta(
    q: &Tensor,
    k: &Tensor,
    start: usize,
    table: &Tensor,
    [c2p, p2c]: [Option<Projected>; 2],
    delta: impl Fn(i64) -> i64,
) -> Vec<f64> {
    let (n, width) = table.dims2().unwrap();
    let (d, span, table) = (q.dim(3).unwrap(), (n / 2) as i64, numbers(table));
    let n_terms = 1 + usize::from(c2p.is_some()) + usize::from(p2c.is_some());
    let row = |distance: i64| {
        let row = (delta(distance) + span).clamp(0, 2 * span - 1) as usize;
        &table[row * width..][..width]
    };
    scores(q, k, start, |h, q, k, i, j| {
        let c2p = c2p.as_ref().map_or(0., |projected| dot(q, &projected.part(row(i - j), h * d, d)));
        let p2c = p2c.as_ref().map_or(0., |projected| dot(k, &projected.part(row(i - j), h * d, d)));
        (dot(q, k) + c2p + p2c) / ((n_terms * d) as f64).sqrt()
    })
}

/// Rotates `x`: pair i of a head at position t by the angle t · frequencies[i].
pub fn rope(x: &Tensor, position: impl Fn(usize, usize) -> f64, frequencies: &[f64], interleaved: bool) -> Vec<f64> {
    let heads = Heads::of(x);
    let ([n_b, n_h, n_t, _], n) = (heads.dims, frequencies.len());
    let mut all = Vec::new();
    for (b, h, t) in (0..n_b).flat_map(|b| (0..n_h).flat_map(move |h| (0..n_t).map(move |t| (b, h, t)))) {
        let mut row = heads.row(b, h, t).to_vec();
        for (i, frequency) in frequencies.iter().enumerate() {
            let (left, right) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + n) };
            let (sin, cos) = (position(b, t) * frequency).sin_cos();
            (row[left], row[right]) = (row[left] * cos - row[right] * sin, row[right] * cos + row[left] * sin);
        }
        all.extend(row);
    }
    all
}
