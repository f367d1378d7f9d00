//! Mapped tables give the same results as tables in memory.

use candle_gpt_input::Error;
use candle_gpt_input::embedding::NewRows;

use super::*;

fn mapped(path: impl AsRef<Path>, dtype: DType) -> Result<GptInputLayer> {
    Ok(open_as(path, dtype, TableStorage::Mapped)?.0)
}

fn format(name: &str) -> PathBuf {
    golden("formats").join(name)
}

/// Compares every operation that looks up rows on both layers.
pub fn assert_same_rows(mapped: &GptInputLayer, resident: &GptInputLayer) -> Result<()> {
    let ids = Tensor::new(&[[0u32, 12, 5, 5], [11, 1, 0, 3]], &Device::Cpu)?;
    let position_ids = Tensor::new(&[[5u8, 0, 0, 3]], &Device::Cpu)?;
    assert_bits_eq(&mapped.forward(&ids)?, &resident.forward(&ids)?);
    assert_bits_eq(&mapped.forward_at(&ids, 2)?, &resident.forward_at(&ids, 2)?);
    assert_bits_eq(&mapped.forward_at(&ids, &position_ids)?, &resident.forward_at(&ids, &position_ids)?);
    assert_bits_eq(&mapped.embed_tokens(&ids)?, &resident.embed_tokens(&ids)?);
    let embeds = resident.embed_tokens(&ids)?;
    assert_bits_eq(&mapped.add_positions(&embeds, 1)?, &resident.add_positions(&embeds, 1)?);
    let strided = ids.to_dtype(DType::I64)?.t()?;
    assert_bits_eq(&mapped.forward(&strided)?, &resident.forward(&strided)?);
    let empty = Tensor::zeros((2, 0), DType::U32, &Device::Cpu)?;
    assert_bits_eq(&mapped.forward(&empty)?, &resident.forward(&empty)?);
    let buffer = Tensor::zeros((2, 4, resident.config().n_embd), resident.dtype(), &Device::Cpu)?;
    mapped.forward_into(&ids, 1, &buffer)?;
    assert_bits_eq(&buffer, &resident.forward_at(&ids, 1)?);
    mapped.prefetch(&ids)
}

#[test]
fn mapped_rows_are_those_in_memory() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        for name in [
            "tables.safetensors",
            "state_dict.pth",
            "legacy.bin",
            "float16.pt",
            "bfloat16.pt",
            "float64.pt",
            "nanogpt.pt",
            "sharded",
            "stored.npz",
            "f32.gguf",
            "f16.gguf",
            "bf16.gguf",
            "openai",
            "llmc_f32.bin",
            "llmc_bf16.bin",
        ] {
            let layer = mapped(format(name), dtype)?;
            assert_eq!((layer.dtype(), layer.wte().as_embedding().is_none()), (dtype, true));
            assert_same_rows(&layer, &GptInputLayer::from_pretrained(format(name), dtype, &Device::Cpu)?)?;
        }
    }
    Ok(())
}

/// Odd widths and every dtype, at every offset from an aligned address, with enough rows for several threads.
#[test]
fn tables_are_read_wherever_they_begin() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    for stored in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for n_before in [0, 1, 3, 4, 7] {
            let wte = (addressed(-300., 41, 1237, &Device::Cpu) / 7.)?.to_dtype(stored)?;
            let wpe = (addressed(0.1, 50, 1237, &Device::Cpu) / 3.)?.to_dtype(stored)?;
            let before = Tensor::zeros(n_before, DType::U8, &Device::Cpu)?;
            save_tensors(&path, [("before", &before), ("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
            let ids: Vec<u32> = (0..150).map(|i| (i * 17 + i / 7) % 41).collect();
            let ids = Tensor::from_vec(ids, (3, 50), &Device::Cpu)?;
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                let (ours, theirs) =
                    (mapped(&path, dtype)?, GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?);
                assert_bits_eq(&ours.forward(&ids)?, &theirs.forward(&ids)?);
            }
        }
    }
    Ok(())
}

/// Checks ids on tables of 13 tokens and 6 positions.
pub fn assert_ids_are_checked(layer: &GptInputLayer) -> Result<()> {
    for id in [13i64, -1, i64::MAX] {
        let ids = Tensor::new(&[[0, id]], &Device::Cpu)?;
        for result in [layer.forward(&ids).map(drop), layer.embed_tokens(&ids).map(drop), layer.prefetch(&ids)] {
            assert!(matches!(result, Err(Error::TokenOutOfRange { id: bad, vocab_size: 13, .. }) if bad == id));
        }
    }
    let ids = Tensor::zeros((1, 7), DType::U32, &Device::Cpu)?;
    assert!(matches!(layer.forward(&ids), Err(Error::SequenceTooLong { end: 7, n_positions: 6 })));
    Ok(())
}

