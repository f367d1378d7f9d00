//! Checks fresh tables, dropout, and the options of `nn.Embedding` against torch.

use crate::support::{apart, assert_bits_eq, bits, devices, error_text, golden_tensors};
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
use candle_gpt_input::init::Init;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, Result};
use candle_nn::{Optimizer, VarMap};

const DTYPES: [(DType, &str); 4] =
    [(DType::F32, "float32"), (DType::BF16, "bfloat16"), (DType::F16, "float16"), (DType::F64, "float64")];

fn weight(table: &TokenTable) -> Tensor {
    table.as_embedding().unwrap().embeddings().clone()
}

#[test]
fn a_seeded_layer_and_its_dropout_are_torchs() -> Result<()> {
    let golden = golden_tensors("seeded.safetensors");
    for device in devices() {
        for (dtype, name) in DTYPES {
            for (what, (v, p, c), init) in [
                ("small", (6, 2, 3), Init::TorchEmbedding),
                ("tail", (9, 5, 7), Init::Gpt2 { std: 0.02 }),
                ("blocks", (8, 4, 16), Init::Gpt2 { std: 1.0 }),
            ] {
                let golden = |part: String| golden[&format!("{what}.{name}.{part}")].to_device(&device);
                let generator = Generator::manual_seed(123);
                let layer = GptInputLayer::init(&GptInputConfig::new(v, p, c), init, &generator, dtype, &device)?;
                assert_bits_eq(&weight(layer.wte()), &golden("wte".to_string())?);
                assert_bits_eq(layer.wpe().unwrap().as_embedding().unwrap().embeddings(), &golden("wpe".to_string())?);
                // One stream: the masks continue where the tables ended.
                let ids = Tensor::arange(0u32, p as u32, &device)?;
                for prob in [0.1, 0.5, 1.0] {
                    let layer = layer.clone().with_embd_pdrop(prob)?;
                    let dropped = layer.forward_t(&ids, true)?;
                    assert_bits_eq(&dropped, &golden(format!("dropout_{prob:.1}"))?);
                }
                let state = generator.state();
                assert_bits_eq(&layer.forward_t(&ids, false)?, &layer.forward(&ids)?);
                layer.clone().with_embd_pdrop(0.0)?.forward_t(&ids, true)?;
                assert!(generator.state() == state, "nothing is drawn without dropout");
            }
        }
    }
    Ok(())
}

#[test]
fn every_init_has_its_spread() -> Result<()> {
    let (cpu, config) = (Device::Cpu, GptInputConfig::new(500, 400, 64).with_initializer_range(0.3));
    for (init, wte_std, wpe_std) in [
        (Init::default(), 0.3, 0.3),
        (Init::TorchEmbedding, 1.0, 1.0),
        (Init::Gpt2 { std: 0.02 }, 0.02, 0.02),
        (Init::OpenAi, 0.02, 0.01),
        (Init::Zeros, 0.0, 0.0),
    ] {
        let generator = Generator::manual_seed(1);
        let layer = GptInputLayer::init(&config, init, &generator, DType::F32, &cpu)?;
        for (table, std) in [(weight(layer.wte()), wte_std), (layer.wpe().unwrap().rows(&0.into(), &[400])?, wpe_std)] {
            let mean_square = table.sqr()?.mean_all()?.to_scalar::<f32>()? as f64;
            // At least 25 600 draws: the relative error of the estimate is 1 / sqrt(51 200), five of them are 0.022.
            assert!((mean_square.sqrt() - std).abs() <= 0.022 * std, "{init:?}: {}", mean_square.sqrt());
        }
        assert_eq!(generator.state() == Generator::manual_seed(1).state(), init == Init::Zeros);
    }
    let text = error_text(Init::Gpt2 { std: -1.0 }.wte(2, 2, &Generator::default(), DType::F32, &cpu));
    assert_eq!(text, "standard deviation -1 must be 0 or greater");
    let text = error_text(Init::TorchEmbedding.wte(2, 2, &Generator::default(), DType::U8, &cpu));
    assert!(text.starts_with("cannot draw a table of U8"), "{text}");
    Ok(())
}

