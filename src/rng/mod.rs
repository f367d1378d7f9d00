//! PyTorch's CPU random numbers, bit for bit.
//!
//! A [`Generator`] returns what `torch.Generator` returns for the same seed and the same calls: the same values, and
//! the same position in the stream afterwards. In both languages:
//!
//! ```python
//! torch.manual_seed(123)
//! torch.nn.Embedding(6, 3).weight   # [[ 0.3374, -0.1778, -0.1690], ...
//! ```
//! ```
//! # use candle_gpt_input::rng::Generator;
//! let generator = Generator::manual_seed(123);
//! let mut weight = [0.0f32; 6 * 3];
//! generator.normal_f32(&mut weight, 0.0, 1.0)?;
//! assert_eq!(format!("{:.4?}", &weight[..3]), "[0.3374, -0.1778, -0.1690]");
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```
//!
//! The reference is PyTorch 2.15 on Linux x86-64 with AVX2. Its other builds (scalar x86, ARM) draw the same words but
//! round some values differently in the last digits. Values drawn through f64 logarithms and sines (`normal_f32` below
//! 16 elements, `normal_f64`, `exponential`, `multinomial`) use the platform's libm: glibc gives PyTorch's bits. All
//! others are the same on every machine.
//!
//! A call that fails draws nothing.

mod distributions;
mod mt19937;
mod normal;
mod permutation;
mod state;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, RngError};
use crate::memory::collected;

pub use state::GeneratorState;

/// From this range on `randint` draws two words per value, below it one.
const ONE_WORD_RANGE: u64 = 1 << 28;

/// Draws random values from one stream, as `torch.Generator` does.
///
/// Clones share the stream: what one draws, the others do not draw again. A call holds a lock, so that threads never
/// interleave within it.
///
/// ```
/// # use candle_gpt_input::rng::Generator;
/// let generator = Generator::manual_seed(123);
/// let clone = generator.clone();
/// assert_eq!(clone.randint(0, 10, 2)?, [2, 9]);
/// assert_eq!(generator.randint(0, 10, 2)?, [2, 0]); // the next two
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone)]
#[doc(alias = "torch.Generator", alias = "rng", alias = "random")]
pub struct Generator {
    state: Arc<Mutex<GeneratorState>>,
}

impl Default for Generator {
    /// Returns a stream seeded as `torch.Generator()` is: 67280421310721.
    fn default() -> Self {
        Self::manual_seed(67_280_421_310_721)
    }
}

impl Generator {
    /// Starts a new stream: `torch.Generator().manual_seed(seed)`.
    ///
    /// Only the low 32 bits of the seed matter. A negative Python seed is its two's complement.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let generator = Generator::manual_seed(123);
    /// assert_eq!(generator.random_u64() >> 32, 2991312382);
    /// assert_eq!(Generator::manual_seed(123 + (1 << 32)).random_u64() >> 32, 2991312382);
    /// ```
    #[must_use]
    #[doc(alias = "torch.manual_seed")]
    pub fn manual_seed(seed: u64) -> Self {
        Self::from_state(&GeneratorState::seeded(seed))
    }

    /// Starts a new stream with a seed from the system: `generator.seed()`. [`initial_seed`](Self::initial_seed) returns
    /// the seed, by which the run can be repeated.
    ///
    /// Like torch's the seed has 53 bits, so that a double holds it.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let generator = Generator::from_entropy();
    /// let again = Generator::manual_seed(generator.initial_seed());
    /// assert_eq!(generator.randperm(10)?, again.randperm(10)?);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    #[doc(alias("torch.seed", "from_os_rng", "random"))]
    pub fn from_entropy() -> Self {
        Self::manual_seed(entropy())
    }

    /// Returns the seed that the stream began with: `generator.initial_seed()`.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// assert_eq!(Generator::manual_seed(123).initial_seed(), 123);
    /// ```
    #[must_use]
    #[doc(alias = "torch.initial_seed")]
    pub fn initial_seed(&self) -> u64 {
        self.lock().initial_seed()
    }

    /// Restarts this stream from a seed of the system, for all its clones, and returns it: `generator.seed()`.
    #[doc(alias = "torch.seed")]
    pub fn reseed_from_entropy(&self) -> u64 {
        let seed = entropy();
        self.reseed(seed);
        seed
    }

    /// Starts a new stream that continues from `state`.
    #[must_use]
    pub fn from_state(state: &GeneratorState) -> Self {
        Self { state: Arc::new(Mutex::new(state.clone())) }
    }

    /// Restarts this stream from `seed`, for all its clones: `generator.manual_seed(seed)`.
    #[doc(alias = "manual_seed")]
    pub fn reseed(&self, seed: u64) {
        *self.lock() = GeneratorState::seeded(seed);
    }

