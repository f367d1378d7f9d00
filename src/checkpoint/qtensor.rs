//! Tensors in the quantized blocks that they are stored in.

use candle_core::Shape;
use candle_core::quantized::QTensor;

use super::Checkpoint;
use super::mapped::read_blocks;
use super::stored::Kind;
#[cfg(doc)]
use crate::error::CheckpointError;
use crate::error::Result;
use crate::rows::to_qtensor;

impl Checkpoint {
    /// Reads a tensor in the quantized blocks of its file, onto the host: `None` for a tensor that is not quantized.
    ///
    /// [`QuantizedLinear`](crate::nn::QuantizedLinear) multiplies by the blocks as they are.
    /// [`var_builder`](Self::var_builder) dequantizes them.
    ///
    /// ```
    /// use candle_core::quantized::gguf_file::write;
    /// use candle_core::quantized::{GgmlDType, QTensor};
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::Checkpoint;
    ///
    /// let weight = Tensor::ones((3, 32), DType::F32, &Device::Cpu)?; // [out, in]
    /// let (blocks, plain) = (QTensor::quantize(&weight, GgmlDType::Q8_0)?, QTensor::quantize(&weight, GgmlDType::F16)?);
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("blocks.gguf");
    /// let names = ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"];
    /// write(&mut std::fs::File::create(&path)?, &[], &[(names[0], &blocks), (names[1], &plain)])?;
    ///
    /// let checkpoint = Checkpoint::open(&path)?;
    /// let read = checkpoint.qtensor((3, 32), names[0])?.expect("it is in blocks");
    /// assert_eq!((read.dtype(), read.storage_size_in_bytes()), (GgmlDType::Q8_0, 3 * 34)); // a row is one block
    /// assert!(checkpoint.qtensor((3, 32), names[1])?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`] for a name that is not there, [`CheckpointError::TensorShape`] for a tensor of
    /// another shape, [`CheckpointError::TableDType`] for blocks that Candle does not dequantize, such as MXFP4,
    /// [`CheckpointError::Io`] if its bytes cannot be read.
    #[doc(alias = "GGUFReader")]
    pub fn qtensor(&self, shape: impl Into<Shape>, name: &str) -> Result<Option<QTensor>> {
        if !self.holds(name) {
            return Err(self.missing_tensor(name).into());
        }
        let shard = self.shard(name)?;
        let file = shard.get();
        let at = file.tensor(name)?;
        file.must_have_shape(name, &at, &shape.into())?;
        let Kind::Blocks(block_type) = at.dtype.kind else { return Ok(None) };
        let bytes = read_blocks(file, &at)?;
        Ok(Some(to_qtensor(&bytes, block_type, at.shape.to_vec())?))
    }
}
