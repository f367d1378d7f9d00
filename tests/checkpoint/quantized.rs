//! Look-ups in quantized tables give the bits of dequantizing the whole table first.

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_gpt_input::LmHead;
use candle_gpt_input::embedding::{EmbeddingOptions, NewRows, TokenTable};
use proptest::prelude::*;

use super::mapped::{assert_ids_are_checked, assert_same_rows};
use super::support::BLOCK_TYPES;
use super::*;

const DTYPES: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];

/// Makes a table of positive and negative values of several magnitudes.
fn numbers(n_rows: usize, width: usize, seed: u64) -> Tensor {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * [0.02, 1.0, 30.0][(state >> 20) as usize % 3]
    };
    let values: Vec<f32> = (0..n_rows * width).map(|_| next()).collect();
    Tensor::from_vec(values, (n_rows, width), &Device::Cpu).unwrap()
}

fn quantized(path: impl AsRef<Path>, dtype: DType) -> Result<GptInputLayer> {
    Ok(open_as(path, dtype, TableStorage::Quantized)?.0)
}

fn mapped(path: impl AsRef<Path>, dtype: DType) -> Result<GptInputLayer> {
    Ok(open_as(path, dtype, TableStorage::Mapped)?.0)
}

/// Writes a GGUF file with Candle.
fn gguf(path: &Path, wte: &QTensor, wpe: &Tensor) {
    let wpe = QTensor::quantize(wpe, GgmlDType::F32).unwrap();
    let mut file = fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &[], &[("token_embd.weight", wte), ("position_embd.weight", &wpe)]).unwrap();
}

proptest! {
    #![proptest_config(properties(48))]

    #[test]
    fn a_look_up_gives_the_bits_of_dequantizing_first(
        block_type in 0usize..10,
        n_blocks in 1usize..4,
        (n_rows, batch, t) in (1usize..40, 1usize..6, 1usize..50),
        dtype in 0usize..4,
        start in 0usize..3,
        seed: u64,
    ) {
        let (block_type, dtype) = (BLOCK_TYPES[block_type], DTYPES[dtype]);
        let width = n_blocks * block_type.block_size();
        let blocks = QTensor::quantize(&numbers(n_rows, width, seed), block_type).unwrap();
        let wpe = numbers(53, width, !seed).to_dtype(dtype).unwrap();
        let ids: Vec<i64> = (0..batch * t).map(|i| ((i as u64 * 7919).wrapping_add(seed) % n_rows as u64) as i64).collect();
        let ids = Tensor::from_vec(ids, (batch, t), &Device::Cpu).unwrap();
        let dense = blocks.dequantize(&Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let dense = GptInputLayer::new(dense, wpe.clone()).unwrap();
        let table = TokenTable::from_qtensor(&blocks, dtype, &Device::Cpu).unwrap();
        let layer = GptInputLayer::new(table, wpe).unwrap();
        assert_bits_eq(&layer.forward_at(&ids, start).unwrap(), &dense.forward_at(&ids, start).unwrap());
        assert_bits_eq(&layer.embed_tokens(&ids).unwrap(), &dense.embed_tokens(&ids).unwrap());
        let places = Tensor::from_vec((0..t as u32).rev().collect(), (1, t), &Device::Cpu).unwrap();
        assert_bits_eq(&layer.forward_at(&ids, &places).unwrap(), &dense.forward_at(&ids, &places).unwrap());
        assert_bits_eq(&layer.to_dense().unwrap().forward(&ids).unwrap(), &dense.forward(&ids).unwrap());
        assert_eq!(&*layer.wte().to_qtensor().unwrap().data().unwrap(), &*blocks.data().unwrap());
    }
}

/// A file of each dtype, large enough for several threads, with blocks in memory and mapped.
#[test]
fn blocks_of_every_type_are_read_from_files() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.gguf");
    let ids: Vec<u32> = (0..300).map(|i| (i * 17 + i / 7) % 41).collect();
    let ids = Tensor::from_vec(ids, (6, 50), &Device::Cpu)?;
    for block_type in BLOCK_TYPES {
        gguf(&path, &QTensor::quantize(&numbers(41, 512, 3), block_type)?, &numbers(50, 512, 4));
        for dtype in DTYPES {
            let dense = GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?;
            for layer in [quantized(&path, dtype)?, mapped(&path, dtype)?] {
                assert_eq!((layer.wte().block_type(), layer.dtype()), (Some(block_type), dtype));
                assert_same_rows(&layer, &dense)?;
                assert_bits_eq(&layer.forward(&ids)?, &dense.forward(&ids)?);
            }
        }
    }
    // Written by the gguf library; `formats.rs` compares with its own dequantization.
    for name in ["q8_0.gguf", "q4_0.gguf", "q5_1.gguf"] {
        let path = golden("formats").join(name);
        let dense = GptInputLayer::from_pretrained(&path, DType::BF16, &Device::Cpu)?;
        assert_same_rows(&quantized(&path, DType::BF16)?, &dense)?;
        assert_same_rows(&mapped(&path, DType::BF16)?, &dense)?;
    }
    Ok(())
}

