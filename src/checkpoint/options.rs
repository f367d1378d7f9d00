//! [`CheckpointOptions`]: options for what a checkpoint's files leave open.

use super::role::Role;

/// Tells [`Checkpoint::open_with`](super::Checkpoint::open_with) what the files leave open.
///
/// ```
/// use candle_gpt_input::checkpoint::CheckpointOptions;
///
/// let options = CheckpointOptions::default().with_state_dict("ema").with_config_json(r#"{"n_head": 12}"#);
/// assert_eq!(options.state_dict.as_deref(), Some("ema"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// The prefix of the tables' names: `transformer` for `transformer.wte.weight`.
    pub prefix: Option<String>,
    /// The name of the token table.
    pub wte: Option<String>,
    /// The name of the learned position table.
    pub wpe: Option<String>,
    /// The name of the weight of the output head.
    pub lm_head: Option<String>,
    /// How many rows of the token table are tokens, if the others are padding.
    pub vocab_size: Option<usize>,
    /// The row of the learned position table that is position 0, where the first rows are for padding.
    pub first_position_row: Option<usize>,
    /// The keys of the state dict in a PyTorch file, joined by dots.
    pub state_dict: Option<String>,
    /// The text of a `config.json`, used instead of any file beside the weights.
    pub config_json: Option<String>,
}

impl CheckpointOptions {
    /// Chooses the tables under this prefix where there are several. It is that of the tables (`model.decoder`) or of a
    /// model that holds them (`model`).
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Names the token table.
    #[must_use]
    pub fn with_wte(mut self, name: impl Into<String>) -> Self {
        self.wte = Some(name.into());
        self
    }

    /// Names the learned position table.
    #[must_use]
    pub fn with_wpe(mut self, name: impl Into<String>) -> Self {
        self.wpe = Some(name.into());
        self
    }

    /// Names the weight of the output head.
    #[must_use]
    pub fn with_lm_head(mut self, name: impl Into<String>) -> Self {
        self.lm_head = Some(name.into());
        self
    }

    /// Says how many rows of the token table are tokens, such as a tokenizer's `vocab_size`, if the others are padding.
    ///
    /// It counts more than what the files say. Rows of padding have no logits, and are no targets.
    #[must_use]
    pub fn with_vocab_size(mut self, vocab_size: usize) -> Self {
        self.vocab_size = Some(vocab_size);
        self
    }

    /// Sets the row of the learned position table that is position 0. OPT's is 2, and RoBERTa's: they are known by
    /// `model_type` in the configuration. GPT-2's is 0.
    #[must_use]
    pub fn with_first_position_row(mut self, row: usize) -> Self {
        self.first_position_row = Some(row);
        self
    }

    /// Chooses the state dict of a PyTorch file: by its key, or by the keys of nested dicts joined by dots, such as
    /// `trainer.nets.0`. The error for several state dicts lists them so.
    #[must_use]
    pub fn with_state_dict(mut self, key: impl Into<String>) -> Self {
        self.state_dict = Some(key.into());
        self
    }

    /// Returns the role of a tensor: a table that is named here takes the role from those that have the usual names.
    pub(super) fn role_of(&self, name: &str) -> Role {
        let is_named = |table: &Option<String>| table.as_deref() == Some(name);
        match Role::of(name) {
            _ if is_named(&self.wte) => Role::TokenTable,
            _ if is_named(&self.wpe) => Role::PositionTable,
            _ if is_named(&self.lm_head) => Role::OutputHead,
            Role::OutputHead if self.lm_head.is_some() => Role::Other,
            Role::TokenTable if self.wte.is_some() => Role::Other,
            Role::PositionTable if self.wpe.is_some() => Role::Other,
            role => role,
        }
    }

    /// Returns whether the tables are found, and position 0 in them, without a word from here.
    pub(super) fn leave_tables_to_be_found(&self) -> bool {
        self.wte.is_none() && self.wpe.is_none() && self.first_position_row.is_none()
    }

    /// Sets the text of the configuration.
    #[must_use]
    pub fn with_config_json(mut self, text: impl Into<String>) -> Self {
        self.config_json = Some(text.into());
        self
    }
}
