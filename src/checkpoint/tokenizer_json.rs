//! The tokenizer inside a file of weights, which only GGUF has.

use super::Checkpoint;
use super::format::Format;
use super::format::gguf::tokenizer_keys;
use super::format::gguf_tokenizer::{Reason, tokenizer};
use super::parse::ParseError;
use super::weights::Weights;
use crate::error::{CheckpointError, Result, TokenizerError};

impl Checkpoint {
    /// Returns the tokenizer inside a GGUF file as the text of a `tokenizer.json`: `None` if none is inside, and for
    /// other formats, beside which [`Tokenizer::beside`](crate::tokenizer::Tokenizer::beside) finds it.
    ///
    /// It is a byte-level BPE (`tokenizer.ggml.model` is `gpt2`) that cuts words as GPT-2, StarCoder, Llama 3, Qwen 2 or
    /// GPT-4o does, by llama.cpp's names in `tokenizer.ggml.pre`; without that key as GPT-2 does, if the model is one.
    /// Control tokens are special, and in a file without types of tokens those that begin and end a text; unused ones are
    /// left out. A text begins or ends with such a token where the file says so, and by default begins with one for
    /// Llama 3's kind. Hugging Face's library reads the text too. A `tokenizer.huggingface.json` in the file is returned as
    /// it is.
    ///
    /// ```
    /// use candle_core::quantized::gguf_file::{Value, write};
    /// use candle_core::quantized::{GgmlDType, QTensor};
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::Checkpoint;
    ///
    /// let wte = QTensor::quantize(&Tensor::ones((4, 32), DType::F32, &Device::Cpu)?, GgmlDType::F32)?;
    /// let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::String(text.to_string())).collect());
    /// let keys = [
    ///     ("tokenizer.ggml.model", Value::String("gpt2".to_string())),
    ///     ("tokenizer.ggml.pre", Value::String("gpt-2".to_string())),
    ///     ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<|endoftext|>"])),
    ///     ("tokenizer.ggml.merges", texts(&["a b"])),
    ///     ("tokenizer.ggml.eos_token_id", Value::U32(3)),
    /// ];
    /// let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value)).collect();
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("tiny.gguf");
    /// write(&mut std::fs::File::create(&path)?, &keys, &[("token_embd.weight", &wte)])?;
    ///
    /// let text = Checkpoint::open(&path)?.tokenizer_json()?.expect("a tokenizer is inside");
    /// # #[cfg(feature = "tokenizer")] {
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::from_json(&text)?.encode("abba<|endoftext|>")?, [2, 1, 0, 3]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`TokenizerError::Unsupported`] for a tokenizer of another kind, such as SentencePiece, and for an unknown
    ///   `tokenizer.ggml.pre`
    /// - [`CheckpointError::InvalidFile`] for keys that contradict each other
    /// - [`CheckpointError::Io`] if the file cannot be read
    #[doc(alias = "GGUFReader")]
    pub fn tokenizer_json(&self) -> Result<Option<String>> {
        let Weights::File(weights) = &self.weights else { return Ok(None) };
        if weights.format != Format::Gguf {
            return Ok(None);
        }
        for file in &weights.files {
            let invalid = |reason| CheckpointError::InvalidFile {
                path: file.path.clone(),
                format: Format::Gguf.name(),
                reason,
                source: None,
            };
            let keys = tokenizer_keys(file).map_err(|error| match error {
                ParseError::Io(source) => CheckpointError::reading(&file.path)(source),
                error => invalid(error.into_reason().0),
            })?;
            let found = tokenizer(&keys).map_err(|reason| match reason {
                Reason::Invalid(reason) => invalid(reason).into(),
                Reason::Unsupported(reason) => {
                    crate::Error::from(TokenizerError::Unsupported { origin: file.path.display().to_string(), reason })
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