#[test]
fn quantizing_is_candles_and_says_what_it_lost() -> Result<()> {
    // More rows than are quantized at once, in a view that does not start with its storage.
    let all = numbers(700, 256, 5);
    let wte = all.narrow(0, 37, 650)?;
    let wpe = numbers(4, 256, 6);
    for dtype in [DType::F32, DType::BF16] {
        let wte = wte.to_dtype(dtype)?;
        let wide = wte.to_dtype(DType::F32)?.force_contiguous()?;
        for block_type in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q6K] {
            let dense = GptInputLayer::new(wte.clone(), wpe.to_dtype(dtype)?)?;
            let (layer, report) = dense.quantize(block_type)?;
            let theirs = QTensor::quantize(&wide, block_type)?;
            assert_eq!(&*layer.wte().to_qtensor()?.data()?, &*theirs.data()?);
            assert_eq!(
                (report.n_bytes, report.n_bytes_before),
                (theirs.storage_size_in_bytes(), 650 * 256 * dtype.size_in_bytes())
            );
            let errors = (theirs.dequantize(&Device::Cpu)?.to_dtype(DType::F64)? - wide.to_dtype(DType::F64)?)?;
            let mean_square = |x: &Tensor| x.sqr()?.mean_all()?.to_scalar::<f64>();
            let rmse = mean_square(&errors)?.sqrt();
            let relative = rmse / mean_square(&wide.to_dtype(DType::F64)?)?.sqrt();
            // The same f64 sums in another order.
            assert!((report.rmse / rmse - 1.0).abs() < 1e-12 && (report.relative / relative - 1.0).abs() < 1e-12);
            assert_eq!(report.max_abs, errors.abs()?.max_all()?.to_scalar::<f64>()?);
            assert!(report.to_string().contains(&format!("wte quantized to {block_type:?}")), "{report}");
            // Quantizing the dequantized table again loses no more.
            let again = layer.wte().quantize(block_type)?.1;
            assert!(again.rmse <= report.rmse, "{again}");
        }
    }
    Ok(())
}

