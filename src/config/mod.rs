//! [`GptInputConfig`]: the dimensions of an input layer, as Hugging Face's `config.json` spells them.

mod builders;
mod document;
mod factors;
mod fields;
mod file;
mod input;
mod limits;
mod model_type;
mod origin;
mod others;
mod position;
mod rotary;
mod scale;
mod sizes;
#[cfg(test)]
mod tests;
mod text;
mod text_limits;
mod tying;
mod vocab;
mod words;

pub(crate) use builders::builders;
pub(crate) use document::read_text;
pub(crate) use file::ConfigFile;
pub use input::GptInputConfig;
pub(crate) use origin::TableNames;
pub use position::{DebertaConfig, PositionScheme, ShawConfig, SinusoidalConfig, SinusoidalLayout, T5Config};
pub use rotary::{Llama3Scaling, LongRopeScaling, RotaryConfig, RotaryScaling, YarnScaling};
pub use scale::EmbeddingScale;
pub use sizes::TableSizes;
pub(crate) use vocab::PADDED_VOCAB;
