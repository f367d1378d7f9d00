//! GPT-2 in GGUF files of llama.cpp's names, against the same elements under Hugging Face's names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
use candle_gpt_input::rng::Generator;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::gpt2::model::Gpt2;
use crate::gpt2::{SUMS, greedy};
use crate::support::{BLOCK_TYPES, assert_bits_eq, assert_close};
use crate::{example, failure, load, stdout};

/// Returns llama.cpp's name of a tensor of Hugging Face's, and whether its converter transposes it.
fn theirs(name: &str, n_layer: usize) -> (String, bool) {
    let whole = [("wte", "token_embd"), ("wpe", "position_embd"), ("ln_f", "output_norm"), ("lm_head", "output")];
    let in_block = [
        ("ln_1", "attn_norm", false),
        ("ln_2", "ffn_norm", false),
        ("attn.c_attn", "attn_qkv", true),
        ("attn.c_proj", "attn_output", true),
        ("mlp.c_fc", "ffn_up", true),
        ("mlp.c_proj", "ffn_down", true),
    ];
    let of_blocks = (0..n_layer).flat_map(|i| {
        in_block.map(|(ours, theirs, is_linear)| (format!("h.{i}.{ours}"), format!("blk.{i}.{theirs}"), is_linear))
    });
    let whole = whole.map(|(ours, theirs)| (ours.to_string(), theirs.to_string(), false));
    let (module, leaf) = name.strip_prefix("transformer.").unwrap_or(name).rsplit_once('.').unwrap();
    let mut all = whole.into_iter().chain(of_blocks);
    let (_, theirs, is_linear) = all.find(|(ours, ..)| ours == module).expect(name);
    (format!("{theirs}.{leaf}"), is_linear && leaf == "weight")
}

/// A model in both layouts: `model.gguf`, and the elements of its blocks under Hugging Face's names.
struct Both {
    folder: TempDir,
}

impl Both {
    /// Writes matrices, but that of positions, as the type that `quantized` gives for their name in GGUF.
    fn new(tensors: &HashMap<String, Tensor>, config: &Json, quantized: impl Fn(&str) -> GgmlDType) -> Self {
        Self::with_keys(tensors, config, quantized, &[])
    }

    /// Writes more keys beside those of the configuration.
    fn with_keys(
        tensors: &HashMap<String, Tensor>,
        config: &Json,
        quantized: impl Fn(&str) -> GgmlDType,
        more: &[(&str, Value)],
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let count = |name: &str| u32::try_from(config[name].as_u64().unwrap()).unwrap();
        let (mut stored, mut elements) = (Vec::new(), Vec::new());
        for (name, tensor) in tensors {
            let (theirs, transposed) = theirs(name, count("n_layer") as usize);
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let tensor = if transposed { tensor.t().unwrap().contiguous().unwrap() } else { tensor };
            let is_table = tensor.rank() == 2 && theirs != "position_embd.weight";
            let dtype = if is_table { quantized(&theirs) } else { GgmlDType::F32 };
            let blocks = QTensor::quantize(&tensor, dtype).unwrap();
            let dequantized = blocks.dequantize(&Device::Cpu).unwrap();
            elements
                .push((name, if transposed { dequantized.t().unwrap().contiguous().unwrap() } else { dequantized }));
            stored.push((theirs, blocks));
        }
        let mut keys = vec![("general.architecture", Value::String("gpt2".to_string()))];
        for (key, name) in [
            ("gpt2.context_length", "n_positions"),
            ("gpt2.embedding_length", "n_embd"),
            ("gpt2.block_count", "n_layer"),
            ("gpt2.attention.head_count", "n_head"),
            ("gpt2.feed_forward_length", "n_inner"),
        ] {
            keys.push((key, Value::U32(count(name))));
        }
        keys.push(("gpt2.attention.layer_norm_epsilon", Value::F32(eps(config) as f32)));
        let keys: Vec<_> = keys.iter().chain(more).map(|(key, value)| (*key, value)).collect();
        let stored: Vec<_> = stored.iter().map(|(name, blocks)| (name.as_str(), blocks)).collect();
        gguf_file::write(&mut File::create(folder.path().join("model.gguf")).unwrap(), &keys, &stored).unwrap();
        let under = folder.path().join("elements");
        fs::create_dir(&under).unwrap();
        let elements: Vec<_> = elements.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        save_tensors(under.join("model.safetensors"), elements, []).unwrap();
        fs::write(under.join("config.json"), config.to_string()).unwrap();
        Self { folder }
    }

