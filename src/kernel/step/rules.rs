//! The arithmetic of Adam, element by element: one rule for all rows (AdamW), one for the rows of a batch (SparseAdam).
//!
//! Every operation rounds as PyTorch's does, fused multiply-adds included. So the bits are PyTorch's on x86-64 with
//! AVX2, except for the last few elements of a tensor whose length is not a multiple of 16, where PyTorch fuses
//! differently. One source is compiled twice; both versions have the same bits.

use crate::kernel::core::element::{Element, Real};

/// The settings of one step of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    pub(crate) learning_rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    /// Counted from 1.
    pub(crate) step: u64,
    /// The factor that gradients are multiplied by first.
    pub(crate) grad_scale: f64,
}

impl AdamStep {
    /// Returns `1 - beta1^step` and `1 - beta2^step`.
    pub(crate) fn bias_corrections(&self) -> (f64, f64) {
        let step = self.step as f64;
        (1.0 - self.beta1.powf(step), 1.0 - self.beta2.powf(step))
    }

    /// Returns the factor that a parameter is multiplied by before anything is added to it.
    pub(crate) fn decay(&self) -> f64 {
        1.0 - self.learning_rate * self.weight_decay
    }

    /// Returns how far a parameter goes along `exp_avg / sqrt(exp_avg_sq)` when rows of a batch are updated.
    pub(crate) fn row_step_size(&self) -> f64 {
        let (correction1, correction2) = self.bias_corrections();
        self.learning_rate * correction2.sqrt() / correction1
    }
}

/// Maps one element's parameter, `exp_avg`, `exp_avg_sq` and gradient to the first three after the step.
pub(crate) trait Rule<M: Real>: Copy + Send + Sync {
    fn new(step: &AdamStep) -> Self;
    fn apply(&self, p: M, m: M, v: M, g: M) -> (M, M, M);
}

/// `torch.optim.AdamW(fused=True)` on the CPU (`ATen/native/cpu/FusedAdamKernel.cpp`).
///
/// The layout is that of the struct in adam.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AdamWRule<M> {
    grad_scale: M,
    decay: M,
    /// `lerp(m, g, weight)` is computed from the nearer end.
    lerp_from_m: bool,
    lerp_weight: M,
    beta2: M,
    grad_sq_weight: M,
    correction2_sqrt: M,
    eps: M,
    neg_step_size: M,
}

impl<M: Real> Rule<M> for AdamWRule<M> {
    fn new(step: &AdamStep) -> Self {
        let (correction1, correction2) = step.bias_corrections();
        let weight = M::from_f64(1.0 - step.beta1);
        let lerp_from_m = weight.into() < 0.5;
        Self {
            grad_scale: M::from_f64(step.grad_scale),
            decay: M::from_f64(step.decay()),
            lerp_from_m,
            lerp_weight: if lerp_from_m { weight } else { weight - M::from_f64(1.0) },
            beta2: M::from_f64(step.beta2),
            grad_sq_weight: M::from_f64(1.0 - step.beta2),
            correction2_sqrt: M::from_f64(correction2.sqrt()),
            eps: M::from_f64(step.eps),
            neg_step_size: M::from_f64(-(step.learning_rate / correction1)),
        }
    }

    #[inline(always)]
    fn apply(&self, p: M, m: M, v: M, g: M) -> (M, M, M) {
        let (p, g) = (p * self.decay, g * self.grad_scale);
        let m = self.lerp_weight.mul_add(g - m, if self.lerp_from_m { m } else { g });
        let v = (self.grad_sq_weight * g).mul_add(g, v * self.beta2);
        let denominator = v.sqrt() / self.correction2_sqrt + self.eps;
        (p + self.neg_step_size * m / denominator, m, v)
    }
}

