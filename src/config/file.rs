//! [`ConfigFile`]: what a `config.json` states, and how it is written again.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{self, NUMBER, Object, WHOLE, as_text, as_usize, brief, number, read, stated, write};
use super::input::GptInputConfig;
use super::model_type;
use super::origin::{Origin, TableNames};
use super::others::Others;
use super::position::PositionScheme;
use super::scale::{self, EmbeddingScale};
use super::text;
use super::vocab;
use super::words::{self, About};
use crate::error::ConfigError;

// The field's own name first, then the names that other code bases use for it. `n_ctx` is not among them: GPT-2 files
// carry both `n_positions` and `n_ctx`.
const BLOCK_SIZE: &str = "block_size";
const MAX_POSITIONS: &str = "max_position_embeddings";
const N_POSITIONS: &[&str] = &["n_positions", BLOCK_SIZE, "context_length", MAX_POSITIONS, "max_seq_len"];
const N_EMBD: &[&str] = &["n_embd", "hidden_size", "emb_dim", "n_embed", "d_model"];
const N_LAYER: &[&str] = &["n_layer", "num_hidden_layers", "n_layers", "num_layers"];
const N_HEAD: &[&str] = &["n_head", "num_attention_heads", "n_heads", "num_heads"];
const HEAD_DIM: &[&str] = &["head_dim", "qk_rope_head_dim"];
const INITIALIZER_RANGE: &[&str] = &["initializer_range"];
/// Names that mean the dropout of the embeddings wherever they stand; [`model_type::dropout`] has the others.
const EMBD_PDROP: &[&str] =
    &["embd_pdrop", "embed_dropout", "embedding_dropout", "emb_pdrop", "embd_dropout", "emb_dropout_prob"];
/// Where models of several parts keep the configuration of the one that reads tokens.
const PARTS: [&str; 3] = ["text_config", "language_config", "llm_config"];

/// The fields that a `config.json` states. One that it leaves out is `None`, and so cannot contradict a table's shape.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) vocab_size: Option<usize>,
    pub(crate) padded_vocab_size: Option<usize>,
    pub(crate) n_positions: Option<usize>,
    pub(crate) n_embd: Option<usize>,
    pub(crate) n_layer: Option<usize>,
    pub(crate) n_head: Option<usize>,
    pub(crate) head_dim: Option<usize>,
    pub(crate) position: Option<PositionScheme>,
    pub(crate) embedding_scale: EmbeddingScale,
    pub(crate) embd_pdrop: Option<f64>,
    pub(crate) initializer_range: Option<f64>,
    pub(crate) extra: Object,
    origin: Origin,
}