#[test]
fn dropout_goes_through_module_t_and_cuts_the_same_gradients() -> Result<()> {
    for device in devices() {
        let generator = Generator::manual_seed(7);
        let config = GptInputConfig::new(11, 7, 3).with_embd_pdrop(0.5);
        let varmap = VarMap::new();
        let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &generator, DType::F32, &device)?;
        let layer = layer.trainable(&varmap, "")?;
        let ids = Tensor::new(&[[1u32, 2, 3, 4]], &device)?;
        let state = generator.state();
        let x = ids.apply_t(&layer, true)?;
        generator.set_state(&state);
        assert_bits_eq(&x, &layer.forward_t(&ids, true)?);
        let kept = x.ne(0f32)?.to_dtype(DType::F32)?;
        let grads = x.sum_all()?.backward()?;
        let grad = grads.get(&layer.vars()[0]).unwrap().narrow(0, 1, 4)?;
        assert_bits_eq(&grad, &(kept.squeeze(0)? * 2.)?);
        assert!(x.ne(0f32)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? < 12, "something is dropped");
    }
    assert!(
        error_text(
            GptInputLayer::new(
                Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?,
                Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?
            )?
            .with_embd_pdrop(1.5)
        )
        .contains("embd_pdrop")
    );
    Ok(())
}

#[test]
fn an_initialised_layer_trains() -> Result<()> {
    let varmap = VarMap::new();
    let generator = Generator::manual_seed(123);
    let config = GptInputConfig::new(11, 7, 3).with_embd_pdrop(0.0);
    let layer = GptInputLayer::init(&config, Init::Gpt2 { std: 0.02 }, &generator, DType::F32, &Device::Cpu)?;
    let layer = layer.trainable(&varmap, "transformer")?;
    let before = weight(layer.wte()).copy()?;
    let loss = (layer.forward_t(&Tensor::new(&[[1u32, 2]], &Device::Cpu)?, true)? - 1.)?.sqr()?.sum_all()?;
    candle_nn::SGD::new(varmap.all_vars(), 0.1)?.backward_step(&loss)?;
    let after = weight(layer.wte());
    let moved = |row: usize| -> Result<bool> { Ok(bits(&before.get(row)?) != bits(&after.get(row)?)) };
    assert_eq!((moved(0)?, moved(1)?, moved(2)?, moved(3)?), (false, true, true, false));
    Ok(())
}

// ---- nn.Embedding ----

#[test]
fn gradients_of_padding_and_frequency_are_torchs() -> Result<()> {
    let golden = golden_tensors("embedding_options.safetensors");
    for device in devices() {
        let tensor = |name: &str| golden[name].to_device(&device);
        for (name, padding_idx, scale_grad_by_freq) in [
            ("padding", Some(1), false),
            ("padding_negative", Some(-1), false),
            ("frequency", None, true),
            ("both", Some(6), true),
        ] {
            let var = Var::from_tensor(&tensor("weight")?)?;
            let options =
                EmbeddingOptions::default().with_padding_idx(padding_idx).with_scale_grad_by_freq(scale_grad_by_freq);
            let table = TokenTable::try_from(var.as_tensor().clone())?.with_options(options)?;
            let rows = table.forward(&tensor("input_ids")?)?;
            assert_bits_eq(&rows, &golden[&format!("{name}.out")]);
            let grads = (rows * tensor("grad")?)?.sum_all()?.backward()?;
            // Divisible by every count, so nothing is rounded and the order of summation does not matter.
            assert_bits_eq(&(grads.get(&var).unwrap() + 0.)?, &golden[&format!("{name}.grad")]);
        }
    }
    Ok(())
}

#[test]
fn an_infinite_gradient_at_padding_is_no_nan() -> Result<()> {
    let var = Var::ones((3, 2), DType::F32, &Device::Cpu)?;
    let options = EmbeddingOptions::default().with_padding_idx(0);
    let table = TokenTable::try_from(var.as_tensor().clone())?.with_options(options)?;
    let rows = table.forward(&Tensor::new(&[0u32, 2], &Device::Cpu)?)?;
    let grads = (rows * f64::INFINITY)?.sum_all()?.backward()?;
    let inf = f32::INFINITY;
    assert_eq!(grads.get(&var).unwrap().to_vec2::<f32>()?, [[0., 0.], [0., 0.], [inf, inf]]);
    Ok(())
}

#[test]
fn rows_beyond_the_norm_are_scaled_in_the_table() -> Result<()> {
    let golden = golden_tensors("embedding_options.safetensors");
    for device in devices() {
        for (name, norm_type) in [("1.0", 1.0), ("2.0", 2.0), ("3.0", 3.0), ("inf", f64::INFINITY)] {
            let var = Var::from_tensor(&golden["weight"].to_device(&device)?)?;
            let options = EmbeddingOptions::default().with_max_norm(3.0).with_norm_type(norm_type);
            let table = TokenTable::try_from(var.as_tensor().clone())?.with_options(options)?;
            let rows = table.forward(&golden["input_ids"].to_device(&device)?)?;
            for (ours, torchs) in
                [(&rows, format!("norm_{name}.out")), (var.as_tensor(), format!("norm_{name}.weight"))]
            {
                // torch does not fix the order in which a norm is summed: its factor differs by a few units in the last
                // place.
                let apart = apart(ours, &golden[&torchs]);
                assert!(apart <= 1e-6, "{torchs}: {apart}");
            }
            // Rows that were not looked up, and rows short enough, keep every bit.
            let before = bits(&golden["weight"].get(4)?);
            assert_eq!(bits(&var.get(4)?), before);
            assert!(rows.sum_all()?.backward()?.get(&var).is_some());
        }
    }
    Ok(())
}

