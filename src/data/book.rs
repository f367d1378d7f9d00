//! The loader of "Build a Large Language Model (From Scratch)", by its own signature.

use candle_core::Device;

use super::{Loader, LoaderConfig, Seeding, Tokens};
use crate::error::Result;
use crate::rng::Generator;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// Makes a loader of a text as the book's `create_dataloader_v1` does: GPT-2's ids, with `<|endoftext|>` recognized.
///
/// The order is seeded from the system, as torch's is; [`Loader::with_seeding`] takes a seed. Batches lie on the CPU;
/// [`Loader::to_device`] moves them. [`Loader::owned_epoch`] fits traits whose iterators must not borrow.
///
/// ```
/// use candle_gpt_input::data::{Seeding, create_dataloader_v1};
/// use candle_gpt_input::rng::Generator;
///
/// // torch.manual_seed(123); create_dataloader_v1(text, batch_size=2, max_length=3, stride=3, shuffle=False)
/// let text = "Every effort moves you, one token at a time.";
/// let seeding = Seeding::Global(Generator::manual_seed(123));
/// let loader = create_dataloader_v1(text, 2, 3, 3, false, true)?.with_seeding(seeding);
/// let batch = loader.epoch().next().unwrap()?;
/// assert_eq!(batch.input_ids.to_vec2::<u32>()?, [[6109, 3626, 6100], [345, 11, 530]]);
/// assert_eq!(batch.target_ids.to_vec2::<u32>()?, [[3626, 6100, 345], [11, 530, 11241]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Errors
/// Those of [`Tokenizer::encode`] and [`Loader::new`].
#[doc(alias("GPTDatasetV1", "DataLoader"))]
pub fn create_dataloader_v1(
    text: &str,
    batch_size: usize,
    max_length: usize,
    stride: usize,
    shuffle: bool,
    drop_last: bool,
) -> Result<Loader> {
    let ids = Tokenizer::gpt2().with_special_tokens(SpecialTokens::Recognize).encode(text)?;
    let config = LoaderConfig { batch_size, max_length, stride, shuffle, drop_last, ..LoaderConfig::default() };
    Loader::new(&Tokens::new(ids), config, Seeding::Global(Generator::from_entropy()), &Device::Cpu)
}