impl ConfigFile {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::parse_renamed(text, &[])
    }

    /// Reads a file whose keys have other names than these.
    pub(crate) fn parse_renamed(text: &str, names: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let (mut map, others) = text::parse(text)?;
        for (theirs, ours) in names {
            if let Some(value) = map.remove(*theirs) {
                map.insert(ours.to_string(), value);
            }
        }
        let mut file = Self::from_map(map)?;
        file.origin.others = others.into();
        Ok(file)
    }

    /// Reads the keys of a file, or those of its part for tokens.
    pub(super) fn from_map(mut map: Object) -> Result<Self, ConfigError> {
        let mut parts = PARTS.into_iter().filter(|part| has_keys(map.get(*part)));
        let (part, other) = (parts.next(), parts.next());
        if let Some((key, value)) = other.and_then(|key| Some((key, map.get(key)?))) {
            return Err(ConfigError::Unsupported {
                key: key.to_string(),
                value: brief(value),
                instead: "`text_config` or `language_config` stands beside it: remove the one that is not the model's",
            });
        }
        match part.map(|part| (part, map.insert(part.to_string(), Value::Null))) {
            Some((part, Some(Value::Object(inner)))) => Self::of_part(inner, Some((part, map))),
            _ => Self::of_part(map, None),
        }
    }

    /// Reads the keys of the part for tokens.
    fn of_part(map: Object, around: Option<(&'static str, Object)>) -> Result<Self, ConfigError> {
        read(&map, &["model_type"], "a name", as_text)?;
        let model_type = model_type::of(&map, around.as_ref().map(|(_, around)| around)).map(str::to_string);
        let dropout = dropout_names(&map, model_type.as_deref());
        // `block_size` may be one of blocks of attention, and a head may have more than the part that is rotated.
        let has = |names: &[&str]| names.iter().any(|name| stated(&map, name).is_some());
        let is_other = [
            (BLOCK_SIZE, !model_type::has_block_size(model_type.as_deref(), has(&[MAX_POSITIONS]))),
            (HEAD_DIM[0], has(&HEAD_DIM[1..])),
        ];
        let (stated, extra): (Object, Object) =
            map.into_iter().partition(|(key, _)| is_field(key, dropout) && !is_other.contains(&(key, true)));
        let count = |names| read(&stated, names, WHOLE, as_usize);
        let real = |names| read(&stated, names, NUMBER, Value::as_f64);
        let n_positions = count(N_POSITIONS)?;
        let (vocab_size, padded_vocab_size) = vocab::read_sizes(&stated)?;
        // Positions that are not computed here are refused where they are asked for, and files with them are listed.
        let position = scheme(&stated, &extra, model_type.as_deref(), n_positions).ok().flatten();
        let is_sinusoidal = matches!(position, Some(PositionScheme::Sinusoidal(_)));
        let embedding_scale =
            EmbeddingScale::read(&stated, model_type::embedding_scale(model_type.as_deref()), is_sinusoidal)?;
        Ok(Self {
            vocab_size,
            padded_vocab_size,
            n_positions,
            n_embd: count(N_EMBD)?
                .map(|of_blocks| model_type::width_of_tables(model_type.as_deref(), &extra).unwrap_or(of_blocks)),
            n_layer: count(N_LAYER)?,
            n_head: count(N_HEAD)?,
            head_dim: count(HEAD_DIM)?,
            position,
            embedding_scale,
            embd_pdrop: real(dropout)?,
            initializer_range: real(INITIALIZER_RANGE)?,
            extra,
            origin: Origin { stated, around, ..Origin::default() },
        })
    }

    /// Returns the position scheme that the file states.
    ///
    /// # Errors
    /// [`ConfigError`] for an invalid or unsupported scheme.
    pub(crate) fn scheme(&self) -> Result<Option<PositionScheme>, ConfigError> {
        scheme(&self.origin.stated, &self.extra, self.model_type(), self.n_positions)
    }

    /// Returns the type of the model.
    pub(crate) fn model_type(&self) -> Option<&str> {
        model_type::of(&self.extra, self.origin.around())
    }

    /// Fills in what the file leaves out: the defaults of `transformers.GPT2Config`, or those of the type of model
    /// where it has others.
    ///
    /// # Errors
    /// - [`ConfigError::Needed`] for a dimension or a position scheme that such a model needs
    /// - [`ConfigError::Unsupported`] for keys that change the input in ways that are not known
    pub(crate) fn resolve(self) -> Result<GptInputConfig, ConfigError> {
        let default = GptInputConfig::default();
        let model_type = self.model_type();
        if let (Some(instead), Some(name)) = (model_type::refused(model_type), model_type) {
            return Err(ConfigError::Unsupported { key: "model_type".to_string(), value: name.to_string(), instead });
        }
        words::refuse(&self.extra, About::Dropout, model_type)?;
        words::refuse(&self.extra, About::Scale, model_type)?;
        let Some(position) = self.scheme()?.or(self.position.clone()) else {
            return Err(fields::needed("position_embedding_type", model_type));
        };
        let is_dimension = |key: &str| [vocab::KEYS, N_EMBD, N_LAYER, N_HEAD].iter().any(|names| names.contains(&key));
        if !self.origin.stated.keys().any(|key| is_dimension(key)) {
            words::refuse_nested(&self.extra, is_dimension)?;
        }
        let is_gpt2 = model_type::is_gpt2(model_type);
        for (dimension, value) in [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
        ] {
            if value.is_none() && is_gpt2 {
                words::refuse_dimension(&self.extra, dimension)?;
            }
        }
        let needed = |value: Option<usize>, key: &'static str, is_needed: bool, default: usize| match value {
            Some(value) => Ok(value),
            None if is_gpt2 || !is_needed => Ok(default),
            None => Err(fields::needed(key, model_type)),
        };
        let sinusoidal = matches!(position, PositionScheme::Sinusoidal(_));
        let n_positions = needed(self.n_positions, "max_position_embeddings", sinusoidal, default.n_positions)?;
        if self.head_dim.is_none() && position.needs_heads() && model_type::has_own_head_dim(model_type) {
            return Err(fields::needed("head_dim", model_type));
        }
        Ok(GptInputConfig {
            vocab_size: needed(self.vocab_size, "vocab_size", true, default.vocab_size)?,
            padded_vocab_size: self.padded_vocab_size,
            n_positions,
            n_embd: needed(self.n_embd, "hidden_size", true, default.n_embd)?,
            n_layer: needed(self.n_layer, "num_hidden_layers", position.is_in_blocks(), default.n_layer)?,
            n_head: needed(self.n_head, "num_attention_heads", position.needs_heads(), default.n_head)?,
            head_dim: self.head_dim,
            embedding_scale: self.embedding_scale,
            embd_pdrop: self.embd_pdrop.unwrap_or(model_type::dropout(model_type).1),
            initializer_range: self.initializer_range.unwrap_or(default.initializer_range),
            position,
            extra: self.extra,
            origin: self.origin,
        })
    }
}