#[test]
fn what_blocks_cannot_hold_says_what_to_use() -> Result<()> {
    let quantize =
        |width: usize, block_type| error_text(TokenTable::try_from(numbers(3, width, 1)).unwrap().quantize(block_type));
    assert_eq!(
        quantize(1600, GgmlDType::Q4K),
        "rows of 1600 elements do not divide into Q4K blocks of 256: use Q8_0, Q5_0 or Q4_0, whose blocks hold 32, or pad the width to 1792"
    );
    assert_eq!(
        quantize(50, GgmlDType::Q8_0),
        "rows of 50 elements do not divide into Q8_0 blocks of 32: pad the width to 64, or keep the table in bf16 or f16"
    );
    for block_type in [GgmlDType::F16, GgmlDType::Q8_1, GgmlDType::Q8K] {
        assert!(quantize(256, block_type).starts_with(&format!("cannot quantize a table to {block_type:?}: use Q8_0")));
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let wte = numbers(400, 32, 1);
        wte.slice_set(&Tensor::full(bad, (1, 32), &Device::Cpu)?, 0, 333)?;
        let text = error_text(TokenTable::try_from(wte).unwrap().quantize(GgmlDType::Q8_0));
        assert!(text.starts_with("cannot quantize row 333, which holds a value that is not finite"), "{text}");
    }
    let blocks = QTensor::quantize(&numbers(4, 32, 1).reshape((2, 2, 32))?, GgmlDType::Q8_0)?;
    assert!(
        error_text(TokenTable::from_qtensor(&blocks, DType::F32, &Device::Cpu)).contains("[2, 2, 32], expected [V, C]")
    );
    let blocks = QTensor::quantize(&numbers(4, 32, 1), GgmlDType::Q8_0)?;
    assert!(error_text(TokenTable::from_qtensor(&blocks, DType::U8, &Device::Cpu)).contains("not [4, 32] of U8"));
    let dense = TokenTable::try_from(numbers(4, 32, 1)).unwrap();
    assert_eq!(error_text(dense.to_qtensor()), "the token table is not quantized: `quantize` it first");
    let text = error_text(quantized(golden("formats/f32.gguf"), DType::F32));
    assert!(text.ends_with(
        "`token_embd.weight` holds F32, not quantized blocks: open it with dense tables and call `quantize`"
    ));
    Ok(())
}

#[test]
fn ids_of_quantized_tables_are_held_to_the_contract() -> Result<()> {
    let path = golden("formats/q8_0.gguf");
    assert_ids_are_checked(&quantized(&path, DType::F32)?)?;
    assert_ids_are_checked(&mapped(&path, DType::F32)?)
}

#[test]
fn what_needs_numbers_says_so() -> Result<()> {
    let layer = quantized(golden("formats/q8_0.gguf"), DType::F32)?;
    let folder = TempDir::new().unwrap();
    let expected = "wte is quantized to Q8_0, which cannot be trained, changed or saved as safetensors: call `to_dense` first, or `save` to a path that ends in `.gguf`";
    assert_eq!(error_text(layer.trainable(&candle_nn::VarMap::new(), "")), expected);
    assert_eq!(error_text(layer.save(folder.path().join("x"))), expected);
    assert_eq!(error_text(layer.to_dtype(DType::F16)), expected);
    assert_eq!(error_text(layer.resize_vocab(20, NewRows::Mean)), expected);
    assert_eq!(error_text(layer.pad_vocab(64, NewRows::CopyOf(1))), expected);
    let (ids, rows) = (Tensor::new(&[1u32], &Device::Cpu)?, Tensor::zeros((1, 32), DType::F32, &Device::Cpu)?);
    assert_eq!(error_text(layer.replace_rows(&ids, &rows)), expected);
    let grad = Tensor::zeros((1, 1, 32), DType::F32, &Device::Cpu)?;
    assert_eq!(error_text(layer.row_grads(&ids.unsqueeze(0)?, 0, &grad)), expected);
    // The position table is in memory and can be trained.
    assert_eq!(layer.vars().len(), 0);
    let options = EmbeddingOptions::default().with_max_norm(1.0);
    let text = error_text(layer.wte().clone().with_options(options)?.forward(&ids));
    assert!(text.starts_with("max_norm changes rows in place"), "{text}");
    // The advice in the error works.
    let dense = layer.to_dense()?;
    assert_eq!(dense.resize_vocab(20, NewRows::Mean)?.config().vocab_size, 20);
    assert_eq!(
        mapped(golden("formats/q8_0.gguf"), DType::F32)?
            .to_dense()?
            .trainable(&candle_nn::VarMap::new(), "")?
            .vars()
            .len(),
        2
    );
    assert_same_rows(&layer, &dense)
}

