//! MT19937, the Mersenne Twister of Matsumoto and Nishimura (1998), and how PyTorch turns its words into values between
//! 0 and 1.

/// Words of a block, which are the state.
pub(super) const N_WORDS: usize = 624;
/// How far ahead the recurrence looks.
const SHIFT: usize = 397;

const UNIT_F32: f32 = 1.0 / (1u32 << 24) as f32;
const UNIT_F64: f64 = 1.0 / (1u64 << 53) as f64;

#[derive(Clone, PartialEq)]
pub(super) struct Mt19937 {
    pub(super) initial_seed: u64,
    pub(super) words: [u32; N_WORDS],
    /// Words of this block already drawn. It is 0 only between seeding and the first draw; a used-up block stays at 624
    /// until the next draw. PyTorch counts the same way.
    pub(super) index: usize,
}

impl Mt19937 {
    /// Seeds the stream with the low 32 bits of `seed`. All 64 are kept for `initial_seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut words = [seed as u32; N_WORDS];
        for j in 1..N_WORDS {
            let previous = words[j - 1];
            words[j] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(j as u32);
        }
        Self { initial_seed: seed, words, index: 0 }
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        self.refill_if_used_up();
        let word = temper(self.words[self.index]);
        self.index += 1;
        word
    }

    /// Draws two words, of which the first is the high half.
    pub(super) fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }

    /// Draws a uniform on [0, 1) from the low 53 bits of two words.
    pub(super) fn unit_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * UNIT_F64
    }

    /// Fills `out` with uniforms on [0, 1), each from the low 24 bits of one word.
    // A whole stretch of the state at a time, so that tempering and conversion vectorise.
    pub(super) fn fill_unit_f32(&mut self, out: &mut [f32]) {
        let mut rest = out;
        while !rest.is_empty() {
            self.refill_if_used_up();
            let unread = &self.words[self.index..];
            let n = unread.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            for (value, &word) in now.iter_mut().zip(unread) {
                // Through `i32`, because x86 converts signed words only; 24 bits fit.
                *value = (temper(word) & 0x00FF_FFFF) as i32 as f32 * UNIT_F32;
            }
            self.index += n;
            rest = later;
        }
    }

    #[inline]
    fn refill_if_used_up(&mut self) {
        if self.index == 0 || self.index >= N_WORDS {
            twist(&mut self.words);
            self.index = 0;
        }
    }
}

// Two loops without a modulo, each free of short dependencies: the compiler vectorises both.
fn twist(words: &mut [u32; N_WORDS]) {
    for i in 0..N_WORDS - SHIFT {
        words[i] = words[i + SHIFT] ^ mix(words[i], words[i + 1]);
    }
    for i in N_WORDS - SHIFT..N_WORDS - 1 {
        words[i] = words[i + SHIFT - N_WORDS] ^ mix(words[i], words[i + 1]);
    }
    words[N_WORDS - 1] = words[SHIFT - 1] ^ mix(words[N_WORDS - 1], words[0]);
}

#[inline(always)]
fn mix(high: u32, low: u32) -> u32 {
    let joined = (high & 0x8000_0000) | (low & 0x7FFF_FFFF);
    (joined >> 1) ^ ((low & 1).wrapping_neg() & 0x9908_B0DF)
}

#[inline(always)]
fn temper(mut word: u32) -> u32 {
    word ^= word >> 11;
    word ^= (word << 7) & 0x9D2C_5680;
    word ^= (word << 15) & 0xEFC6_0000;
    word ^ (word >> 18)
}
