//! `--corpus PATH[:weight]`: a corpus and its share of what is trained on.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use candle_gpt_input::error::Shown;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Share {
    pub path: PathBuf,
    /// As text, which is read exactly; without weights the corpora come in the shares of their sizes.
    weight: Option<String>,
}

impl FromStr for Share {
    type Err = anyhow::Error;

    /// Takes what follows the last colon as the weight if it is a number, and not if the whole is the path of a file.
    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "name a file, a folder or a pattern");
        let whole = PathBuf::from(text);
        let split = text.rsplit_once(':').filter(|_| !whole.exists());
        let Some((path, weight)) = split.and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?))) else {
            return Ok(Self { path: whole, weight: None });
        };
        let shown = Shown::text(path);
        ensure!(weight > 0.0 && weight.is_finite(), "{shown} has the weight {weight}: use a positive number");
        Ok(Self { path: path.into(), weight: Some(weight.to_string()) })
    }
}

impl Share {
    pub fn weight(&self) -> Result<Option<f64>> {
        Ok(self.weight.as_deref().map(str::parse).transpose()?)
    }
}
