//! What `torch.save` writes besides plain tensors of protocol 2: other protocols, and tensors of kinds that cannot be
//! read, which keep nobody from the others. Files that PyTorch wrote (`generate_torch_kinds.py`).

use super::*;
use candle_gpt_input::Error;
use candle_gpt_input::error::CheckpointError;

const V: usize = 5;
const P: usize = 3;
const C: usize = 4;

fn of_torch(name: &str) -> PathBuf {
    golden("torch").join(name)
}

#[track_caller]
fn assert_tables(path: impl AsRef<Path>) {
    let layer = load(&path).unwrap_or_else(|error| panic!("{}: {error:?}", path.as_ref().display()));
    let (wte, wpe) = tables(V, P, C);
    for (ours, expected) in tables_of(&layer).iter().zip([wte, wpe]) {
        assert_bits_eq(ours, &expected);
    }
}

#[test]
fn every_protocol_is_read() -> Result<()> {
    for protocol in 0..6 {
        for ending in ["pt", "bin"] {
            let path = of_torch(&format!("protocol_{protocol}.{ending}"));
            assert_tables(&path);
            let checkpoint = Checkpoint::open(&path)?;
            let report = checkpoint.pickle_report().unwrap();
            assert_eq!((report.state_dict.as_str(), report.n_other_tensors), ("model", 0), "{}", path.display());
            assert_eq!(report.n_objects, 1, "{}: the array of NumPy: {report:?}", path.display());
            assert!(checkpoint.unreadable()?.is_empty());
        }
    }
    Ok(())
}

/// The reasons of the tensors in `kinds`, by name.
const REASONS: [(&str, &str); 12] = [
    ("conjugated", "a conjugated view (`conj` in its metadata): save its `.resolve_conj()`"),
    ("expanded", "a view of shape [4, 5] and strides [0, 0] with more elements than its storage: save its `.clone()`"),
    ("meta", "a meta tensor, which has no elements: save it after it is initialized"),
    ("negated", "a negated view (`neg` in its metadata): save its `.resolve_neg()`"),
    ("negated_double", "a negated view (`neg` in its metadata): save its `.resolve_neg()`"),
    ("nested", "a nested tensor: save its parts, `.unbind()`"),
    ("per_channel", "a quantized tensor: save its `.dequantize()`"),
    ("quantized", "a quantized tensor: save its `.dequantize()`"),
    ("replaced", "a tensor that its pickle changes after making it: save its `.clone()`"),
    ("sparse", "a sparse tensor: save its `.to_dense()`"),
    ("sparse_csr", "a sparse tensor: save its `.to_dense()`"),
    ("sparse_parameter", "a sparse tensor: save its `.to_dense()`"),
];

#[test]
fn kinds_that_cannot_be_read_keep_nobody_from_the_others() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for name in ["kinds.pt", "kinds.bin"] {
        let path = of_torch(name);
        assert_tables(&path);
        let checkpoint = Checkpoint::open(&path)?;
        let listed: Vec<_> = checkpoint.tensors()?.into_iter().map(|tensor| tensor.name).collect();
        assert_eq!(listed, ["attribute", "complex", "subclass", "view", "wpe.weight", "wte.weight"]);
        let unreadable = checkpoint.unreadable()?;
        let found: Vec<_> = unreadable.iter().map(|left| (left.name.as_str(), left.reason.as_str())).collect();
        assert_eq!(found, REASONS);
        assert!(unreadable.iter().all(|left| left.file == path));
        assert_eq!(
            checkpoint.pickle_report().unwrap().n_other_tensors,
            2,
            "those of attributes, not the parts of a sparse one"
        );
        // By name.
        let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
        for (name, reason) in REASONS {
            assert!(vb.contains_tensor(name));
            let text = error_text(vb.get_unchecked(name).map_err(Error::from));
            assert_eq!(text, format!("{}: cannot read `{name}`, {reason}", path.display()));
        }
        assert_eq!(vb.get((2, 2), "view")?.to_vec2::<f32>()?, [[5., 6.], [9., 10.]]);
        assert_eq!(vb.get((2, 3), "attribute")?.to_vec2::<f32>()?, [[1.; 3]; 2]);
        // Nothing is lost in a conversion.
        let to = folder.path().join("out.safetensors");
        let error = checkpoint.convert(&to, None, None).unwrap_err();
        assert!(matches!(error, Error::Checkpoint(CheckpointError::UnreadableTensor { .. })), "{error:?}");
        assert!(!to.exists());
        let (_, report) = open(&path, DType::F32)?;
        assert_eq!(report.unreadable, unreadable);
        let line = "12 tensors cannot be read: `conjugated` (a conjugated view (`conj` in its metadata): save its \
                    `.resolve_conj()`), ";
        assert!(report.to_string().contains(line) && report.to_string().contains(" and 4 more\n"), "{report}");
    }
    // Outside the state dict.
    let checkpoint = Checkpoint::open(of_torch("kinds_apart.pt"))?;
    assert!(checkpoint.unreadable()?.is_empty());
    assert_tables(of_torch("kinds_apart.pt"));
    Ok(())
}

/// The storage holds `-wte`.
#[test]
fn a_negated_table_is_refused() {
    let text = error_text(load(of_torch("negated_wte.pt")));
    assert!(
        text.ends_with("cannot read `wte.weight`, a negated view (`neg` in its metadata): save its `.resolve_neg()`")
    );
}
