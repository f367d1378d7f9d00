//! Constructors of a layer: from tables, from a configuration, from a `VarBuilder`, from a checkpoint.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::{GptInputLayer, Head, OpenOptions, TableStorage};
use crate::checkpoint::{Checkpoint, LoadReport, SAVED, StoredTables, listed, names_among};
use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
#[cfg(doc)]
use crate::error::ConfigError;
use crate::error::{CheckpointError, Error, PositionError, Result};
use crate::init::Init;
use crate::kernel::{StoredTable, Table};
use crate::memory::fits_on;
use crate::position::{PositionEncoding, PositionTable};
use crate::rng::Generator;

/// # Open
impl GptInputLayer {
    /// Makes a layer of two tables, each a [`candle_nn::Embedding`], a [`Tensor`] or a table of this crate.
    ///
    /// The configuration follows from their shapes; there is no dropout. Tables that are [`Var`](candle_core::Var)s,
    /// such as those of a [`VarMap`](candle_nn::VarMap), stay variables: the layer sees every step of an optimizer.
    ///
    /// # Shapes
    /// - `wte`: `[V, C]`
    /// - `wpe`: `[P, C]`
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if one is not a matrix of floating-point elements, [`Error::TableMismatch`] if their
    /// widths, dtypes or devices differ.
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

    /// Makes a layer of a token table and positions without learned tables: rotary, ALiBi, sinusoidal or none.
    ///
    /// `config` chooses them and gives the numbers of positions and heads; attention calls the methods of
    /// [`positions`](Self::positions).
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
    /// - [`Error::InvalidTable`] if `wte` is not a matrix of floating-point elements
    /// - [`Error::ShapeMismatch`] if it is not `[vocab_size, n_embd]`
    /// - [`PositionError::MissingTables`] if the scheme has tables: use [`new`](Self::new) or [`load`](Self::load)
    /// - [`ConfigError`] for an invalid configuration
    pub fn with_scheme<W: TryInto<TokenTable>>(wte: W, config: &GptInputConfig) -> Result<Self>
    where
        Error: From<W::Error>,
    {
        config.validate()?;
        let wte = wte.try_into()?;
        let expected = (config.n_token_rows(), config.n_embd);
        if wte.dims() != expected {
            let expected = format!("[{}, {}], the configuration's rows of tokens and n_embd", expected.0, expected.1);
            return Err(Error::ShapeMismatch { what: "wte", got: wte.dims().into(), expected });
        }
        let positions = PositionEncoding::build(config, wte.dtype(), wte.device(), |spec| {
            Err(PositionError::MissingTables { scheme: config.position.name(), name: spec.name.clone() }.into())
        })?;
        Self::with_config(wte, positions, config.clone())
    }

    /// Draws fresh tables: first `wte`, then the position tables, each as torch's `normal_` draws it. Biases are zeros.
    ///
    /// The layer keeps a handle to `generator` for its dropout, as torch draws everything from one global stream.
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
    /// [`ConfigError`] for an invalid configuration, and the errors of [`Init::wte`].
    pub fn init(
        config: &GptInputConfig,
        init: Init,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let init = init.resolve(config);
        let wte = init.wte(config.n_token_rows(), config.n_embd, generator, dtype, device)?;
        let positions = PositionEncoding::build(config, dtype, device, |spec| match *spec.shape {
            [n_rows, width] if spec.drawn => init.wpe(n_rows, width, generator, dtype, device),
            _ => {
                fits_on(device, "a table of positions", &spec.shape, dtype.size_in_bytes())?;
                Ok(Tensor::zeros(&*spec.shape, dtype, device)?)
            }
        })?;
        Ok(Self::with_config(wte.try_into()?, positions, config.clone())?.with_generator(generator))
    }

