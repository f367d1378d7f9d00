//! `--freeze`: which weights a run leaves as they are.

use anyhow::{Context, Result, ensure};
use candle_gpt_input::error::Shown;

/// Names of modules whose weights do not change: `wte`, `h.3`, `h.3.attn`, and all of `h.0-5`.
#[derive(Clone, Debug)]
pub struct Frozen(Vec<String>);

impl Frozen {
    /// Checks that each of the given names is that of one or more `weights`, and that others are left to train.
    pub fn new(given: &[String], weights: &[&str]) -> Result<Self> {
        let mut frozen = Vec::new();
        for name in given {
            let shown = Shown::text(name);
            for module in modules(name).with_context(|| format!("--freeze {shown}"))? {
                let is_known = weights.iter().any(|weight| is_of(&module, weight));
                let no_module = Shown::text(&module);
                ensure!(is_known, "--freeze {shown}: the model has no {no_module}; it has {}", groups(weights));
                frozen.push(module);
            }
        }
        let frozen = Self(frozen);
        let trains = weights.iter().any(|weight| !frozen.holds(weight));
        ensure!(trains, "--freeze {}: nothing is left to train: leave one of the names out", given.join(","));
        Ok(frozen)
    }

    /// Returns whether a weight is left as it is.
    pub fn holds(&self, weight: &str) -> bool {
        self.0.iter().any(|module| is_of(module, weight))
    }
}

fn is_of(module: &str, weight: &str) -> bool {
    weight.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the names that `h.0-5` stands for, or the one name that it is.
fn modules(name: &str) -> Result<Vec<String>> {
    let Some((first, last)) = name.strip_prefix("h.").and_then(|numbers| numbers.split_once('-')) else {
        return Ok(vec![name.to_string()]);
    };
    let number = |text: &str| {
        text.parse::<u16>().with_context(|| format!("`{}` is not the number of a block", Shown::text(text)))
    };
    let (first, last) = (number(first)?, number(last)?);
    ensure!(first <= last, "a range begins with its lower number");
    Ok((first..=last).map(|number| format!("h.{number}")).collect())
}

/// Lists what can be frozen: `wte, wpe, h.0-11, ln_f`.
fn groups(weights: &[&str]) -> String {
    let mut groups: Vec<&str> = weights.iter().filter_map(|weight| weight.split('.').next()).collect();
    groups.sort_by_key(|group| ["wte", "wpe", "h", "ln_f"].iter().position(|known| known == group).unwrap_or(9));
    groups.dedup();
    let number = |weight: &&str| weight.strip_prefix("h.")?.split('.').next()?.parse::<u16>().ok();
    let blocks = match weights.iter().filter_map(number).max() {
        Some(last) if last > 0 => format!("h.0-{last}"),
        _ => "h.0".to_string(),
    };
    let shown = |group: &&str| if *group == "h" { blocks.clone() } else { group.to_string() };
    groups.iter().map(shown).collect::<Vec<_>>().join(", ")
}
