//! The ways to a layer: from tables, from a configuration, from a `VarBuilder`, from a checkpoint.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::GptInputLayer;
use crate::checkpoint::{Checkpoint, LoadReport, StoredTables};
use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
#[cfg(doc)]
use crate::error::ConfigError;
use crate::error::{Error, PositionError, Result};
use crate::init::Init;
use crate::kernel::{StoredTable, Table};
use crate::position::{PositionEncoding, PositionTable};
use crate::rng::Generator;

/// What becomes of the tables of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableStorage {
    /// They are read into memory and converted: a layer that can be trained, changed and saved.
    #[default]
    Dense,
    /// They stay in their file, or with the source of remote bytes. Opening reads only the header; each call reads and
    /// converts just the rows it needs.
    Mapped,
    /// A quantized token table is read into memory in its blocks, as it is; look-ups dequantize rows. Position tables, which
    /// are small, are converted.
    Quantized,
}

/// How [`GptInputLayer::open`] opens a checkpoint.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
///
/// let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
/// assert_eq!(options.storage, TableStorage::Mapped);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The dtype of what the layer returns: f32, f16, bf16 or f64. Rows of another dtype are converted.
    pub dtype: DType,
    /// Where the tables go; of mapped and quantized tables, where their rows go.
    pub device: Device,
    /// What becomes of the tables.
    pub storage: TableStorage,
}

impl OpenOptions {
    /// Reads the tables into memory, as `dtype`, on `device`.
    pub fn new(dtype: DType, device: &Device) -> Self {
        Self { dtype, device: device.clone(), storage: TableStorage::Dense }
    }

    /// Sets what becomes of the tables.
    #[must_use]
    pub fn with_storage(mut self, storage: TableStorage) -> Self {
        self.storage = storage;
        self
    }
}

/// # Open
impl GptInputLayer {
    /// Makes a layer of two tables, each a [`candle_nn::Embedding`], a [`Tensor`] or a table of this crate.
    ///
    /// The configuration is read off their shapes; there is no dropout. Tables that are [`Var`](candle_core::Var)s, such as those
    /// of a [`VarMap`](candle_nn::VarMap), stay what they are: the layer sees every step of an optimizer.
    ///
    /// # Shapes
    /// - `wte`: `[V, C]`
    /// - `wpe`: `[P, C]`
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if one is not a matrix of floating-point elements, [`Error::TableMismatch`] if their widths,
    /// dtypes or devices differ.
    pub fn new<W, P>(wte: W, wpe: P) -> Result<Self>
    where
        W: TryInto<TokenTable>,
        P: TryInto<PositionTable>,
        Error: From<W::Error> + From<P::Error>,
    {
        let (wte, wpe) = (wte.try_into()?, wpe.try_into()?);
        let (vocab_size, n_embd) = wte.dims();
        let (n_positions, _) = wpe.dims();
        let config = GptInputConfig { embd_pdrop: 0.0, ..GptInputConfig::new(vocab_size, n_positions, n_embd) };
        let positions = PositionEncoding::learned(&config, wpe);
        Self::with_config(wte, positions, config)
    }