    /// Takes the tables from a [`VarBuilder`], as Candle's own layers do: `wte.weight` and `wpe.weight` in exactly the
    /// shapes of `config`; with other positions their tables, under the names of [`PositionEncoding::tables`].
    ///
    /// Tables under the names that [`from_pretrained`](Self::from_pretrained) knows are found, too: `tok_emb` and
    /// `pos_emb`, `token_embedding` and `position_embedding`, `embed_tokens`, and more. A
    /// [`VarMap`](candle_nn::VarMap) that has none draws `wte.weight` and `wpe.weight` from N(0, `initializer_range`²),
    /// as variables to train.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    /// use candle_nn::{VarBuilder, VarMap};
    ///
    /// let varmap = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    /// let config = GptInputConfig::new(3, 2, 4); // V, P, C
    /// let layer = GptInputLayer::load(vb.pp("transformer"), &config)?;
    /// assert_eq!(varmap.data().lock().unwrap()["transformer.wte.weight"].dims(), [3, 4]);
    /// assert_eq!(layer.vars().len(), 2);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] for an invalid configuration, [`Error::Candle`] if a table is missing or has another shape,
    /// [`CheckpointError::AmbiguousTables`] for several token tables: [`new`](Self::new) takes the right two.
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        config.validate()?;
        let init = candle_nn::Init::Randn { mean: 0.0, stdev: config.initializer_range };
        // A `VarMap` would make any table that is asked for.
        fits_on(vb.device(), "wte", &[config.n_token_rows(), config.n_embd], vb.dtype().size_in_bytes())?;
        let (wte_name, wpe_name) = names_among(|name| vb.contains_tensor(name)).map_err(|names| {
            CheckpointError::AmbiguousTables { path: vb.prefix().into(), candidates: listed(&names) }
        })?;
        let wte = vb.get_with_hints((config.n_token_rows(), config.n_embd), &wte_name, init)?;
        let positions = PositionEncoding::build(config, vb.dtype(), vb.device(), |spec| {
            let init = if spec.drawn { init } else { candle_nn::Init::Const(0.0) };
            fits_on(vb.device(), "a table of positions", &spec.shape, vb.dtype().size_in_bytes())?;
            let name = if spec.name == SAVED.1 { &wpe_name } else { &spec.name };
            Ok(vb.get_with_hints(&*spec.shape, name, init)?)
        })?;
        Self::with_config(wte.try_into()?, positions, config.clone())
    }

    /// Reads the two tables of a GPT-2 checkpoint, and nothing else, into memory. A head of its own is read when
    /// [`lm_head`](Self::lm_head) asks for it.
    ///
    /// `path` is a file of any [`Format`](crate::checkpoint::Format), a folder of Hugging Face's layout, or an index of
    /// shards. Tables are found by their names under any prefix (`wte.weight`, `tok_emb.weight`, …) and converted to
    /// `dtype` (f32, f16, bf16 or f64) while they are read. If the configuration chooses other positions, their tables
    /// replace `wpe`, under the names of [`PositionEncoding::tables`].
    ///
    /// [`open`](Self::open) has more options, and reports where each table came from.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let layer = GptInputLayer::from_pretrained("path/to/gpt2", DType::F32, &Device::Cpu)?;
    /// let hidden_states = layer.forward(&Tensor::new(&[[15496u32, 995]], &Device::Cpu)?)?; // [1, 2, 768]
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and what is wrong with it.
    #[doc(alias = "AutoModel.from_pretrained")]
    pub fn from_pretrained(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::open(&Checkpoint::open(path)?, &OpenOptions::new(dtype, device))?.0)
    }

    /// Opens the tables of a checkpoint, and reports where each came from.
    ///
    /// A [mapped](TableStorage::Mapped) layer opens without reading its tables and takes next to no memory, however
    /// large the file is. Rows in the system's page cache are looked up nearly as fast as those of a table in memory.
    /// It supports every format whose tensors lie row after row and uncompressed, aligned or not, and dequantizes
    /// GGUF's blocks row by row. Training, changing and saving need the tables in memory; [`lm_head`](Self::lm_head)
    /// reads the whole table in every call.
    ///
    /// While a mapped layer lives, nobody may change or truncate its file; replacing the file, as every writer of this
    /// crate does, is safe. Reading a changed file gives unspecified rows. A row beyond the end of a truncated file
    /// ends the process (`SIGBUS`), which no library can turn into an error.
    ///
    /// From a remote checkpoint ([`Checkpoint::from_ranges`]) each call fetches the rows it needs, each once, in one
    /// request for each table, and returns I/O errors. Rows are not cached here; the
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
    /// - [`CheckpointError`], naming the file and what is wrong with it
    /// - [`CheckpointError::NotMappable`] for a mapped table that is
    ///   compressed, big-endian or not stored row after row
    /// - [`CheckpointError::NotQuantized`] for [`TableStorage::Quantized`]
    ///   if the table is not quantized: use [`quantize`](Self::quantize)
    pub fn open(checkpoint: &Checkpoint, options: &OpenOptions) -> Result<(Self, LoadReport)> {
        let (dtype, device) = (options.dtype, &options.device);
        let tables = match options.storage {
            TableStorage::Dense => {
                let tables = checkpoint.load_tables(dtype, device)?;
                let positions = positions_of(&tables.config, tables.position_tables, dtype, device)?;
                let head = Head::stored(tables.head, options, &tables.config);
                let layer = Self::with_config(tables.wte.try_into()?, positions, tables.config)?;
                return Ok((Self { head, ..layer }, tables.report));
            }
            TableStorage::Mapped => checkpoint.map_tables(dtype, device)?,
            TableStorage::Quantized => checkpoint.quantized_tables(dtype, device)?,
        };
        let StoredTables { wte, wpe, position_tables, head, config, report } = tables;
        let head = Head::stored(head, options, &config);
        let table = |rows, table| StoredTable { rows, dtype, device: device.clone(), table };
        let positions = match wpe {
            Some(wpe) => PositionEncoding::learned(&config, table(wpe, Table::Positions).into()),
            None => positions_of(&config, position_tables, dtype, device)?,
        };
        let layer = Self::with_config(table(wte, Table::Tokens).into(), positions, config)?;
        Ok((Self { head, ..layer }, report))
    }
}

/// Builds the scheme of a configuration on the tables of a checkpoint, in their order.
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
