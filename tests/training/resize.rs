//! Vocabularies that grow, shrink and change, together with everything that holds their tables.

use candle_core::{DType, Device, IndexOp, Tensor, Var};
use candle_gpt_input::embedding::{EmbeddingOptions, NewRows, TokenTable};
use candle_gpt_input::optim::{AdamW, RowAdamW};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputLayer, Result};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use proptest::prelude::*;

use crate::optim::numbers;
use crate::support::{addressed, apart, assert_bits_eq, assert_close, error_text, golden_tensors, properties};

const CPU: Device = Device::Cpu;

/// Makes a trainable layer with V = 11, P = 4, C = 3.
fn trainable(varmap: &VarMap) -> Result<GptInputLayer> {
    GptInputLayer::new(addressed(0.0, 11, 3, &CPU), addressed(7.0, 4, 3, &CPU))?.trainable(varmap, "transformer")
}

fn weight(table: &TokenTable) -> &Tensor {
    table.as_embedding().unwrap().embeddings()
}

fn resized(old: &Tensor, vocab_size: usize, new_rows: NewRows, seed: u64) -> Result<Tensor> {
    let table = TokenTable::try_from(old.clone())?.resize(vocab_size, new_rows, &Generator::manual_seed(seed))?;
    Ok(weight(&table).clone())
}

#[test]
fn transformers_grows_pads_and_shrinks_so_too() -> Result<()> {
    let golden = golden_tensors("resize.safetensors");
    for name in ["f32", "bf16"] {
        let (old, expected) = (&golden[&format!("drawn.{name}.old")], &golden[&format!("drawn.{name}.new")]);
        let new = resized(old, 71, NewRows::MeanAndCovariance, 123)?;
        assert_bits_eq(&new.narrow(0, 0, 60)?, old);
        let mean = old.to_dtype(DType::F64)?.mean_keepdim(0)?;
        let (new, expected) = (new.narrow(0, 60, 11)?, expected.narrow(0, 60, 11)?);
        if name == "bf16" {
            // The draw is far below the last digit; a mean between two values may round to the other one.
            assert_close(name, &new, &expected, 1.0 / 128.0);
            continue;
        }
        // The draw itself, without the mean: 3e-5 in values whose last digit is 1e-7 (torch sums the mean in f32).
        let drawn = |rows: &Tensor| rows.to_dtype(DType::F64)?.broadcast_sub(&mean);
        assert_close(name, &drawn(&new)?, &drawn(&expected)?, 5e-3);
        assert_close(name, &new, &expected, 1e-6);
    }
    for name in ["f32", "f16"] {
        let (old, expected) = (&golden[&format!("mean.{name}.old")], &golden[&format!("mean.{name}.new")]);
        let layer = GptInputLayer::new(old.clone(), old.narrow(0, 0, 2)?)?;
        let padded = layer.pad_vocab(8, NewRows::MeanAndCovariance)?;
        assert_eq!((padded.config().vocab_size, padded.wte().dims().0), (7, 8));
        assert_bits_eq(&weight(padded.wte()).narrow(0, 0, 7)?, old);
        // torch sums the mean in another order.
        assert_close(name, weight(padded.wte()), expected, if name == "f32" { 1e-6 } else { 1.0 / 1024.0 });
        assert_eq!(padded.pad_vocab(4, NewRows::Mean)?.wte().dims().0, 8);
    }
    assert_bits_eq(&resized(&golden["shrunk.old"], 9, NewRows::Mean, 0)?, &golden["shrunk.new"]);
    Ok(())
}

#[test]
fn drawn_rows_have_the_mean_and_the_covariance() -> Result<()> {
    let old = numbers(&[300, 5], 3, DType::F64);
    let n_new = 40_000;
    let new = resized(&old, 300 + n_new, NewRows::MeanAndCovariance, 5)?.narrow(0, 300, n_new)?;
    let mean = old.mean_keepdim(0)?;
    let covariance = |rows: &Tensor, mean: &Tensor| {
        let centred = rows.broadcast_sub(mean)?;
        centred.t()?.contiguous()?.matmul(&centred)? / rows.dim(0)? as f64
    };
    let scaled = (covariance(&old, &mean)? * 1e-9)?;
    // Five standard errors: of a covariance √2 · σ² / √n, of a mean σ / √n.
    assert_close("covariance", &covariance(&new, &new.mean_keepdim(0)?)?, &scaled, 5.0 * (2.0 / n_new as f64).sqrt());
    let largest = scaled.flatten_all()?.max(0)?.to_scalar::<f64>()?.sqrt();
    let off = apart(&new.mean_keepdim(0)?, &mean);
    assert!(off <= 5.0 * largest / (n_new as f64).sqrt(), "{off:e} of {largest:e}");
    Ok(())
}

