//! Checks the generator against PyTorch: `golden/generate_rng.py` writes `golden/rng.json`.

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::error::{Error, Result, RngError};
use candle_gpt_input::rng::{Generator, GeneratorState};
use half::{bf16, f16};
use serde_json::Value;

use crate::support::fnv1a;

/// Returns the generator's error that a call must end in.
#[track_caller]
fn refusal<T>(result: Result<T>) -> RngError {
    match result {
        Err(Error::Rng(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("expected an error"),
    }
}

/// Returns the next word of the stream: the high half of two words, of which one is used.
fn word(g: &Generator) -> u32 {
    let two = Generator::from_state(&g.state()).random_u64();
    g.randint(0, 2, 1).unwrap();
    (two >> 32) as u32
}

/// Draws as `torch.empty((), dtype=torch.int64).random_()` does.
fn i63(g: &Generator) -> i64 {
    (g.random_u64() & i64::MAX as u64) as i64
}

/// Makes the call that a step describes, and returns the little-endian bytes of its result.
fn draw(g: &Generator, step: &Value) -> Result<Vec<u8>> {
    let n = step["n"].as_u64().unwrap_or(0) as usize;
    let float = |key: &str| step[key].as_str().unwrap().parse::<f64>().unwrap();
    let integer = |key: &str| step[key].as_str().unwrap().parse::<i64>().unwrap();
    let f32_bytes = |v: &[f32]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let f64_bytes = |v: &[f64]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let i64_bytes = |v: &[i64]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let (mut singles, mut doubles) = (vec![0.0; n], vec![0.0; n]);
    Ok(match step["op"].as_str().unwrap() {
        "normal" => {
            g.normal_f32(&mut singles, float("mean"), float("std"))?;
            f32_bytes(&singles)
        }
        op @ ("normal_bf16" | "normal_f16") => {
            g.normal_half(&mut singles, float("mean"), float("std"))?;
            let round = |&x: &f32| match op {
                "normal_bf16" => bf16::from_f32(x).to_le_bytes(),
                _ => f16::from_f32(x).to_le_bytes(),
            };
            singles.iter().flat_map(round).collect()
        }
        "normal_f64" => {
            g.normal_f64(&mut doubles, float("mean"), float("std"))?;
            f64_bytes(&doubles)
        }
        "uniform_f32" => {
            g.uniform_f32(&mut singles, float("lo"), float("hi"))?;
            f32_bytes(&singles)
        }
        "uniform_f64" => {
            g.uniform_f64(&mut doubles, float("lo"), float("hi"))?;
            f64_bytes(&doubles)
        }
        "u31" => (0..n).flat_map(|_| (word(g) & 0x7FFF_FFFF).to_le_bytes()).collect(),
        "i63" => (0..n).flat_map(|_| i63(g).to_le_bytes()).collect(),
        "randint" => i64_bytes(&g.randint(integer("from"), integer("to"), n)?),
        "randperm" => i64_bytes(&g.randperm(n).unwrap()),
        "bernoulli" => {
            let flips = g.bernoulli_mask(n, float("p"))?;
            flips.iter().flat_map(|&flip| f32::from(flip).to_le_bytes()).collect()
        }
        "dropout" => {
            let ones = Tensor::ones(n, DType::F32, &Device::Cpu)?;
            f32_bytes(&dropout(&ones, float("p"), g)?.to_vec1()?)
        }
        "exponential" => {
            g.exponential(&mut singles, float("lambda"))?;
            f32_bytes(&singles)
        }
        "multinomial" => {
            let bits = step["weights"].as_array().unwrap().iter();
            let weights: Vec<f32> = bits.map(|b| f32::from_bits(b.as_u64().unwrap() as u32)).collect();
            let drawn = g.multinomial(&weights, n, step["replacement"].as_bool().unwrap())?;
            drawn.iter().flat_map(|&at| (at as i64).to_le_bytes()).collect()
        }
        "linear" => {
            let features = |key: &str| step[key].as_u64().unwrap() as usize;
            let (fan_in, out) = (features("in_features"), features("out_features"));
            // nn.Linear: kaiming_uniform_(a = sqrt(5)), in this order of operations.
            let gain = (2.0 / (1.0 + 5f64.sqrt().powi(2))).sqrt();
            let bound = 3f64.sqrt() * (gain / (fan_in as f64).sqrt());
            let (mut weight, mut bias) = (vec![0.0; fan_in * out], vec![0.0; out]);
            g.uniform_f32(&mut weight, -bound, bound)?;
            let bound = 1.0 / (fan_in as f64).sqrt();
            g.uniform_f32(&mut bias, -bound, bound)?;
            f32_bytes(&[weight, bias].concat())
        }
        "epoch" => {
            let _base_seed = i63(g);
            i64_bytes(&Generator::manual_seed(i63(g) as u64).randperm(n).unwrap())
        }
        op => panic!("unknown op {op}"),
    })
}

/// Checks values and the state after each step bit for bit, and returns how many steps it checked.
pub fn check(golden: &str) -> usize {
    let golden: Value = serde_json::from_str(golden).unwrap();
    let mut n_steps = 0;
    for case in golden["cases"].as_array().unwrap() {
        let seed = case["seed"].as_str().unwrap();
        let generator = Generator::manual_seed(seed.parse().unwrap());
        for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let digest = fnv1a(draw(&generator, step).unwrap());
            assert_eq!(step["fnv"], digest, "seed {seed}, step {at}: {step}");
            n_steps += 1;
        }
        let bytes = generator.state().to_bytes();
        assert_eq!(case["state_fnv"], fnv1a(bytes.iter().copied()), "state after seed {seed}: {case}");
        assert_eq!(GeneratorState::from_bytes(&bytes).unwrap(), generator.state());
    }
    n_steps
}

#[test]
fn values_and_states_are_those_of_pytorch() {
    assert!(check(include_str!("../golden/rng.json")) > 300);
}

#[test]
fn handles_share_a_stream_and_copies_of_its_state_do_not() {
    let generator = Generator::manual_seed(7);
    let handle = generator.clone();
    let copy = Generator::from_state(&generator.state());
    let first = generator.random_u64();
    let second = handle.random_u64();
    assert_eq!([copy.random_u64(), copy.random_u64()], [first, second]);
    handle.reseed(7);
    assert_eq!(generator.random_u64(), first);
    generator.set_state(&copy.state());
    assert_eq!(handle.state(), copy.state());
}

#[test]
fn threads_split_a_stream_between_calls_only() {
    let together = Generator::manual_seed(3);
    let mut parts: Vec<Vec<i64>> = std::thread::scope(|scope| {
        let draw = || together.randint(0, 1 << 20, 5000).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let whole = Generator::manual_seed(3).randint(0, 1 << 20, 20_000).unwrap();
    let mut expected: Vec<&[i64]> = whole.chunks(5000).collect();
    parts.sort();
    expected.sort();
    assert_eq!(parts, expected);
}

#[test]
fn what_pytorch_refuses_is_an_error_and_draws_nothing() {
    let g = Generator::manual_seed(1);
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let mut out = [0.0; 20];
    for (lo, hi) in [(1.0, 0.0), (nan, 1.0), (0.0, nan), (0.0, inf), (0.0, 1e39), (-3e38, 3e38)] {
        let error = refusal(g.uniform_f32(&mut out, lo, hi));
        assert!(matches!(error, RngError::UniformBounds { .. }), "{lo} {hi}");
    }
    for std in [-1.0, nan] {
        let error = refusal(g.normal_f32(&mut out, 0.0, std));
        assert!(matches!(error, RngError::StandardDeviation { .. }), "{std}");
        assert!(g.normal_half(&mut out, 0.0, std).is_err());
        assert!(g.normal_f64(&mut [0.0; 20], 0.0, std).is_err());
    }
    for lambda in [0.0, -1.0, nan] {
        let error = refusal(g.exponential(&mut out, lambda));
        assert!(matches!(error, RngError::Rate { .. }), "{lambda}");
    }
    for p in [-0.1, 1.1, nan] {
        assert!(matches!(refusal(g.bernoulli_mask(4, p)), RngError::Probability { .. }), "{p}");
        let ones = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(refusal(dropout(&ones, p, &g)), RngError::Probability { .. }), "{p}");
    }
    assert_eq!(refusal(g.randint(5, 5, 3)), RngError::EmptyRange { lo: 5, hi: 5 });
    for replacement in [false, true] {
        let draw = |weights: &[f32]| refusal(g.multinomial(weights, 2, replacement));
        for weight in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(draw(&[0.5, weight]), RngError::Weight { at: 1, .. }), "{weight}");
        }
        assert_eq!(draw(&[0.0; 2]), RngError::ZeroWeights { n_weights: 2 });
        assert_eq!(draw(&[]), RngError::ZeroWeights { n_weights: 0 });
        let (n_weights, limit) = ((1 << 24) + 1, 1 << 24);
        assert_eq!(draw(&vec![1.0; n_weights]), RngError::TooManyWeights { n_weights, limit });
    }
    let (n_samples, n_nonzero) = (2, 1);
    let too_few = RngError::TooFewWeights { n_samples, n_nonzero };
    assert_eq!(refusal(g.multinomial(&[0.0, 1.0, 0.0], 2, false)), too_few);
    assert!(g.multinomial(&[0.0, 1.0], 0, false).unwrap().is_empty());
    assert_eq!(g.state(), Generator::manual_seed(1).state());
}