    /// Makes a layer of a token table and positions that need no table of their own: rotary, ALiBi, sinusoidal or none.
    ///
    /// `config` says which, and for how many positions and heads; [`positions`](Self::positions) is what attention then calls.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::position::PositionScheme;
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    ///
    /// let wte = Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?; // V = 3, C = 2
    /// let mut config = GptInputConfig::new(3, 16, 2);
    /// config.n_head = 1;
    /// config.position = PositionScheme::None;
    /// let layer = GptInputLayer::with_scheme(wte, &config)?;
    /// let x = layer.forward(&Tensor::new(&[2u32, 0], &Device::Cpu)?)?;
    /// assert_eq!(x.to_vec2::<f32>()?, [[20., 21.], [0., 1.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `wte`: `[V, C]`, as `config` says
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if `wte` is not a matrix of floating-point elements, [`Error::ShapeMismatch`] if it is not
    /// `[vocab_size, n_embd]`, [`PositionError::MissingTables`] if the scheme has tables (use [`new`](Self::new) or
    /// [`load`](Self::load)), and [`ConfigError`] if the configuration makes no sense.
    pub fn with_scheme<W: TryInto<TokenTable>>(wte: W, config: &GptInputConfig) -> Result<Self>
    where
        Error: From<W::Error>,
    {
        config.validate()?;
        let wte = wte.try_into()?;
        let expected = (config.vocab_size, config.n_embd);
        if wte.dims() != expected {
            let expected = format!("[{}, {}], the configuration's vocab_size and n_embd", expected.0, expected.1);
            return Err(Error::ShapeMismatch { what: "wte", got: wte.dims().into(), expected });
        }
        let positions = PositionEncoding::build(config, wte.dtype(), wte.device(), |spec| {
            Err(PositionError::MissingTables { scheme: config.position.name(), name: spec.name.clone() }.into())
        })?;
        Self::with_config(wte, positions, config.clone())
    }

    /// Draws fresh tables: `wte` first, then the position tables, each as torch's `normal_` draws it (biases are zeros).
    ///
    /// The layer keeps a handle onto `generator` for its dropout, as all of torch draws from one global stream.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    ///
    /// // torch.manual_seed(123); torch.nn.Embedding(50257, 256); torch.nn.Embedding(4, 256)
    /// let config = GptInputConfig::preset("tutorial")?;
    /// let generator = Generator::manual_seed(123);
    /// let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &generator, DType::F32, &Device::Cpu)?;
    /// let x = layer.forward(&Tensor::new(&[[40u32, 367, 2885, 1464]], &Device::Cpu)?)?;
    /// assert_eq!(format!("{:.4}", x.get(0)?.get(0)?.get(0)?.to_scalar::<f32>()?), "0.4784");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration makes no sense, and as [`Init::wte`].
    pub fn init(
        config: &GptInputConfig,
        init: Init,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let init = init.resolve(config);
        let wte = init.wte(config.vocab_size, config.n_embd, generator, dtype, device)?;
        let positions = PositionEncoding::build(config, dtype, device, |spec| match *spec.shape {
            [n_rows, width] if spec.drawn => init.wpe(n_rows, width, generator, dtype, device),
            _ => Ok(Tensor::zeros(&*spec.shape, dtype, device)?),
        })?;
        Ok(Self::with_config(wte.try_into()?, positions, config.clone())?.with_generator(generator))
    }