    fn gguf(&self) -> Checkpoint {
        Checkpoint::open(self.folder.path().join("model.gguf")).unwrap()
    }

    fn elements(&self) -> Gpt2 {
        let checkpoint = Checkpoint::open(self.folder.path().join("elements")).unwrap();
        Gpt2::from_checkpoint(&checkpoint, DType::F32, &Device::Cpu).unwrap()
    }
}

fn eps(config: &Json) -> f64 {
    config["layer_norm_epsilon"].as_f64().unwrap_or(1e-5)
}

/// Settings that differ from GPT-2's: two heads, not four; an inner width of twice the outer; a large epsilon.
fn config(untied: bool) -> Json {
    json!({"model_type": "gpt2", "vocab_size": 61, "n_positions": 24, "n_embd": 256, "n_layer": 2, "n_head": 2,
        "n_inner": 512, "layer_norm_epsilon": 0.25, "tie_word_embeddings": !untied})
}

/// Draws a model whose rows consist of whole blocks of every type.
fn drawn(untied: bool) -> HashMap<String, Tensor> {
    let generator = Generator::manual_seed(7);
    let draw = |dims: &[usize], mean: f64| {
        let mut values = vec![0f32; dims.iter().product()];
        generator.normal_f32(&mut values, mean, 0.1).unwrap();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    };
    let mut tensors = HashMap::new();
    let mut add = |name: String, dims: &[usize], mean| tensors.insert(format!("transformer.{name}"), draw(dims, mean));
    add("wte.weight".to_string(), &[61, 256], 0.0);
    add("wpe.weight".to_string(), &[24, 256], 0.0);
    let norms = ["h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"];
    for norm in norms {
        add(format!("{norm}.weight"), &[256], 1.0);
        add(format!("{norm}.bias"), &[256], 0.0);
    }
    for i in 0..2 {
        for (name, n_in, n_out) in
            [("attn.c_attn", 256, 768), ("attn.c_proj", 256, 256), ("mlp.c_fc", 256, 512), ("mlp.c_proj", 512, 256)]
        {
            add(format!("h.{i}.{name}.weight"), &[n_in, n_out], 0.0);
            add(format!("h.{i}.{name}.bias"), &[n_out], 0.0);
        }
    }
    if untied {
        tensors.insert("lm_head.weight".to_string(), draw(&[61, 256], 0.0));
    }
    tensors
}

/// Both multiply f32 by the same f32 elements; only the order of the sums differs.
#[test]
fn quantized_weights_compute_what_their_elements_do() {
    let ids = Tensor::new(&[[5u32, 60, 0, 17, 17, 2, 33], [8, 1, 44, 9, 50, 31, 3]], &Device::Cpu).unwrap();
    for untied in [false, true] {
        for block_type in BLOCK_TYPES {
            // llama.cpp gives the head a type of its own.
            let of = |name: &str| if name == "output.weight" { GgmlDType::Q6K } else { block_type };
            let both = Both::new(&drawn(untied), &config(untied), of);
            let (checkpoint, elements) = (both.gguf(), both.elements());
            let expected = elements.forward(&ids, None).unwrap();
            let quantized = Gpt2::quantized(&checkpoint, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(quantized.input().wte().block_type(), Some(block_type));
            let name = format!("{block_type:?}, untied: {untied}");
            assert_close(&name, &quantized.forward(&ids, None).unwrap(), &expected, SUMS);
            // Without keeping blocks, nothing differs at all.
            let dense = Gpt2::from_checkpoint(&checkpoint, DType::F32, &Device::Cpu).unwrap();
            assert_bits_eq(&dense.forward(&ids, None).unwrap(), &expected);
            let tokens = |model: &Gpt2| greedy(model, &ids, None, 16).1.to_vec2::<i64>().unwrap();
            assert_eq!(tokens(&quantized), tokens(&elements), "{name}");
            // Widened from halves, multiplied by f32, rounded: as near as halves are.
            let half = Gpt2::quantized(&checkpoint, DType::BF16, &Device::Cpu).unwrap();
            let half = half.forward(&ids, None).unwrap().to_dtype(DType::F32).unwrap();
            assert_close(&name, &half, &expected, 4e-2);
        }
    }
}

#[test]
fn weights_that_are_not_quantized_are_read_as_they_are() {
    let ids = Tensor::new(&[[5u32, 60, 0, 17]], &Device::Cpu).unwrap();
    for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
        let both = Both::new(&drawn(true), &config(true), |_| dtype);
        let dense = Gpt2::from_checkpoint(&both.gguf(), DType::F32, &Device::Cpu).unwrap();
        let expected = both.elements().forward(&ids, None).unwrap();
        assert_bits_eq(&dense.forward(&ids, None).unwrap(), &expected);
        // Some in blocks, and the token table not among them.
        let of = |name: &str| {
            if ["ffn", "output."].iter().any(|part| name.contains(part)) { GgmlDType::Q8_0 } else { dtype }
        };
        let mixed = Both::new(&drawn(true), &config(true), of);
        let quantized = Gpt2::quantized(&mixed.gguf(), DType::F32, &Device::Cpu).unwrap();
        assert!(quantized.input().wte().as_embedding().is_some());
        assert_eq!(quantized.lm_head().table().block_type(), Some(GgmlDType::Q8_0));
        let expected = mixed.elements().forward(&ids, None).unwrap();
        assert_close(&format!("{dtype:?}"), &quantized.forward(&ids, None).unwrap(), &expected, SUMS);
    }
}