/// A position table gets its gradient beside a quantized token table.
#[test]
fn positions_can_be_trained_beside_blocks() -> Result<()> {
    let wpe = candle_core::Var::from_tensor(&numbers(6, 32, 2))?;
    let blocks = QTensor::quantize(&numbers(13, 32, 1), GgmlDType::Q8_0)?;
    let wte = TokenTable::from_qtensor(&blocks, DType::F32, &Device::Cpu)?;
    let layer = GptInputLayer::new(wte, wpe.as_tensor().clone())?;
    let ids = Tensor::new(&[[0u32, 12], [3, 3]], &Device::Cpu)?;
    let grads = layer.forward_at(&ids, 1)?.sum_all()?.backward()?;
    let counts = grads.get(&wpe).unwrap().sum(1)?.to_vec1::<f32>()?;
    assert_eq!(counts, [0., 64., 64., 0., 0., 0.]);
    let dense = GptInputLayer::new(blocks.dequantize(&Device::Cpu)?, wpe.as_tensor().clone())?;
    assert_bits_eq(&layer.forward(&ids)?, &dense.forward(&ids)?);
    Ok(())
}

proptest! {
    #![proptest_config(properties(48))]

    /// In f32 the logits are those of the dequantized table, bit for bit, for any number of rows, alone or together.
    #[test]
    fn logits_of_blocks_are_those_of_their_elements(
        block_type in 0usize..10,
        n_blocks in 1usize..4,
        (n_rows, n_hidden) in (1usize..150, 1usize..40),
        row in 0usize..40,
        n_threads in 1usize..4,
        padding in 0usize..2,
        seed in any::<u64>(),
    ) {
        let check = || -> Result<()> {
            let width = n_blocks * BLOCK_TYPES[block_type].block_size();
            let blocks = QTensor::quantize(&numbers(n_rows + padding, width, seed), BLOCK_TYPES[block_type])?;
            let wte = TokenTable::from_qtensor(&blocks, DType::F32, &Device::Cpu)?;
            let head = LmHead::new(wte.clone())?.with_vocab_size(n_rows)?;
            let dense = LmHead::new(wte.to_dense()?)?.with_vocab_size(n_rows)?;
            let hidden = numbers(n_hidden, width, !seed);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let logits = pool.install(|| head.forward(&hidden))?;
            assert_bits_eq(&logits, &dense.forward(&hidden)?);
            let one = row % n_hidden;
            assert_bits_eq(&head.forward(&hidden.narrow(0, one, 1)?)?, &logits.narrow(0, one, 1)?);
            let (found, expected) = (head.top_k(&hidden, n_rows.min(5))?, dense.top_k(&hidden, n_rows.min(5))?);
            assert_bits_eq(&found.values, &expected.values);
            assert_eq!(found.ids.to_vec2::<u32>()?, expected.ids.to_vec2::<u32>()?);
            assert_eq!(head.argmax(&hidden)?.to_vec1::<u32>()?, dense.argmax(&hidden)?.to_vec1::<u32>()?);
            Ok(())
        };
        check().unwrap();
    }
}