/// Reads the position scheme of a file from its fields' keys and the others.
fn scheme(
    stated: &Object,
    extra: &Object,
    model_type: Option<&str>,
    n_positions: Option<usize>,
) -> Result<Option<PositionScheme>, ConfigError> {
    let default = model_type::is_gpt2(model_type).then(|| GptInputConfig::default().n_positions);
    PositionScheme::read(stated, extra, model_type, n_positions.or(default))
}

/// Returns whether a value is an object that is not empty.
fn has_keys(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_some_and(|map| !map.is_empty())
}

/// Returns the names under which a file states the dropout of the embeddings.
fn dropout_names(map: &Object, model_type: Option<&str>) -> &'static [&'static str] {
    let of_type = model_type::dropout(model_type).0;
    let has = |names: &[&str]| names.iter().any(|name| stated(map, name).is_some());
    if !has(EMBD_PDROP) && has(of_type) { of_type } else { EMBD_PDROP }
}

/// Returns whether a key belongs to a field.
fn is_field(key: &str, dropout: &[&str]) -> bool {
    let fields = [vocab::KEYS, N_POSITIONS, N_EMBD, N_LAYER, N_HEAD, HEAD_DIM, INITIALIZER_RANGE, EMBD_PDROP, dropout];
    fields.into_iter().any(|names| names.contains(&key)) || scale::reads(key) || PositionScheme::reads(key)
}