#[test]
fn damaged_states_are_refused_by_field() {
    let bytes = Generator::manual_seed(1).state().to_bytes();
    for n_bytes in [0, 5055, 5057] {
        let mut other = bytes.clone();
        other.resize(n_bytes, 0);
        let expected = RngError::StateLength { n_bytes, expected: 5056 };
        assert_eq!(refusal(GeneratorState::from_bytes(&other)), expected);
    }
    for (at, value, field) in [
        (8, 2, "left"),
        (12, 0, "seeded"),
        (18, 1, "next"),
        (28, 1, "state"),
        (5040, 2, "normal_is_valid"),
        (5052, 1, "is_next_float_normal_sample_valid"),
    ] {
        let mut damaged = bytes.clone();
        damaged[at] = value;
        let error = refusal(GeneratorState::from_bytes(&damaged));
        assert!(matches!(error, RngError::StateField { field: f, .. } if f == field), "{error}");
    }
    let mut not_finite = bytes;
    not_finite[5024..5032].copy_from_slice(&f64::NAN.to_le_bytes());
    not_finite[5040] = 1;
    let error = refusal(GeneratorState::from_bytes(&not_finite));
    assert!(matches!(error, RngError::StateField { field: "normal_y", .. }));
}

/// At most 624 words of a state can be used up: the next draw would read beyond them.
#[test]
fn a_state_beyond_its_words_is_refused_by_serde() {
    let text = serde_json::to_string(&Generator::manual_seed(1).state()).unwrap();
    // Two digits for each byte: first the seed, then the number of words used.
    let with = |index: &str| {
        let mut text = text.clone();
        text.replace_range(17..25, index);
        serde_json::from_str::<GeneratorState>(&text)
    };
    let used_up = with("70020000").unwrap();
    assert_eq!((used_up.initial_seed(), &used_up.to_bytes()[16..24]), (1, &624u64.to_le_bytes()[..])); // `next`
    for beyond in ["71020000", "ffffffff"] {
        assert!(with(beyond).unwrap_err().to_string().starts_with("not the state of a generator"), "{beyond}");
    }
}

