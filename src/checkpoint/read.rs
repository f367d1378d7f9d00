//! Reads a tensor's elements in pieces, converting their dtype on the way.

use std::io::{self, Read};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use flate2::read::DeflateDecoder;
use half::{bf16, f16};

use super::bytes::ByteFile;
use super::stored::{Kind, Place, StoredTensor};
use crate::memory;
use crate::rows::to_qtensor;

/// About how many bytes of a tensor are read before they are converted.
const PIECE_BYTES: usize = 1 << 20;
/// The same for a remote tensor: enough for several requests at once.
const PIECE_BYTES_ELSEWHERE: usize = 16 << 20;

/// A view with larger gaps is read run by run: what lies between is not asked for.
const MAX_GAPS: u64 = 2;

/// Reads all elements of `tensor` in row-major order, in one pass over its bytes.
///
/// A tensor that is not stored row-major is first read from its first element to its last.
pub(super) fn read_elements<T: Element>(files: &[ByteFile], tensor: &StoredTensor) -> io::Result<Vec<T>> {
    let elsewhere = files.iter().any(|file| file.source().is_some());
    let element = tensor.dtype.block_bytes;
    if let (Place::Plain { file, start: mut at }, None) = (tensor.place, &tensor.strides)
        && let Some(file) = files.get(file)
    {
        return convert(tensor, elsewhere, &mut |piece, n_bytes| {
            let before = at;
            at += n_bytes as u64;
            file.replace(piece, before, n_bytes)
        });
    }
    let mut bytes = reader(files, tensor)?;
    if let Some(strides) = &tensor.strides {
        let n_bytes = tensor.extent().unwrap_or(0);
        if let Place::Plain { file, start } = tensor.place
            && n_bytes > MAX_GAPS.saturating_mul(tensor.n_bytes() as u64).saturating_add(PIECE_BYTES as u64)
            && let Some(file) = files.get(file)
        {
            return convert(tensor, elsewhere, &mut filled(&mut gather(file, start, tensor, strides)?.as_slice()));
        }
        let mut span = Vec::new();
        (&mut bytes).take(n_bytes).read_to_end(&mut span)?;
        if (span.len() as u64) < n_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let gathered =
            strided(&tensor.shape, strides).flat_map(|i| span[i * element..(i + 1) * element].iter().copied());
        return convert(tensor, elsewhere, &mut filled(&mut Gathered(gathered)));
    }
    convert(tensor, elsewhere, &mut filled(&mut bytes))
}

/// Puts so many bytes that come next into a vector, in place of what it holds.
type Next<'a> = dyn FnMut(&mut Vec<u8>, usize) -> io::Result<()> + 'a;

/// Takes the bytes that come next from a stream.
fn filled(bytes: &mut dyn Read) -> impl FnMut(&mut Vec<u8>, usize) -> io::Result<()> {
    |piece, n_bytes| {
        piece.resize(n_bytes, 0);
        bytes.read_exact(piece)
    }
}