impl GptInputConfig {
    /// Returns its keys in a `config.json`: as they were read, with the fields that have changed since.
    pub(super) fn keys(&self) -> Object {
        let all = self.extra.iter().chain(&self.origin.stated).map(|(key, value)| (key.clone(), value.clone()));
        let now = ConfigFile::of_part(all.collect(), self.origin.around.clone());
        let now = now.ok().map(|file| file.filled_in(self.model_type()));
        let mut map = self.origin.stated.clone();
        let mut count = |names: &[&'static str], ours: usize, theirs: fn(&ConfigFile) -> Option<usize>| {
            if now.as_ref().and_then(theirs) != Some(ours) {
                write(&mut map, names, &ours.into());
            }
        };
        count(N_POSITIONS, self.n_positions, |file| file.n_positions);
        let of_tables = model_type::width_of_tables(self.model_type(), &self.extra);
        let width_names = if of_tables.is_some() { &[model_type::EMBEDDING_SIZE] } else { N_EMBD };
        count(width_names, self.n_embd, |file| file.n_embd);
        count(N_LAYER, self.n_layer, |file| file.n_layer);
        count(N_HEAD, self.n_head, |file| file.n_head);
        let vocab = (Some(self.vocab_size), self.padded_vocab_size);
        if now.as_ref().map(|file| (file.vocab_size, file.padded_vocab_size)) != Some(vocab) {
            vocab::write_sizes(&mut map, self.vocab_size, self.padded_vocab_size);
        }
        if now.as_ref().and_then(|file| file.initializer_range) != Some(self.initializer_range) {
            write(&mut map, INITIALIZER_RANGE, &number(self.initializer_range));
        }
        if now.as_ref().and_then(|file| file.embd_pdrop) != Some(self.embd_pdrop) {
            let names = dropout_names(&map, self.model_type());
            write(&mut map, names, &number(self.embd_pdrop));
        }
        match self.head_dim {
            head_dim if now.as_ref().is_some_and(|file| file.head_dim == head_dim) => {}
            Some(head_dim) => write(&mut map, HEAD_DIM, &head_dim.into()),
            None => map.retain(|key, _| !HEAD_DIM.contains(&key.as_str())),
        }
        let rescaled = now.as_ref().is_none_or(|file| file.embedding_scale != self.embedding_scale);
        if rescaled {
            map.retain(|key, _| !scale::reads(key));
            self.embedding_scale.put(&mut map);
        }
        // After the scale, of which sinusoids have a key.
        let is_sinusoidal = matches!(self.position, PositionScheme::Sinusoidal(_));
        let scheme = now.and_then(|file| file.position);
        if rescaled && is_sinusoidal || scheme.as_ref() != Some(&self.position) {
            self.position.put(&mut map, &self.extra, self.model_type(), self.n_layer);
        }
        for (key, value) in &self.extra {
            map.entry(key.clone()).or_insert_with(|| value.clone());
        }
        map
    }

    /// Returns the keys with what encloses them in the file, and the places of non-finite numbers.
    pub(super) fn all_keys(&self) -> (Object, &Others) {
        let mut map = self.keys();
        if let Some((part, around)) = &self.origin.around {
            let inner = std::mem::replace(&mut map, around.clone());
            map.insert(part.to_string(), inner.into());
        }
        (map, &self.origin.others)
    }

    /// Returns the value of a key that lies outside the part for tokens.
    pub(super) fn around(&self, key: &str) -> Option<&Value> {
        self.origin.around.as_ref().and_then(|(_, around)| around.get(key))
    }

    /// Forgets that a key was a non-finite number.
    pub(super) fn forget_others(&mut self, key: &str) {
        let part = self.origin.around.as_ref().map(|(part, _)| *part);
        Arc::make_mut(&mut self.origin.others).forget(part, key);
    }

    /// Keeps the names of the tables, of which a model that is no GPT-2 has its own.
    pub(crate) fn set_table_names(&mut self, names: TableNames) {
        self.origin.tables = (!model_type::is_gpt2(self.model_type())).then_some(names);
    }

    pub(crate) fn table_names(&self) -> Option<&TableNames> {
        self.origin.tables.as_ref()
    }

    pub(super) fn model_type(&self) -> Option<&str> {
        model_type::of(&self.extra, self.origin.around())
    }
}

impl ConfigFile {
    /// Fills in the defaults that reading it again would; GPT-2's files state all of them.
    fn filled_in(mut self, model_type: Option<&str>) -> Self {
        let resolved = || Self { position: Some(self.position.clone().unwrap_or_default()), ..self.clone() }.resolve();
        if let (false, Ok(config)) = (model_type::is_gpt2(model_type), resolved()) {
            self.n_positions.get_or_insert(config.n_positions);
            self.n_layer.get_or_insert(config.n_layer);
            self.n_head.get_or_insert(config.n_head);
            self.embd_pdrop.get_or_insert(config.embd_pdrop);
            self.initializer_range.get_or_insert(config.initializer_range);
        }
        self
    }
}
