//! The layer, its head and its positions: the id contract, laws, gradients, training.

mod support;

use candle_core::{DType, Device, IndexOp, Module, Tensor, Var};
use candle_gpt_input::embedding::IdCheck;
use candle_gpt_input::position::PositionTable;
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, Positions, Result, TiedLmHead};
use candle_nn::{Embedding, Optimizer, VarBuilder, VarMap};
use proptest::prelude::*;
use support::{addressed, assert_bits_eq, complete_devices, devices, error_text, golden_tensors};

const V: usize = 11;
const P: usize = 7;
const C: usize = 3;

/// `wte[v][c]` = 100 v + c, `wpe[p][c]` = (100 p + c) / 1024 apart: a sum tells which rows went into it.
fn layer(device: &Device) -> GptInputLayer {
    let wpe = (addressed(0., P, C, &Device::Cpu) * (1. / 1024.)).unwrap().to_device(device).unwrap();
    GptInputLayer::new(addressed(0., V, C, device), wpe).unwrap()
}

/// The same sum, element by element in loops.
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

// ---- the id contract ----

#[test]
fn every_type_of_id_gives_the_same_rows() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0i64, 10, 5], [1, 1, 9]], &device)?;
        let expected = layer.forward(&ids)?;
        for dtype in [DType::U8, DType::U32, DType::I64] {
            assert_bits_eq(&layer.forward(&ids.to_dtype(dtype)?)?, &expected);
        }
        // Ids on the host go over to the table's device.
        assert_bits_eq(&layer.forward(&ids.to_device(&Device::Cpu)?)?, &expected);
        let text = error_text(layer.forward(&ids.to_dtype(DType::F32)?));
        assert_eq!(text, "input_ids must be u8, u32 or i64, not F32: convert with `.to_dtype(DType::U32)`");
    }
    Ok(())
}

/// Deferred checks are for ids on CUDA; elsewhere a call reports as ever, and there is nothing left to ask for.
#[test]
fn checks_are_deferred_on_cuda_alone() -> Result<()> {
    for device in devices() {
        let layer = layer(&device).with_id_check(IdCheck::Deferred)?;
        let bad = Tensor::new(&[[0u32, 1], [2, 11]], &device)?;
        let at_once = layer.forward(&bad).map(drop);
        let later = layer.check_ids();
        let (reported, other) = if device.is_cuda() { (later, at_once) } else { (at_once, later) };
        assert_eq!(error_text(reported), "token id 11 at [1, 1] is outside the vocabulary of 11 (valid ids: 0 to 10)");
        assert!(other.is_ok());
        assert!(layer.forward(&bad.to_device(&Device::Cpu)?).is_err(), "ids on the host");
        layer.check_ids()?;
    }
    Ok(())
}

#[test]
fn ids_outside_the_vocabulary_are_named() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        let outside =
            |id: i64, at: &str| format!("token id {id} at {at} is outside the vocabulary of 11 (valid ids: 0 to 10)");
        let text = |ids: Tensor| error_text(layer.forward(&ids));
        assert!(layer.forward(&Tensor::new(&[[0u32, 10]], &device)?).is_ok(), "the last valid id");
        assert_eq!(text(Tensor::new(&[[0u32, 1], [2, 11]], &device)?), outside(11, "[1, 1]"));
        assert_eq!(text(Tensor::new(&[[0u8, 255]], &device)?), outside(255, "[0, 1]"));
        assert_eq!(text(Tensor::new(&[[u32::MAX]], &device)?), outside(4294967295, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[i64::MAX]], &device)?), outside(i64::MAX, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[-1i64]], &device)?), outside(-1, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[i64::MIN]], &device)?), outside(i64::MIN, "[0, 0]"));
        assert_eq!(error_text(layer.embed_tokens(&Tensor::new(11u32, &device)?)), outside(11, "[]"));
        assert_eq!(text(Tensor::new(&[[[0u32, 1], [99, 98]]], &device)?), outside(99, "[0, 1, 0]"));
        let error = layer.forward(&Tensor::new(&[11u32], &device)?).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { id: 11, vocab_size: 11, ref at } if at == &[0]));
    }
    Ok(())
}