proptest! {
    #![proptest_config(properties(48))]
    #[test]
    fn new_rows_are_what_was_asked_for(
        vocab_size in 1usize..40, n_embd in 1usize..20, n_new in 1usize..20, seed in 0u64..1000,
        dtype in prop::sample::select(vec![DType::F32, DType::F64, DType::F16, DType::BF16]),
    ) {
        let old = numbers(&[vocab_size, n_embd], seed as usize, dtype);
        let id = (seed as usize * 31 % vocab_size) as u32;
        let lists: Vec<Vec<u32>> = (0..n_new).map(|n| (0..=n as u32 % 4).map(|k| (id + k * 7) % vocab_size as u32).collect()).collect();
        // In plain loops: values are multiples of 1/512, whose sums are exact.
        let values = old.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        let mean_of = |ids: &[usize]| -> Vec<f64> {
            (0..n_embd).map(|c| ids.iter().map(|&id| values[id][c]).sum::<f64>() / ids.len() as f64).collect()
        };
        let all: Vec<usize> = (0..vocab_size).collect();
        let of = |rows: Vec<Vec<f64>>| {
            let wide = Tensor::new(rows, &CPU).unwrap();
            if dtype == DType::F64 { wide } else { wide.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap() }
        };
        let averages = lists.iter().map(|ids| mean_of(&ids.iter().map(|&id| id as usize).collect::<Vec<_>>())).collect();
        for (new_rows, expected) in [
            (NewRows::Mean, of(vec![mean_of(&all); n_new])),
            (NewRows::CopyOf(id), of(vec![values[id as usize].clone(); n_new])),
            (NewRows::AverageOf(lists), of(averages)),
        ] {
            let new = resized(&old, vocab_size + n_new, new_rows, seed).unwrap();
            assert_bits_eq(&new.narrow(0, 0, vocab_size).unwrap(), &old);
            let new = new.narrow(0, vocab_size, n_new).unwrap();
            assert_bits_eq(&new, &expected);
        }
        let generator = Generator::manual_seed(seed);
        let drawn = candle_gpt_input::init::Init::Gpt2 { std: 0.02 }.wte(n_new, n_embd, &generator, dtype, &CPU).unwrap();
        let new = resized(&old, vocab_size + n_new, NewRows::Normal { std: 0.02 }, seed).unwrap();
        assert_bits_eq(&new.narrow(0, vocab_size, n_new).unwrap(), &drawn);
        // Cutting the rows off restores the table.
        assert_bits_eq(&resized(&new, vocab_size, NewRows::Mean, seed).unwrap(), &old);
    }
}

