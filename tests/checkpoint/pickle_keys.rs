//! Dicts of pickles whose keys are no text.

use super::pickles::{assert_tables, expected, names, pickle, state_dict};
use super::*;

#[test]
fn a_state_dict_lies_under_a_key_that_is_no_text() -> Result<()> {
    for (name, path) in [("step_key.pt", "1000"), ("rank_key.pt", "models.0"), ("tuple_key.pt", "<key 0>")] {
        for options in [CheckpointOptions::default(), state_dict(path)] {
            assert_tables(name, &options, &expected(0.));
            assert_eq!(Checkpoint::open_with(pickle(name), &options)?.pickle_report().unwrap().state_dict, path);
        }
    }
    let text = error_text(Checkpoint::open(pickle("steps.pt")));
    assert!(text.contains("it holds several state dicts: `steps.100`, `steps.200`; choose one"), "{text}");
    assert_tables("steps.pt", &state_dict("steps.200"), &expected(0.5));
    Ok(())
}

/// Each tensor holds its number.
#[test]
fn keys_that_are_no_text_are_parts_of_names() -> Result<()> {
    let numbered = [
        "by_number.0.attn.weight",
        "by_number.1.attn.weight",
        "by_text.0.attn.weight",
        "by_place.0.attn.weight",
        "by_place.1",
        "True",
        "1.5",
        "None",
        "bytes",
        "torch.float16.w",
    ];
    let folder = TempDir::new().unwrap();
    for name in ["keys_2.pt", "keys_4.pt"] {
        assert_tables(name, &CheckpointOptions::default(), &expected(0.));
        let mut all = [&numbered[..], &["ln_f.weight", "wpe.weight", "wte.weight"]].concat();
        all.sort_unstable();
        assert_eq!(names(name, &CheckpointOptions::default()), all, "{name}");
        let checkpoint = Checkpoint::open(pickle(name))?;
        let to = folder.path().join("out.safetensors");
        checkpoint.convert(&to, None, None)?;
        for (n, tensor) in numbered.iter().enumerate() {
            for checkpoint in [&checkpoint, &Checkpoint::open(&to)?] {
                let value = checkpoint.var_builder(DType::F32, &Device::Cpu).get(1, tensor)?;
                assert_eq!(value.to_vec1::<f32>()?, [n as f32], "{tensor}");
            }
        }
        let report = checkpoint.pickle_report().unwrap();
        let others = ["optimizer.state.0.exp_avg", "optimizer.param_groups.0.lr"];
        assert_eq!((report.n_other_tensors, report.other_tensors.as_slice()), (2, &others.map(String::from)[..]));
        let line = "2 other tensors: `optimizer.state.0.exp_avg`, `optimizer.param_groups.0.lr`";
        assert!(report.to_string().contains(line), "{report}");
    }
    Ok(())
}

#[test]
fn a_tensor_at_a_place_without_a_name_is_never_lost() -> Result<()> {
    let folder = TempDir::new().unwrap();
    assert_tables("no_text.pt", &CheckpointOptions::default(), &expected(0.));
    let checkpoint = Checkpoint::open(pickle("no_text.pt"))?;
    let found: Vec<_> = checkpoint.unreadable()?.into_iter().map(|left| left.name).collect();
    assert_eq!(found, ["<key 3>", "<key 4>.w"]);
    let to = folder.path().join("out.safetensors");
    let text = error_text(checkpoint.convert(&to, None, None));
    assert!(text.contains("cannot read `<key 3>`, a key on the way to it is not a text, a number or bytes"), "{text}");
    assert!(!to.exists());
    Ok(())
}
