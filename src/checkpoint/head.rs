//! [`StoredHead`]: an output head in a checkpoint, which is read when it is asked for.

use std::collections::HashMap;
use std::io::{self, Read};

use candle_core::{DType, Device, Tensor};

use super::head_names::{HeadNames, HeadWeight};
use super::locate::{Located, LocatedTable, Shard};
use super::mapped::{hold, map};
use super::stored::{Kind, StoredTensor};
use super::{Checkpoint, keys, read};
use crate::error::{CheckpointError, LmHeadError, Result};
use crate::rows::StoredRows;

/// How much of two tables is compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The parts of an output head, by their names in the checkpoint. Cheap to keep: nothing of it is read.
#[derive(Clone, Debug)]
pub(crate) struct StoredHead {
    checkpoint: Checkpoint,
    wte: String,
    names: HeadNames,
}

/// The weight of a head.
pub(crate) enum HeadTable {
    Dense(Tensor),
    Stored(StoredRows),
}

impl Checkpoint {
    /// Returns the output head, if anything in the checkpoint is part of one.
    pub(super) fn stored_head(&self, located: &Located<'_>) -> Option<StoredHead> {
        let HeadNames { weights, bias, transform } = &located.head;
        let has_head = !weights.is_empty() || bias.is_some() || transform.is_some();
        has_head.then(|| StoredHead {
            checkpoint: self.clone(),
            wte: located.wte.name.clone(),
            names: located.head.clone(),
        })
    }
}

impl StoredHead {
    /// Returns the error of a model that changes hidden states before the head.
    pub(crate) fn transform(&self) -> Option<LmHeadError> {
        let path = self.checkpoint.file().to_path_buf();
        self.names.transform.clone().map(|name| LmHeadError::Transform { path, name })
    }

    /// Returns the weight, if there is one.
    ///
    /// # Errors
    /// [`LmHeadError::Several`] if it is unclear which is the model's.
    fn weight(&self) -> Result<Option<&HeadWeight>> {
        match self.names.weights.as_slice() {
            [] => Ok(None),
            [weight] => Ok(Some(weight)),
            several => {
                let names: Vec<&str> = several.iter().map(|weight| weight.name.as_str()).collect();
                let path = self.checkpoint.file().to_path_buf();
                Err(LmHeadError::Several { path, candidates: keys::listed(&names) }.into())
            }
        }
    }

    /// Returns whether the head has a weight of its own in the file.
    pub(crate) fn has_weight(&self) -> Result<bool> {
        Ok(self.weight()?.is_some())
    }

    /// Returns whether the weight has the elements of the token table, as files of tied models often have it.
    pub(crate) fn is_copy_of_wte(&self) -> Result<bool> {
        let Some(weight) = self.weight()? else { return Ok(false) };
        let (wte, head) = (self.checkpoint.shard(&self.wte)?, self.checkpoint.shard(&weight.name)?);
        let (left, right) = (wte.get().tensor(&self.wte)?, head.get().tensor(&weight.name)?);
        if weight.transposed {
            let right = head.get().read(&right, DType::F64, &Device::Cpu)?.t()?.contiguous()?;
            return same_elements(&wte.get().read(&left, DType::F64, &Device::Cpu)?, &right);
        }
        if left.shape != right.shape {
            return Ok(false);
        }
        let is_one_file = wte.get().path() == head.get().path();
        if is_one_file && left.place == right.place && left.strides == right.strides {
            return Ok(true);
        }
        let is_plain = |tensor: &StoredTensor| tensor.strides.is_none() && !tensor.big_endian;
        if left.dtype.kind == right.dtype.kind && is_plain(&left) && is_plain(&right) {
            let reading = CheckpointError::reading(head.get().path());
            return Ok(same_bytes((&wte, &left), (&head, &right)).map_err(reading)?);
        }
        let read = |shard: &Shard<'_>, at| shard.get().read(at, DType::F64, &Device::Cpu);
        same_elements(&read(&wte, &left)?, &read(&head, &right)?)
    }

    /// Reads the weight into memory as `[V, C]` of `dtype`.
    pub(crate) fn read(&self, dtype: DType, device: &Device) -> Result<Option<HeadTable>> {
        let Some((located, transposed)) = self.located()? else { return Ok(None) };
        let table = located.read(dtype, device)?;
        Ok(Some(HeadTable::Dense(if transposed { table.t()?.contiguous()? } else { table })))
    }

    /// Leaves the weight in its file, or at its remote source.
    pub(crate) fn mapped(&self) -> Result<Option<HeadTable>> {
        let Some((located, transposed)) = self.located()? else { return Ok(None) };
        if transposed {
            let (path, name) = (located.file.get().file_of(&located.info.at), located.name);
            return Err(CheckpointError::NotMappable { path, name, reason: "not stored row after row" }.into());
        }
        Ok(Some(HeadTable::Stored(map(&located, &mut HashMap::new())?)))
    }

    /// Reads quantized blocks unchanged; a weight of another dtype as `dtype`.
    pub(crate) fn quantized(&self, dtype: DType, device: &Device) -> Result<Option<HeadTable>> {
        match self.located()? {
            Some((located, false)) if matches!(located.info.at.dtype.kind, Kind::Blocks(_)) => {
                Ok(Some(HeadTable::Stored(hold(&located)?)))
            }
            _ => self.read(dtype, device),
        }
    }

    /// Reads the bias, if there is one.
    pub(crate) fn bias(&self, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let Some(name) = &self.names.bias else { return Ok(None) };
        let shard = self.checkpoint.shard(name)?;
        let at = shard.get().tensor(name)?;
        Ok(Some(shard.get().read(&at, dtype, device)?))
    }

    fn located(&self) -> Result<Option<(LocatedTable<'_>, bool)>> {
        let Some(weight) = self.weight()? else { return Ok(None) };
        let shard = self.checkpoint.shard(&weight.name)?;
        let info = shard.get().table(&weight.name)?;
        Ok(Some((LocatedTable::new(&weight.name, info, shard), weight.transposed)))
    }
}

fn same_elements(left: &Tensor, right: &Tensor) -> Result<bool> {
    if left.dims() != right.dims() {
        return Ok(false);
    }
    let bits = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
    Ok(bits(left)?.iter().map(|x| x.to_bits()).eq(bits(right)?.iter().map(|x| x.to_bits())))
}

/// Compares the stored bytes of two tensors, piece by piece.
fn same_bytes(
    (left, left_at): (&Shard<'_>, &StoredTensor),
    (right, right_at): (&Shard<'_>, &StoredTensor),
) -> io::Result<bool> {
    let mut left = read::reader(&left.get().files, left_at)?;
    let mut right = read::reader(&right.get().files, right_at)?;
    let mut n_left = left_at.n_bytes();
    let mut pieces = [vec![0; PIECE_BYTES.min(n_left)], vec![0; PIECE_BYTES.min(n_left)]];
    while n_left > 0 {
        let n = PIECE_BYTES.min(n_left);
        let [one, other] = &mut pieces;
        left.read_exact(&mut one[..n])?;
        right.read_exact(&mut other[..n])?;
        if one[..n] != other[..n] {
            return Ok(false);
        }
        n_left -= n;
    }
    Ok(true)
}