/// `torch.optim.SparseAdam` (`torch/optim/_functional.py`, `sparse_adam`), and AdamW's decay before it.
///
/// The layout is that of the struct in adam.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RowRule<M> {
    grad_scale: M,
    decay: M,
    grad_weight: M,
    grad_sq_weight: M,
    eps: M,
    neg_step_size: M,
}

impl<M: Real> Rule<M> for RowRule<M> {
    fn new(step: &AdamStep) -> Self {
        Self {
            grad_scale: M::from_f64(step.grad_scale),
            decay: M::from_f64(step.decay()),
            grad_weight: M::from_f64(1.0 - step.beta1),
            grad_sq_weight: M::from_f64(1.0 - step.beta2),
            eps: M::from_f64(step.eps),
            neg_step_size: M::from_f64(-step.row_step_size()),
        }
    }

    #[inline(always)]
    fn apply(&self, p: M, m: M, v: M, g: M) -> (M, M, M) {
        let (p, g) = (p * self.decay, g * self.grad_scale);
        let m = m + (g - m) * self.grad_weight;
        let v = v + (g * g - v) * self.grad_sq_weight;
        (p + self.neg_step_size * (m / (v.sqrt() + self.eps)), m, v)
    }
}

/// Work on slices that is compiled a second time for wider registers.
trait Task {
    type Output;
    /// Must be `#[inline(always)]`, and so must all that it calls.
    fn run(self) -> Self::Output;
}

fn wide<T: Task>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: `wide_avx2` only requires AVX2 and FMA, which the line above has found.
        return unsafe { wide_avx2(task) };
    }
    task.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wide_avx2<T: Task>(task: T) -> T::Output {
    task.run()
}

/// A run of elements of a parameter and of its state, and their gradient; `None` is a gradient of zeros.
pub(crate) struct Run<'a, E> {
    pub(crate) p: &'a mut [E],
    pub(crate) m: &'a mut [E],
    pub(crate) v: &'a mut [E],
    pub(crate) g: Option<&'a [E]>,
}

impl<E: Element> Run<'_, E> {
    /// Updates the run. All slices have the same length.
    pub(crate) fn step<R: Rule<E::Wide>>(self, rule: &R) {
        wide((rule, self));
    }
}

impl<E: Element, R: Rule<E::Wide>> Task for (&R, Run<'_, E>) {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (rule, Run { p, m, v, g }) = self;
        match g {
            _ if size_of::<E>() < size_of::<E::Wide>() => step_in_blocks(rule, p, m, v, g),
            Some(g) => step_with_gradient(rule, p, m, v, g),
            None => step_without_gradient(rule, p, m, v),
        }
    }
}

#[inline(always)]
fn step_with_gradient<E: Element, R: Rule<E::Wide>>(rule: &R, p: &mut [E], m: &mut [E], v: &mut [E], g: &[E]) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        step(rule, p, m, v, g.widen());
    }
}

#[inline(always)]
fn step_without_gradient<E: Element, R: Rule<E::Wide>>(rule: &R, p: &mut [E], m: &mut [E], v: &mut [E]) {
    for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
        step(rule, p, m, v, E::Wide::default());
    }
}

/// Elements that are widened, updated and rounded at a time.
const BLOCK: usize = 128;