#[test]
fn the_largest_u8_is_an_id_like_any_other() -> Result<()> {
    for device in devices() {
        let layer = GptInputLayer::new(addressed(0., 256, C, &device), Tensor::zeros((P, C), DType::F32, &device)?)?;
        let rows = layer.forward(&Tensor::new(&[255u8, 254], &device)?)?;
        assert_eq!(rows.to_vec2::<f32>()?, [[25500., 25501., 25502.], [25400., 25401., 25402.]]);
    }
    Ok(())
}

#[test]
fn empty_ids_give_empty_hidden_states() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        for (shape, expected) in [(vec![0, 4], vec![0, 4, C]), (vec![2, 0], vec![2, 0, C]), (vec![0], vec![0, C])] {
            let ids = Tensor::zeros(shape, DType::U32, &device)?;
            assert_eq!(layer.forward(&ids)?.dims(), expected);
            assert_eq!(layer.embed_tokens(&ids)?.dims(), expected);
            assert_eq!(layer.forward_at(&ids, 3)?.dims(), expected);
        }
        // No token, no position: nothing is out of range.
        assert_eq!(layer.forward_at(&Tensor::zeros((2, 0), DType::U32, &device)?, 1_000_000)?.dims(), [2, 0, C]);
    }
    Ok(())
}

#[test]
fn strides_do_not_matter() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 0]], &device)?;
        let column = ids.i((.., 1))?;
        assert!(!column.is_contiguous());
        assert_bits_eq(&layer.forward(&column)?, &layer.forward(&Tensor::new(&[1u32, 4, 7, 10], &device)?)?);
        assert_bits_eq(&layer.forward(&ids.t()?)?, &layer.forward(&ids.t()?.contiguous()?)?);
        let row = Tensor::new(&[[7u32, 8]], &device)?;
        let expanded = row.broadcast_as((3, 2))?;
        assert_bits_eq(&layer.forward(&expanded)?, &layer.forward(&expanded.contiguous()?)?);
        // A bad id is found where it is in the view, not in the memory behind it.
        let bad = Tensor::new(&[[0u32, 1], [2, 77]], &device)?.t()?;
        assert!(error_text(layer.forward(&bad.i((0.., 0..))?)).contains("77 at [1, 1]"));
    }
    Ok(())
}

#[test]
fn any_rank_of_ids() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        let scalar = layer.embed_tokens(&Tensor::new(4u32, &device)?)?;
        assert_eq!(scalar.to_vec1::<f32>()?, [400., 401., 402.]);
        let text = error_text(layer.forward(&Tensor::new(4u32, &device)?));
        let expected = "expected a sequence ([T] or [B, T]); for a single id use embed_tokens";
        assert_eq!(text, format!("input_ids has shape [], {expected}"));
        let ids = Tensor::new(&[[[1u32, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [0, 1]]], &device)?;
        let hidden_states = layer.forward(&ids)?;
        assert_eq!(hidden_states.dims(), [3, 2, 2, C]);
        let flat = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1];
        assert_eq!(values(&hidden_states), naive(&flat, &[0, 1].repeat(6)));
    }
    Ok(())
}

// ---- positions ----

