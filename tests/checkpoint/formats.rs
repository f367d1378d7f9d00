//! The same two tables in every format, in files that the formats' own libraries wrote (`generate_formats.py`).

use candle_core::quantized::GgmlDType;
use candle_gpt_input::checkpoint::Format;

use super::*;

/// The files that hold the tables of `tables.safetensors`, bit for bit, and their formats.
const SAME_TABLES: [(&str, Format); 19] = [
    ("tables.safetensors", Format::Safetensors),
    ("state_dict.pth", Format::Torch),
    ("legacy.bin", Format::TorchLegacy),
    ("float16.pt", Format::Torch),
    ("bfloat16.pt", Format::Torch),
    ("float64.pt", Format::Torch),
    ("nanogpt.pt", Format::Torch),
    ("strided.pth", Format::Torch),
    ("strided_legacy.pth", Format::TorchLegacy),
    ("sharded", Format::Torch),
    ("stored.npz", Format::Npz),
    ("deflated.npz", Format::Npz),
    ("fortran.npz", Format::Npz),
    ("fortran_deflated.npz", Format::Npz),
    ("f32.gguf", Format::Gguf),
    ("f16.gguf", Format::Gguf),
    ("bf16.gguf", Format::Gguf),
    ("openai", Format::TensorFlow),
    ("openai/model.ckpt", Format::TensorFlow),
];
/// Files with the same tables whose token table is padded to 64 rows.
const PADDED_TABLES: [&str; 2] = ["llmc_f32.bin", "llmc_bf16.bin"];

fn format(name: &str) -> PathBuf {
    golden("formats").join(name)
}

fn hidden_states(path: impl AsRef<Path>, dtype: DType) -> Result<Tensor> {
    let layer = GptInputLayer::from_pretrained(path, dtype, &Device::Cpu)?;
    layer.forward_at(&Tensor::new(&[[0u32, 12, 5, 5], [11, 1, 0, 3]], &Device::Cpu)?, 2)
}

#[test]
fn every_format_gives_the_same_hidden_states() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let expected = hidden_states(format("tables.safetensors"), dtype)?;
        for name in SAME_TABLES.map(|(name, _)| name).into_iter().chain(PADDED_TABLES) {
            let ours = hidden_states(format(name), dtype).unwrap_or_else(|error| panic!("{error}"));
            assert_bits_eq(&ours, &expected);
        }
    }
    Ok(())
}

#[test]
fn whole_tables_agree_to_the_bit() -> Result<()> {
    let expected = golden_tensors("formats/tables.safetensors");
    for (name, _) in SAME_TABLES {
        let [wte, wpe] = tables_of(&load(format(name))?);
        assert_bits_eq(&wte, &expected["wte.weight"]);
        assert_bits_eq(&wpe, &expected["wpe.weight"]);
    }
    for name in PADDED_TABLES {
        let (layer, report) = open(format(name), DType::F32)?;
        let [wte, wpe] = tables_of(&layer);
        let padded = report.padded_vocab.map(|padded| (padded.vocab_size, padded.padded_to));
        assert_eq!((wte.dims(), padded), (&[64, 32][..], Some((13, 64))));
        assert_bits_eq(&wte.narrow(0, 0, 13)?, &expected["wte.weight"]);
        assert_bits_eq(&wpe, &expected["wpe.weight"]);
    }
    Ok(())
}

/// A file's name does not matter.
#[test]
fn a_format_is_recognised_by_its_content() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for (name, expected) in SAME_TABLES {
        let path = format(name);
        assert_eq!(Checkpoint::open(&path)?.format()?, expected);
        if !path.is_file() {
            continue;
        }
        for wrong in ["model.safetensors", "weights.gguf", "x.pth", "x.json", "noextension"] {
            let renamed = folder.path().join(wrong);
            fs::copy(&path, &renamed).unwrap();
            assert_eq!(Checkpoint::open(&renamed)?.format()?, expected);
            fs::remove_file(renamed).unwrap();
        }
        // The only weights in a folder are the folder's checkpoint.
        let alone = folder.path().join("anything");
        fs::copy(&path, &alone).unwrap();
        fs::write(folder.path().join("notes.txt"), "no weights").unwrap();
        assert_eq!(Checkpoint::open(folder.path())?.format()?, expected);
        fs::remove_file(alone).unwrap();
    }
    Ok(())
}

#[test]
fn what_a_file_says_of_itself_is_its_configuration() -> Result<()> {
    for (name, n_layer, n_head) in
        [("openai", 2, 4), ("f32.gguf", 2, 4), ("llmc_f32.bin", 0, 4), ("nanogpt.pt", 2, 4), ("sharded", 2, 4)]
    {
        let config = Checkpoint::open(format(name))?.config()?;
        assert_eq!(
            (config.n_positions, config.n_embd, config.n_layer, config.n_head),
            (6, 32, n_layer, n_head),
            "{name}"
        );
        assert_eq!((config.vocab_size, config.n_token_rows()), (13, if name == "llmc_f32.bin" { 64 } else { 13 }));
    }
    // `hparams.json` counts for a file of a known name, not only for the whole folder.
    assert_eq!(Checkpoint::open(format("openai/model.ckpt"))?.config()?.n_layer, 2);
    Ok(())
}