/// torch divides by `norm + 1e-7`, which shows where the norm is as small: 5e-7 becomes 1e-7 * 5 / 6, not 1e-7.
#[test]
fn small_norms_are_scaled_as_torch_does() -> Result<()> {
    let var = Var::new(&[[3e-7f64, 4e-7], [3e-8, 4e-8]], &Device::Cpu)?;
    let options = EmbeddingOptions::default().with_max_norm(1e-7);
    let table = TokenTable::try_from(var.as_tensor().clone())?.with_options(options)?;
    let rows = table.forward(&Tensor::new(&[0u32, 1], &Device::Cpu)?)?.to_vec2::<f64>()?;
    for (found, expected) in rows[0].iter().zip([3e-7 / 6., 4e-7 / 6.]) {
        assert!((found - expected).abs() <= 1e-12 * expected, "{found} is not {expected}");
    }
    assert_eq!(rows[1], [3e-8, 4e-8]);
    Ok(())
}

#[test]
fn padding_is_zeroed_at_init_and_not_by_loading() -> Result<()> {
    let golden = golden_tensors("embedding_options.safetensors");
    for device in devices() {
        let options = EmbeddingOptions::default().with_padding_idx(-2);
        let generator = Generator::manual_seed(123);
        let table = TokenTable::init((7, 5), options, Init::TorchEmbedding, &generator, DType::F32, &device)?;
        assert_bits_eq(&weight(&table), &golden["init_with_padding"]);
        let loaded = TokenTable::try_from(golden["weight"].to_device(&device)?)?.with_options(options)?;
        assert_bits_eq(&weight(&loaded), &golden["weight"]);
    }
    Ok(())
}

#[test]
fn a_frozen_table_has_no_gradient_and_follows_its_source() -> Result<()> {
    let var = Var::ones((3, 2), DType::F32, &Device::Cpu)?;
    let frozen = TokenTable::try_from(var.as_tensor().clone())?.freeze();
    let ids = Tensor::new(&[0u32, 2], &Device::Cpu)?;
    assert!(!frozen.forward(&ids)?.track_op());
    var.set(&Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?)?;
    assert_eq!(frozen.forward(&ids)?.to_vec2::<f32>()?, [[0., 0.], [0., 0.]]);
    Ok(())
}

#[test]
fn options_survive_a_change_of_type_and_of_tables() -> Result<()> {
    let options = EmbeddingOptions::default().with_padding_idx(1);
    let wte = TokenTable::try_from(Tensor::ones((3, 2), DType::F32, &Device::Cpu)?)?.with_options(options)?;
    let layer = GptInputLayer::new(wte, Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?;
    assert_eq!(layer.to_dtype(DType::F64)?.wte().options(), &options);
    assert_eq!(layer.trainable(&VarMap::new(), "")?.wte().options(), &options);
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused() -> Result<()> {
    let with = |options: EmbeddingOptions| {
        let table = TokenTable::try_from(Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
        error_text(table.with_options(options))
    };
    let default = EmbeddingOptions::default();
    for padding_idx in [3, -4, i64::MIN, i64::MAX] {
        let text = with(default.with_padding_idx(padding_idx));
        assert!(text.starts_with(&format!("padding_idx {padding_idx} is outside the vocabulary of 3")), "{text}");
    }
    assert!(with(default.with_max_norm(-1.0)).starts_with("max_norm -1 must be"));
    assert!(with(default.with_norm_type(0.0)).starts_with("norm_type 0 must be"));
    // A bad id is found before any row is touched.
    let table = TokenTable::try_from(Tensor::ones((3, 2), DType::F32, &Device::Cpu)?)?;
    let table = table.with_options(default.with_max_norm(0.5))?;
    assert!(error_text(table.forward(&Tensor::new(&[0u32, 3], &Device::Cpu)?)).starts_with("token id 3 at [1]"));
    assert_eq!(weight(&table).to_vec2::<f32>()?, [[1., 1.]; 3]);
    Ok(())
}