#[test]
fn what_cannot_stay_quantized_is_said() {
    let text = |both: &Both| {
        let error = Gpt2::quantized(&both.gguf(), DType::F32, &Device::Cpu).unwrap_err();
        format!("{error:#}").lines().next().unwrap().to_string()
    };
    let plain = text(&Both::new(&drawn(false), &config(false), |_| GgmlDType::F16));
    assert_eq!(plain, "no weight of the file is quantized: read it without keeping blocks");
    let of_head = Both::new(&drawn(true), &config(true), |name: &str| match name {
        "output.weight" => GgmlDType::Q8_0,
        _ => GgmlDType::F16,
    });
    assert!(Gpt2::quantized(&of_head.gguf(), DType::F32, &Device::Cpu).is_ok());
    let mut tensors = drawn(false);
    let positions = tensors.remove("transformer.wpe.weight").unwrap();
    let error = text(&Both::new(&tensors, &config(false), |_| GgmlDType::Q8_0));
    assert!(error.contains("position"), "{error}");
    tensors.insert("transformer.wpe.weight".to_string(), positions);
    let missing = tensors.remove("transformer.h.1.mlp.c_fc.weight").unwrap();
    let text = text(&Both::new(&tensors, &config(false), |_| GgmlDType::Q8_0));
    assert!(text.contains("no tensor `blk.1.ffn_up.weight` (closest: "), "{text}");
    let both = Both::new(&tensors, &config(false), |_| GgmlDType::Q8_0);
    let error = Gpt2::from_checkpoint(&both.gguf(), DType::F32, &Device::Cpu).unwrap_err();
    assert!(format!("{error:#}").contains("no tensor `blk.1.ffn_up.weight` (closest: "), "{error:#}");
    tensors.insert("transformer.h.1.mlp.c_fc.weight".to_string(), missing);
    let mut wrong = config(false);
    wrong["n_inner"] = 480.into();
    for open in [Gpt2::quantized, Gpt2::from_checkpoint] {
        let both = Both::new(&tensors, &wrong, |_| GgmlDType::Q8_0);
        let error = format!("{:#}", open(&both.gguf(), DType::F32, &Device::Cpu).unwrap_err());
        assert!(error.contains("`blk.0.ffn_up.weight` has shape [512, 256], expected [480, 256]"), "{error}");
    }
    wrong["n_inner"] = 512.into();
    wrong["n_layer"] = 1.into();
    tensors.retain(|name, _| !name.contains(".h.1."));
    let both = Both::new(&tensors, &wrong, |_| GgmlDType::Q8_0);
    assert!(Gpt2::quantized(&both.gguf(), DType::F32, &Device::Cpu).is_ok());
}

fn tiny_gpt2(block_type: GgmlDType) -> Both {
    tiny_gpt2_with(block_type, &[])
}

