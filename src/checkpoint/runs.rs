//! Chooses in folders that hold one model several times: the steps of a run, the snapshots of a repository.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::keys;
use super::report::Choice;
use crate::error::CheckpointError;

/// The file in which TensorFlow names the newest checkpoint of a folder.
const TENSORFLOW_STATE: &str = "checkpoint";
/// At most this much of a file that names another is read.
const MAX_NAME_BYTES: u64 = 1 << 16;

/// Chooses among the weights in the folder of a run, if all are steps of one: `model-2000.index` of gpt-2-simple,
/// `model_00000500.bin` of llm.c. `names` are those of all files.
pub(super) fn newest_step(
    folder: &Path,
    weights: &[PathBuf],
    names: &HashSet<String>,
) -> Result<Option<Choice>, CheckpointError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = |path: &PathBuf, before: &str, after: &str| {
        name(path).strip_prefix(before)?.strip_suffix(after)?.parse::<u64>().ok().map(|step| (step, path.clone()))
    };
    let all = |before: &str, after: &str| {
        weights.iter().map(|path| numbered(path, before, after)).collect::<Option<Vec<_>>>().filter(|all| all.len() > 1)
    };
    let newest = |steps: &[(u64, PathBuf)]| steps.iter().max().cloned();
    let chosen = |path: PathBuf, reason: String| Ok(Some(Choice { path, reason }));
    if let Some(steps) = all("model-", ".index") {
        let state = folder.join(TENSORFLOW_STATE);
        let mut reason = format!("the newest of {} steps", steps.len());
        if state.is_file() {
            let stated = named_in(&state)?;
            // TensorFlow writes the path that the folder had on the machine of the run.
            let stated = stated.as_deref().and_then(|path| path.rsplit(['/', '\\']).next()).unwrap_or_default();
            if let Some((_, path)) = steps.iter().find(|(_, path)| name(path) == format!("{stated}.index")) {
                return chosen(
                    path.clone(),
                    format!("of {} steps, the one that the file `checkpoint` names", steps.len()),
                );
            }
            reason.push_str("; the file `checkpoint` names none of them");
        }
        return newest(&steps).map_or(Ok(None), |(_, path)| chosen(path, reason));
    }
    if let Some(steps) = all("model_", ".bin") {
        // llm.c marks a step that is written whole, and resumes from the newest of those.
        let is_done = |step: &u64| names.contains(&format!("DONE_{step:08}"));
        let done: Vec<_> = steps.iter().filter(|(step, _)| is_done(step)).cloned().collect();
        let (among, what) = if done.is_empty() { (&steps, "") } else { (&done, " that are marked as done") };
        let reason = match among.len() {
            1 => "the only step that is marked as done".to_string(),
            n => format!("the newest of {n} steps{what}"),
        };
        return newest(among).map_or(Ok(None), |(_, path)| chosen(path, reason));
    }
    Ok(None)
}

/// Returns whether a folder is a repository in the cache of the Hugging Face Hub: it holds `snapshots` and `refs` or
/// `blobs`.
pub(super) fn is_cached_repository(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_dir();
    has("snapshots")
        && (has("refs")
            || has("blobs")
            || folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")))
}

/// Chooses the snapshot of a repository in the hub's cache: that of `refs/main`, or the only one, or the newest.
pub(super) fn snapshot(folder: &Path) -> Result<Option<Choice>, CheckpointError> {
    if !is_cached_repository(folder) {
        return Ok(None);
    }
    let snapshots = folder.join("snapshots");
    let main = folder.join("refs").join("main");
    let mut without = "without refs/main, ";
    if main.is_file() {
        let revision = text_of(&main)?;
        let mut components = Path::new(revision.trim()).components();
        let is_name = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        let path = snapshots.join(revision.trim());
        if is_name && path.is_dir() {
            return Ok(Some(Choice { path, reason: "the snapshot that refs/main names".to_string() }));
        }
        without = "without the snapshot that refs/main names, ";
    }
    let io = CheckpointError::reading(&snapshots);
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&snapshots).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(kind) = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_dir) {
            found.push((kind.modified().map_err(io)?, path));
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Err(CheckpointError::NoWeights { path: snapshots, found: "no snapshot".to_string() }),
        [(_, only)] => Ok(Some(Choice { path: only.clone(), reason: format!("{without}the only snapshot") })),
        [.., (before, _), (newest, path)] if before < newest => {
            Ok(Some(Choice { path: path.clone(), reason: format!("{without}the newest of {} snapshots", found.len()) }))
        }
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|(_, path)| Some(path.file_name()?.to_string_lossy())).collect();
            let found = keys::listed(&names);
            let advice = "refs/main names none of them, and they are equally new: open one of them";
            Err(CheckpointError::SeveralWeights { path: snapshots, found, advice })
        }
    }
}

/// Returns the path in TensorFlow's `model_checkpoint_path: "model-2000"`.
fn named_in(state: &Path) -> Result<Option<String>, CheckpointError> {
    let text = text_of(state)?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("model_checkpoint_path:"));
    Ok(line.map(|path| path.trim().trim_matches('"').to_string()))
}

/// Reads the start of a text.
fn text_of(path: &Path) -> Result<String, CheckpointError> {
    let io = CheckpointError::reading(path);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(MAX_NAME_BYTES).read_to_end(&mut bytes).map_err(io)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
