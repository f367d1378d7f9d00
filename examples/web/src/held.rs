//! Files that the page holds. Only the piece that is read is copied to the memory of the wasm, which never shrinks.

use std::io;
use std::ops::Range;

use candle_gpt_input::checkpoint::ByteRanges;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// Bytes of a file, of `www/files.js`.
    #[wasm_bindgen(js_name = heldBytes)]
    fn held_bytes(at: usize, start: f64, end: f64) -> Vec<u8>;
}

#[derive(Debug)]
pub struct Held {
    pub name: String,
    pub n_bytes: u64,
    /// Which of the files that the page holds.
    pub at: usize,
}

impl ByteRanges for Held {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        Ok(ranges.iter().map(|range| held_bytes(self.at, range.start as f64, range.end as f64)).collect())
    }
}
