//! [`ForeignFormat`]: files that are often given as weights by mistake.

use std::fmt;

use super::shown::Shown;

/// Names a kind of file that holds no weights this crate reads. Its text says what to do instead.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::checkpoint::Checkpoint;
/// use candle_gpt_input::error::{CheckpointError, ForeignFormat};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n")?;
/// let error = Checkpoint::open(&path).unwrap_err();
/// let expected = "a Git LFS pointer to a file of 548105171 bytes: run `git lfs pull` in its repository";
/// assert!(error.to_string().ends_with(expected));
/// let Error::Checkpoint(CheckpointError::Foreign { format, .. }) = error else { panic!() };
/// assert!(matches!(format, ForeignFormat::GitLfs { n_bytes: Some(548105171), .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// A file without bytes.
    Empty,
    /// A file that begins with nothing but zeros, as a download does that reserved its space and was cut.
    Zeros,
    /// A Git LFS pointer, which stands for the file in a repository.
    #[non_exhaustive]
    GitLfs {
        /// The size of the file that it stands for.
        n_bytes: Option<u64>,
    },
    /// A web page, such as that of an error or a login.
    Html,
    /// XML, such as a storage server's error.
    Xml,
    /// JSON: the configuration of a model.
    Config,
    /// Other JSON, such as a server's answer.
    Json,
    /// Text: its first line.
    #[non_exhaustive]
    Text {
        /// Up to 200 bytes of the first line.
        first_line: String,
    },
    /// Text in UTF-16 or UTF-32.
    WideText,
    /// HDF5, such as Keras' `tf_model.h5`.
    Hdf5,
    /// A Keras 3 `.keras` file.
    Keras,
    /// ONNX.
    Onnx,
    /// MessagePack, such as `flax_model.msgpack`.
    MessagePack,
    /// A TorchScript archive, such as `rust_model.ot` or what `torch.jit.save` writes.
    TorchScript,
    /// A pickle that `torch.save` did not write, such as joblib's.
    Pickle,
    /// A GGML file from before GGUF.
    #[non_exhaustive]
    Ggml {
        /// Its kind: `ggml`, `ggmf`, `ggjt` or `ggla`.
        kind: &'static str,
    },
    /// Core ML.
    CoreMl,
    /// TensorFlow Lite.
    TfLite,
    /// The graph of a TensorFlow SavedModel; its weights lie in the folder `variables` beside it.
    SavedModel,
    /// One NumPy array.
    Npy,
    /// llm.c's activations and gradients, with which its tests compare.
    LlmcState,
    /// llm.c's token ids.
    LlmcTokens,
    /// llm.c's tokenizer.
    LlmcTokenizer,
    /// A compressed file or an archive: `gzip`, `xz`, `zstd`, `bzip2`, `lz4`, `zlib`, `7z`, `rar`, `tar` or `zip`.
    #[non_exhaustive]
    Archive {
        /// Its kind.
        kind: &'static str,
    },
    /// A file of another purpose, such as `a PDF document`.
    #[non_exhaustive]
    Other {
        /// What it is, with its article.
        what: &'static str,
    },
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "download the weights again";
        let text = match self {
            Self::Empty => "an empty file: download or save it again",
            Self::Zeros => "nothing but zeros at its beginning, as an interrupted download leaves: download it again",
            Self::GitLfs { n_bytes } => {
                f.write_str("a Git LFS pointer")?;
                if let Some(n_bytes) = n_bytes {
                    write!(f, " to a file of {n_bytes} bytes")?;
                }
                ": run `git lfs pull` in its repository"
            }
            Self::Html => {
                "a web page (HTML), such as that of an error or a login: download the file itself, from an address \
                 with `/resolve/` on the Hugging Face Hub"
            }
            Self::Xml => return write!(f, "XML, perhaps the error of a storage server: {AGAIN}"),
            Self::Config => "JSON, the configuration of a model: give the file of weights, or the folder of both",
            Self::Json => return write!(f, "JSON, perhaps the answer of a server: read it, and {AGAIN}"),
            Self::Text { first_line } => {
                return write!(f, "text, which begins with `{}`: {AGAIN}", Shown::name(first_line));
            }
            Self::WideText => return write!(f, "text in UTF-16 or UTF-32: {AGAIN}"),
            Self::Hdf5 => {
                "HDF5, as of Keras' tf_model.h5: convert it in Python with `from_pretrained(.., from_tf=True)` and \
                 `save_pretrained` of transformers 4"
            }
            Self::Keras => "a Keras 3 file: save its weights as .npz or safetensors in Python",
            Self::Onnx => "ONNX: export the PyTorch model with `save_pretrained`, or save its initializers as .npz",
            Self::MessagePack => {
                "MessagePack, as of Flax: convert it in Python with `from_pretrained(.., from_flax=True)` and \
                 `save_pretrained` of transformers 4"
            }
            Self::TorchScript => {
                "TorchScript, as torch.jit.save and rust_model.ot have it: save `torch.jit.load(..).state_dict()` with \
                 torch.save"
            }
            Self::Pickle => {
                "a pickle that torch.save did not write, such as joblib's: save a state dict with torch.save"
            }
            Self::Ggml { kind } => {
                return write!(f, "{kind}, GGML from before GGUF: convert the original model with llama.cpp to GGUF");
            }
            Self::CoreMl => "Core ML: give the model that it was converted from",
            Self::TfLite => "TensorFlow Lite: give the model that it was converted from",
            Self::SavedModel => {
                "the graph of a TensorFlow SavedModel: save the weights with tf.train.Checkpoint or as .npz"
            }
            Self::Npy => "one NumPy array (.npy): save the tensors under their names with `numpy.savez`",
            Self::LlmcState => "a debug state of llm.c: give its checkpoint, such as gpt2_124M.bin",
            Self::LlmcTokens => "token ids of llm.c, not weights: give its checkpoint, such as gpt2_124M.bin",
            Self::LlmcTokenizer => "a tokenizer of llm.c, not weights: give its checkpoint, such as gpt2_124M.bin",
            Self::Archive { kind } => return write!(f, "compressed or packed with {kind}: unpack it first"),
            Self::Other { what } => return write!(f, "{what}, not weights: {AGAIN}"),
        };
        f.write_str(text)
    }
}

impl ForeignFormat {
    /// Says what it is, and what to do where a text was asked for.
    pub(super) fn in_place_of_a_text(&self) -> String {
        match self {
            Self::Other { what } => format!("{what}, not text"),
            Self::GitLfs { .. } | Self::Html | Self::Archive { .. } => self.to_string(),
            other => {
                let text = other.to_string();
                let what = text.split(": ").next().unwrap_or_default();
                format!("{}, not text", what.trim_end_matches(", not weights"))
            }
        }
    }
}