#[test]
fn positions_beyond_the_table_are_errors_however_they_are_given() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let too_long = |end: usize| {
            format!(
                "the sequence ends at position {end}, but the model has 7 positions: shorten it to fit, or use a model with more positions"
            )
        };
        let ids = |n: usize| Tensor::zeros((2, n), DType::U32, &device);
        assert!(layer.forward(&ids(7)?).is_ok());
        assert_eq!(error_text(layer.forward(&ids(8)?)), too_long(8));
        assert!(layer.forward_at(&ids(3)?, 4).is_ok());
        assert_eq!(error_text(layer.forward_at(&ids(3)?, 5)), too_long(8));
        assert_eq!(error_text(layer.forward_at(&ids(3)?, usize::MAX)), too_long(usize::MAX));
        assert_eq!(error_text(layer.forward_at(&ids(1)?, Positions::from(5).after(2))), too_long(8));
        assert_eq!(error_text(layer.add_positions(&layer.embed_tokens(&ids(2)?)?, 6)), too_long(8));

        let mask = |n: usize| Tensor::ones((2, n), DType::U8, &device);
        assert_eq!(error_text(layer.forward_at(&ids(1)?, Positions::from_mask(&mask(8)?)?)), too_long(8));
        assert_eq!(error_text(layer.forward_at(&ids(2)?, Positions::from_mask(&mask(3)?)?.after(6))), too_long(8));
        let far = Positions::from_mask(&mask(3)?)?.after(usize::MAX);
        assert_eq!(error_text(layer.forward_at(&ids(2)?, far)), too_long(usize::MAX));

        let outside = |position: i64, at: &str| {
            format!("position {position} at {at} is outside the position table of 7 (valid positions: 0 to 6)")
        };
        let at = |positions: Tensor| error_text(layer.forward_at(&ids(2).unwrap(), &positions));
        assert_eq!(at(Tensor::new(&[[0u32, 1], [2, 7]], &device)?), outside(7, "[1, 1]"));
        assert_eq!(at(Tensor::new(&[-1i64, 0], &device)?), outside(-1, "[0]"));
        assert_eq!(at(Tensor::new(&[255u8, 0], &device)?), outside(255, "[0]"));
        let shifted = Positions::from(&Tensor::new(&[0u32, 6], &device)?).after(1);
        assert_eq!(error_text(layer.forward_at(&ids(2)?, shifted)), outside(7, "[1]"));
        assert!(at(Tensor::new(&[0f32, 0.], &device)?).starts_with("position_ids must be u8, u32 or i64"));
    }
    Ok(())
}

#[test]
fn position_ids_pick_rows() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[3u32, 4, 5], [6, 7, 8]], &device)?;
        let flat = [3, 4, 5, 6, 7, 8];
        let given = Tensor::new(&[[6u32, 0, 2], [1, 1, 5]], &device)?;
        assert_eq!(values(&layer.forward_at(&ids, &given)?), naive(&flat, &[6, 0, 2, 1, 1, 5]));
        for shared in [Tensor::new(&[4i64, 0, 6], &device)?, Tensor::new(&[[4i64, 0, 6]], &device)?] {
            assert_eq!(values(&layer.forward_at(&ids, &shared)?), naive(&flat, &[4, 0, 6, 4, 0, 6]));
        }
        let strided = Tensor::new(&[[0u32, 1], [2, 3], [4, 5]], &device)?.t()?;
        assert_eq!(values(&layer.forward_at(&ids, strided)?), naive(&flat, &[0, 2, 4, 1, 3, 5]));
        let wrong = Tensor::new(&[0u32, 1], &device)?;
        assert_eq!(
            error_text(layer.forward_at(&ids, &wrong)),
            "position_ids has shape [2], expected the shape of the ids, [2, 3], or one that broadcasts to it"
        );
        let scalar = Tensor::new(2u32, &device)?;
        assert_eq!(values(&layer.forward_at(&Tensor::new(9u32, &device)?, &scalar)?), naive(&[9], &[2]));
    }
    Ok(())
}

#[test]
fn a_mask_counts_its_tokens() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 1, 2, 3], [4, 5, 6, 7]], &device)?;
        let flat = [0, 1, 2, 3, 4, 5, 6, 7];
        let mask = Tensor::new(&[[0u8, 0, 1, 1], [1, 0, 1, 0]], &device)?;
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let positions = Positions::from_mask(&mask.to_dtype(dtype)?)?;
            assert_eq!(values(&layer.forward_at(&ids, positions)?), naive(&flat, &[0, 0, 0, 1, 0, 0, 1, 0]));
        }
        let all = |mask: &Tensor| error_text(Positions::from_mask(mask));
        assert_eq!(
            all(&Tensor::new(&[[1u32, 2]], &device)?),
            "attention_mask holds 2 at [0, 1]: it must be 1 (token) or 0 (padding)"
        );
        assert!(all(&Tensor::new(&[[1f32, 0.]], &device)?).starts_with("attention_mask must be u8, u32 or i64"));
        assert!(all(&Tensor::new(1u8, &device)?).starts_with("attention_mask has shape []"));
        let short = Positions::from_mask(&Tensor::new(&[[1u8], [1]], &device)?)?;
        assert_eq!(
            error_text(layer.forward_at(&ids, short)),
            "attention_mask has shape [2, 1], expected the rows of the ids, [2, 4], and at least 4 columns (or say `.after(n_cached)`)"
        );
        let rows = Positions::from_mask(&Tensor::ones((3, 4), DType::U8, &device)?)?;
        assert!(error_text(layer.forward_at(&ids, rows)).starts_with("attention_mask has shape [3, 4]"));
    }
    Ok(())
}