/// Converts elements stored as `tensor.dtype`, piece by piece.
fn convert<T: Element>(tensor: &StoredTensor, elsewhere: bool, next: &mut Next<'_>) -> io::Result<Vec<T>> {
    let mut left = tensor.n_bytes();
    // Plain bytes of a file are known to exist, and the result is at most a small multiple of them. A deflated stream
    // or a server may claim more than it holds, so there the result grows with what arrives.
    let n_elements = tensor.n_elements();
    let mut elements = match tensor.place {
        Place::Plain { .. } if !elsewhere => memory::try_with_capacity(n_elements)?,
        _ => Vec::new(),
    };
    let piece_bytes = if elsewhere { PIECE_BYTES_ELSEWHERE } else { PIECE_BYTES };
    let whole_blocks = (piece_bytes / tensor.dtype.block_bytes).max(1) * tensor.dtype.block_bytes;
    let mut piece = Vec::new();
    while left > 0 {
        let n_bytes = whole_blocks.min(left);
        next(&mut piece, n_bytes)?;
        let piece = &mut piece[..];
        let n_after = elements.len() + n_bytes / tensor.dtype.block_bytes * tensor.dtype.block;
        if n_after > elements.capacity() {
            let n_room = n_after.max(2 * elements.len()).min(n_elements);
            memory::try_grow(&mut elements, n_room)?;
        }
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
    to_qtensor(blocks, dtype, vec![n])
        .and_then(|blocks| blocks.dequantize(&Device::Cpu)?.to_vec1::<f32>())
        .map_err(io::Error::other)
}

/// Reads a view with gaps: returns its bytes in row-major order.
///
/// The file is read from front to back, in small windows, for any order of the dimensions.
fn gather(file: &ByteFile, start: u64, tensor: &StoredTensor, strides: &[usize]) -> io::Result<Vec<u8>> {
    const WINDOW_BYTES: u64 = 1 << 16;
    let element = tensor.dtype.block_bytes;
    let mut gathered = memory::try_with_capacity(tensor.n_bytes())?;
    gathered.resize(tensor.n_bytes(), 0);
    let row_major = StoredTensor::row_major(&tensor.shape).unwrap_or_default();
    // Size, stride in the file, stride in the result; the largest stride in the file varies most slowly.
    let mut dims: Vec<[usize; 3]> =
        tensor.shape.iter().zip(strides).zip(row_major).map(|((&dim, &stride), to)| [dim, stride, to]).collect();
    dims.sort_by_key(|&[_, stride, _]| std::cmp::Reverse(stride));
    let [shape, from, to] = [0, 1, 2].map(|i| dims.iter().map(|dim| dim[i]).collect::<Vec<_>>());
    let step = dims.iter().filter(|[dim, ..]| *dim > 1).map(|[_, stride, _]| stride * element).min().unwrap_or(0);
    // Where each element is in a page of its own, nothing around it is read.
    let n_window = if step as u64 > WINDOW_BYTES / 16 { element as u64 } else { WINDOW_BYTES };
    let end = start + tensor.extent().unwrap_or(0);
    let (mut window, mut window_at) = (Vec::new(), start);
    for (from, to) in strided(&shape, &from).zip(strided(&shape, &to)) {
        let at = start + (from * element) as u64;
        if at < window_at || at + element as u64 > window_at + window.len() as u64 {
            window.clear();
            window_at = at;
            file.reader(at, end).take(n_window).read_to_end(&mut window)?;
        }
        let in_window = usize::try_from(at - window_at).unwrap_or(usize::MAX);
        let Some(bytes) = window.get(in_window..).and_then(|left| left.get(..element)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        gathered[to * element..][..element].copy_from_slice(bytes);
    }
    Ok(gathered)
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

#[cfg(test)]
mod tests {
    use super::super::stored::StoredDType;
    use super::*;

    /// Rows are a gigabyte apart, in a sparse file.
    #[cfg(target_os = "linux")]
    #[test]
    fn views_with_gaps_are_read_run_by_run() {
        use std::os::unix::fs::FileExt;
        const ROW: usize = 1 << 28;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * ROW as u64 * 4).unwrap();
        for (row, column) in (0..3).flat_map(|row| (0..3).map(move |column| (row, column))) {
            let value = (10 * row + column) as f32;
            file.as_file().write_all_at(&value.to_le_bytes(), 8 + 4 * (row * ROW + 5 * column) as u64).unwrap();
        }
        let files = [ByteFile::open(file.path()).unwrap()];
        let read = |shape: &[usize], strides: &[usize]| {
            let mut tensor = StoredTensor::plain(shape.to_vec(), StoredDType::float(DType::F32), 0, 8);
            tensor.strides = Some(strides.into());
            read_elements::<f32>(&files, &tensor).unwrap()
        };
        assert_eq!(read(&[3, 3], &[ROW, 5]), [0., 1., 2., 10., 11., 12., 20., 21., 22.]);
        assert_eq!(read(&[3, 3], &[5, ROW]), [0., 10., 20., 1., 11., 21., 2., 12., 22.]);
        assert_eq!(read(&[1, 3], &[1, ROW]), [0., 10., 20.]);
        assert_eq!(read(&[2, 1, 2], &[ROW, 7, 10]), [0., 2., 10., 12.]);
        let too_far = StoredTensor {
            strides: Some([5 * ROW].into()),
            ..StoredTensor::plain(vec![2], StoredDType::float(DType::F32), 0, 8)
        };
        assert_eq!(read_elements::<f32>(&files, &too_far).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
