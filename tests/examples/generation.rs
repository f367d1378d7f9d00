//! What `gpt2` prints: text as it grows, errors for logits that are not finite, perplexities.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::golden;
use crate::{example, failure, stdout};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::GptInputConfig;
use candle_gpt_input::checkpoint::save_tensors;
use candle_gpt_input::tokenizer::Tokenizer;
use tempfile::TempDir;

fn gpt2(weights: &Path, args: &[&str]) -> Command {
    let mut command = example("gpt2");
    command.args(["--device", "cpu", "--weights"]).arg(weights).args(args);
    command
}

/// A model without blocks that says `ids`, whatever it is told: position p is column p, and row `ids[p]` of the head
/// asks for column p.
struct Saying<'a> {
    ids: &'a [u32],
    n_rows: usize,
    /// What the final norm multiplies by.
    ln_f: f32,
    /// The head's bias: its value for the tokens of `ids`, and for all others.
    bias: [f32; 2],
}

impl<'a> Saying<'a> {
    fn new(ids: &'a [u32]) -> Self {
        Self { ids, n_rows: 50257, ln_f: 1.0, bias: [0.0; 2] }
    }

    fn save(self, folder: &Path) {
        let (cpu, n_embd, n_rows) = (Device::Cpu, 16, self.n_rows);
        let mut head = vec![0f32; n_rows * n_embd];
        let mut bias = vec![self.bias[1]; n_rows];
        for (column, &id) in self.ids.iter().enumerate() {
            head[id as usize * n_embd + column] = 1.0;
            bias[id as usize] = self.bias[0];
        }
        let wte = Tensor::zeros((n_rows, n_embd), DType::F32, &cpu).unwrap();
        let tensors = [
            ("wte.weight", &wte),
            ("wpe.weight", &Tensor::eye(n_embd, DType::F32, &cpu).unwrap()),
            ("ln_f.weight", &Tensor::full(self.ln_f, n_embd, &cpu).unwrap()),
            ("ln_f.bias", &Tensor::zeros(n_embd, DType::F32, &cpu).unwrap()),
            ("lm_head.weight", &Tensor::from_vec(head, (n_rows, n_embd), &cpu).unwrap()),
            ("lm_head.bias", &Tensor::from_vec(bias, n_rows, &cpu).unwrap()),
        ];
        save_tensors(folder.join("model.safetensors"), tensors, []).unwrap();
        let config = GptInputConfig::new(n_rows, n_embd, n_embd).with_n_layer(0).with_n_head(1);
        fs::write(folder.join("config.json"), config.to_json()).unwrap();
    }
}

#[test]
fn characters_are_whole_behind_half_ones() {
    let folder = TempDir::new().unwrap();
    for ids in [
        // Half an emoji, then a whole one; a half at the end; halves alone.
        &[12520u32, 12520, 97, 245, 290, 12520, 97, 245, 13][..],
        &[12520, 97, 12520, 97],
        &[97, 245, 12520, 12520, 12520, 97, 245],
    ] {
        Saying::new(ids).save(folder.path());
        let n = ids.len().to_string();
        let text = Tokenizer::gpt2().decode(ids).unwrap();
        let one = stdout(&mut gpt2(folder.path(), &["--prompt", "\"", "--max-new-tokens", &n]));
        assert!(one.contains(&format!("\n{text}\n{n} tokens in ")), "{text}: {one}");
        let two = stdout(&mut gpt2(folder.path(), &["--prompt", "\"", "--prompt", "\"", "--max-new-tokens", &n]));
        assert!(two.contains(&format!("\n[0] {text}\n[1] {text}\n")), "{text}: {two}");
    }
}

/// The ways to choose a token, and `--max-new-tokens 0`, which shows the likeliest.
const WAYS: [&[&str]; 4] = [
    &["--max-new-tokens", "2"],
    &["--max-new-tokens", "2", "--temperature", "1"],
    &["--max-new-tokens", "2", "--temperature", "1", "--top-k", "5"],
    &["--max-new-tokens", "0"],
];