#[test]
fn optimizer_head_config_and_varmap_follow() -> Result<()> {
    let varmap = VarMap::new();
    let old = trainable(&varmap)?;
    let params = ParamsAdamW { lr: 0.05, weight_decay: 0.1, ..Default::default() };
    let mut adamw = AdamW::from_varmap(&varmap, params.clone())?;
    let mut never_resized = AdamW::new(old.vars(), params)?;
    let ids = Tensor::new(&[[0u32, 10, 3, 10]], &CPU)?;
    let loss = |layer: &GptInputLayer, ids: &Tensor| -> Result<Tensor> {
        let logits = layer.lm_head()?.forward(&layer.forward(ids)?)?; // the head has the table, too
        Ok(logits.narrow(2, 0, 9)?.sqr()?.mean_all()?)
    };
    adamw.step(&loss(&old, &ids)?.backward()?)?;
    adamw.freeze_rows(&old.vars()[0], [1, 9])?;
    let state = adamw.state(&old.vars()[0]).unwrap();
    let (exp_avg, exp_avg_sq) = (state.exp_avg.copy()?, state.exp_avg_sq.copy()?);
    assert_eq!(state.step, 1);

    for (vocab_size, n_kept) in [(14, 11), (6, 6)] {
        let (mut adamw, new) = (adamw.try_clone().unwrap(), old.resize_vocab(vocab_size, NewRows::CopyOf(2))?);
        let here = VarMap::new();
        here.data().lock().unwrap().extend(varmap.data().lock().unwrap().clone());
        new.update_varmap(&old, &here);
        for (old, new) in old.vars().iter().zip(&new.vars()) {
            adamw.resize_table(old, new)?;
        }
        let (wte, wpe) = (&new.vars()[0], &new.vars()[1]);
        assert_eq!((wte.dims(), new.config().vocab_size), (&[vocab_size, 3][..], vocab_size));
        assert_eq!(wpe.id(), old.vars()[1].id());
        assert_eq!(here.data().lock().unwrap()["transformer.wte.weight"].id(), wte.id());
        let state = adamw.state(wte).unwrap();
        assert_eq!(state.step, 1);
        for (moment, before) in [(&state.exp_avg, &exp_avg), (&state.exp_avg_sq, &exp_avg_sq)] {
            assert_eq!(moment.dims(), [vocab_size, 3]);
            assert_bits_eq(&moment.narrow(0, 0, n_kept)?, &before.narrow(0, 0, n_kept)?);
            assert_eq!(moment.i(n_kept..)?.abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
        }
        assert!(adamw.state(&old.vars()[0]).is_none());
        let (before, ids) = (wte.copy()?, Tensor::new(&[[0u32, 5, (vocab_size - 1) as u32]], &CPU)?);
        let logits = new.lm_head()?.forward(&new.forward(&ids)?)?;
        assert_eq!(logits.dims(), [1, 3, vocab_size]);
        adamw.step(&logits.sqr()?.mean_all()?.backward()?)?;
        for row in 0..vocab_size {
            let same = before.i(row)?.to_vec1::<f32>()? == wte.i(row)?.to_vec1::<f32>()?;
            assert_eq!(same, row == 1 || row == 9, "row {row} of {vocab_size}");
        }

        // Saved and loaded: layer and optimizer.
        let folder = tempfile::tempdir().unwrap();
        new.save(folder.path().join("model"))?;
        let loaded = GptInputLayer::from_pretrained(folder.path().join("model"), DType::F32, &CPU)?;
        assert_eq!(loaded.config(), new.config());
        assert_bits_eq(weight(loaded.wte()), wte);
        adamw.save(folder.path().join("adamw.safetensors"))?;
        let mut resumed = AdamW::from_varmap(&here, ParamsAdamW::default())?;
        resumed.load(folder.path().join("adamw.safetensors"))?;
        assert_bits_eq(&resumed.state(wte).unwrap().exp_avg, &adamw.state(wte).unwrap().exp_avg);
    }
    never_resized.resize_table(&old.vars()[0], &old.vars()[0])?;
    Ok(())
}

#[test]
fn new_rows_are_trained_while_old_ones_keep_every_bit() -> Result<()> {
    let old = trainable(&VarMap::new())?;
    let mut optimizer = RowAdamW::new(old.vars(), 0.1)?;
    let ids = Tensor::new(&[[0u32, 10, 3, 4]], &CPU)?;
    let step = |layer: &GptInputLayer, ids: &Tensor, optimizer: &mut RowAdamW| -> Result<()> {
        let x = layer.forward_leaf(ids)?;
        let grad = x.sqr()?.sum_all()?.backward()?.remove(&x).unwrap();
        layer.backward_step(ids, 0, &grad, optimizer)
    };
    step(&old, &ids, &mut optimizer)?;
    let new = old.resize_vocab(13, NewRows::Mean)?;
    for (old, new) in old.vars().iter().zip(&new.vars()) {
        optimizer.resize_table(old, new)?;
    }
    optimizer.freeze_rows(&new.vars()[0], 0..11)?;
    for ids in [[0u32, 11, 12, 3], [11, 11, 10, 12], [4, 3, 2, 11]] {
        step(&new, &Tensor::new(&[ids], &CPU)?, &mut optimizer)?;
    }
    let (before, after) = (&old.vars()[0], &new.vars()[0]);
    assert_bits_eq(&after.narrow(0, 0, 11)?, before);
    let moved = (after.i(11..)? - resized(before, 13, NewRows::Mean, 0)?.i(11..)?)?.abs()?;
    assert!(moved.flatten_all()?.min(0)?.to_scalar::<f32>()? > 0.05, "{moved}");
    Ok(())
}

#[test]
fn rows_are_replaced_and_their_state_forgotten() -> Result<()> {
    let old = trainable(&VarMap::new())?;
    let mut adamw = AdamW::new_lr(old.vars(), 0.1)?;
    adamw.step(&old.forward(&Tensor::new(&[[2u32, 5, 7]], &CPU)?)?.sqr()?.sum_all()?.backward()?)?;
    let ids = Tensor::new(&[[7u32], [2]], &CPU)?;
    let rows = Tensor::new(&[[[-1f32, -2., -3.]], [[-4., -5., -6.]]], &CPU)?;
    let new = old.replace_rows(&ids, &rows)?;
    for (old, new) in old.vars().iter().zip(&new.vars()) {
        adamw.resize_table(old, new)?;
    }
    adamw.reset_rows(&new.vars()[0], [7, 2])?;
    let vars = new.vars();
    let state = adamw.state(&vars[0]).unwrap();
    for row in 0..11 {
        let given = [7, 2].iter().position(|&id| id == row);
        let expected = given.map_or(old.vars()[0].i(row)?, |n| rows.i((n, 0)).unwrap());
        assert_bits_eq(&new.vars()[0].i(row)?, &expected);
        for moment in [&state.exp_avg, &state.exp_avg_sq] {
            assert_eq!(moment.i(row)?.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0, row == 5, "row {row}");
        }
    }
    assert_bits_eq(&new.embed_tokens(&ids)?, &rows);

    let text =
        error_text(old.replace_rows(&Tensor::new(&[1u32, 4, 1], &CPU)?, &Tensor::zeros((3, 3), DType::F32, &CPU)?));
    assert_eq!(text, "cannot replace row 1 twice: give each id once");
    let text = error_text(old.replace_rows(&ids, &rows.squeeze(1)?));
    assert_eq!(text, "rows has shape [2, 3], expected the shape of the ids, [2, 1], followed by 3");
    let text = error_text(old.replace_rows(&ids, &rows.to_dtype(DType::F16)?));
    assert_eq!(text, "rows has dtype F16, but wte has F32");
    assert!(error_text(old.replace_rows(&Tensor::new(&[11u32], &CPU)?, &rows.i(0)?)).contains("token id 11 at [0]"));
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    let layer = trainable(&VarMap::new())?;
    let lists = |lists: &[&[u32]]| NewRows::AverageOf(lists.iter().map(|ids| ids.to_vec()).collect());
    for (vocab_size, new_rows, expected) in [
        (0, NewRows::Mean, "cannot change the number of rows: `vocab_size` must be at least 1"),
        (12, NewRows::CopyOf(11), "token id 11 at [] is outside the vocabulary of 11 (valid ids: 0 to 10)"),
        (13, lists(&[&[0], &[3, 99]]), "token id 99 at [1, 1] is outside the vocabulary of 11 (valid ids: 0 to 10)"),
        (13, lists(&[&[0]]), "1 lists of sub-tokens for 2 new rows: give each new token the old ids of its text"),
        (
            12,
            lists(&[&[]]),
            "1 lists of sub-tokens for 1 new rows, and list 0 is empty: give each new token the old ids of its text",
        ),
    ] {
        assert_eq!(error_text(layer.resize_vocab(vocab_size, new_rows)), expected);
    }
    assert_eq!(
        error_text(layer.pad_vocab(0, NewRows::Mean)),
        "cannot change the number of rows: `multiple` must be at least 1"
    );
    assert!(error_text(layer.resize_vocab(12, NewRows::Normal { std: -1.0 })).contains("-1"));

    let mut adamw = AdamW::new_lr(layer.vars(), 0.1)?;
    let wte = &layer.vars()[0];
    let var = |shape, dtype| Var::zeros(shape, dtype, &CPU);
    for (new, expected) in [
        (var((11, 4), DType::F32)?, "cannot become a table of width 4, expected 3"),
        (var((11, 3), DType::F64)?, "cannot become a table of dtype F64, expected F32"),
        (layer.vars()[1].clone(), "are one variable"),
    ] {
        let text = error_text(adamw.resize_table(wte, &new));
        assert!(text.contains(expected), "{text}");
    }
    assert!(error_text(adamw.resize_table(&var((2, 3), DType::F32)?, wte)).contains("not one of its 2 parameters"));

    // A padding row counted from the end stays the same row.
    let options = EmbeddingOptions::default().with_padding_idx(-1);
    let table = TokenTable::try_from(addressed(0.0, 5, 2, &CPU))?.with_options(options)?;
    let longer = table.resize(8, NewRows::Mean, &Generator::default())?;
    assert_eq!(longer.options().padding_idx, Some(4));
    let text = error_text(longer.resize(4, NewRows::Mean, &Generator::default()));
    assert_eq!(text, "padding_idx 4 is outside the vocabulary of 4 (a negative one counts from the end)");
    Ok(())
}