    /// Returns a copy of the stream's position: `generator.get_state()`.
    #[must_use]
    #[doc(alias = "get_state", alias = "get_rng_state")]
    pub fn state(&self) -> GeneratorState {
        self.lock().clone()
    }

    /// Moves the stream to `state`, for all its clones: `generator.set_state(state)`.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let generator = Generator::manual_seed(123);
    /// let before = generator.state();
    /// let drawn = generator.randperm(5)?;
    /// generator.set_state(&before);
    /// assert_eq!(generator.randperm(5)?, drawn);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[doc(alias = "set_rng_state")]
    pub fn set_state(&self, state: &GeneratorState) {
        self.lock().clone_from(state);
    }

    /// Draws two words of MT19937, the first one high: `random64()` of PyTorch's engine.
    pub fn random_u64(&self) -> u64 {
        self.lock().engine.next_u64()
    }

    /// Draws `torch.empty((), dtype=torch.int64).random_()`, as a `DataLoader` and its `RandomSampler` draw their
    /// seeds.
    pub(crate) fn random_i63(&self) -> i64 {
        (self.random_u64() & i64::MAX as u64) as i64
    }

    /// Fills `out` as `uniform_(lo, hi)` fills an f32 tensor. Draws one word per value.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let mut out = [0.0; 2];
    /// Generator::manual_seed(123).uniform_f32(&mut out, 0.0, 1.0)?;
    /// assert_eq!(out, [0.29611194, 0.51656228]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::UniformBounds`] unless `lo <= hi` and both and their difference are finite f32.
    #[doc(alias = "uniform_", alias = "torch.rand")]
    pub fn uniform_f32(&self, out: &mut [f32], lo: f64, hi: f64) -> Result<()> {
        check_bounds(lo, hi, f32::MAX.into())?;
        let (lo, hi) = (lo as f32, hi as f32);
        let width = hi - lo;
        self.lock().engine.fill_unit_f32(out);
        for value in out {
            let x = value.mul_add(width, lo);
            // Rounding can reach the upper bound, which is exclusive.
            *value = if x == hi { lo } else { x };
        }
        Ok(())
    }

    /// Fills `out` as `uniform_(lo, hi)` fills an f64 tensor. Draws two words per value.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let mut out = [0.0; 2];
    /// Generator::manual_seed(123).uniform_f64(&mut out, 0.0, 1.0)?;
    /// assert_eq!(format!("{out:.4?}"), "[0.3689, 0.0134]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::UniformBounds`] unless `lo <= hi` and both and their difference are finite.
    pub fn uniform_f64(&self, out: &mut [f64], lo: f64, hi: f64) -> Result<()> {
        check_bounds(lo, hi, f64::MAX)?;
        let width = hi - lo;
        let engine = &mut self.lock().engine;
        out.fill_with(|| {
            let x = engine.unit_f64().mul_add(width, lo);
            if x == hi { lo } else { x }
        });
        Ok(())
    }

    /// Draws `n` integers of `lo..hi`: `torch.randint(lo, hi, (n,))`.
    ///
    /// For a range below 2^28 PyTorch takes the remainder of one word, else of two (before 2.15: of two from 2^32 on).
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// assert_eq!(Generator::manual_seed(123).randint(0, 10, 4)?, [2, 9, 2, 0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::EmptyRange`] if `lo >= hi`, [`Error::TooLarge`](crate::Error::TooLarge) for more integers than memory
    /// holds.
    pub fn randint(&self, lo: i64, hi: i64, n: usize) -> Result<Vec<i64>> {
        if lo >= hi {
            return Err(RngError::EmptyRange { lo, hi }.into());
        }
        // `i64::MIN..i64::MAX` is wider than an `i64`, so widths and sums wrap.
        let range = hi.wrapping_sub(lo) as u64;
        let engine = &mut self.lock().engine;
        collected("integers", n, || {
            let random = if range < ONE_WORD_RANGE { engine.next_u32().into() } else { engine.next_u64() };
            lo.wrapping_add((random % range) as i64)
        })
    }

    // Every draw leaves a usable state, so a panic of another thread does not matter.
    fn lock(&self) -> MutexGuard<'_, GeneratorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Generator").field(&*self.lock()).finish()
    }
}

/// Returns 53 bits from the system.
fn entropy() -> u64 {
    // The keys of std's hash maps come from there.
    RandomState::new().build_hasher().finish() >> 11
}

fn check_bounds(lo: f64, hi: f64, largest: f64) -> Result<(), RngError> {
    if lo <= hi && lo.abs() <= largest && hi.abs() <= largest && hi - lo <= largest {
        Ok(())
    } else {
        Err(RngError::UniformBounds { lo, hi })
    }
}
