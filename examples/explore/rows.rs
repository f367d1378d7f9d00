//! The rows of a table as directions.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Storage, Tensor};

/// A table, and the length of each row. A row of zeros, or one that is not finite, has no direction: it counts as
/// zeros.
pub struct Rows {
    /// Contiguous, in f32, on the host.
    table: Tensor,
    pub width: usize,
    /// The length of each row; not finite if an element of the row is not.
    pub norms: Vec<f32>,
}

impl Rows {
    /// Shares the table's memory if it is in f32.
    pub fn new(table: &Tensor) -> Result<Self> {
        let (n_rows, width) = table.dims2()?;
        let table = table.to_dtype(DType::F32)?.contiguous()?;
        let mut rows = Self { table, width, norms: Vec::with_capacity(n_rows) };
        let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        rows.norms = rows.read(|values| values.chunks(width).map(norm).collect())?;
        Ok(rows)
    }

    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Calls `f` with all elements, row after row.
    fn read<T>(&self, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
        let (storage, layout) = self.table.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { anyhow::bail!("the table is not on the host") };
        let (start, end) = layout.contiguous_offsets().context("the table is not contiguous")?;
        Ok(f(&storage.as_slice::<f32>()?[start..end]))
    }

    /// Returns the length of a row that has a direction.
    fn norm(&self, id: usize) -> Option<f32> {
        Some(self.norms[id]).filter(|norm| norm.is_finite() && *norm > 0.0)
    }

    /// Returns row `id`, scaled to length 1.
    pub fn unit(&self, id: usize) -> Result<Vec<f32>> {
        anyhow::ensure!(id < self.len(), "token {id}: the table has {} rows", self.len());
        let scaled = |x: &f32| self.norm(id).map_or(0.0, |norm| x / norm);
        self.read(|values| values[id * self.width..][..self.width].iter().map(scaled).collect())
    }

    /// Returns the rows as a matrix, scaled to length 1.
    pub fn tensor(&self) -> Result<Tensor> {
        let units = (0..self.len()).map(|id| self.unit(id)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::from_vec(units.concat(), (self.len(), self.width), &Device::Cpu)?)
    }

    /// Returns the cosine of each row to `vector`.
    pub fn cosines(&self, vector: &[f32]) -> Result<Vec<f32>> {
        let length = dot(vector, vector).sqrt().max(f32::MIN_POSITIVE);
        let cosine = |(id, row): (usize, &[f32])| self.norm(id).map_or(0.0, |norm| dot(row, vector) / norm / length);
        self.read(|values| values.chunks(self.width).enumerate().map(cosine).collect())
    }

    /// Returns the `n` rows with the largest cosines to `vector`, and the cosines, largest first.
    pub fn nearest(&self, vector: &[f32], without: &[usize], n: usize) -> Result<Vec<(f32, usize)>> {
        let others = self.cosines(vector)?.into_iter().zip(0..).filter(|(_, id)| !without.contains(id));
        Ok(largest(others.collect(), n))
    }
}

/// Returns the `n` largest numbers with their ids, largest first, of equal ones the lowest id.
pub fn largest<I: Ord>(mut found: Vec<(f32, I)>, n: usize) -> Vec<(f32, I)> {
    let order = |left: &(f32, I), right: &(f32, I)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
    if n < found.len() {
        found.select_nth_unstable_by(n, order);
        found.truncate(n);
    }
    found.sort_by(order);
    found
}

pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    // Several sums, which a CPU adds up at once.
    const N_SUMS: usize = 8;
    let mut sums = [0f32; N_SUMS];
    let (left, right) = (left.chunks(N_SUMS), right.chunks(N_SUMS));
    for (left, right) in left.zip(right) {
        sums.iter_mut().zip(left.iter().zip(right)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum()
}
