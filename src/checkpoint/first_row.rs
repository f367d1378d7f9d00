//! Finds where the positions begin in a position table whose first rows are for padding.

use super::CheckpointOptions;
use super::keys::{self, EMBED_TOKENS, WORD_EMBEDDINGS};
use super::stored::Place;
use super::weights::TableInfo;
use crate::config::ConfigFile;

/// The rows before position 0 in fairseq's models: padding has row 1, row 0 is unused.
const N_BEFORE: usize = 2;
/// The models whose table has two rows more than the configuration states positions (`model_type`).
const WITH_ROWS_MORE: [&str; 9] = ["opt", "bart", "mbart", "plbart", "biogpt", "mvp", "trocr", "nystromformer", "yoso"];
/// The models whose configuration counts the rows up to the padding token's as positions.
const WITH_ROWS_COUNTED: [&str; 19] = [
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "xmod",
    "mpnet",
    "esm",
    "longformer",
    "luke",
    "mluke",
    "lilt",
    "ibert",
    "data2vec-text",
    "layoutlmv3",
    "markuplm",
    "bridgetower_text_model",
    "clap_text_model",
    "altclip_text_model",
];

/// How a model counts its positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstRow {
    /// Position 0 is in this row; the configuration states the rows from there on.
    At(usize),
    /// Position 0 is in this row; the configuration states all rows, or those from there on if this crate wrote it.
    Counted(usize),
    /// The names and the configuration leave it open.
    Unknown,
}

impl FirstRow {
    /// Decides by the model that the configuration names, or else by the names and the number of rows.
    pub(super) fn of(
        wpe: &str,
        n_rows: usize,
        names: &[&str],
        config: Option<&ConfigFile>,
        options: &CheckpointOptions,
    ) -> Self {
        if let Some(first_row) = options.first_position_row {
            return Self::At(first_row);
        }
        let is_opt = keys::is_position_table(wpe, EMBED_TOKENS.1);
        let is_bert = keys::is_position_table(wpe, WORD_EMBEDDINGS.1);
        if !is_opt && !is_bert && keys::is_known_position_table(wpe) {
            return Self::At(0);
        }
        if let Some(model) = config.and_then(ConfigFile::model_type) {
            if WITH_ROWS_MORE.contains(&model) {
                return Self::At(N_BEFORE);
            }
            let padding_row = config.and_then(|config| config.extra.get("pad_token_id"));
            let padding_row = padding_row.and_then(|id| id.as_u64()).and_then(|id| usize::try_from(id).ok());
            return match WITH_ROWS_COUNTED.contains(&model) {
                true => Self::Counted(padding_row.filter(|_| model != "mpnet").unwrap_or(1).saturating_add(1)),
                false => Self::At(0),
            };
        }
        let n_stated = config.and_then(|config| config.n_positions);
        let has_part = |part: &str| wpe.split(keys::DOTS).any(|of_name| of_name == part);
        if is_opt {
            // A decoder alone is OPT's. One beside an encoder may be of a model that counts from row 0.
            let has_encoder = || names.iter().any(|name| name.split(keys::DOTS).any(|part| part == "encoder"));
            match n_stated {
                Some(n) if n == n_rows => Self::At(0),
                Some(_) => Self::At(N_BEFORE),
                None if has_encoder() => Self::Unknown,
                None => Self::At(N_BEFORE),
            }
        } else if is_bert && (has_part("roberta") || n_stated.is_none() && n_rows > 64 && n_rows % 64 == N_BEFORE) {
            // RoBERTa has BERT's names, but 514 rows for 512 positions.
            if has_part("roberta") { Self::Counted(N_BEFORE) } else { Self::Unknown }
        } else if is_bert && n_stated.and_then(|n| n.checked_add(N_BEFORE)) == Some(n_rows) {
            Self::At(N_BEFORE)
        } else {
            Self::At(0)
        }
    }
}

impl TableInfo {
    /// Returns the table without its first `n` rows, or `None` if it has no more.
    pub(super) fn without_first(mut self, n: usize) -> Option<Self> {
        let n_rows = self.n_rows.checked_sub(n).filter(|&n_rows| n_rows > 0)?;
        let dtype = &self.at.dtype;
        let row = match &self.at.strides {
            Some(strides) => *strides.first()?,
            None => self.width,
        };
        // Inside the file, as the whole table is.
        let skipped = u64::try_from(n.checked_mul(row)? / dtype.block * dtype.block_bytes).ok()?;
        match &mut self.at.place {
            Place::Plain { start, .. } => *start = start.checked_add(skipped)?,
            Place::Deflated { skip, .. } => *skip = skip.checked_add(skipped)?,
        }
        Some(self.first(n_rows))
    }

    /// Describes the table of its first `n_rows` rows, of which it has at least as many.
    pub(super) fn first(mut self, n_rows: usize) -> Self {
        self.at.shape = [n_rows, self.width].into();
        self.n_rows = n_rows;
        self
    }
}
