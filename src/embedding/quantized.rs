//! Token tables in GGUF's quantized blocks: a quarter to a tenth of the memory, dequantized row by row.

use std::fmt;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::{Kind, TokenTable};
use crate::error::{EmbeddingError, Error, Result};
use crate::kernel::{StoredTable, Table, can_dequantize, map_in_parallel};
use crate::rows::{RowBytes, RowType, StoredRows, to_qtensor};
use crate::shape::wrong_shape;

/// Rows that are quantized at a time.
const ROWS: usize = 256;

/// How far a quantized table is from the table it was made from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// The type of its blocks.
    pub block_type: GgmlDType,
    /// The largest difference of any element.
    pub max_abs: f64,
    /// The root mean squared difference of the elements.
    pub rmse: f64,
    /// `rmse` over the root mean square of the elements; 0 for a table of zeros.
    pub relative: f64,
    /// Bytes of the blocks.
    pub n_bytes: usize,
    /// Bytes of the original table, in its dtype.
    pub n_bytes_before: usize,
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |n_bytes: usize| n_bytes as f64 / 1e6;
        let Self { block_type, max_abs, rmse, relative, n_bytes, n_bytes_before } = *self;
        write!(
            f,
            "wte quantized to {block_type:?}: {:.1} MB of {:.1}; error at most {max_abs:.3e}, rmse {rmse:.3e}, {:.3} % \
             of the elements' own size",
            mb(n_bytes),
            mb(n_bytes_before),
            100.0 * relative
        )
    }
}

