//! Tests the layer, its head and its positions: the id contract, laws, gradients, training.

mod errors;
mod ids;
mod positions;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod training;

use candle_core::{DType, Device, IndexOp, Module, Tensor, Var};
use candle_gpt_input::embedding::IdCheck;
use candle_gpt_input::position::PositionTable;
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, LmHead, Positions, Result};
use candle_nn::{Embedding, Optimizer, VarBuilder, VarMap};
use proptest::prelude::*;
use support::{addressed, assert_bits_eq, complete_devices, devices, error_text, golden_tensors, properties};

const V: usize = 11;
const P: usize = 7;
const C: usize = 3;

/// Makes a layer with `wte[v][c]` = 100 v + c and `wpe[p][c]` = (100 p + c) / 1024: a sum tells its two rows.
fn layer(device: &Device) -> GptInputLayer {
    let wpe = (addressed(0., P, C, &Device::Cpu) * (1. / 1024.)).unwrap().to_device(device).unwrap();
    GptInputLayer::new(addressed(0., V, C, device), wpe).unwrap()
}

/// Computes the same sum element by element, in loops.
fn naive(ids: &[u32], positions: &[u32]) -> Vec<f32> {
    let element =
        |id: u32, position: u32, c: usize| (id * 100) as f32 + c as f32 + ((position * 100) as f32 + c as f32) / 1024.;
    ids.iter().zip(positions).flat_map(|(&id, &p)| (0..C).map(move |c| element(id, p, c))).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn forward_is_the_sum_of_two_rows() -> Result<()> {
    for device in devices() {
        let ids = Tensor::new(&[[0u32, 10, 5, 5], [1, 1, 9, 2]], &device)?;
        let hidden_states = layer(&device).forward(&ids)?;
        assert_eq!(hidden_states.dims(), [2, 4, C]);
        let positions = [0, 1, 2, 3, 0, 1, 2, 3];
        assert_eq!(values(&hidden_states), naive(&[0, 10, 5, 5, 1, 1, 9, 2], &positions));
    }
    Ok(())
}
