//! The guide: pages on how to use the crate, beside the documentation of its items.

/// Shows what changes when the layer takes the place of two `candle_nn::Embedding`s.
#[doc = include_str!("adopting.md")]
pub mod adopting {}

/// Opens token ids of nanoGPT, llm.c and Megatron, and says how to convert those of others.
#[doc = include_str!("corpora.md")]
pub mod corpora {}

/// Names what equals PyTorch, transformers or plain Candle, how exactly, and the tests that hold it.
#[doc = include_str!("exactness.md")]
pub mod exactness {}

/// Lists the formats of checkpoints; opens, converts, maps, quantizes and fetches them.
#[doc = include_str!("formats.md")]
pub mod formats {}

/// Lists what a program for 0.1 says differently for 0.2.
#[doc = include_str!("from_0_1.md")]
pub mod from_0_1 {}

// Its examples are tests, and some begin with text.
/// Maps lines of PyTorch and transformers to lines of this crate.
#[cfg_attr(any(not(doctest), feature = "tokenizer"), doc = include_str!("from_pytorch.md"))]
pub mod from_pytorch {}

/// Builds for CUDA and Metal, and lists where each path has run.
#[doc = include_str!("gpu.md")]
pub mod gpu {}

/// Downloads models of the Hugging Face Hub, or reads them by ranges; says where they lie and what is checked.
#[cfg_attr(any(not(doctest), feature = "hub"), doc = include_str!("hub.md"))]
pub mod hub {}

/// Says which ids, positions and masks are valid, and which error an invalid one is.
#[doc = include_str!("id_contract.md")]
pub mod id_contract {}

/// Trains on several machines with the same bits as on one.
#[doc = include_str!("machines.md")]
pub mod machines {}

/// Names the limit of each operation, what holds to the bit, and what threads and memory do.
#[doc = include_str!("performance.md")]
pub mod performance {}

/// Chooses a position scheme, calls it in attention, and handles padding.
#[doc = include_str!("positions.md")]
pub mod positions {}

/// Trains the tables: one step, what each part does, how a run resumes.
#[doc = include_str!("training.md")]
pub mod training {}