#[test]
fn states_go_through_serde_in_little_space() {
    let generator = Generator::manual_seed(u64::MAX - 5);
    word(&generator);
    for cached in [false, true] {
        if cached {
            generator.normal_f32(&mut [0.0], 0.0, 1.0).unwrap();
        }
        let state = generator.state();
        assert_eq!(state.to_bytes()[5040], u8::from(cached)); // `normal_is_valid`
        let text = serde_json::to_string(&state).unwrap();
        assert!(text.len() < 5100, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<GeneratorState>(&text).unwrap(), state);
        let digits = text.trim_matches('"');
        for damaged in [
            "",
            "!",
            &digits.replacen('f', "", 1),
            &digits.replacen('f', "+", 1),
            &digits.replacen('f', "ü", 1),
            &digits[..digits.len() - 4],
            &format!("AAAA{digits}"),
        ] {
            let error = serde_json::from_value::<GeneratorState>(damaged.into()).unwrap_err();
            assert!(error.to_string().starts_with("not the state of a generator"), "{damaged}: {error}");
        }
    }
}

/// Version 0.1 wrote these bytes as base64.
#[test]
fn states_of_the_last_version_are_read() {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let base64 = |bytes: &[u8]| -> String {
        let four = |three: &[u8]| {
            let bits = three.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte)) << (8 * (3 - three.len()));
            (0..=three.len()).map(|i| char::from(LETTERS[bits >> (18 - 6 * i) & 63])).collect::<String>()
        };
        bytes.chunks(3).map(four).collect()
    };
    assert_eq!((base64(b"Man"), base64(b"Ma")), ("TWFu".to_string(), "TWE".to_string()));
    let generator = Generator::manual_seed(123);
    for n_letters in [3344, 3355] {
        let state = generator.state();
        let hex = serde_json::to_string(&state).unwrap();
        let digits: Vec<u32> = hex.trim_matches('"').chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
        let old = base64(&bytes);
        assert_eq!(old.len(), n_letters);
        assert_eq!(serde_json::from_str::<GeneratorState>(&format!("\"{old}\"")).unwrap(), state);
        generator.normal_f32(&mut [0.0], 0.0, 1.0).unwrap();
    }
}

/// Seeds of the system differ, have 53 bits as torch's, and repeat the stream.
#[test]
fn seeds_of_the_system() {
    let generators: Vec<Generator> = (0..64).map(|_| Generator::from_entropy()).collect();
    let seeds: std::collections::BTreeSet<u64> = generators.iter().map(Generator::initial_seed).collect();
    assert_eq!(seeds.len(), 64);
    assert!(seeds.iter().all(|&seed| seed < 1 << 53) && seeds.iter().any(|&seed| seed >= 1 << 45));
    let generator = Generator::manual_seed(1);
    let clone = generator.clone();
    let seed = generator.reseed_from_entropy();
    assert_eq!(clone.initial_seed(), seed);
    assert_eq!(clone.randperm(9).unwrap(), Generator::manual_seed(seed).randperm(9).unwrap());
}
