//! [`Origin`]: how a `config.json` spelled what it states.

use std::sync::Arc;

use super::fields::Object;
use super::others::Others;

/// How a file spelled what it states, so that it is written as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The keys of fields.
    pub(super) stated: Object,
    /// What lies around the part that reads tokens, and the key of that part.
    pub(super) around: Option<(&'static str, Object)>,
    pub(super) others: Arc<Others>,
    pub(super) tables: Option<TableNames>,
}

/// The names of the tables that a configuration was read beside.
#[derive(Clone, Debug)]
pub(crate) struct TableNames {
    pub(crate) wte: String,
    pub(crate) wpe: Option<String>,
    /// The row of position 0.
    pub(crate) first_row: usize,
    /// Whether the configuration counts the rows before that as positions.
    pub(crate) is_counted: bool,
}

impl Origin {
    /// Returns the keys that lie around the part that reads tokens.
    pub(super) fn around(&self) -> Option<&Object> {
        self.around.as_ref().map(|(_, around)| around)
    }
}

impl PartialEq for Origin {
    /// Ignores the spelling: it does not change the model.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
