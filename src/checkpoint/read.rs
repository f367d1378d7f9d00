//! Reads a tensor's elements in pieces, converting their dtype on the way.

use std::io::{self, Read};

use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use candle_core::{DType, Device};
use flate2::read::DeflateDecoder;
use half::{bf16, f16};

use super::bytes::ByteFile;
use super::stored::{Kind, Place, StoredTensor};
use crate::memory;

/// About how many bytes of a tensor are read before they are converted.
const PIECE_BYTES: usize = 1 << 20;
/// The same for a remote tensor: enough for several requests at once.
const PIECE_BYTES_ELSEWHERE: usize = 16 << 20;

/// Reads all elements of `tensor` in row-major order, in one pass over its bytes.
///
/// A tensor that is not stored row-major is first read from its first element to its last.
pub(super) fn read_elements<T: Element>(files: &[ByteFile], tensor: &StoredTensor) -> io::Result<Vec<T>> {
    let mut bytes = reader(files, tensor)?;
    let elsewhere = files.iter().any(|file| file.source().is_some());
    let element = tensor.dtype.block_bytes;
    if let Some(strides) = &tensor.strides {
        let n_bytes = tensor.extent().unwrap_or(0);
        let mut span = Vec::new();
        (&mut bytes).take(n_bytes).read_to_end(&mut span)?;
        if (span.len() as u64) < n_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let gathered =
            strided(&tensor.shape, strides).flat_map(|i| span[i * element..(i + 1) * element].iter().copied());
        return convert(tensor, &mut Gathered(gathered), elsewhere);
    }
    convert(tensor, &mut bytes, elsewhere)
}

/// Converts a stream of elements stored as `tensor.dtype`.
fn convert<T: Element>(tensor: &StoredTensor, bytes: &mut dyn Read, elsewhere: bool) -> io::Result<Vec<T>> {
    let mut left = tensor.n_bytes();
    // Plain bytes of a file are known to exist, and the result is at most a small multiple of them. A deflated stream
    // or a server may claim more than it holds, so there the result grows with what arrives.
    let mut elements = match tensor.place {
        Place::Plain { .. } if !elsewhere => memory::with_capacity(tensor.n_elements()),
        _ => Vec::new(),
    };
    let piece_bytes = if elsewhere { PIECE_BYTES_ELSEWHERE } else { PIECE_BYTES };
    let whole_blocks = (piece_bytes / tensor.dtype.block_bytes).max(1) * tensor.dtype.block_bytes;
    let mut piece = vec![0; whole_blocks.min(left)];
    while left > 0 {
        let n_bytes = whole_blocks.min(left);
        let piece = &mut piece[..n_bytes];
        bytes.read_exact(piece)?;
        if tensor.big_endian {
            piece.chunks_exact_mut(tensor.dtype.block_bytes).for_each(<[u8]>::reverse);
        }
        match tensor.dtype.kind {
            Kind::Float(dtype) => T::extend(&mut elements, piece, dtype),
            Kind::Float8(kind) => elements.extend(piece.iter().map(|&byte| T::from_f32(kind.to_f32(byte)))),
            Kind::Blocks(dtype) => {
                let values = dequantize(piece, dtype, n_bytes / tensor.dtype.block_bytes * tensor.dtype.block)?;
                elements.extend(values.into_iter().map(T::from_f32));
            }
            Kind::Other => return Err(io::Error::other("not a floating-point dtype")),
        }
        left -= n_bytes;
    }
    Ok(elements)
}

/// Returns a stream of a tensor's stored bytes, from its first element on.
pub(super) fn reader<'a>(files: &'a [ByteFile], tensor: &StoredTensor) -> io::Result<Box<dyn Read + 'a>> {
    let file = |i: usize| files.get(i).ok_or_else(|| io::Error::other("no such file"));
    match tensor.place {
        Place::Plain { file: i, start } => Ok(Box::new(file(i)?.reader(start, u64::MAX))),
        Place::Deflated { start, n_compressed, skip } => {
            let mut inflated = DeflateDecoder::new(file(0)?.reader(start, start + n_compressed));
            io::copy(&mut (&mut inflated).take(skip), &mut io::sink())?;
            Ok(Box::new(inflated))
        }
    }
}

/// Dequantizes `n` elements in whole blocks, with Candle's own code.
fn dequantize(blocks: &[u8], dtype: GgmlDType, n: usize) -> io::Result<Vec<f32>> {
    // Candle reads the bytes as a slice of blocks, whose alignment is at most that of a `u64`.
    let mut copy = vec![0; blocks.len() + align_of::<u64>()];
    let start = copy.as_ptr().align_offset(align_of::<u64>());
    let aligned = &mut copy[start..start + blocks.len()];
    aligned.copy_from_slice(blocks);
    qtensor_from_ggml(dtype, aligned, vec![n], &Device::Cpu)
        .and_then(|blocks| blocks.dequantize(&Device::Cpu)?.to_vec1::<f32>())
        .map_err(io::Error::other)
}

/// Returns the index of each element of a strided tensor, in row-major order.
fn strided<'a>(shape: &'a [usize], strides: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let n: usize = shape.iter().product();
    let mut place = vec![0; shape.len()];
    let mut index = 0;
    (0..n).map(move |_| {
        let this = index;
        for ((at, &dim), &stride) in place.iter_mut().zip(shape).zip(strides).rev() {
            *at += 1;
            index += stride;
            if *at < dim {
                break;
            }
            index -= dim * stride;
            *at = 0;
        }
        this
    })
}

/// Single bytes as a stream.
struct Gathered<I>(I);

impl<I: Iterator<Item = u8>> Read for Gathered<I> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut n_read = 0;
        for (to, byte) in bytes.iter_mut().zip(&mut self.0) {
            *to = byte;
            n_read += 1;
        }
        Ok(n_read)
    }
}

/// A dtype that tensors are loaded as. Conversions go through f32 and round to nearest even at each step, as PyTorch's
/// do.
pub(super) trait Element: Copy {
    const DTYPE: DType;
    fn from_f32(value: f32) -> Self;
    fn from_le(bytes: &[u8]) -> Self;

    /// Appends the little-endian elements of dtype `stored` in `bytes`.
    #[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32, as PyTorch does it")]
    fn extend(elements: &mut Vec<Self>, bytes: &[u8], stored: DType) {
        let of = |size: usize| bytes.chunks_exact(size);
        match stored {
            // The same dtype keeps every bit, those of a NaN included.
            same if same == Self::DTYPE => elements.extend(of(same.size_in_bytes()).map(Self::from_le)),
            DType::F32 => elements.extend(of(4).map(|b| Self::from_f32(f32::from_le(b)))),
            DType::F16 => elements.extend(of(2).map(|b| Self::from_f32(f16::from_le(b).to_f32()))),
            DType::BF16 => elements.extend(of(2).map(|b| Self::from_f32(bf16::from_le(b).to_f32()))),
            _ => elements.extend(of(8).map(|b| Self::from_f32(f64::from_le(b) as f32))),
        }
    }
}

/// `$from_le` is called with slices of exactly the type's size, by `chunks_exact`.
macro_rules! element {
    ($type:ty, $dtype:expr, $from_f32:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
            fn from_le(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }
        }
    };
}
element!(f32, DType::F32, |value| value);
element!(f64, DType::F64, f64::from);
element!(f16, DType::F16, f16::from_f32);
element!(bf16, DType::BF16, bf16::from_f32);