#[test]
fn quantized_tables_are_dequantized_as_the_gguf_library_does() -> Result<()> {
    for (name, block_type) in [("q8_0", GgmlDType::Q8_0), ("q4_0", GgmlDType::Q4_0), ("q5_1", GgmlDType::Q5_1)] {
        let path = format(&format!("{name}.gguf"));
        let (layer, report) = open(path, DType::F32)?;
        let expected = tables_of(&load(format(&format!("{name}_dequantized.npz")))?);
        assert_bits_eq(&tables_of(&layer)[0], &expected[0]);
        assert_bits_eq(&tables_of(&layer)[1], &expected[1]);
        assert_eq!(
            (report.wte.block_type, report.wpe.as_ref().and_then(|wpe| wpe.block_type)),
            (Some(block_type), None)
        );
        assert!(
            report.to_string().starts_with(&format!("wte = `token_embd.weight` [13, 32] {block_type:?} -> F32 from "))
        );
    }
    Ok(())
}

#[test]
fn tensors_of_every_format_are_listed() -> Result<()> {
    for (name, expected) in [
        ("state_dict.pth", "lm_head.weight F32 transformer.wpe.weight F32 transformer.wte.weight F32"),
        ("stored.npz", "step I64 wpe F32 wte F32"),
        ("fortran.npz", "wpe.weight F64 wte.weight F16"),
        ("q8_0.gguf", "position_embd.weight F32 token_embd.weight Q8_0"),
        ("openai", "model/h0/ln_1/g F32 model/h1/ln_1/g F32 model/step I64 model/wpe F32 model/wte F32"),
        (
            "llmc_bf16.bin",
            "transformer.ln_f.bias BF16 transformer.ln_f.weight BF16 transformer.wpe.weight BF16 transformer.wte.weight BF16",
        ),
    ] {
        let entries = Checkpoint::open(format(name))?.tensors()?;
        let listed: Vec<_> = entries.iter().map(|entry| format!("{} {}", entry.name, entry.dtype)).collect();
        assert_eq!(listed.join(" "), expected);
        let wte = entries.iter().find(|entry| entry.role == Role::TokenTable).unwrap();
        assert!(wte.file.is_file() && wte.n_bytes > 0);
    }
    let roles: Vec<_> = ["token_embd.weight", "position_embd.weight", "output.weight", "model/wte", "xwte"]
        .map(Role::of)
        .into_iter()
        .collect();
    assert_eq!(roles, [Role::TokenTable, Role::PositionTable, Role::OutputHead, Role::TokenTable, Role::Other]);
    Ok(())
}

#[test]
fn every_format_converts_to_safetensors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for dtype in [None, Some(DType::F16)] {
        let expected = hidden_states(format("tables.safetensors"), DType::F32)?;
        for name in SAME_TABLES.map(|(name, _)| name).into_iter().chain(PADDED_TABLES) {
            let checkpoint = Checkpoint::open(format(name))?;
            let one = folder.path().join("one.safetensors");
            assert_eq!(checkpoint.convert(&one, dtype, None)?, std::slice::from_ref(&one));
            assert_bits_eq(&hidden_states(&one, DType::F32)?, &expected);
            let many = folder.path().join(format!("{}_folder", name.replace('/', "_")));
            let written = checkpoint.convert(&many, dtype, Some(1))?;
            assert_eq!(written.len(), checkpoint.tensors()?.len() + 2, "a shard a tensor, the index, the config");
            assert_bits_eq(&hidden_states(&many, DType::F32)?, &expected);
            assert_eq!(Checkpoint::open(&many)?.config()?, checkpoint.config()?);
            let (before, after) = (checkpoint.tensors()?, Checkpoint::open(&one)?.tensors()?);
            for (before, after) in before.iter().zip(&after) {
                assert_eq!((&before.name, &before.shape), (&after.name, &after.shape));
                let integer = before.dtype.starts_with('I');
                match dtype {
                    Some(_) if !integer => assert_eq!(after.dtype, "F16"),
                    _ => assert_eq!(after.dtype, before.dtype),
                }
            }
        }
    }
    // Integer tensors are copied unchanged.
    let one = folder.path().join("numbers.safetensors");
    Checkpoint::open(format("stored.npz"))?.convert(&one, Some(DType::BF16), None)?;
    assert_eq!(candle_core::safetensors::load(&one, &Device::Cpu)?["step"].to_scalar::<i64>()?, 7);
    // Candle reads the written file through the safetensors library.
    Checkpoint::open(format("q8_0.gguf"))?.convert(&one, None, None)?;
    let back = candle_core::safetensors::load(&one, &Device::Cpu)?;
    assert_bits_eq(&back["token_embd.weight"], &tables_of(&load(format("q8_0_dequantized.npz"))?)[0]);
    Ok(())
}