/// Each token of a padded batch, in prefill and in cached decode, has the vector that it has alone.
#[test]
fn padded_equals_unpadded() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let prompts: [&[u32]; 3] = [&[3, 1, 4], &[1], &[5, 9]];
        for left in [true, false] {
            let (mut ids, mut mask) = (vec![], vec![]);
            for prompt in prompts {
                let padding = vec![0u32; 3 - prompt.len()];
                let (row, row_mask) = if left {
                    ([padding.clone(), prompt.to_vec()].concat(), [padding, vec![1; prompt.len()]].concat())
                } else {
                    ([prompt.to_vec(), padding.clone()].concat(), [vec![1; prompt.len()], padding].concat())
                };
                ids.push(row);
                mask.push(row_mask);
            }
            let (ids, mask) = (Tensor::new(ids, &device)?, Tensor::new(mask, &device)?);
            let prefill = layer.forward_at(&ids, Positions::from_mask(&mask)?)?;
            let new_ids = Tensor::new(&[[7u32, 8], [2, 6], [10, 0]], &device)?;
            // The mask of everything so far counts from its end; the prompt's own mask needs to be told the columns.
            let longer = Tensor::cat(&[&mask, &mask.ones_like()?.narrow(1, 0, 2)?], 1)?;
            for positions in [Positions::from_mask(&longer)?, Positions::from_mask(&mask)?.after(3)] {
                let decode = layer.forward_at(&new_ids, positions)?;
                for (row, prompt) in prompts.iter().enumerate() {
                    let n = prompt.len();
                    let alone = [prompt.to_vec(), new_ids.get(row)?.to_vec1()?].concat();
                    let alone = layer.forward(&Tensor::new(alone, &device)?)?;
                    let first = if left { 3 - n } else { 0 };
                    assert_bits_eq(&prefill.get(row)?.narrow(0, first, n)?, &alone.narrow(0, 0, n)?);
                    assert_bits_eq(&decode.get(row)?, &alone.narrow(0, n, 2)?);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn splitting_a_sequence_changes_nothing(
        ids in prop::collection::vec(0..V as u32, 2 * P), cut in 0..=P,
    ) {
        let ids = Tensor::from_vec(ids, (2, P), &Device::Cpu).unwrap();
        let layer = layer(&Device::Cpu);
        let whole = layer.forward(&ids).unwrap();
        let head = layer.forward_at(&ids.narrow(1, 0, cut).unwrap(), 0).unwrap();
        let tail = layer.forward_at(&ids.narrow(1, cut, P - cut).unwrap(), cut).unwrap();
        assert_bits_eq(&Tensor::cat(&[head, tail], 1).unwrap(), &whole);
    }

    #[test]
    fn permuting_the_batch_permutes_the_output(
        ids in prop::collection::vec(0..V as u32, 3 * 5), order in Just(vec![0u32, 1, 2]).prop_shuffle(),
    ) {
        let ids = Tensor::from_vec(ids, (3, 5), &Device::Cpu).unwrap();
        let order = Tensor::new(order, &Device::Cpu).unwrap();
        let layer = layer(&Device::Cpu);
        let permuted = layer.forward(&ids.index_select(&order, 0).unwrap()).unwrap();
        assert_bits_eq(&permuted, &layer.forward(&ids).unwrap().index_select(&order, 0).unwrap());
    }

    #[test]
    fn a_lookup_is_a_one_hot_product(ids in prop::collection::vec(0..V as u32, 1..20)) {
        let one_hot: Vec<f32> =
            ids.iter().flat_map(|&id| (0..V as u32).map(move |v| f32::from(u8::from(v == id)))).collect();
        let one_hot = Tensor::from_vec(one_hot, (ids.len(), V), &Device::Cpu).unwrap();
        let wte = addressed(0., V, C, &Device::Cpu);
        let rows = layer(&Device::Cpu).embed_tokens(&Tensor::new(ids, &Device::Cpu).unwrap()).unwrap();
        assert_bits_eq(&rows, &one_hot.matmul(&wte).unwrap());
    }
}

// ---- tables ----

#[test]
fn tables_that_do_not_fit_are_refused() -> Result<()> {
    let cpu = Device::Cpu;
    let table = |v: usize, c: usize| Tensor::zeros((v, c), DType::F32, &cpu).unwrap();
    let new = |wte: Tensor, wpe: Tensor| error_text(GptInputLayer::new(wte, wpe));
    assert_eq!(new(table(5, 3), table(4, 2)), "wte has width 3, but wpe has 2");
    assert_eq!(new(table(5, 3), table(4, 3).to_dtype(DType::F16)?), "wte has dtype F32, but wpe has F16");
    let shape = "must be a two-dimensional table of f32, f64, f16 or bf16, not";
    assert_eq!(new(table(5, 3).flatten_all()?, table(4, 3)), format!("wte {shape} [15] of F32"));
    assert_eq!(new(table(5, 3), table(4, 3).unsqueeze(0)?), format!("wpe {shape} [1, 4, 3] of F32"));
    assert_eq!(new(table(5, 3).to_dtype(DType::I64)?, table(4, 3)), format!("wte {shape} [5, 3] of I64"));
    assert_eq!(new(table(0, 3), table(4, 3)), format!("wte {shape} [0, 3] of F32"));
    // An `Embedding` whose stated width is not its table's.
    let lying = GptInputLayer::new(Embedding::new(table(5, 3), 4), table(4, 3));
    assert_eq!(error_text(lying), format!("wte {shape} [5, 3] of F32"));
    Ok(())
}

#[test]
fn embeddings_go_in_and_come_out() -> Result<()> {
    let cpu = Device::Cpu;
    let wte = Embedding::new(addressed(0., V, C, &cpu), C);
    let layer = GptInputLayer::new(wte.clone(), Embedding::new(addressed(0., P, C, &cpu), C))?;
    let ids = Tensor::new(&[[3u32, 4]], &cpu)?;
    let back = layer.wte().as_embedding().unwrap();
    assert_bits_eq(&back.forward(&ids)?, &wte.forward(&ids)?);
    assert_eq!(layer.wpe().unwrap().as_embedding().unwrap().embeddings().dims(), [P, C]);
    let config = layer.config();
    assert_eq!((config.vocab_size, config.n_positions, config.n_embd, config.embd_pdrop), (V, P, C, 0.0));
    // A transposed table is read as what it is.
    let strided = GptInputLayer::new(addressed(0., C, V, &cpu).t()?, addressed(0., P, C, &cpu))?;
    assert_eq!(strided.embed_tokens(&Tensor::new(7u32, &cpu)?)?.to_vec1::<f32>()?, [7., 107., 207.]);
    Ok(())
}

#[test]
fn half_types_round_once() -> Result<()> {
    for device in complete_devices() {
        let ids = Tensor::new(&[[0u32, 10, 5], [1, 1, 9]], &device)?;
        let wte = (addressed(0.3, V, C, &device) / 37.)?;
        let wpe = (addressed(0.7, P, C, &device) / 41.)?;
        for dtype in [DType::BF16, DType::F16] {
            let layer = GptInputLayer::new(wte.to_dtype(dtype)?, wpe.to_dtype(dtype)?)?;
            let widened = GptInputLayer::new(
                wte.to_dtype(dtype)?.to_dtype(DType::F32)?,
                wpe.to_dtype(dtype)?.to_dtype(DType::F32)?,
            )?;
            assert_bits_eq(&layer.forward(&ids)?, &widened.forward(&ids)?.to_dtype(dtype)?);
            assert_eq!((layer.dtype(), layer.to_dtype(DType::F64)?.dtype()), (dtype, DType::F64));
        }
    }
    Ok(())
}

#[test]
fn the_two_halves_make_the_whole() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 10, 5], [1, 1, 9]], &device)?;
        let embeds = layer.embed_tokens(&ids)?;
        assert_bits_eq(&layer.add_positions(&embeds, 2)?, &layer.forward_at(&ids, 2)?);
        assert_eq!(
            error_text(layer.add_positions(&embeds.narrow(2, 0, 2)?, 0)),
            "inputs_embeds has shape [2, 3, 2], expected [.., 3]"
        );
        assert_eq!(
            error_text(layer.add_positions(&embeds.to_dtype(DType::F64)?, 0)),
            "inputs_embeds has dtype F64, but wpe has F32"
        );
        let rows = layer.wpe().unwrap().rows(&2.into(), &[2, 3])?;
        assert_eq!(rows.dims(), [3, C]);
        let table: PositionTable = rows.into();
        assert_eq!(table.dims()?, (3, C));
    }
    Ok(())
}

