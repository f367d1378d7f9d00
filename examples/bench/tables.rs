//! The cases of tables that are not dense: mapped from a file, and quantized.

use anyhow::Result;
use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use std::time::Instant;

use super::cases::{self, Case, Contender, Inputs, contender};

/// Returns ours, the same tables in memory (`resident`), and Candle's equivalent.
pub fn contenders(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    let dense = GptInputLayer::new(inputs.wte.clone(), inputs.wpe.clone())?;
    let ids = inputs.ids.clone();
    if case == Case::Mapped {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tables.safetensors");
        save_tensors(&path, [("wte.weight", &inputs.wte), ("wpe.weight", &inputs.wpe)], [])?;
        let (layer, _) = GptInputLayer::open(
            &Checkpoint::open(&path)?,
            &OpenOptions::new(dense.dtype(), dense.device()).with_storage(TableStorage::Mapped),
        )?;
        let mapped = contender("ours", move || {
            let _kept = &folder;
            Ok((None, vec![layer.forward(&ids)?]))
        })?;
        return Ok(vec![mapped, resident(dense, inputs)?, cases::candle(Case::Forward, inputs)?]);
    }
    let (layer, _) = dense.quantize(GgmlDType::Q8_0)?;
    let candle = QTensor::quantize(&inputs.wte, GgmlDType::Q8_0)?;
    let (wpe, candle_ids, dtype) = (inputs.wpe.clone(), ids.clone(), dense.dtype());
    let quantized = contender("ours", move || Ok((None, vec![layer.forward(&ids)?])))?;
    // Candle's time is that of the rows alone, without positions.
    let candle = contender("candle", move || {
        let start = Instant::now();
        let rows = std::hint::black_box(candle.embedding(&candle_ids)?);
        let seconds = start.elapsed().as_secs_f64();
        Ok((Some(seconds), vec![rows.to_dtype(dtype)?.broadcast_add(&wpe)?]))
    })?;
    // Its values are those before quantization, so they are not compared.
    let mut resident = resident(dense, inputs)?;
    resident.results = Box::new(|| Ok(Vec::new()));
    Ok(vec![quantized, resident, candle])
}

fn resident(layer: GptInputLayer, inputs: &Inputs) -> Result<Contender> {
    let ids: Tensor = inputs.ids.clone();
    contender("resident", move || Ok((None, vec![layer.forward(&ids)?])))
}