#[test]
fn logits_that_are_not_finite_are_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    fs::write(&path, "In the beginning").unwrap();
    let path = path.to_str().unwrap();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let refused = |dtype: &str, expected: &str| {
        let mut ways: Vec<Vec<&str>> = WAYS.iter().map(|way| [&["--ids", "1"], *way].concat()).collect();
        ways.push(vec!["--perplexity", path]);
        for way in ways {
            let text = failure(gpt2(folder.path(), &way).args(["--dtype", dtype]), 1);
            assert!(text.ends_with(&format!("error: the logits are NaN or infinite in {expected}")), "{way:?}: {text}");
        }
    };
    let ids: &[u32] = &[262, 3290];
    for (ln_f, bias) in [(nan, [0.0; 2]), (inf, [0.0; 2]), (1.0, [nan, 0.0]), (1.0, [inf, 0.0]), (1.0, [-inf; 2])] {
        Saying { ln_f, bias, ..Saying::new(ids) }.save(folder.path());
        refused("f32", "f32: the weights are damaged");
        refused("bf16", "bf16: try --dtype f32");
        refused("f16", "f16: try --dtype bf16 or f32");
    }
    // 3.9 times this is more than 65504, the largest number in f16.
    Saying { ln_f: 3e4, ..Saying::new(ids) }.save(folder.path());
    refused("f16", "f16: try --dtype bf16 or f32");
    for dtype in ["f32", "bf16"] {
        let text = stdout(gpt2(folder.path(), &["--ids", "1", "--dtype", dtype]).args(WAYS[0]));
        assert!(text.contains("\n262,3290\n"), "{text}");
    }
    Saying::new(ids).save(folder.path());
    let text =
        failure(gpt2(folder.path(), &["--ids", "1", "--temperature", "1e-38"]).args(["--max-new-tokens", "2"]), 1);
    assert!(text.ends_with("--temperature 1e-38 makes the logits infinite: use 0 for the likeliest token"), "{text}");
}

#[test]
fn tokens_with_the_logit_minus_infinity_are_never_drawn() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    Saying { bias: [0.0, f32::NEG_INFINITY], ..Saying::new(&[262]) }.save(folder.path());
    for dtype in ["f32", "f16", "bf16"] {
        for way in &WAYS[..3] {
            let text = stdout(gpt2(folder.path(), &["--ids", "1", "--dtype", dtype]).args(*way));
            assert!(text.contains("\n262,262\n"), "{text}");
        }
    }
    let text = stdout(gpt2(folder.path(), &["--ids", "1"]).args(WAYS[3]));
    assert!(text.contains("\nnext[0] 262 3.873, 0 -inf, 1 -inf"), "{text}");
    // " the" is the only token there is.
    for (words, expected) in [("In the the", "perplexity 1.000000"), ("In the beginning", "perplexity inf")] {
        fs::write(&path, words).unwrap();
        let text = stdout(gpt2(folder.path(), &["--perplexity"]).arg(&path));
        assert!(text.ends_with(&format!("{expected}\n")), "{text}");
    }
}

/// The table has 50304 rows, the tokenizer (GPT-2's, where the model has none) 50257 tokens.
#[test]
fn padding_of_the_vocabulary_is_never_drawn() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    fs::write(&path, "In the the").unwrap();
    let padding = 50300;
    Saying { n_rows: 50304, bias: [10.0, 0.0], ..Saying::new(&[padding]) }.save(folder.path());
    // Ids say nothing about the vocabulary.
    let text = stdout(&mut gpt2(folder.path(), &["--ids", "1", "--max-new-tokens", "2"]));
    assert!(text.contains("\n50300,50300\n"), "{text}");
    let text = stdout(&mut gpt2(folder.path(), &["--prompt", "In", "--max-new-tokens", "2"]));
    assert!(text.contains("\n!!\n"), "{text}"); // token 0: the first of equal logits
    // All tokens are alike, so the perplexity is their number.
    let text = stdout(gpt2(folder.path(), &["--perplexity"]).arg(&path));
    let number = text.trim_end().rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    assert!((number / 50257.0 - 1.0).abs() < 1e-6, "{text}");
}

#[test]
fn seeds_are_those_of_torch_manual_seed() {
    let draw = |seed: &str| {
        let mut command = example("gpt2");
        let text =
            stdout(command.args(["--device", "cpu", "--temperature", "1", "--max-new-tokens", "9", "--seed", seed]));
        text.lines().filter(|line| !line.contains(" read in ") && !line.contains(" tokens in ")).collect::<String>()
    };
    assert_eq!(draw("-1"), draw("18446744073709551615"));
    assert_eq!(draw("-9223372036854775808"), draw("9223372036854775808"));
    assert_ne!(draw("-1"), draw("-2"));
    for seed in ["-9223372036854775809", "18446744073709551616", "1.5"] {
        let text = failure(example("gpt2").args(["--seed", seed]), 2);
        assert!(text.contains("use a whole number from -2^63 to 2^64 - 1"), "{text}");
    }
}