#[test]
fn ids_of_mapped_tables_are_held_to_the_contract() -> Result<()> {
    let layer = mapped(format("tables.safetensors"), DType::F32)?;
    assert_ids_are_checked(&layer)?;
    let outside = Tensor::new(&[6u32], &Device::Cpu)?;
    assert!(matches!(layer.forward_at(&outside, &outside), Err(Error::PositionOutOfRange { position: 6, .. })));
    Ok(())
}

#[test]
fn what_needs_a_table_in_memory_says_so() -> Result<()> {
    let layer = mapped(format("tables.safetensors"), DType::F32)?;
    let folder = TempDir::new().unwrap();
    let wte_row = Tensor::zeros((1, 32), DType::F32, &Device::Cpu)?;
    let expected = "wte is mapped, but this operation needs it in memory: open the checkpoint with dense tables";
    assert_eq!(error_text(layer.resize_vocab(20, NewRows::Mean)), expected);
    assert_eq!(error_text(layer.replace_rows(&Tensor::new(&[1u32], &Device::Cpu)?, &wte_row)), expected);
    assert_eq!(error_text(layer.save(folder.path().join("x"))), expected);
    assert_eq!(error_text(layer.to_dtype(DType::F16)), expected);
    assert_eq!(error_text(layer.trainable(&candle_nn::VarMap::new(), "")), expected);
    assert!(layer.vars().is_empty());
    let wrong = Tensor::zeros((1, 1, 32), DType::BF16, &Device::Cpu)?;
    let ids = Tensor::zeros((1, 1), DType::U32, &Device::Cpu)?;
    assert_eq!(error_text(layer.forward_into(&ids, 0, &wrong)), "buffer has dtype BF16, but wte has F32");
    Ok(())
}

/// The head reads the rows in every call. It refuses a remote table (`remote.rs`).
#[test]
fn the_tied_head_works_on_mapped_rows() -> Result<()> {
    let path = format("tables.safetensors");
    let (layer, resident) = (mapped(&path, DType::F32)?, load(&path)?);
    let hidden = resident.forward(&Tensor::new(&[[0u32, 12, 5]], &Device::Cpu)?)?;
    let (ours, theirs) = (layer.lm_head()?, resident.lm_head()?);
    assert_bits_eq(&ours.forward(&hidden)?, &theirs.forward(&hidden)?);
    let targets = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu)?;
    assert_bits_eq(
        &ours.loss(&hidden, &targets, &Default::default())?,
        &theirs.loss(&hidden, &targets, &Default::default())?,
    );
    // Loaded into memory, it is a layer like any other.
    let dense = layer.to_dense()?;
    assert_eq!(dense.trainable(&candle_nn::VarMap::new(), "")?.vars().len(), 2);
    assert_same_rows(&layer, &dense)
}

/// In every pair of dtypes, of the file and of the layer.
#[test]
fn logits_of_mapped_rows_are_those_of_rows_in_memory() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tables.safetensors");
    let table = |n: usize| (Tensor::arange(0f32, (n * 35) as f32, &Device::Cpu)? * 0.37)?.sin()?.reshape((n, 35));
    for stored in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let (wte, wpe) = (table(101)?.to_dtype(stored)?, table(3)?.to_dtype(stored)?);
        save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let (head, dense) = (mapped(&path, dtype)?.lm_head()?, mapped(&path, dtype)?.to_dense()?.lm_head()?);
            for n in [1, 2, 7] {
                let hidden = table(n)?.to_dtype(dtype)?;
                assert_bits_eq(&head.forward(&hidden)?, &dense.forward(&hidden)?);
                assert_eq!(head.argmax(&hidden)?.to_vec1::<u32>()?, dense.argmax(&hidden)?.to_vec1::<u32>()?);
            }
        }
    }
    Ok(())
}

#[test]
fn tables_that_cannot_be_mapped_are_refused() {
    for (name, expected) in [
        ("deflated.npz", "cannot map `tok_emb.weight`, which is compressed"),
        ("fortran.npz", "cannot map `wte.weight`, which is not stored row after row"),
        ("strided.pth", "which is not stored row after row"),
    ] {
        let text = error_text(mapped(format(name), DType::F32));
        assert!(text.contains(expected), "{text}");
    }
    assert!(
        error_text(mapped(format("tables.safetensors"), DType::U8)).starts_with("cannot load or save a tensor as U8")
    );
}

#[test]
fn mapped_layers_are_shared_between_threads() -> Result<()> {
    let layer = mapped(format("tables.safetensors"), DType::F32)?;
    let ids = Tensor::new(&[[0u32, 12, 5]], &Device::Cpu)?;
    let expected = layer.forward(&ids)?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_bits_eq(&layer.forward(&ids).unwrap(), &expected));
        }
    });
    Ok(())
}
