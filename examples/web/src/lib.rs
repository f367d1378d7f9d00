//! What the page calls: text to tokens, and tokens to vectors. Numbers cross the border as flat arrays.

mod fetched;
#[path = "../../gpt2/model.rs"]
#[allow(dead_code)] // no training here
mod gpt2;
mod held;
#[path = "../../explore/labels.rs"]
#[allow(dead_code)] // pixels come as numbers
mod labels;
#[path = "../../explore/map.rs"]
mod map;
mod remote;
#[path = "../../explore/rows.rs"]
#[allow(dead_code)] // all rows as a matrix
mod rows;
mod tables;
#[path = "../../explore/words.rs"]
#[allow(dead_code)] // analogies and lists
mod words;

use std::sync::Arc;

use candle_gpt_input::checkpoint::ByteRanges;
use candle_gpt_input::tokenizer::Tokenizer;
use wasm_bindgen::prelude::*;

use held::Held;
use labels::Frame;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
}

/// An error as one sentence, causes included.
fn js<T>(result: anyhow::Result<T>) -> Result<T, JsError> {
    result.map_err(|error| JsError::new(&format!("{error:#}")))
}

fn flat(pairs: Vec<(f32, u32)>) -> Vec<f32> {
    pairs.into_iter().flat_map(|(value, id)| [value, id as f32]).collect()
}

/// A number with so many decimals, rounded as `embed` and `explore` round.
#[wasm_bindgen]
pub fn decimal(x: f32, n_digits: usize) -> String {
    format!("{x:.n_digits$}")
}

/// The words of `explore`'s map: groups of words separated by commas.
#[wasm_bindgen]
pub fn map_words() -> Vec<String> {
    map::WORDS.map(str::to_string).to_vec()
}

/// Left and top of each label, or NaN twice where it finds no room. `dots` and `sizes` are pairs of pixels.
#[wasm_bindgen]
pub fn place_labels(dots: &[i32], radius: i32, sizes: &[i32], width: i32, height: i32) -> Vec<f32> {
    let pairs = |flat: &[i32]| flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>();
    let within = Frame { left: 0, top: 0, right: width, bottom: height };
    let frames = labels::place(&pairs(dots), radius, &pairs(sizes), &within);
    let corner = |frame: Option<Frame>| frame.map_or([f32::NAN; 2], |frame| [frame.left as f32, frame.top as f32]);
    frames.into_iter().flat_map(corner).collect()
}

/// A tokenizer.
#[wasm_bindgen]
pub struct Words {
    words: words::Words,
    #[wasm_bindgen(readonly)]
    pub is_gpt2: bool,
}

#[wasm_bindgen]
impl Words {
    /// That of a model's files, of which `names` and `texts` are given, or else GPT-2's.
    #[wasm_bindgen(constructor)]
    pub fn new(names: Vec<String>, texts: Vec<String>) -> Result<Words, JsError> {
        let text = |name: &str| names.iter().zip(&texts).find(|(file, _)| *file == name).map(|(_, text)| text.clone());
        let own = js(Tokenizer::from_files("", |name| Ok(text(name))).map_err(Into::into))?;
        let is_gpt2 = own.is_none();
        let tokenizer = own.unwrap_or_else(|| Tokenizer::gpt2().clone());
        Ok(Self { words: words::Words { tokenizer }, is_gpt2 })
    }

    /// Fails if a token has no row in a table.
    pub fn check(&self, n_rows: usize) -> Result<(), JsError> {
        js(self.words.tokenizer.unused_rows(n_rows).map(|_| ()).map_err(Into::into))
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, JsError> {
        js(self.words.tokenizer.encode(text).map_err(Into::into))
    }

    /// What a token stands for; bytes that are no text are U+FFFD.
    pub fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.words.tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
    }

    /// A token as `embed` and `explore` print it.
    pub fn quoted(&self, id: u32) -> String {
        self.words.show(id as usize)
    }

    /// The token of a word inside a sentence, or else of the bare word.
    pub fn find(&self, word: &str) -> Result<u32, JsError> {
        js(self.words.id(word).map(|id| id as u32))
    }
}

/// The files of a checkpoint, one after the other.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files(Vec<Arc<dyn ByteRanges>>);