    /// Takes the tables from a [`VarBuilder`], the Candle way: `wte.weight` and `wpe.weight`, in exactly the shapes of `config`; with other
    /// positions their tables, under the names of [`PositionEncoding::tables`].
    ///
    /// On a [`VarMap`](candle_nn::VarMap) that lacks them they are drawn from N(0, `initializer_range`²) and are trained as usual.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration makes no sense, [`Error::Candle`] if a table is
    /// missing or has another shape.
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        config.validate()?;
        let init = candle_nn::Init::Randn { mean: 0.0, stdev: config.initializer_range };
        let wte = vb.get_with_hints((config.vocab_size, config.n_embd), "wte.weight", init)?;
        let positions = PositionEncoding::build(config, vb.dtype(), vb.device(), |spec| {
            let init = if spec.drawn { init } else { candle_nn::Init::Const(0.0) };
            Ok(vb.get_with_hints(&*spec.shape, &spec.name, init)?)
        })?;
        Self::with_config(wte.try_into()?, positions, config.clone())
    }

    /// Reads the two tables of a GPT-2 checkpoint, and nothing else, into memory.
    ///
    /// `path` is a file of any [`Format`](crate::checkpoint::Format), a folder of Hugging Face's layout, or an index of shards.
    /// Where the configuration says other positions, their tables take the place of `wpe`, under the names of
    /// [`PositionEncoding::tables`]. Tables are found by their names under any prefix (`wte.weight`, `tok_emb.weight`, …) and
    /// converted to `dtype` (f32, f16, bf16 or f64) while they are read.
    ///
    /// [`open`](Self::open) has more options, and says what came from where.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError), naming the file and what is wrong with it.
    #[doc(alias = "AutoModel.from_pretrained")]
    pub fn from_pretrained(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::open(&Checkpoint::open(path)?, &OpenOptions::new(dtype, device))?.0)
    }

    /// Opens the tables of a checkpoint, and reports what came from where.
    ///
    /// A [mapped](TableStorage::Mapped) layer opens in milliseconds and takes next to no memory, however large the file is.
    /// Rows that the system has in its cache are looked up nearly as fast as those of a table in memory. Any format whose
    /// tensors lie row after row and uncompressed will do, aligned or not; GGUF's quantized blocks are dequantized row by row.
    /// Training, changing and saving need the tables in memory; [`lm_head`](Self::lm_head) reads the whole file in every call.
    ///
    /// The file is mapped: while the layer lives, nobody may change it or cut it off (replacing it, as every writer of this
    /// crate does, is fine). What is read from a changed file is unspecified; a row beyond the end of a file that was cut off
    /// ends the process (`SIGBUS`), which no library can turn into an error.
    ///
    /// Of a remote checkpoint ([`Checkpoint::from_ranges`]) each call fetches the rows that it needs, each once, in one request
    /// for the token table and one for the position table; I/O errors are returned. Rows are not cached here; the
    /// [`ByteRanges`](crate::checkpoint::ByteRanges) implementation may cache them.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::checkpoint::Checkpoint;
    /// use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
    ///
    /// let checkpoint = Checkpoint::open("gpt2.gguf")?;
    /// let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Quantized);
    /// let (layer, report) = GptInputLayer::open(&checkpoint, &options)?;
    /// println!("{report}");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`CheckpointError`](crate::error::CheckpointError), naming the file and what is wrong with it
    /// - [`CheckpointError::NotMappable`](crate::error::CheckpointError::NotMappable) for a mapped table that is compressed,
    ///   big-endian or not stored row after row
    /// - [`CheckpointError::NotQuantized`](crate::error::CheckpointError::NotQuantized) for a quantized table that is not one:
    ///   [`quantize`](Self::quantize) makes it one
    pub fn open(checkpoint: &Checkpoint, options: &OpenOptions) -> Result<(Self, LoadReport)> {
        let (dtype, device) = (options.dtype, &options.device);
        let tables = match options.storage {
            TableStorage::Dense => {
                let tables = checkpoint.load_tables(dtype, device)?;
                let positions = positions_of(&tables.config, tables.position_tables, dtype, device)?;
                let layer = Self::with_config(tables.wte.try_into()?, positions, tables.config)?;
                return Ok((layer, tables.report));
            }
            TableStorage::Mapped => checkpoint.map_tables(dtype, device)?,
            TableStorage::Quantized => checkpoint.quantized_tables(dtype, device)?,
        };
        let StoredTables { wte, wpe, position_tables, config, report } = tables;
        let table = |rows, table| StoredTable { rows, dtype, device: device.clone(), table };
        let positions = match wpe {
            Some(wpe) => PositionEncoding::learned(&config, table(wpe, Table::Positions).into()),
            None => positions_of(&config, position_tables, dtype, device)?,
        };
        Ok((Self::with_config(table(wte, Table::Tokens).into(), positions, config)?, report))
    }
}

/// The scheme of a configuration on the tables that a checkpoint has for it, in their order.
fn positions_of(
    config: &GptInputConfig,
    tables: Vec<Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<PositionEncoding> {
    let mut tables = tables.into_iter();
    PositionEncoding::build(config, dtype, device, |spec| {
        let missing = || PositionError::MissingTables { scheme: config.position.name(), name: spec.name.clone() };
        tables.next().ok_or_else(|| missing().into())
    })
}
