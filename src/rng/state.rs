//! The position of a stream, and the bytes PyTorch saves it as.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::mt19937::{Mt19937, N_WORDS};
use crate::error::{Result, RngError};

// PyTorch's `CPUGeneratorImplState` on 64-bit little-endian machines: where each field starts.
const SEED: usize = 0;
const LEFT: usize = 8;
const SEEDED: usize = 12;
const NEXT: usize = 16;
const WORDS: usize = 24;
const CACHED_NORMAL: usize = 5024;
const HAS_CACHED_NORMAL: usize = 5040;
const HAS_CACHED_FLOAT: usize = 5052;
const N_BYTES: usize = 5056;
/// The bytes that serde writes: seed, index and words; eight more with a cached normal.
const N_COMPACT: usize = 8 + 4 + 4 * N_WORDS;

/// Holds the position of a [`Generator`](super::Generator) in its stream: enough to continue from there, in this crate
/// or in PyTorch.
///
/// ```
/// # use candle_gpt_input::rng::Generator;
/// let generator = Generator::manual_seed(123);
/// generator.randperm(5)?;
/// let resumed = Generator::from_state(&generator.state());
/// assert_eq!(resumed.randperm(5)?, generator.randperm(5)?);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// Serde writes it as a string of 5 KB: the seed, the count of words drawn, the 624 words and, if there is one, the
/// cached normal. All are little-endian, each byte as two hexadecimal digits. Strings of version 0.1 (base64 of the
/// same bytes) are read too.
#[derive(Clone, PartialEq)]
pub struct GeneratorState {
    pub(super) engine: Mt19937,
    /// The second value of the last Box-Muller pair of a small `normal_f32`.
    pub(super) cached_normal: Option<f64>,
}

impl GeneratorState {
    pub(super) fn seeded(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed), cached_normal: None }
    }

    /// Returns the seed that the stream began with: `generator.initial_seed()`.
    #[must_use]
    pub fn initial_seed(&self) -> u64 {
        self.engine.initial_seed
    }

    /// Returns the 5056 bytes of `torch.Generator.get_state()`, which `set_state` takes back.
    ///
    /// ```
    /// # use candle_gpt_input::rng::{Generator, GeneratorState};
    /// let state = Generator::manual_seed(123).state();
    /// let bytes = state.to_bytes();
    /// assert_eq!((bytes.len(), bytes[0]), (5056, 123));
    /// assert_eq!(GeneratorState::from_bytes(&bytes)?, state);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; N_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(SEED, &self.engine.initial_seed.to_le_bytes());
        put(LEFT, &words_left(self.engine.index as u64).to_le_bytes());
        put(SEEDED, &1u32.to_le_bytes());
        put(NEXT, &(self.engine.index as u64).to_le_bytes());
        for (i, &word) in self.engine.words.iter().enumerate() {
            put(WORDS + 8 * i, &u64::from(word).to_le_bytes());
        }
        if let Some(normal) = self.cached_normal {
            put(CACHED_NORMAL, &normal.to_le_bytes());
            put(HAS_CACHED_NORMAL, &1u32.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) or `torch.Generator.get_state()` wrote.
    ///
    /// # Errors
    /// - [`RngError::StateLength`] unless there are 5056 bytes
    /// - [`RngError::StateField`] if a field cannot come from a CPU generator
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; N_BYTES] =
            bytes.try_into().map_err(|_| RngError::StateLength { n_bytes: bytes.len(), expected: N_BYTES })?;
        let next = u64_at(bytes, NEXT);
        expect_field("next", next, next <= N_WORDS as u64)?;
        let left = u32_at(bytes, LEFT);
        expect_field("left", left.into(), left == words_left(next))?;
        let seeded = u32_at(bytes, SEEDED);
        expect_field("seeded", seeded.into(), seeded == 1)?;
        let mut words = [0; N_WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            let value = u64_at(bytes, WORDS + 8 * i);
            expect_field("state", value, value <= u32::MAX.into())?;
            *word = value as u32;
        }
        let has_cached = u32_at(bytes, HAS_CACHED_NORMAL);
        expect_field("normal_is_valid", has_cached.into(), has_cached <= 1)?;
        let cached = u64_at(bytes, CACHED_NORMAL);
        let normal = f64::from_bits(cached);
        expect_field("normal_y", cached, has_cached == 0 || normal.is_finite())?;
        // PyTorch keeps this second cache and never fills it.
        let has_float = bytes[HAS_CACHED_FLOAT].into();
        expect_field("is_next_float_normal_sample_valid", has_float, has_float == 0)?;
        Ok(Self {
            engine: Mt19937 { initial_seed: u64_at(bytes, SEED), words, index: next as usize },
            cached_normal: (has_cached == 1).then_some(normal),
        })
    }
}

impl Serialize for GeneratorState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Mt19937 { initial_seed, words, index } = &self.engine;
        let mut bytes = initial_seed.to_le_bytes().to_vec();
        bytes.extend((*index as u32).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(self.cached_normal.iter().flat_map(|normal| normal.to_le_bytes()));
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for GeneratorState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // 2508 or 2516 bytes take fewer letters in base64 (six bits each) than in hexadecimal (four).
        let bytes = if text.len() < 2 * N_COMPACT { from_base64(&text) } else { from_hex(&text) };
        let reason = match bytes {
            Some(bytes) => match from_compact(&bytes) {
                Some(state) => return Ok(state),
                None => "no generator has such fields",
            },
            None => "neither hexadecimal digits nor the base64 that version 0.1 wrote",
        };
        Err(de::Error::custom(format!("not the state of a generator ({} letters): {reason}", text.len())))
    }
}

/// Decodes two digits per byte.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| match pair {
        &[high, low] => Some((char::from(high).to_digit(16)? << 4 | char::from(low).to_digit(16)?) as u8),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Decodes base64 without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut n_bits) = (Vec::new(), 0u32, 0);
    for letter in text.bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, n_bits) = (bits << 6 | u32::from(six), n_bits + 6);
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    (bits == 0 && n_bits < 6).then_some(bytes)
}

fn from_compact(bytes: &[u8]) -> Option<GeneratorState> {
    let (seed, rest) = bytes.split_first_chunk()?;
    let (index, rest) = rest.split_first_chunk()?;
    let (words, cached) = rest.split_at_checked(4 * N_WORDS)?;
    let index = u32::from_le_bytes(*index) as usize;
    let cached_normal = match cached {
        [] => None,
        cached => Some(f64::from_le_bytes(cached.try_into().ok()?)),
    };
    if index > N_WORDS || cached_normal.is_some_and(|normal| !normal.is_finite()) {
        return None;
    }
    let mut engine = Mt19937 { initial_seed: u64::from_le_bytes(*seed), words: [0; N_WORDS], index };
    for (word, bytes) in engine.words.iter_mut().zip(words.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(GeneratorState { engine, cached_normal })
}

impl fmt::Debug for GeneratorState {
    /// Leaves the 624 words out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratorState")
            .field("initial_seed", &self.engine.initial_seed)
            .field("index", &self.engine.index)
            .field("cached_normal", &self.cached_normal)
            .finish_non_exhaustive()
    }
}

/// Returns PyTorch's field `left`, which also counts the draw that will twist, and starts with only that one left.
fn words_left(next: u64) -> u32 {
    match next {
        0 => 1,
        _ => N_WORDS as u32 + 1 - next as u32,
    }
}

fn expect_field(field: &'static str, value: u64, holds: bool) -> Result<(), RngError> {
    if holds { Ok(()) } else { Err(RngError::StateField { field, value }) }
}

fn u32_at(bytes: &[u8; N_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; N_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