#[test]
fn another_architecture_is_named_before_anything_else() {
    let folder = TempDir::new().unwrap();
    let wte = Tensor::zeros((8, 4), DType::F32, &Device::Cpu).unwrap();
    let tensors = [("model.embed_tokens.weight", &wte)];
    save_tensors(folder.path().join("model.safetensors"), tensors, []).unwrap();
    let config = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "max_position_embeddings": 2,
        "num_attention_heads": 1, "num_hidden_layers": 1}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    for args in [&["--ids", "1,2,3"][..], &["--prompt", "In the beginning"], &["--perplexity", "no such file"]] {
        let text = failure(&mut gpt2(folder.path(), args), 1);
        assert!(text.ends_with("config: model_type `llama` is not gpt2"), "{text}");
    }
}

#[test]
fn blocks_are_neither_left_out_nor_their_heads_guessed_without_a_word() {
    let folder = TempDir::new().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2");
    fs::copy(tiny.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let args = ["--ids", "3,1", "--max-new-tokens", "1"];
    let output = gpt2(folder.path(), &args).output().unwrap();
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && note.starts_with("note: no config.json states n_head: 1 of 64"), "{note}");
    let config: GptInputConfig = GptInputConfig::from_file(tiny.join("config.json")).unwrap();
    for n_layer in 0..3 {
        fs::write(folder.path().join("config.json"), config.clone().with_n_layer(n_layer).to_json()).unwrap();
        let expected = format!("config: n_layer is {n_layer}, but the weights go on with h.{n_layer}: correct n_layer");
        let mut tuned = example("pretrain");
        tuned.arg("--init-from").arg(folder.path()).arg("--out").arg(folder.path().join("out"));
        for command in [&mut gpt2(folder.path(), &args), &mut tuned] {
            assert!(failure(command, 1).ends_with(&expected), "{n_layer}");
        }
    }
    fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
    let output = gpt2(folder.path(), &args).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn perplexities_are_those_of_transformers() {
    let expected: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(golden("perplexity.json")).unwrap()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    let genesis = fs::read(root.join("examples/data/genesis.txt")).unwrap();
    let weights = root.join("weights/tiny-gpt2");
    let run = |args: &[&str]| stdout(gpt2(&weights, args).arg("--perplexity").arg(&path));
    let number = |line: &str, word: &str| {
        let rest = line.split_once(word).unwrap_or_else(|| panic!("{word}: {line}")).1;
        rest.split([' ', ',']).next().unwrap().parse::<f64>().unwrap()
    };
    // Sums of f32 in another order; a token more or less, or one of less context, changes far more.
    let is_close = |ours: f64, theirs: &serde_json::Value| (ours / theirs.as_f64().unwrap() - 1.0).abs() < 1e-5;
    for case in expected["perplexities"].as_array().unwrap() {
        fs::write(&path, &genesis[..case["n_bytes"].as_u64().unwrap() as usize]).unwrap();
        let text = run(&["--stride", &case["stride"].to_string()]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].starts_with(&format!("{} tokens, ", case["n_tokens"])), "{case}: {text}");
        assert!(lines[1].contains(&format!(" over {} tokens, ", case["n_predicted"])), "{case}: {text}");
        assert!(is_close(number(lines[1], "mean loss "), &case["mean_loss"]), "{case}: {text}");
        assert!(is_close(number(lines[1], "perplexity "), &case["perplexity"]), "{case}: {text}");
        // Where no windows overlap, the guide's count is the same.
        assert_eq!(lines.len() > 2, case["guide"] != case["perplexity"], "{case}: {text}");
        assert!(is_close(number(lines[lines.len() - 1], "perplexity "), &case["guide"]), "{case}: {text}");
    }
    fs::write(&path, &genesis[..1000]).unwrap();
    assert_eq!(run(&[]).lines().last(), run(&["--stride", "64"]).lines().last());
    let refused = |args: &[&str]| failure(gpt2(&weights, args).arg("--perplexity").arg(&path), 1);
    assert!(refused(&["--stride", "129"]).contains("--stride 129: a window has 128 tokens, use 1 to 128"));
    fs::write(&path, "In").unwrap();
    assert!(refused(&[]).ends_with("1 tokens in windows of 128 predict none: both need at least 2"));
    fs::write(&path, "").unwrap();
    assert!(refused(&[]).ends_with("text.txt: the file is empty"));
    for args in ["--stride 4", "--perplexity f --stride 0", "--perplexity f --prompt In", "--perplexity f --seed 1"] {
        failure(example("gpt2").args(args.split(' ')), 2);
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    for name in ["train_minimal", "gpt2"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = example(name).stdout(writer).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("panicked") && output.status.code().is_some_and(|code| code < 2), "{name}: {text}");
    }
}
