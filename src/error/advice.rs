//! Says what to do, where that depends on what was found.

use super::shown::Shown;

/// Says what to do where a model projects token rows before it adds positions, as OPT-350m does.
pub(super) fn between(projection: Option<&str>) -> String {
    let advice = |name| {
        format!(
            ": `{}` projects token rows before positions are added, which this layer does not do: read the three \
             with `Checkpoint::var_builder`, and call `GptInputLayer::new` with the projected table",
            Shown::name(name)
        )
    };
    projection.map(advice).unwrap_or_default()
}
