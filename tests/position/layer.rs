//! The layer with each scheme: what it adds to the input, which methods attention calls, what is saved and trained.

use crate::support::open;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::init::Init;
use candle_gpt_input::position::{PositionScheme, Resize, SinusoidalLayout, sinusoidal};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, Positions, Result};
use candle_nn::{VarBuilder, VarMap};
use tempfile::TempDir;

use crate::laws::layer;
use crate::normal;
use crate::support::{assert_bits_eq, devices, error_text};

fn ids() -> Tensor {
    Tensor::new(&[[3u32, 0, 10, 3], [1, 1, 2, 9]], &Device::Cpu).unwrap()
}

/// Returns `wte`, in any scheme.
fn wte(layer: &GptInputLayer) -> Tensor {
    layer.wte().as_embedding().unwrap().embeddings().clone()
}

#[test]
fn only_input_schemes_add_to_the_input() -> Result<()> {
    for name in PositionScheme::NAMES {
        let layer = layer(name);
        let (tokens, x) = (layer.embed_tokens(&ids())?, layer.forward_at(&ids(), 5)?);
        assert_eq!(x.dims(), [2, 4, 12], "{name}");
        match name {
            "learned" | "sinusoidal" => {
                let rows = layer.wpe().unwrap().rows(&5.into(), &[2, 4])?;
                assert_bits_eq(&x, &tokens.broadcast_add(&rows)?);
            }
            _ => {
                assert_bits_eq(&x, &tokens);
                // Without a table long sequences are fine, but invalid positions are not.
                layer.forward_at(&ids(), 100_000)?;
                assert!(matches!(
                    layer.forward_at(&ids(), Tensor::new(&[0u32, 1, 2], &Device::Cpu)?),
                    Err(Error::ShapeMismatch { .. })
                ));
            }
        }
        let buffer = Tensor::ones((2, 4, 12), DType::F32, &Device::Cpu)?;
        layer.forward_into(&ids(), 5, &buffer)?;
        assert_bits_eq(&buffer, &x);
        assert_bits_eq(&layer.add_positions(&tokens, 5)?, &x);
        let grads = layer.trainable(&VarMap::new(), "")?.row_grads(&ids(), 5, &x)?;
        assert_eq!(grads.len(), if name == "learned" { 2 } else { 1 }, "{name}");
    }
    let table = sinusoidal(40, 12, SinusoidalLayout::Interleaved, DType::F32, &Device::Cpu)?;
    assert_bits_eq(&layer("sinusoidal").wpe().unwrap().rows(&0.into(), &[40])?, &table);
    Ok(())
}