#[test]
fn module_t_is_the_layer_and_eval_is_the_module() -> Result<()> {
    let ids = Tensor::new(&[[0u32, 10, 5]], &Device::Cpu)?;
    let layer = layer(&Device::Cpu);
    let expected = layer.forward(&ids)?;
    assert_bits_eq(&ids.apply_t(&layer, true)?, &expected);
    assert_bits_eq(&ids.apply(&layer.eval())?, &expected);
    // An error keeps its text on its way through Candle's type.
    let bad = Tensor::new(&[[11u32]], &Device::Cpu)?;
    let text = error_text(layer.eval().forward(&bad));
    assert!(text.starts_with("token id 11 at [0, 0] is outside the vocabulary of 11"), "{text}");
    let back: Error = layer.eval().forward(&bad).unwrap_err().into();
    assert!(back.to_string().starts_with("token id 11"), "{back}");
    Ok(())
}

#[test]
fn everything_public_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug>() {}
    shared::<GptInputLayer>();
    shared::<GptInputConfig>();
    shared::<Positions>();
    shared::<TiedLmHead>();
    shared::<candle_gpt_input::DeviceSpec>();
    shared::<candle_gpt_input::embedding::TokenTable>();
    shared::<PositionTable>();
    shared::<candle_gpt_input::tokenizer::Tokenizer>();
    fn sendable<T: Send + Sync + std::fmt::Debug>() {}
    sendable::<Error>();
    sendable::<candle_gpt_input::checkpoint::Checkpoint>();
}

