//! The state of an optimizer in a safetensors file.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::adam_state::AdamState;
use super::params::{Params, Settings, in_range};
use crate::checkpoint::{WeightsFile, save_tensors};
use crate::error::{CheckpointError, OptimError, Result, cause};

/// The metadata's key of everything that is not a tensor.
const METADATA: &str = "optimizer";
/// How many ranges of rows an error lists.
const MAX_RANGES: usize = 8;

#[derive(Serialize, Deserialize)]
struct Saved {
    algorithm: String,
    learning_rate: Exact,
    max_grad_norm: Option<Exact>,
    groups: Vec<SavedGroup>,
    params: Vec<SavedParam>,
}

#[derive(Serialize, Deserialize)]
struct SavedGroup {
    lr_scale: Exact,
    beta1: Exact,
    beta2: Exact,
    eps: Exact,
    weight_decay: Exact,
}

#[derive(Serialize, Deserialize)]
struct SavedParam {
    name: String,
    group: usize,
    /// 0 before the first step, when there are no tensors.
    step: u64,
    frozen_rows: Vec<Range<usize>>,
}

/// A number as text: serde_json reads numbers to within a unit in the last place, the standard library exactly.
#[derive(Clone, Copy)]
struct Exact(f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

fn tensor_names(name: &str) -> [String; 2] {
    [format!("{name}.exp_avg"), format!("{name}.exp_avg_sq")]
}

pub(super) fn save(path: &Path, algorithm: &str, params: &Params, max_grad_norm: Option<f64>) -> Result<()> {
    let saved = Saved {
        algorithm: algorithm.to_string(),
        learning_rate: Exact(params.learning_rate),
        max_grad_norm: max_grad_norm.map(Exact),
        groups: params.groups.iter().map(SavedGroup::from).collect(),
        params: params
            .params
            .iter()
            .map(|param| SavedParam {
                name: param.name.clone(),
                group: param.group,
                step: param.state.as_ref().map_or(0, |state| state.step),
                frozen_rows: param.frozen.clone(),
            })
            .collect(),
    };
    let json = serde_json::to_string(&saved).map_err(|error| CheckpointError::writing(path)(error.into()))?;
    let mut tensors = Vec::new();
    for param in &params.params {
        if let Some(AdamState { exp_avg, exp_avg_sq, .. }) = &param.state {
            tensors.extend(tensor_names(&param.name).into_iter().zip([exp_avg, exp_avg_sq]));
        }
    }
    save_tensors(path, tensors, [(METADATA.to_string(), json)])
}

/// Returns the parameters of `current` with the state and the settings of the file, and the file's `max_grad_norm`.
pub(super) fn load(path: &Path, algorithm: &str, current: &Params) -> Result<(Params, Option<f64>)> {
    let file = WeightsFile::open(path)?;
    let Some(json) = file.metadata().get(METADATA) else {
        return Err(unreadable(path, "not the state of an optimizer".to_string()).into());
    };
    let saved: Saved = serde_json::from_str(json).map_err(|error| OptimError::State {
        path: path.to_path_buf(),
        reason: "a damaged state".to_string(),
        source: Some(cause(error)),
    })?;
    if saved.algorithm != algorithm {
        return Err(unreadable(path, format!("the state of {}, not of {algorithm}", saved.algorithm)).into());
    }
    if saved.groups.len() != current.groups.len() {
        let reason = format!("the state has {} groups of parameters, not {}", saved.groups.len(), current.groups.len());
        return Err(unreadable(path, reason).into());
    }
    same_names(path, &saved, current)?;
    let mut loaded = current.without_state();
    loaded.learning_rate = saved.learning_rate.0;
    loaded.check_learning_rate()?;
    let max_grad_norm = saved.max_grad_norm.map(|max_norm| max_norm.0);
    if let Some(max_norm) = max_grad_norm {
        in_range("max_grad_norm", max_norm, 0.0.., "at least 0")?;
    }
    loaded.groups = saved.groups.iter().map(Settings::from).collect();
    loaded.groups.iter().try_for_each(Settings::validate)?;
    for param in &mut loaded.params {
        let Some(saved) = saved.params.iter().find(|saved| saved.name == param.name) else { continue };
        let differs = |got: String, expected: String| OptimError::StateMismatch {
            path: path.to_path_buf(),
            name: param.name.clone(),
            got,
            expected,
        };
        if saved.group != param.group {
            let name = |group| format!("in group {group}");
            return Err(differs(name(saved.group), name(param.group)).into());
        }
        let n_rows = if param.var.rank() == 2 { param.var.dim(0)? } else { 0 };
        if !ascending(&saved.frozen_rows, n_rows) {
            let ranges = saved.frozen_rows.iter().take(MAX_RANGES).map(|rows| format!("{}..{}", rows.start, rows.end));
            let got = format!("frozen in rows {}", ranges.collect::<Vec<_>>().join(", "));
            return Err(differs(got, format!("ascending ranges within {n_rows} rows")).into());
        }
        param.frozen = saved.frozen_rows.clone();
        if saved.step > 0 {
            let mut tensors = Vec::with_capacity(2);
            for name in tensor_names(&param.name) {
                if !file.tensors().contains_key(&name) {
                    return Err(unreadable(path, format!("a damaged state: no tensor `{name}`")).into());
                }
                let at = file.tensor(&name)?;
                if &*at.shape != param.var.dims() || at.dtype.loaded_as() != param.var.dtype() {
                    let got = format!("{:?} of {:?}", at.shape, at.dtype.loaded_as());
                    return Err(differs(got, format!("{:?} of {:?}", param.var.dims(), param.var.dtype())).into());
                }
                tensors.push(file.read(&at, param.var.dtype(), param.var.device())?);
            }
            if let (Some(exp_avg_sq), Some(exp_avg)) = (tensors.pop(), tensors.pop()) {
                param.state = Some(AdamState { step: saved.step, exp_avg, exp_avg_sq });
            }
        }
    }
    Ok((loaded, max_grad_norm))
}

fn same_names(path: &Path, saved: &Saved, current: &Params) -> Result<(), OptimError> {
    let in_file: BTreeSet<&str> = saved.params.iter().map(|param| param.name.as_str()).collect();
    let wanted: BTreeSet<&str> = current.params.iter().map(|param| param.name.as_str()).collect();
    if in_file == wanted {
        return Ok(());
    }
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    Err(OptimError::StateNames {
        path: path.to_path_buf(),
        missing: list(wanted.difference(&in_file).copied().collect()),
        unexpected: list(in_file.difference(&wanted).copied().collect()),
    })
}

fn ascending(frozen: &[Range<usize>], n_rows: usize) -> bool {
    let mut end = 0;
    frozen.iter().all(|range| {
        let fits = range.start >= end && range.start < range.end && range.end <= n_rows;
        end = range.end;
        fits
    })
}

fn unreadable(path: &Path, reason: String) -> OptimError {
    OptimError::State { path: path.to_path_buf(), reason, source: None }
}

impl From<&Settings> for SavedGroup {
    fn from(settings: &Settings) -> Self {
        let &Settings { lr_scale, beta1, beta2, eps, weight_decay } = settings;
        let exact = Exact;
        Self {
            lr_scale: exact(lr_scale),
            beta1: exact(beta1),
            beta2: exact(beta2),
            eps: exact(eps),
            weight_decay: exact(weight_decay),
        }
    }
}

impl From<&SavedGroup> for Settings {
    fn from(saved: &SavedGroup) -> Self {
        let SavedGroup { lr_scale, beta1, beta2, eps, weight_decay } = saved;
        Self { lr_scale: lr_scale.0, beta1: beta1.0, beta2: beta2.0, eps: eps.0, weight_decay: weight_decay.0 }
    }
}