/// Steps block by block: the compiler vectorises widening, rule and rounding one by one, but not in one loop.
#[inline(always)]
fn step_in_blocks<E: Element, R: Rule<E::Wide>>(rule: &R, p: &mut [E], m: &mut [E], v: &mut [E], g: Option<&[E]>) {
    let zeros = [E::Wide::default(); BLOCK];
    let (mut wide_p, mut wide_m, mut wide_v, mut wide_g) = (zeros, zeros, zeros, zeros);
    let ((p, p_rest), (m, m_rest), (v, v_rest)) =
        (p.as_chunks_mut::<BLOCK>(), m.as_chunks_mut::<BLOCK>(), v.as_chunks_mut::<BLOCK>());
    let (g, g_rest) = g.map(|g| g.as_chunks::<BLOCK>()).unzip();
    for (block, ((p, m), v)) in p.iter_mut().zip(m).zip(v).enumerate() {
        widen(p, &mut wide_p);
        widen(m, &mut wide_m);
        widen(v, &mut wide_v);
        if let Some(g) = g {
            widen(&g[block], &mut wide_g);
        }
        for i in 0..BLOCK {
            (wide_p[i], wide_m[i], wide_v[i]) = rule.apply(wide_p[i], wide_m[i], wide_v[i], wide_g[i]);
        }
        narrow(&wide_p, p);
        narrow(&wide_m, m);
        narrow(&wide_v, v);
    }
    match g_rest {
        Some(g_rest) => step_with_gradient(rule, p_rest, m_rest, v_rest, g_rest),
        None => step_without_gradient(rule, p_rest, m_rest, v_rest),
    }
}

#[inline(always)]
fn widen<E: Element>(from: &[E; BLOCK], to: &mut [E::Wide; BLOCK]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
}

#[inline(always)]
fn narrow<E: Element>(from: &[E::Wide; BLOCK], to: &mut [E; BLOCK]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = E::narrow(from));
}

/// Steps one element. Half types use the moments before these are rounded, as in PyTorch.
#[inline(always)]
fn step<E: Element, R: Rule<E::Wide>>(rule: &R, p: &mut E, m: &mut E, v: &mut E, g: E::Wide) {
    let (next_p, next_m, next_v) = rule.apply(p.widen(), m.widen(), v.widen(), g);
    (*p, *m, *v) = (E::narrow(next_p), E::narrow(next_m), E::narrow(next_v));
}

/// Returns the sum of the squares in f64, always in the same order: eight sums, each of every eighth element.
pub(crate) fn sum_of_squares<E: Element>(values: &[E]) -> f64 {
    wide(SumOfSquares(values))
}

struct SumOfSquares<'a, E>(&'a [E]);

/// `LANES` of sum_of_squares.cu.
pub(crate) const LANES: usize = 8;

impl<E: Element> Task for SumOfSquares<'_, E> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        for chunk in chunks {
            add_squares(&mut sums, chunk);
        }
        add_squares(&mut sums, rest);
        sums.iter().sum()
    }
}

#[inline(always)]
fn add_squares<E: Element>(sums: &mut [f64; LANES], values: &[E]) {
    for (sum, x) in sums.iter_mut().zip(values) {
        let x: f64 = x.widen().into();
        *sum += x * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// With AVX2 and FMA this compares the two compilations, otherwise one with itself.
    fn both_compilations<R: Rule<f32>>(beta1: f64) {
        let step = AdamStep {
            learning_rate: 1e-2,
            beta1,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 3,
            grad_scale: 0.75,
        };
        let rule = R::new(&step);
        for n in [0, 1, 7, 8, 100, 1000] {
            let (p, m, g) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            let v: Vec<f32> = numbers(n, 4).iter().map(|x| x * x).collect();
            for with_gradient in [true, false] {
                let g = with_gradient.then_some(g.as_slice());
                let (mut wide, mut portable) = ([p.clone(), m.clone(), v.clone()], [p.clone(), m.clone(), v.clone()]);
                let [p, m, v] = &mut wide;
                Run { p, m, v, g }.step(&rule);
                let [p, m, v] = &mut portable;
                Task::run((&rule, Run { p: p.as_mut_slice(), m, v, g }));
                let bits = |all: &[Vec<f32>; 3]| all.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&wide), bits(&portable), "{n} {with_gradient}");
            }
            assert_eq!(sum_of_squares(&g).to_bits(), SumOfSquares(&g).run().to_bits());
        }
    }

    #[test]
    fn wide_and_portable_loops_agree() {
        both_compilations::<AdamWRule<f32>>(0.9);
        both_compilations::<AdamWRule<f32>>(0.25);
        both_compilations::<RowRule<f32>>(0.9);
    }
}
