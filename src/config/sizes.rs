//! [`TableSizes`]: the sizes of the two tables by their names.

use super::input::GptInputConfig;

/// The sizes of the two tables, which cannot be swapped unnoticed as three numbers can.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::input_layer::TableSizes;
///
/// let config: GptInputConfig = TableSizes { n_embd: 768, n_positions: 1024, vocab_size: 50257 }.into();
/// assert_eq!(config, GptInputConfig::new(50257, 1024, 768));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableSizes {
    /// V: the tokens.
    pub vocab_size: usize,
    /// P: the positions.
    pub n_positions: usize,
    /// C: the width.
    pub n_embd: usize,
}

impl From<TableSizes> for GptInputConfig {
    /// Makes a configuration as [`GptInputConfig::new`] does.
    fn from(sizes: TableSizes) -> Self {
        Self::new(sizes.vocab_size, sizes.n_positions, sizes.n_embd)
    }
}
