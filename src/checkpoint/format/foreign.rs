//! Recognises files that are often given as weights by mistake.

use std::collections::BTreeMap;

use super::super::bytes::{ByteFile, Parse};
use super::torch;
use super::zip::Member;
use crate::error::{ForeignFormat as Foreign, N_HEAD, foreign_head};

/// Returns what a file is that is of no format of weights, or `None` if it is not recognised.
pub(in super::super) fn of(file: &ByteFile) -> Parse<Option<Foreign>> {
    let head = file.bytes_at(0, file.n_bytes.min(N_HEAD as u64))?;
    Ok(foreign_head(&head, file.n_bytes > N_HEAD as u64))
}

/// Recognises a zip file that is neither PyTorch's nor NumPy's, or that is a TorchScript archive.
pub(super) fn of_zip(members: &BTreeMap<String, Member>) -> Option<Foreign> {
    let has = |is_it: fn(&str) -> bool| members.keys().any(|name| is_it(name));
    match torch::is_torch(members) {
        // `torch.jit.save` writes `code/` and `constants.pkl` beside `data.pkl`; `torch.save` neither.
        true => has(|name| name.ends_with("/constants.pkl") || name.contains("/code/")).then_some(Foreign::TorchScript),
        false if has(|name| name.ends_with(".npy")) => None,
        false if has(|name| name == "model.weights.h5") => Some(Foreign::Keras),
        false => Some(Foreign::Archive { kind: "zip" }),
    }
}