// ---- gradients and training ----

#[test]
fn gradients_are_pytorchs() -> Result<()> {
    let golden = golden_tensors("gradients.safetensors");
    for device in complete_devices() {
        let tensor = |name: &str| golden[name].to_device(&device);
        for name in ["input", "head", "both"] {
            let (wte, wpe) = (Var::from_tensor(&tensor("wte")?)?, Var::from_tensor(&tensor("wpe")?)?);
            let layer = GptInputLayer::new(wte.as_tensor().clone(), wpe.as_tensor().clone())?;
            let x = layer.forward_at(&tensor("input_ids")?, 1)?;
            let loss = match name {
                "input" => (x * tensor("weight")?)?.sum_all()?,
                "head" => (layer.lm_head()?.forward(&tensor("hidden")?)? * tensor("head_weight")?)?.sum_all()?,
                _ => (layer.lm_head()?.forward(&x)? * tensor("head_weight")?)?.sum_all()?,
            };
            let grads = loss.backward()?;
            assert_bits_eq(grads.get(&wte).unwrap(), &golden[&format!("{name}.wte")]);
            match golden.get(&format!("{name}.wpe")) {
                Some(expected) => assert_bits_eq(grads.get(&wpe).unwrap(), expected),
                None => assert!(grads.get(&wpe).is_none()),
            }
        }
    }
    Ok(())
}

/// One step of SGD on the sum of squares moves every row that was looked up, and only those.
fn steps(layer: &GptInputLayer, vars: Vec<Var>) -> Result<()> {
    let tables = |layer: &GptInputLayer| -> Result<Vec<Vec<Vec<f32>>>> {
        let wte = layer.wte().as_embedding().unwrap().embeddings().copy()?;
        let wpe = layer.wpe().unwrap().as_embedding().unwrap().embeddings().copy()?;
        Ok(vec![wte.to_vec2()?, wpe.to_vec2()?])
    };
    let before = tables(layer)?;
    let ids = Tensor::new(&[[1u32, 4, 1]], &Device::Cpu)?;
    let loss = (layer.forward(&ids)? + 1.)?.sqr()?.sum_all()?;
    candle_nn::SGD::new(vars, 0.01)?.backward_step(&loss)?;
    let moved = |table: usize| -> Result<Vec<usize>> {
        let after = tables(layer)?;
        let rows = before[table].iter().zip(&after[table]).enumerate();
        Ok(rows.filter(|(_, (before, after))| before != after).map(|(row, _)| row).collect())
    };
    assert_eq!((moved(0)?, moved(1)?), (vec![1, 4], vec![0, 1, 2]));
    Ok(())
}

