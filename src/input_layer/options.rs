//! [`OpenOptions`]: how a checkpoint becomes a layer.

use candle_core::{DType, Device};

/// How the tables of a checkpoint are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableStorage {
    /// Read into memory and converted: the layer can be trained, changed and saved.
    #[default]
    Dense,
    /// Left in their file, or at the remote source. Opening reads only the header; each call reads and converts just
    /// the rows it needs.
    Mapped,
    /// A quantized token table is read into memory in its own blocks, and look-ups dequantize rows. Position tables,
    /// which are small, are converted.
    Quantized,
}

/// How [`GptInputLayer::open`](crate::GptInputLayer::open) opens a checkpoint.
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
    /// The dtype of the hidden states: f32, f16, bf16 or f64. Rows of another dtype are converted.
    pub dtype: DType,
    /// The device of the tables; for mapped and quantized tables, the device of the rows that are read.
    pub device: Device,
    /// How the tables are stored.
    pub storage: TableStorage,
    /// How a head of its own is stored. A quantized one that is not in blocks in its file is dense.
    pub head_storage: TableStorage,
}

impl OpenOptions {
    /// Makes options that read the tables into memory, as `dtype`, on `device`.
    pub fn new(dtype: DType, device: &Device) -> Self {
        let storage = TableStorage::Dense;
        Self { dtype, device: device.clone(), storage, head_storage: storage }
    }

    /// Sets how the tables are stored, that of the head too.
    #[must_use]
    pub fn with_storage(mut self, storage: TableStorage) -> Self {
        (self.storage, self.head_storage) = (storage, storage);
        self
    }

    /// Sets how a head of its own is stored: [`TableStorage::Quantized`] keeps its blocks beside a dense token table.
    #[must_use]
    pub fn with_head_storage(mut self, storage: TableStorage) -> Self {
        self.head_storage = storage;
        self
    }
}
