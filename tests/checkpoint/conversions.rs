//! Converting dtypes while loading, and reading in pieces.

use super::*;

#[test]
fn types_convert_as_in_pytorch() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let values =
        [1.0f64, -2.5, 65504.0, 65520.0, 1e-8, 6.1e-5, 1.00048828125, 3.3895314e38, 1e300, 0.1, f64::INFINITY, -0.0];
    let wte = Tensor::new(&[values], &Device::Cpu)?;
    let save = |dtype: DType| -> Result<()> {
        let wte = wte.to_dtype(dtype)?;
        save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wte)], [])
    };
    let table = |dtype: DType| -> Result<Tensor> {
        Ok(tables_of(&GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?)[0].clone())
    };
    let narrowed: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    save(DType::F64)?; // through f32, as `tensor.to(torch.bfloat16)` of a double
    assert_bits_eq(&table(DType::F64)?, &wte);
    assert_eq!(table(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, narrowed);
    let halves: Vec<f16> = narrowed.iter().map(|&x| f16::from_f32(x)).collect();
    assert_eq!(table(DType::F16)?.flatten_all()?.to_vec1::<f16>()?, halves);
    let brains: Vec<bf16> = narrowed.iter().map(|&x| bf16::from_f32(x)).collect();
    assert_eq!(table(DType::BF16)?.flatten_all()?.to_vec1::<bf16>()?, brains);
    for stored in [DType::F16, DType::BF16] {
        save(stored)?;
        let widened = wte.to_dtype(stored)?.to_dtype(DType::F32)?;
        assert_bits_eq(&table(DType::F32)?, &widened);
        assert_bits_eq(&table(DType::F64)?, &widened.to_dtype(DType::F64)?);
        assert_bits_eq(&table(stored)?, &wte.to_dtype(stored)?);
    }
    Ok(())
}

#[test]
fn tables_larger_than_a_piece_are_read_whole() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    // A little over 1.5 MB: more than one piece of a megabyte, and not a multiple of it.
    let (wte, wpe) = tables(12_345, 7, 31);
    save_tensors(&path, [("wpe.weight", &wpe), ("wte.weight", &wte)], [])?;
    assert_bits_eq(&tables_of(&load(&path)?)[0], &wte);
    Ok(())
}

#[test]
fn a_shard_may_have_all_the_bytes_it_is_allowed() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
    save_tensors(&path, [("a", &tensor(3)), ("b", &tensor(4)), ("c", &tensor(7)), ("d", &tensor(1))], [])?;
    let checkpoint = Checkpoint::open(&path)?;
    for (max_bytes, expected) in [
        (28, vec![vec!["a", "b"], vec!["c"], vec!["d"]]),
        (27, vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"]]),
        (60, vec![vec!["a", "b", "c", "d"]]),
        (1, vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"]]),
    ] {
        let to = folder.path().join(max_bytes.to_string());
        let written = checkpoint.convert(&to, None, Some(max_bytes))?;
        let weights =
            written.iter().filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        let mut names = Vec::new();
        for path in weights {
            let mut tensors: Vec<_> = candle_core::safetensors::load(path, &Device::Cpu)?.into_keys().collect();
            tensors.sort();
            names.push(tensors);
        }
        assert_eq!(names, expected, "{max_bytes} bytes");
    }
    Ok(())
}