fn tiny_gpt2_with(block_type: GgmlDType, more: &[(&str, Value)]) -> Both {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2");
    let mut config: Json = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
    config["n_inner"] = 256.into();
    config.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_pdrop")); // GGUF has no keys for them
    Both::with_keys(&load(&path.join("model.safetensors")), &config, |_| block_type, more)
}

/// Returns what a run prints, but not its first two lines, of the model and the machine, and its last, of times.
fn said(both: &Both, options: &[&str]) -> Vec<String> {
    let mut command = example("gpt2");
    let text = stdout(command.arg("--weights").arg(both.folder.path().join("model.gguf")).args(options));
    let lines: Vec<String> = text.lines().map(String::from).collect();
    let state =
        if options.contains(&"--quantized") { ", F32 on quantized weights, read in " } else { ", F32, read in " };
    assert!(lines[0].starts_with("3 blocks, 4 heads, 64 dimensions") && lines[0].contains(state), "{text}");
    lines[2..lines.len() - 1].to_vec()
}

#[test]
fn gpt2_goes_on_from_a_prompt_with_weights_in_blocks() {
    for block_type in [GgmlDType::Q8_0, GgmlDType::Q5_1] {
        let both = tiny_gpt2(block_type);
        let quantized = said(&both, &["--quantized"]);
        assert_eq!(quantized, said(&both, &[]), "{block_type:?}");
        assert!(quantized[0].contains("LORD"), "{quantized:?}");
    }
    let plain = tiny_gpt2(GgmlDType::F16);
    let mut command = example("gpt2");
    command.arg("--quantized").arg("--weights").arg(plain.folder.path().join("model.gguf"));
    assert!(failure(&mut command, 1).ends_with("no weight of the file is quantized: read it without keeping blocks"));
    let error = failure(example("gpt2").arg("--quantized"), 1); // the weights that it has by itself
    assert!(error.ends_with("only a GGUF file of llama.cpp's names can stay quantized"), "{error}");
}

#[test]
fn pretrain_begins_from_the_elements_of_blocks() {
    let both = tiny_gpt2(GgmlDType::Q8_0);
    let end = |out: &str, from: &str| {
        let out = both.folder.path().join(out);
        let mut command = example("pretrain");
        command.arg("--out").arg(&out).arg("--init-from").arg(both.folder.path().join(from));
        stdout(command.args("--batch-size 2 --max-length 16 --steps 3".split(' ')));
        load(&out.join("model.safetensors"))
    };
    let (of_blocks, of_elements) = (end("a", "model.gguf"), end("b", "elements"));
    assert_eq!(of_blocks.len(), of_elements.len());
    for (name, tensor) in &of_blocks {
        assert_bits_eq(tensor, &of_elements[name]);
    }
}

/// As many tokens as the table has rows, in another order than GPT-2's: its ids would be other words.
#[test]
fn the_tokenizer_inside_a_file_is_used_and_kept() {
    let mut tokens: Vec<String> = (0..50257).map(|i| format!("t{i}")).collect();
    (tokens[7], tokens[8], tokens[9]) = ("a".to_string(), "b".to_string(), "ab".to_string());
    let texts = |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
    let keys = [
        ("tokenizer.ggml.model", Value::String("gpt2".to_string())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.merges", texts(&["a b".to_string()])),
    ];
    let both = tiny_gpt2_with(GgmlDType::Q8_0, &keys);
    let weights = both.folder.path().join("model.gguf");
    let mut command = example("embed");
    let printed = stdout(command.arg("--weights").arg(&weights).arg("abba"));
    assert!(printed.contains("ids[0] [9, 8, 7]"), "{printed}");
    let text = both.folder.path().join("text.txt");
    fs::write(&text, "abba".repeat(40)).unwrap();
    let out = both.folder.path().join("out");
    let mut command = example("pretrain");
    command.arg("--out").arg(&out).arg("--init-from").arg(&weights).arg("--text-file").arg(&text);
    stdout(command.args("--batch-size 1 --max-length 8 --steps 1".split(' ')));
    let kept = candle_gpt_input::tokenizer::Tokenizer::beside(&out).unwrap().expect("a tokenizer.json");
    assert_eq!(kept.encode("abba").unwrap(), [9, 8, 7]);
    let mut command = example("gpt2");
    let printed = stdout(command.arg("--weights").arg(&weights).args(["--prompt", "ab", "--max-new-tokens", "2"]));
    assert!(printed.lines().any(|line| line.starts_with('t')), "{printed}");
}
