//! The rows of a table as directions.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

/// A table's rows, each scaled to length 1; a row of zeros, or one that is not finite, becomes zeros.
pub struct Rows {
    units: Vec<f32>,
    pub width: usize,
    /// The length of each row; not finite if an element of the row is not.
    pub norms: Vec<f32>,
}

impl Rows {
    pub fn new(table: &Tensor) -> Result<Self> {
        let (_, width) = table.dims2()?;
        let mut units: Vec<f32> = table.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let mut norms = Vec::with_capacity(units.len() / width);
        for row in units.chunks_mut(width) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            match norm.is_finite() && norm > 0.0 {
                true => row.iter_mut().for_each(|x| *x /= norm),
                false => row.fill(0.0),
            }
            norms.push(norm);
        }
        Ok(Self { units, width, norms })
    }

    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Returns row `id`, scaled to length 1.
    pub fn unit(&self, id: usize) -> Result<&[f32]> {
        self.units.chunks(self.width).nth(id).with_context(|| format!("token {id}: the table has {} rows", self.len()))
    }

    /// Returns the rows as a matrix, scaled to length 1.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.units, (self.len(), self.width), &Device::Cpu)?)
    }

    /// Returns the `n` rows with the largest cosines to `vector`, and the cosines, largest first.
    pub fn nearest(&self, vector: &[f32], without: &[usize], n: usize) -> Vec<(f32, usize)> {
        let length = dot(vector, vector).sqrt().max(f32::MIN_POSITIVE);
        let cosines = self.units.chunks(self.width).map(|row| dot(row, vector) / length);
        let mut found: Vec<(f32, usize)> =
            cosines.enumerate().map(|(id, cosine)| (cosine, id)).filter(|(_, id)| !without.contains(id)).collect();
        found.sort_by(|left, right| right.0.total_cmp(&left.0));
        found.truncate(n);
        found
    }
}

pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(x, y)| x * y).sum()
}
