//! Gradients, variables, fresh tables, and the head.

use super::*;

#[test]
fn gradients_are_pytorchs() -> Result<()> {
    let golden = golden_tensors("gradients.safetensors");
    for device in complete_devices() {
        let tensor = |name: &str| golden[name].to_device(&device);
        for name in ["input", "head", "both"] {
            let (wte, wpe) = (Var::from_tensor(&tensor("wte")?)?, Var::from_tensor(&tensor("wpe")?)?);
            let layer = GptInputLayer::new(wte.as_tensor().clone(), wpe.as_tensor().clone())?;
            let x = layer.forward_at(&tensor("input_ids")?, 1)?;
            let loss = match name {
                "input" => (x * tensor("weight")?)?.sum_all()?,
                "head" => (layer.lm_head()?.forward(&tensor("hidden")?)? * tensor("head_weight")?)?.sum_all()?,
                _ => (layer.lm_head()?.forward(&x)? * tensor("head_weight")?)?.sum_all()?,
            };
            let grads = loss.backward()?;
            assert_bits_eq(grads.get(&wte).unwrap(), &golden[&format!("{name}.wte")]);
            match golden.get(&format!("{name}.wpe")) {
                Some(expected) => assert_bits_eq(grads.get(&wpe).unwrap(), expected),
                None => assert!(grads.get(&wpe).is_none()),
            }
        }
    }
    Ok(())
}

/// Checks that a step of SGD on the sum of squares moves every row that was looked up, and no other.
fn steps(layer: &GptInputLayer, vars: Vec<Var>) -> Result<()> {
    let tables = |layer: &GptInputLayer| -> Result<Vec<Vec<Vec<f32>>>> {
        let wte = layer.wte().as_embedding().unwrap().embeddings().copy()?;
        let wpe = layer.wpe().unwrap().as_embedding().unwrap().embeddings().copy()?;
        Ok(vec![wte.to_vec2()?, wpe.to_vec2()?])
    };
    let before = tables(layer)?;
    let ids = Tensor::new(&[[1u32, 4, 1]], &Device::Cpu)?;
    let loss = (layer.forward(&ids)? + 1.)?.sqr()?.sum_all()?;
    candle_nn::SGD::new(vars, 0.01)?.backward_step(&loss)?;
    let moved = |table: usize| -> Result<Vec<usize>> {
        let after = tables(layer)?;
        let rows = before[table].iter().zip(&after[table]).enumerate();
        Ok(rows.filter(|(_, (before, after))| before != after).map(|(row, _)| row).collect())
    };
    assert_eq!((moved(0)?, moved(1)?), (vec![1, 4], vec![0, 1, 2]));
    Ok(())
}

#[test]
fn tables_of_a_varmap_are_trained() -> Result<()> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let layer = GptInputLayer::load(vb.pp("transformer"), &GptInputConfig::new(V, P, C))?;
    let mut names: Vec<_> = varmap.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["transformer.wpe.weight", "transformer.wte.weight"]);
    assert_eq!(layer.vars().len(), 2);
    steps(&layer, varmap.all_vars())
}

#[test]
fn pretrained_tables_become_trainable() -> Result<()> {
    let frozen = layer(&Device::Cpu);
    assert!(frozen.vars().is_empty());
    let varmap = VarMap::new();
    let trained = frozen.trainable(&varmap, "transformer")?;
    assert_eq!(varmap.all_vars().len(), 2);
    let before = frozen.forward(&Tensor::new(&[[1u32, 4]], &Device::Cpu)?)?;
    steps(&trained, trained.vars())?;
    assert_bits_eq(&frozen.forward(&Tensor::new(&[[1u32, 4]], &Device::Cpu)?)?, &before);
    assert_eq!(
        error_text(frozen.trainable(&varmap, "transformer")),
        "the VarMap already holds a variable `transformer.wte.weight`: pass another prefix"
    );
    drop(frozen.trainable(&varmap, "")?);
    assert!(varmap.data().lock().unwrap().contains_key("wpe.weight"));
    Ok(())
}

#[test]
fn load_asks_for_exact_shapes() -> Result<()> {
    let varmap = VarMap::new();
    drop(layer(&Device::Cpu).trainable(&varmap, "")?);
    let load = |v: usize, p: usize, c: usize| {
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
        GptInputLayer::load(vb, &GptInputConfig::new(v, p, c))
    };
    assert!(load(V, P, C).is_ok());
    for (v, p, c) in [(V - 1, P, C), (V, P + 1, C), (V, P, C + 1)] {
        assert!(error_text(load(v, p, c)).contains("shape mismatch"), "{v} {p} {c}");
    }
    assert_eq!(error_text(load(V, 0, C)), "config: `n_positions` must be at least 1");
    Ok(())
}

#[test]
fn fresh_tables_have_the_configs_spread() -> Result<()> {
    let vb = VarMap::new();
    let vb = VarBuilder::from_varmap(&vb, DType::F32, &Device::Cpu);
    let layer = GptInputLayer::load(vb, &GptInputConfig::new(2000, 50, 64))?;
    let mean_square = layer.wte().as_embedding().unwrap().embeddings().sqr()?.mean_all()?.to_scalar::<f32>()?;
    // 128 000 draws: the standard deviation of the estimate is 0.02 / sqrt(256 000), five of them are 0.0002.
    assert!((mean_square.sqrt() - 0.02).abs() < 0.0002, "{}", mean_square.sqrt());
    Ok(())
}

#[test]
fn the_head_checks_what_it_is_given() -> Result<()> {
    for device in complete_devices() {
        let head = layer(&device).lm_head()?;
        let hidden = Tensor::new(&[[[1f32, 0., 0.], [0., 0., 2.]]], &device)?;
        let logits = head.forward(&hidden)?;
        assert_eq!(logits.dims(), [1, 2, V]);
        assert_eq!(logits.i((0, 1, 10))?.to_scalar::<f32>()?, 2. * 1002.);
        assert_eq!(head.forward(&hidden.i((0, 0))?)?.dims(), [V]);
        assert_eq!(head.forward(&hidden.narrow(1, 0, 0)?)?.dims(), [1, 0, V]);
        let wide = Tensor::zeros((1, 2, 4), DType::F32, &device)?;
        assert_eq!(error_text(head.forward(&wide)), "hidden_states has shape [1, 2, 4], expected [.., 3]");
        let half = hidden.to_dtype(DType::F16)?;
        assert_eq!(error_text(head.forward(&half)), "hidden_states has dtype F16, but wte has F32");
    }
    Ok(())
}