#[test]
fn tables_of_a_varmap_are_trained() -> Result<()> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let layer = GptInputLayer::load(vb.pp("transformer"), &GptInputConfig::new(V, P, C))?;
    let mut names: Vec<_> = varmap.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["transformer.wpe.weight", "transformer.wte.weight"]);
    assert_eq!(layer.vars().len(), 2);
    steps(&layer, varmap.all_vars())
}

#[test]
fn pretrained_tables_become_trainable() -> Result<()> {
    let frozen = layer(&Device::Cpu);
    assert!(frozen.vars().is_empty());
    let varmap = VarMap::new();
    let trained = frozen.trainable(&varmap, "transformer")?;
    assert_eq!(varmap.all_vars().len(), 2);
    let before = frozen.forward(&Tensor::new(&[[1u32, 4]], &Device::Cpu)?)?;
    steps(&trained, trained.vars())?;
    assert_bits_eq(&frozen.forward(&Tensor::new(&[[1u32, 4]], &Device::Cpu)?)?, &before);
    assert_eq!(
        error_text(frozen.trainable(&varmap, "transformer")),
        "the VarMap already holds a variable `transformer.wte.weight`: pass another prefix"
    );
    frozen.trainable(&varmap, "")?;
    assert!(varmap.data().lock().unwrap().contains_key("wpe.weight"));
    Ok(())
}

#[test]
fn load_asks_for_exact_shapes() -> Result<()> {
    let varmap = VarMap::new();
    layer(&Device::Cpu).trainable(&varmap, "")?;
    let load = |v: usize, p: usize, c: usize| {
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
        GptInputLayer::load(vb, &GptInputConfig::new(v, p, c))
    };
    assert!(load(V, P, C).is_ok());
    for (v, p, c) in [(V - 1, P, C), (V, P + 1, C), (V, P, C + 1)] {
        assert!(error_text(load(v, p, c)).contains("shape mismatch"), "{v} {p} {c}");
    }
    assert_eq!(error_text(load(V, 0, C)), "config: `n_positions` must be at least 1");
    Ok(())
}

#[test]
fn fresh_tables_have_the_configs_spread() -> Result<()> {
    let vb = VarMap::new();
    let vb = VarBuilder::from_varmap(&vb, DType::F32, &Device::Cpu);
    let layer = GptInputLayer::load(vb, &GptInputConfig::new(2000, 50, 64))?;
    let mean_square = layer.wte().as_embedding().unwrap().embeddings().sqr()?.mean_all()?.to_scalar::<f32>()?;
    // 128 000 draws: the standard deviation of the estimate is 0.02 / sqrt(256 000), five of them are 0.0002.
    assert!((mean_square.sqrt() - 0.02).abs() < 0.0002, "{}", mean_square.sqrt());
    Ok(())
}

#[test]
fn the_head_checks_what_it_is_given() -> Result<()> {
    for device in complete_devices() {
        let head = layer(&device).lm_head()?;
        let hidden = Tensor::new(&[[[1f32, 0., 0.], [0., 0., 2.]]], &device)?;
        let logits = head.forward(&hidden)?;
        assert_eq!(logits.dims(), [1, 2, V]);
        assert_eq!(logits.i((0, 1, 10))?.to_scalar::<f32>()?, 2. * 1002.);
        assert_eq!(head.forward(&hidden.i((0, 0))?)?.dims(), [V]);
        assert_eq!(head.forward(&hidden.narrow(1, 0, 0)?)?.dims(), [1, 0, V]);
        let wide = Tensor::zeros((1, 2, 4), DType::F32, &device)?;
        assert_eq!(error_text(head.forward(&wide)), "hidden_states has shape [1, 2, 4], expected [.., 3]");
        let half = hidden.to_dtype(DType::F16)?;
        assert_eq!(error_text(head.forward(&half)), "hidden_states has dtype F16, but wte has F32");
    }
    Ok(())
}