#[test]
fn the_tied_head_works_on_blocks() -> Result<()> {
    for (n_rows, dtype) in [(13, DType::F32), (9000, DType::F32), (2500, DType::BF16), (300, DType::F64)] {
        let blocks = QTensor::quantize(&numbers(n_rows, 1024, 7), GgmlDType::Q6K)?;
        let wte = TokenTable::from_qtensor(&blocks, dtype, &Device::Cpu)?;
        let (head, dense) = (LmHead::new(wte.clone())?, LmHead::new(wte.to_dense()?)?);
        let hidden =
            candle_core::Var::from_tensor(&(numbers(6, 1024, 8) * 0.01)?.reshape((2, 3, 1024))?.to_dtype(dtype)?)?;
        // Products of other sizes may sum in another order: one last place of a half dtype.
        let bound = if dtype == DType::BF16 { 1.0 / 128.0 } else { 1e-5 };
        let near = |left: &Tensor, right: &Tensor| assert_close(&format!("{dtype:?}"), left, right, bound);
        near(&head.forward(&hidden.detach())?, &dense.forward(&hidden.detach())?);
        let gradient = |head: &LmHead| -> Result<Tensor> {
            let grads = head.forward(&hidden)?.sqr()?.sum_all()?.backward()?;
            Ok(grads.get(&hidden).unwrap().clone())
        };
        near(&gradient(&head)?, &gradient(&dense)?);
        // Both go block by block, so the sums are the same.
        let targets = Tensor::new(&[[0i64, -100, 12], [5, 1, n_rows as i64 - 1]], &Device::Cpu)?;
        let (ours, theirs) = (
            head.loss_and_grads(&hidden, &targets, &Default::default())?,
            dense.loss_and_grads(&hidden, &targets, &Default::default())?,
        );
        assert_bits_eq(&ours.loss, &theirs.loss);
        assert_bits_eq(&ours.hidden_grad, &theirs.hidden_grad);
        assert!(ours.wte_grad.is_none());
        let loss = head.loss(&hidden, &targets, &Default::default())?;
        assert_bits_eq(loss.backward()?.get(&hidden).unwrap(), &theirs.hidden_grad);
        let wrong = Tensor::zeros((1, 1023), dtype, &Device::Cpu)?;
        assert!(error_text(head.forward(&wrong)).contains("expected [.., 1024]"));
    }
    Ok(())
}

#[test]
fn a_gguf_file_keeps_blocks_and_numbers() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.gguf");
    let config = GptInputConfig::new(41, 7, 256).with_n_layer(3).with_n_head(8);
    let tables = std::collections::HashMap::from([
        ("wte.weight".to_string(), numbers(41, 256, 1)),
        ("wpe.weight".to_string(), numbers(7, 256, 2)),
    ]);
    let vb = candle_nn::VarBuilder::from_tensors(tables, DType::F32, &Device::Cpu);
    let dense = GptInputLayer::load(vb, &config)?;
    let (layer, _) = dense.quantize(GgmlDType::Q5K)?;
    layer.save(&path)?;
    let config = |layer: &GptInputLayer| {
        let GptInputConfig { vocab_size, n_positions, n_embd, n_layer, n_head, .. } = *layer.config();
        (vocab_size, n_positions, n_embd, n_layer, n_head)
    };
    for again in [quantized(&path, DType::F32)?, mapped(&path, DType::F32)?] {
        assert_eq!((config(&again), again.wte().block_type()), ((41, 7, 256, 3, 8), Some(GgmlDType::Q5K)));
        assert_same_rows(&again, &layer)?;
        // Saving again works from held and from mapped blocks.
        let copy = folder.path().join("copy.gguf");
        again.save(&copy)?;
        assert_eq!(fs::read(&copy).unwrap(), fs::read(&path).unwrap());
    }
    // Candle reads the same blocks.
    let mut file = fs::File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut file)?;
    let theirs = content.tensor(&mut file, "token_embd.weight", &Device::Cpu)?;
    assert_eq!(&*theirs.data()?, &*layer.wte().to_qtensor()?.data()?);
    assert_eq!(content.metadata["gpt2.context_length"].to_u32()?, 7);
    // Dense tables of every dtype, in odd sizes.
    for dtype in DTYPES {
        let dense = GptInputLayer::new(numbers(13, 33, 1).to_dtype(dtype)?, numbers(6, 33, 2).to_dtype(dtype)?)?;
        dense.save(&path)?;
        assert_same_rows(&GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?, &dense)?;
    }
    let rope = dense.config().clone().with_position("rope".parse()?);
    let vb = candle_nn::VarBuilder::from_tensors(
        [("wte.weight".to_string(), numbers(41, 256, 1))].into(),
        DType::F32,
        &Device::Cpu,
    );
    let text = error_text(GptInputLayer::load(vb, &rope)?.save(&path));
    assert!(
        text.ends_with("GGUF has no names for rope positions: save to a path that ends in `.safetensors`"),
        "{text}"
    );
    Ok(())
}