impl TokenTable {
    /// Quantizes the table into blocks in memory, and reports the error. Look-ups still return the table's dtype.
    ///
    /// In a row, 32 (`Q8_0` to `Q4_0`) or 256 (`Q6K` to `Q2K`) elements share a scale. They are quantized as Candle
    /// does it, from f32. A look-up returns the same bits as dequantizing the whole table (`QTensor::dequantize`),
    /// rounding it to the table's dtype and looking up there. The result keeps its [`options`](Self::options) but
    /// cannot be trained or changed; [`to_dense`](Self::to_dense) makes it dense again.
    ///
    /// ```
    /// use candle_core::quantized::GgmlDType;
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::embedding::TokenTable;
    ///
    /// let rows: Vec<f32> = (0..64).map(|i| (i % 32 - 16) as f32 * 0.5).collect(); // two rows, -8 to 7.5
    /// let wte = TokenTable::try_from(Tensor::from_vec(rows, (2, 32), &Device::Cpu)?)?;
    /// let (quantized, report) = wte.quantize(GgmlDType::Q8_0)?;
    /// assert_eq!((report.n_bytes, report.n_bytes_before), (68, 256)); // a scale in f16 and 32 bytes, two times
    /// assert!(report.max_abs <= 8.0 / 127.0 / 2.0 * 1.001);
    /// let row = quantized.forward(&Tensor::new(&[1u32], &Device::Cpu)?)?;
    /// assert_eq!(row.get(0)?.get(0)?.to_scalar::<f32>()?, -7.9995117); // -127 times the scale of 8/127 in f16
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`EmbeddingError::BlockWidth`] if blocks do not divide the width, saying which would
    /// - [`EmbeddingError::BlockType`] for a type that is not quantized, or whose rows this crate does not read
    /// - [`EmbeddingError::NotFinite`] for a table with NaN or infinities
    #[doc(alias("GgmlDType", "qtype"))]
    pub fn quantize(&self, block_type: GgmlDType) -> Result<(Self, QuantizeReport)> {
        let (n_rows, width) = self.dims();
        must_divide(block_type, width)?;
        let piece = |first| self.quantize_rows(block_type, first, ROWS.min(n_rows - first));
        let pieces = map_in_parallel(n_rows.div_ceil(ROWS), &|index| piece(index * ROWS));
        let pieces = pieces.into_iter().collect::<Result<Vec<Piece>>>()?;
        let mut bytes = crate::memory::with_capacity(n_rows * RowType::Blocks(block_type).row_bytes(width))?;
        let (mut max_abs, mut of_errors, mut of_numbers) = (0.0f64, 0.0, 0.0);
        for piece in pieces {
            bytes.extend_from_slice(&piece.bytes);
            max_abs = max_abs.max(piece.max_abs);
            of_errors += piece.of_errors;
            of_numbers += piece.of_numbers;
        }
        let n = (n_rows * width) as f64;
        let report = QuantizeReport {
            block_type,
            max_abs,
            rmse: (of_errors / n).sqrt(),
            relative: if of_numbers > 0.0 { (of_errors / of_numbers).sqrt() } else { 0.0 },
            n_bytes: bytes.len(),
            n_bytes_before: n_rows * width * self.dtype().size_in_bytes(),
        };
        let table = held(bytes, (n_rows, width), block_type, self.dtype(), self.device());
        Ok((Self { options: self.options, ..Self::from(table) }, report))
    }

    fn quantize_rows(&self, block_type: GgmlDType, first: usize, n: usize) -> Result<Piece> {
        let (_, width) = self.dims();
        let numbers = self.narrow(first, n)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let values = numbers.flatten_all()?.to_vec1::<f32>()?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(EmbeddingError::NotFinite { row: first + at / width }.into());
        }
        // Candle would quantize the beginning of a view's storage.
        let blocks = QTensor::quantize(&numbers.force_contiguous()?, block_type)?;
        let found = blocks.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut piece = Piece { bytes: blocks.data()?.into_owned(), max_abs: 0.0, of_errors: 0.0, of_numbers: 0.0 };
        for (x, y) in values.iter().map(|&x| f64::from(x)).zip(found.iter().map(|&y| f64::from(y))) {
            piece.max_abs = piece.max_abs.max((x - y).abs());
            piece.of_errors += (x - y) * (x - y);
            piece.of_numbers += x * x;
        }
        Ok(piece)
    }

    /// Returns rows `first..first + n` as elements `[n, C]`, without history.
    fn narrow(&self, first: usize, n: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::Dense(table) => Ok(table.weight().detach().narrow(0, first, n)?),
            Kind::Mapped(table) | Kind::Quantized(table, _) => table.narrow(first, n),
        }
    }

    /// Returns the type of a quantized table's blocks; `None` for other tables.
    pub fn block_type(&self) -> Option<GgmlDType> {
        if let Kind::Quantized(_, block_type) = self.kind { Some(block_type) } else { None }
    }

    /// Returns the table with its elements in memory, in its dtype and on its device, where it can be trained, changed
    /// and saved. A dense table is returned as it is.
    ///
    /// ```
    /// use candle_core::quantized::GgmlDType;
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::embedding::TokenTable;
    ///
    /// let row: Vec<f32> = (0..31).map(|i| i as f32).chain([127.0]).collect(); // Q8_0 keeps it: its scale is 127/127
    /// let wte = TokenTable::try_from(Tensor::from_vec(row.clone(), (1, 32), &Device::Cpu)?)?;
    /// let (quantized, _) = wte.quantize(GgmlDType::Q8_0)?;
    /// assert!(quantized.as_embedding().is_none());
    /// let dense = quantized.to_dense()?;
    /// assert_eq!(dense.as_embedding().unwrap().embeddings().to_vec2::<f32>()?, [row]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) for remote rows that cannot be read.
    pub fn to_dense(&self) -> Result<Self> {
        let (n_rows, _) = self.dims();
        match &self.kind {
            Kind::Dense(_) => Ok(self.clone()),
            Kind::Mapped(_) | Kind::Quantized(..) => self.with_weight(self.narrow(0, n_rows)?),
        }
    }

    /// Makes a table `[V, C]` on a copy of Candle's quantized one; look-ups return `dtype` (f32, f16, bf16 or f64) on
    /// `device`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if it is not a matrix, [`EmbeddingError::BlockType`] if it is not quantized or this
    /// crate does not read rows of its type, [`Error::InvalidTable`] for another `dtype`.
    pub fn from_qtensor(qtensor: &QTensor, dtype: DType, device: &Device) -> Result<Self> {
        Self::stored_qtensor(qtensor, dtype, device).map(Self::from)
    }

    /// Returns the rows of [`from_qtensor`](Self::from_qtensor).
    pub(crate) fn stored_qtensor(qtensor: &QTensor, dtype: DType, device: &Device) -> Result<StoredTable> {
        let Ok((n_rows, width)) = qtensor.shape().dims2() else {
            return Err(wrong_shape("qtensor", qtensor.shape(), "[V, C]"));
        };
        must_divide(qtensor.dtype(), width)?;
        if n_rows == 0 || !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
            let shape = qtensor.shape().clone();
            return Err(Error::InvalidTable { table: Table::Tokens.name(), shape, dtype });
        }
        let bytes = qtensor.data()?.into_owned();
        Ok(held(bytes, (n_rows, width), qtensor.dtype(), dtype, device))
    }

    /// Returns the table as Candle's own quantized tensor on the host: a copy of its blocks, for `QMatMul` or a GGUF
    /// file of your own.
    ///
    /// ```
    /// use candle_core::quantized::GgmlDType;
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::embedding::TokenTable;
    ///
    /// let wte = TokenTable::try_from(Tensor::ones((3, 32), DType::F32, &Device::Cpu)?)?;
    /// let (quantized, _) = wte.quantize(GgmlDType::Q4_0)?;
    /// let qtensor = quantized.to_qtensor()?;
    /// assert_eq!((qtensor.dtype(), qtensor.shape().dims()), (GgmlDType::Q4_0, &[3, 32][..]));
    /// assert_eq!(TokenTable::from_qtensor(&qtensor, DType::F16, &Device::Cpu)?.dims(), (3, 32));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`EmbeddingError::NotQuantized`] for a table that is not quantized, [`Error::NotInMemory`] for a remote one.
    pub fn to_qtensor(&self) -> Result<QTensor> {
        let Kind::Quantized(table, block_type) = &self.kind else {
            return Err(EmbeddingError::NotQuantized.into());
        };
        Ok(to_qtensor(table.bytes_here()?, *block_type, vec![table.rows.n_rows, table.rows.width])?)
    }
}

/// Some rows in blocks, with sums over their elements.
struct Piece {
    bytes: Vec<u8>,
    max_abs: f64,
    /// The sum of squared errors.
    of_errors: f64,
    /// The sum of squared elements.
    of_numbers: f64,
}

fn must_divide(block_type: GgmlDType, width: usize) -> Result<(), EmbeddingError> {
    if !can_dequantize(block_type) {
        return Err(EmbeddingError::BlockType { block_type });
    }
    match width % block_type.block_size() {
        0 => Ok(()),
        _ => Err(EmbeddingError::BlockWidth { block_type, width }),
    }
}

fn held(
    bytes: Vec<u8>,
    (n_rows, width): (usize, usize),
    block_type: GgmlDType,
    dtype: DType,
    device: &Device,
) -> StoredTable {
    let rows = StoredRows {
        bytes: RowBytes::Held(bytes.into()),
        start: 0,
        n_rows,
        width,
        stored: RowType::Blocks(block_type),
    };
    StoredTable { rows, dtype, device: device.clone(), table: Table::Tokens }
}
