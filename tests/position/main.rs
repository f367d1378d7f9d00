//! Checks each position scheme against transformers, against loops, and against its laws.

mod config;
mod configs;
mod golden;
mod laws;
mod layer;
mod oracle;
mod own_positions;
mod strangers;
#[path = "../support/mod.rs"]
mod support;

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::rng::Generator;

/// The bound of scores and gradients: both sides compute in f32, in different orders.
const NEAR: f64 = 1e-5;

/// Draws standard normal values in f32.
fn normal(shape: impl Into<candle_core::Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut values = vec![0f32; shape.elem_count()];
    Generator::manual_seed(seed).normal_f32(&mut values, 0.0, 1.0).unwrap();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Checks that max |ours - theirs| is at most `bound` times max |theirs|.
#[track_caller]
fn assert_near(ours: &Tensor, theirs: &[f64], bound: f64, what: &str) {
    let ours: Vec<f64> = ours.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    for (index, (x, y)) in ours.iter().zip(theirs).enumerate() {
        assert!((x - y).abs() <= bound * largest, "{what}: {x} at {index} is not {y} (the largest is {largest})");
    }
}

/// Checks the same for two tensors.
#[track_caller]
fn assert_close(ours: &Tensor, theirs: &Tensor, bound: f64, what: &str) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    assert_near(ours, &support::naive::numbers(theirs), bound, what);
}