/// transformers computes `x * embed_scale` in f32 or wider and rounds once.
#[test]
fn token_rows_are_scaled_before_sinusoids_are_added() -> Result<()> {
    let json = r#"{"vocab_size": 11, "n_positions": 40, "n_embd": 12, "position_embedding_type": "sinusoidal"}"#;
    let plain = GptInputConfig::from_json(json)?;
    let scaled = GptInputConfig::from_json(&json.replace("}", r#", "scale_embedding": true}"#))?;
    assert!(scaled != plain && GptInputConfig::from_json(&scaled.to_json())? == scaled);
    for dtype in [DType::F32, DType::BF16] {
        let init = |config| {
            let generator = Generator::manual_seed(1);
            GptInputLayer::init(config, Init::OpenAi, &generator, dtype, &Device::Cpu)?.trainable(&VarMap::new(), "")
        };
        let (plain, layer) = (init(&plain)?, init(&scaled)?);
        let tokens = plain.embed_tokens(&ids())?.to_dtype(DType::F32)?;
        let tokens = (tokens * 12f64.sqrt())?.to_dtype(dtype)?;
        assert_bits_eq(&layer.embed_tokens(&ids())?, &tokens);
        let x = layer.forward_at(&ids(), 5)?;
        assert_bits_eq(&x, &plain.add_positions(&tokens, 5)?);
        assert_bits_eq(&layer.add_positions(&tokens, 5)?, &x);
        assert_bits_eq(layer.forward_leaf_at(&ids(), 5)?.as_tensor(), &x);
        // Both ways scale the gradient; the head is not scaled.
        let wte = &layer.vars()[0];
        let grads = x.sum_all()?.backward()?;
        let rows = layer.row_grads(&ids(), 5, &x.ones_like()?)?;
        let [graph, rows] = [grads.get(wte).unwrap(), &rows[0].to_dense()?].map(|grad| grad.to_dtype(DType::F32));
        // Up to four occurrences are summed, in the table's dtype or before rounding to it.
        let bound = if dtype == DType::F32 { 1e-6 } else { 0.02 };
        crate::assert_close(&rows?, &graph?, bound, "the gradient of wte");
        assert_bits_eq(&layer.lm_head()?.forward(&tokens)?, &plain.lm_head()?.forward(&tokens)?);
    }
    Ok(())
}

#[test]
fn the_wrong_question_is_answered_with_the_right_one() -> Result<()> {
    let q = normal((1, 3, 2, 4), 1);
    for name in PositionScheme::NAMES {
        let layer = layer(name);
        let positions = layer.positions();
        let asked = [
            positions.rotate(&q, &q, 0).map(drop),
            positions.attention_bias(2, 2, 0).map(drop),
            positions.attention_scores(&q, &q, 0, 0).map(drop),
            positions.attention_output(&normal((1, 3, 2, 2), 2), &q, 0, 0).map(drop),
        ];
        let (answers, instead): (&[usize], _) = match name {
            "learned" | "sinusoidal" => (&[], "the layer has added them"),
            "none" => (&[], "there are none"),
            "rope" => (&[0], "call `rotate(q, k, positions)`"),
            "alibi" | "t5" => (&[1], "call `attention_bias(t_q, t_k, start_pos)`"),
            _ => (&[2, 3], "call `attention_scores(q, k, block, start_pos)`"),
        };
        for (index, answer) in asked.into_iter().enumerate() {
            match answers.contains(&index) {
                true => answer?,
                false => {
                    let text = error_text(answer);
                    assert!(text.starts_with(&format!("{name} positions ")) && text.contains(instead), "{text}");
                }
            }
        }
    }
    let text = error_text(layer("shaw").positions().attention_scores(&q, &q, 2, 0));
    assert_eq!(text, "block 2 has no positions of its own: the configuration says n_layer 2");
    let odd = normal((1, 3, 2, 5), 1);
    for name in ["rope", "shaw", "transformer-xl"] {
        let layer = layer(name);
        let positions = layer.positions();
        let rotated = if name == "rope" { positions.rotate(&odd, &odd, 0).map(drop) } else { Ok(()) };
        let scored = if name == "rope" { Ok(()) } else { positions.attention_scores(&odd, &odd, 0, 0).map(drop) };
        assert!(error_text(rotated.and(scored)).starts_with("q has shape [1, 3, 2, 5], expected "), "{name}");
    }
    let below = Tensor::new(&[[0i64, -1]], &Device::Cpu)?;
    let text = error_text(layer("rope").positions().rotate(&q, &q, &below));
    assert!(text.starts_with("position -1 at [0, 1] "), "{text}");
    Ok(())
}

#[test]
fn tables_are_saved_loaded_converted_and_trained() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for name in PositionScheme::NAMES {
        let layer = layer(name);
        for path in [folder.path().join(name), folder.path().join(format!("{name}.safetensors"))] {
            layer.save(&path)?;
            let (loaded, report) = open(&path, DType::F32)?;
            assert_eq!(loaded.config(), layer.config(), "{name}");
            assert_bits_eq(&wte(&loaded), &wte(&layer));
            let (ours, theirs) = (layer.positions().tables(), loaded.positions().tables());
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for ((name, ours), (their_name, theirs)) in ours.iter().zip(theirs) {
                assert_eq!(name, their_name);
                assert_bits_eq(theirs, ours);
            }
            assert_eq!((report.unused.len(), report.wpe.is_some()), (0, name == "learned"), "{name}");
        }
        let varmap = VarMap::new();
        let trainable = layer.trainable(&varmap, "model")?;
        assert_eq!(trainable.vars().len(), 1 + layer.positions().tables().len(), "{name}");
        assert!(trainable.positions().tables().iter().all(|(_, table)| table.is_variable()), "{name}");
        let text = error_text(layer.trainable(&varmap, "model"));
        assert!(text.contains("already holds a variable `model.wte.weight`"), "{text}");
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu).pp("model");
        let shared = GptInputLayer::load(vb, layer.config())?;
        assert_bits_eq(&shared.forward(&ids())?, &layer.forward(&ids())?);
        assert_eq!(varmap.all_vars().len(), trainable.vars().len(), "{name}: load made other names");
    }
    let text = error_text(
        GptInputLayer::from_pretrained(folder.path().join("none"), DType::F32, &Device::Cpu).and_then(|layer| {
            layer.save(folder.path().join("cut"))?;
            let config = folder.path().join("cut/config.json");
            let text = std::fs::read_to_string(&config).unwrap().replace("\"none\"", "\"t5\"");
            std::fs::write(config, text).unwrap();
            GptInputLayer::from_pretrained(folder.path().join("cut"), DType::F32, &Device::Cpu)
        }),
    );
    assert!(text.contains("relative_attention_bias.weight"), "{text}");
    Ok(())
}