#[wasm_bindgen]
impl Files {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Files {
        Self::default()
    }

    /// Adds the file that is next among those that the page holds.
    pub fn add(&mut self, name: String, n_bytes: f64) {
        self.0.push(Arc::new(Held { name, n_bytes: n_bytes as u64, at: self.0.len() }));
    }
}

/// A checkpoint whose tables are in memory.
#[wasm_bindgen]
pub struct Tables(tables::Tables);

#[wasm_bindgen]
impl Tables {
    /// Reads the files, which the page need not hold afterwards.
    #[wasm_bindgen(constructor)]
    pub fn new(files: Files, config_json: Option<String>) -> Result<Tables, JsError> {
        js(tables::Tables::open(files.0, config_json).map(Self))
    }

    /// Tables of the same shape before training.
    pub fn fresh(&self, seed: u32) -> Result<Tables, JsError> {
        js(self.0.fresh(seed.into()).map(Self))
    }

    /// The `tokenizer.json` that a GGUF file has inside; the first call takes it.
    pub fn tokenizer_json(&mut self) -> Result<Option<String>, JsError> {
        js(self.0.take_tokenizer_json())
    }

    /// Rows of `wte`, rows of `wpe`, width.
    pub fn dims(&self) -> Vec<usize> {
        let config = self.0.layer().config();
        vec![config.vocab_size, config.n_positions, config.n_embd]
    }

    /// Whether a token has a row.
    pub fn has(&self, id: u32) -> bool {
        self.0.row(id).is_some()
    }

    /// `wte`, `wpe` and their sum for each token at its position: `[3, T, C]`.
    pub fn vectors(&self, ids: &[u32], positions: &[u32]) -> Result<Vec<f32>, JsError> {
        js(self.0.vectors(ids, positions))
    }

    /// Cosine and id of the nearest tokens.
    pub fn nearest(&self, id: u32, n: usize) -> Result<Vec<f32>, JsError> {
        js(self.0.nearest(id, n).map(flat))
    }

    /// x and y of each token, and then the shares of the variance that the two axes have.
    pub fn flat(&self, ids: &[u32]) -> Result<Vec<f64>, JsError> {
        let map::Flat { points, shares } = js(self.0.flat(ids))?;
        Ok(points.into_iter().flat_map(|(x, y)| [x, y]).chain(shares).collect())
    }

    /// The rows of `wpe` at these positions, and then the cosine of any two of them.
    pub fn positions(&self, positions: &[u32]) -> Result<Vec<f32>, JsError> {
        js(self.0.positions(positions).map(|(rows, cosines)| [rows, cosines].concat()))
    }

    /// The tokens that training never, or hardly ever, met.
    pub fn unseen(&self) -> Result<Vec<u32>, JsError> {
        js(self.0.unseen())
    }

    /// Probability and id of the likeliest next tokens.
    pub fn next(&self, ids: &[u32], n: usize) -> Result<Vec<f32>, JsError> {
        js(self.0.next(ids, n).map(flat))
    }
}

/// A file that is not here. A question that fails may lack bytes: `missing` says which; after `put` it is repeated.
#[wasm_bindgen]
pub struct Remote(remote::Remote);

#[wasm_bindgen]
impl Remote {
    #[wasm_bindgen(constructor)]
    pub fn new(name: String, n_bytes: f64) -> Remote {
        Self(remote::Remote::new(name, n_bytes as u64))
    }

    /// First byte and end of each range that the last question lacked.
    pub fn missing(&self) -> Vec<f64> {
        self.0.source.take_missing().into_iter().flat_map(|range| [range.start as f64, range.end as f64]).collect()
    }

    pub fn put(&self, start: f64, bytes: Vec<u8>) {
        self.0.source.put(start as u64, bytes);
    }

    /// Reads the header. Returns rows of `wte`, rows of `wpe`, width.
    pub fn open(&mut self) -> Result<Vec<usize>, JsError> {
        let config = js(self.0.open())?.config();
        Ok(vec![config.vocab_size, config.n_positions, config.n_embd])
    }

    /// What [`Tables::vectors`] returns.
    pub fn vectors(&self, ids: &[u32], positions: &[u32]) -> Result<Vec<f32>, JsError> {
        js(self.0.vectors(ids, positions))
    }
}
