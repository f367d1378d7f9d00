//! Tables in and out, dtypes, the two halves, and the layer as a Candle module.

use super::*;

#[test]
fn tables_that_do_not_fit_are_refused() -> Result<()> {
    let cpu = Device::Cpu;
    let table = |v: usize, c: usize| Tensor::zeros((v, c), DType::F32, &cpu).unwrap();
    let new = |wte: Tensor, wpe: Tensor| error_text(GptInputLayer::new(wte, wpe));
    assert_eq!(new(table(5, 3), table(4, 2)), "wte has width 3, but wpe has 2");
    assert_eq!(new(table(5, 3), table(4, 3).to_dtype(DType::F16)?), "wte has dtype F32, but wpe has F16");
    let shape = "must be a table of f32, f64, f16 or bf16 with two dimensions of at least 1, not";
    assert_eq!(new(table(5, 3).flatten_all()?, table(4, 3)), format!("wte {shape} [15] of F32"));
    assert_eq!(new(table(5, 3), table(4, 3).unsqueeze(0)?), format!("wpe {shape} [1, 4, 3] of F32"));
    assert_eq!(new(table(5, 3).to_dtype(DType::I64)?, table(4, 3)), format!("wte {shape} [5, 3] of I64"));
    assert_eq!(new(table(0, 3), table(4, 3)), format!("wte {shape} [0, 3] of F32"));
    // An `Embedding` whose stated width differs from its table's.
    let lying = GptInputLayer::new(Embedding::new(table(5, 3), 4), table(4, 3));
    assert_eq!(error_text(lying), format!("wte {shape} [5, 3] of F32"));
    Ok(())
}

#[test]
fn embeddings_go_in_and_come_out() -> Result<()> {
    let cpu = Device::Cpu;
    let wte = Embedding::new(addressed(0., V, C, &cpu), C);
    let layer = GptInputLayer::new(wte.clone(), Embedding::new(addressed(0., P, C, &cpu), C))?;
    let ids = Tensor::new(&[[3u32, 4]], &cpu)?;
    let back = layer.wte().as_embedding().unwrap();
    assert_bits_eq(&back.forward(&ids)?, &wte.forward(&ids)?);
    assert_eq!(layer.wpe().unwrap().as_embedding().unwrap().embeddings().dims(), [P, C]);
    let config = layer.config();
    assert_eq!((config.vocab_size, config.n_positions, config.n_embd, config.embd_pdrop), (V, P, C, 0.0));
    // A transposed table is read by its strides.
    let strided = GptInputLayer::new(addressed(0., C, V, &cpu).t()?, addressed(0., P, C, &cpu))?;
    assert_eq!(strided.embed_tokens(&Tensor::new(7u32, &cpu)?)?.to_vec1::<f32>()?, [7., 107., 207.]);
    Ok(())
}

#[test]
fn half_types_round_once() -> Result<()> {
    for device in complete_devices() {
        let ids = Tensor::new(&[[0u32, 10, 5], [1, 1, 9]], &device)?;
        let wte = (addressed(0.3, V, C, &device) / 37.)?;
        let wpe = (addressed(0.7, P, C, &device) / 41.)?;
        for dtype in [DType::BF16, DType::F16] {
            let layer = GptInputLayer::new(wte.to_dtype(dtype)?, wpe.to_dtype(dtype)?)?;
            let widened = GptInputLayer::new(
                wte.to_dtype(dtype)?.to_dtype(DType::F32)?,
                wpe.to_dtype(dtype)?.to_dtype(DType::F32)?,
            )?;
            assert_bits_eq(&layer.forward(&ids)?, &widened.forward(&ids)?.to_dtype(dtype)?);
            assert_eq!((layer.dtype(), layer.to_dtype(DType::F64)?.dtype()), (dtype, DType::F64));
        }
    }
    Ok(())
}

#[test]
fn the_two_halves_make_the_whole() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 10, 5], [1, 1, 9]], &device)?;
        let embeds = layer.embed_tokens(&ids)?;
        assert_bits_eq(&layer.add_positions(&embeds, 2)?, &layer.forward_at(&ids, 2)?);
        assert_eq!(
            error_text(layer.add_positions(&embeds.narrow(2, 0, 2)?, 0)),
            "inputs_embeds has shape [2, 3, 2], expected [.., 3]"
        );
        assert_eq!(
            error_text(layer.add_positions(&embeds.to_dtype(DType::F64)?, 0)),
            "inputs_embeds has dtype F64, but wpe has F32"
        );
        let rows = layer.wpe().unwrap().rows(&2.into(), &[2, 3])?;
        assert_eq!(rows.dims(), [3, C]);
        let table: PositionTable = rows.try_into()?;
        assert_eq!(table.dims(), (3, C));
    }
    Ok(())
}

#[test]
fn a_buffer_must_have_the_shape_and_be_contiguous() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 10, 5], [1, 1, 9]], &device)?;
        let buffer = Tensor::zeros((2, 3, C), DType::F32, &device)?;
        layer.forward_into(&ids, 1, &buffer)?;
        assert_bits_eq(&buffer, &layer.forward_at(&ids, 1)?);
        let transposed = Tensor::zeros((3, 2, C), DType::F32, &device)?.transpose(0, 1)?;
        let wide = Tensor::zeros((2, 3, C + 1), DType::F32, &device)?;
        let narrowed = wide.narrow(2, 0, C)?;
        for wrong in [&transposed, &wide, &narrowed] {
            let error = layer.forward_into(&ids, 1, wrong).unwrap_err();
            assert!(matches!(&error, Error::ShapeMismatch { what: "buffer", got, .. } if got.dims() == wrong.dims()));
            let expected = "expected [2, 3] followed by the width of the tables, contiguous";
            assert!(error.to_string().ends_with(expected), "{error}");
        }
    }
    Ok(())
}