/// f16 and bf16 give the values of f32, rounded.
#[test]
fn every_type_of_number_on_every_device() -> Result<()> {
    for device in devices() {
        for (dtype, bound) in [(DType::F64, 1e-6), (DType::BF16, 0.03), (DType::F16, 0.004)] {
            for name in PositionScheme::NAMES {
                let half = layer(name).to_dtype(dtype)?;
                let wide = half.to_dtype(DType::F32)?;
                let [q, k] = [1, 2].map(|seed| normal((2, 3, 5, 4), seed).to_dtype(dtype).unwrap());
                let q = q.to_device(&device)?;
                let k = k.to_device(&device)?;
                let both = |layer: &GptInputLayer, dtype: DType| -> Result<Tensor> {
                    let (q, k, positions) = (q.to_dtype(dtype)?, k.to_dtype(dtype)?, layer.positions());
                    Ok(match name {
                        "rope" => positions.rotate(&q, &k, 3)?.0,
                        "alibi" | "t5" => positions.attention_bias(5, 7, 2)?,
                        "shaw" | "deberta" | "transformer-xl" => positions.attention_scores(&q, &k, 0, 1)?,
                        _ => layer.forward(&ids())?,
                    })
                };
                let (narrow, wide) = (both(&half, dtype)?, both(&wide, DType::F32)?);
                let expected = if matches!(name, "alibi" | "t5") && dtype != DType::F64 { DType::F32 } else { dtype };
                assert!(narrow.dtype() == expected || name == "alibi", "{name} {dtype:?}: {:?}", narrow.dtype());
                let wide = wide.to_dtype(DType::F64)?;
                crate::assert_close(&narrow.to_dtype(DType::F64)?, &wide, bound, name);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_reach_every_learned_table() -> Result<()> {
    let [q, k, v] = [1, 2, 3].map(|seed| normal((2, 3, 5, 4), seed));
    for name in ["t5", "transformer-xl", "shaw", "deberta"] {
        let layer = layer(name).trainable(&VarMap::new(), "")?;
        let positions = layer.positions();
        let mut loss = Tensor::new(0f32, &Device::Cpu)?;
        for block in 0..2 {
            let out = match name {
                "t5" => positions.attention_bias(5, 5, 0)?,
                _ => {
                    let weights = candle_nn::ops::softmax(&positions.attention_scores(&q, &k, block, 0)?, 3)?;
                    positions.attention_output(&weights, &v, block, 0)?
                }
            };
            loss = (loss + out.sqr()?.sum_all()?)?;
        }
        let grads = loss.backward()?;
        for (table_name, table) in positions.tables() {
            let grad = grads.get(table).unwrap_or_else(|| panic!("{name}: no gradient of {table_name}"));
            let sum = grad.abs()?.sum_all()?.to_scalar::<f32>()?;
            assert!(sum > 0. && sum.is_finite(), "{name}: {table_name}: {sum}");
        }
    }
    let q = Var::from_tensor(&q)?;
    let (rotated, _) = layer("rope").positions().rotate(&q, &k, 2)?;
    assert!(rotated.sqr()?.sum_all()?.backward()?.get(&q).is_some());
    Ok(())
}

#[test]
fn learned_positions_get_another_length() -> Result<()> {
    let layer = layer("learned");
    let table = |layer: &GptInputLayer, n| layer.wpe().unwrap().rows(&0.into(), &[n]);
    let cropped = layer.resize_positions(7, Resize::Crop)?;
    assert_bits_eq(&table(&cropped, 7)?, &table(&layer, 7)?);
    assert!(matches!(cropped.forward_at(&ids(), 4), Err(Error::SequenceTooLong { end: 8, n_positions: 7 })));
    let longer = layer.resize_positions(50, Resize::Extend(Init::Gpt2 { std: 0.02 }))?;
    assert_bits_eq(&table(&longer, 40)?, &table(&layer, 40)?);
    assert_eq!(longer.forward_at(&ids(), 46)?.dims(), [2, 4, 12]);
    let text = error_text(layer.resize_positions(41, Resize::Crop));
    assert_eq!(text, "a table of 40 positions cannot be cropped to 41: extend or interpolate it");
    let text = error_text(layer.resize_positions(39, Resize::Extend(Init::Zeros)));
    assert_eq!(text, "a table of 40 positions cannot be extended to 39: crop or interpolate it");
    assert!(error_text(layer.resize_positions(0, Resize::Crop)).contains("n_positions"));
    // A fixed table is computed, whatever method is asked for.
    let sines = crate::laws::layer("sinusoidal").resize_positions(90, Resize::Crop)?;
    let expected = sinusoidal(90, 12, SinusoidalLayout::Interleaved, DType::F32, &Device::Cpu)?;
    assert_bits_eq(&table(&sines, 90)?, &expected);
    // Other rows of the table stay, and padding has position 0.
    let mask = Tensor::new(&[[0u8, 0, 1, 1], [1, 1, 1, 1]], &Device::Cpu)?;
    let x = sines.forward_at(&ids(), Positions::from_mask(&mask)?)?;
    assert_eq!(x.dims(), [2, 4, 12]);
    Ok(())
}

/// Padding between tokens is an error where columns stand for positions; `attention_bias_at` takes the positions.
#[test]
fn padding_inside_a_row() -> Result<()> {
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1], [0, 1, 0, 0, 1]], &Device::Cpu)?;
    for name in PositionScheme::NAMES {
        let answer = layer(name).positions().check_mask(&mask);
        if matches!(name, "learned" | "sinusoidal" | "rope" | "none") {
            answer?;
            continue;
        }
        let text = error_text(answer);
        let start = format!("{name} positions count columns, but the mask has padding inside row 1, at column 2: ");
        assert!(text.starts_with(&start) && text.ends_with("move the padding to one side of its row"), "{text}");
        let sides = Tensor::new(&[[0u8, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], &Device::Cpu)?;
        layer(name).positions().check_mask(&sides)?;
    }
    for name in ["alibi", "t5"] {
        let layer = layer(name).trainable(&VarMap::new(), "")?;
        let positions = layer.positions();
        // Consecutive positions equal columns.
        let at = |from: u32, n: u32| Tensor::arange(from, from + n, &Device::Cpu)?.repeat((2, 1));
        let bias = positions.attention_bias_at(&at(4, 3)?, &at(0, 9)?)?;
        assert_eq!(bias.dims(), [2, 3, 3, 9]);
        for row in 0..2 {
            assert_bits_eq(&bias.narrow(0, row, 1)?, &positions.attention_bias(3, 9, 4)?);
        }
        // The tokens of row 1 have positions 0 and 1, as they would alone.
        let ids = Tensor::new(&[[0i64, 1, 2, 3, 4], [0, 0, 0, 0, 1]], &Device::Cpu)?;
        let holes = positions.attention_bias_at(&ids, &ids)?;
        let tokens = Tensor::new(&[1u32, 4], &Device::Cpu)?;
        let of_tokens = holes.narrow(0, 1, 1)?.index_select(&tokens, 2)?.index_select(&tokens, 3)?;
        assert_bits_eq(&of_tokens, &positions.attention_bias(2, 2, 0)?);
        if let [(_, table)] = positions.tables() {
            let grads = bias.sum_all()?.backward()?;
            let sum = grads.get(table).expect("a gradient").sum_all()?.to_scalar::<f32>()?;
            assert_eq!(sum, (2 * 3 * 3 * 9) as f32);
        }
        let text = error_text(positions.attention_bias_at(&at(0, 3)?, &at(0, 3)?.narrow(0, 0, 1)?));
        assert_eq!(text, "k_positions has shape [1, 3], expected [2, T_k]");
    }
    let text = error_text(layer("rope").positions().attention_bias_at(&mask, &mask));
    assert!(text.starts_with("rope positions are not a bias: call `rotate"), "{text}");
    Ok(())
}