#[test]
fn module_t_is_the_layer_and_eval_is_the_module() -> Result<()> {
    let ids = Tensor::new(&[[0u32, 10, 5]], &Device::Cpu)?;
    let layer = layer(&Device::Cpu);
    let expected = layer.forward(&ids)?;
    assert_bits_eq(&ids.apply_t(&layer, true)?, &expected);
    assert_bits_eq(&ids.apply(&layer.eval())?, &expected);
    // An error keeps its text in Candle's type.
    let bad = Tensor::new(&[[11u32]], &Device::Cpu)?;
    let text = error_text(layer.eval().forward(&bad));
    assert!(text.starts_with("token id 11 at [0, 0] is outside the vocabulary of 11"), "{text}");
    let back: Error = layer.eval().forward(&bad).unwrap_err().into();
    assert!(back.to_string().starts_with("token id 11"), "{back}");
    Ok(())
}

#[test]
fn everything_public_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug>() {}
    shared::<GptInputLayer>();
    shared::<GptInputConfig>();
    shared::<Positions>();
    shared::<LmHead>();
    shared::<candle_gpt_input::DeviceSpec>();
    shared::<candle_gpt_input::embedding::TokenTable>();
    shared::<PositionTable>();
    #[cfg(feature = "tokenizer")]
    shared::<candle_gpt_input::tokenizer::Tokenizer>();
    fn sendable<T: Send + Sync + std::fmt::Debug>() {}
    sendable::<Error>();
    sendable::<candle_gpt_input::checkpoint::Checkpoint>();
}

#[test]
fn a_token_table_goes_with_a_scheme_that_needs_no_other() -> Result<()> {
    let cpu = Device::Cpu;
    let width = 4; // even, as pairs to rotate are
    let wte = addressed(0., V, width, &cpu);
    let mut config = GptInputConfig::new(V, P, width);
    config.n_head = 1;
    for name in ["none", "alibi", "rope", "sinusoidal"] {
        let json = format!(
            r#"{{"vocab_size": {V}, "n_positions": {P}, "n_embd": {width}, "n_head": 1,
            "position_embedding_type": "{name}"}}"#
        );
        config.position = GptInputConfig::from_json(&json)?.position;
        let layer = GptInputLayer::with_scheme(wte.clone(), &config)?;
        assert_eq!(layer.wpe().is_some(), name == "sinusoidal");
        assert_bits_eq(layer.wte().as_embedding().unwrap().embeddings(), &wte);
    }
    config.vocab_size = V + 1;
    let text = error_text(GptInputLayer::with_scheme(wte.clone(), &config));
    assert!(text.contains("wte") && text.contains(&format!("[{}, {width}]", V + 1)), "{text}");
    let learned = GptInputConfig::new(V, P, width);
    let text = error_text(GptInputLayer::with_scheme(wte, &learned));
    assert!(text.starts_with("learned positions have a table `wpe.weight`"), "{text}");
    Ok(())
}

/// `load` finds the names that `from_pretrained` finds; fresh tables have GPT-2's.
#[test]
fn load_knows_other_names() -> Result<()> {
    let config = GptInputConfig::new(5, 4, 2);
    let device = Device::Cpu;
    let (wte, wpe) = (addressed(0., 5, 2, &device), addressed(1000., 4, 2, &device));
    for (wte_name, wpe_name) in [
        ("wte.weight", "wpe.weight"),
        ("tok_emb.weight", "pos_emb.weight"),
        ("tok_emb.weight", "pos_emb"),
        ("token_embedding.weight", "position_embedding.weight"),
        ("embed_tokens.weight", "embed_positions.weight"),
        ("word_embeddings.weight", "position_embeddings.weight"),
    ] {
        let tensors = [(format!("m.{wte_name}"), wte.clone()), (format!("m.{wpe_name}"), wpe.clone())];
        let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &device);
        let layer = GptInputLayer::load(vb.pp("m"), &config)?;
        assert_bits_eq(layer.wte_embedding()?.embeddings(), &wte);
        assert_bits_eq(layer.wpe_embedding()?.embeddings(), &wpe);
        // The tables of a `VarMap` stay its variables.
        let varmap = VarMap::new();
        let vars = [(wte_name, &wte), (wpe_name, &wpe)]
            .map(|(name, table)| (name.to_string(), Var::from_tensor(table).unwrap()));
        varmap.data().lock().unwrap().extend(vars);
        let layer = GptInputLayer::load(VarBuilder::from_varmap(&varmap, DType::F32, &device), &config)?;
        assert_eq!((layer.vars().len(), varmap.all_vars().len()), (2, 2), "{wte_name}");
    }
    let without_positions = config.clone().with_position(candle_gpt_input::position::PositionScheme::None);
    let tensors = [("embed_tokens.weight".to_string(), wte.clone())];
    let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &device);
    let layer = GptInputLayer::load(vb, &without_positions)?;
    assert_bits_eq(layer.wte_embedding()?.embeddings(), &wte);
    assert!(error_text(layer.wpe_embedding()).starts_with("none positions add no table to the input"));
    let tensors = [("wte.weight".to_string(), wte.clone()), ("tok_emb.weight".to_string(), wte.clone())];
    let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &device);
    assert!(error_text(GptInputLayer::load(vb, &config)).contains("several input tables: wte.weight, tok_emb.weight"));
    Ok(())
}
