//! Products of matrices in slices, on one thread, by the library that Candle multiplies with (`gemm`).
//!
//! Candle's own `matmul` cannot add to an existing result. With it the table's gradient would need a second buffer of
//! its size, and one more pass for each chunk.

use gemm::Parallelism;

use super::real::Real;

/// A dense matrix, or its transpose, in a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Takes the first `rows * cols` values of `data`, row by row.
    pub(super) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Takes rows whose starts are `row_stride` apart.
    pub(super) fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let n = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
        Self { data: &data[..n], rows, cols, row_stride, col_stride: 1 }
    }

    /// Returns the rows of a matrix that is not transposed.
    pub(super) fn rows(self) -> impl Iterator<Item = &'a [T]> {
        self.data.chunks(self.cols)
    }

    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// What happens to the values that `out` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    Overwrite,
    Add,
}

/// Computes `out = left · right` or `out += left · right`, with `out` row by row.
pub(super) fn matmul<T: Real>(out: &mut [T], update: Update, left: Matrix<'_, T>, right: Matrix<'_, T>) {
    let (m, n, k) = (left.rows, right.cols, left.cols);
    assert_eq!(k, right.rows, "inner dimensions");
    let out = &mut out[..m * n];
    // SAFETY: `Matrix::strided` has cut `data` behind the last value of the last row, and `t` swaps dimensions with their
    // strides. So every index `i * row_stride + j * col_stride` below `rows`, `cols` is inside `data`. `out` is cut to
    // m * n above and borrowed mutably, so it overlaps neither operand. `Real` is sealed to f32 and f64, which `gemm`
    // supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            update == Update::Add,
            left.data.as_ptr(),
            left.col_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.col_stride as isize,
            right.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Update, matmul};

    #[test]
    fn products_by_hand() {
        let left = [1f32, 2., 3., 4., 5., 6.]; // [2, 3]
        let right = [1f32, 0., 0., 1., 2., 2.]; // [3, 2]
        let mut out = [100f32; 4];
        matmul(&mut out, Update::Overwrite, Matrix::new(&left, 2, 3), Matrix::new(&right, 3, 2));
        assert_eq!(out, [7., 8., 16., 17.]);
        matmul(&mut out, Update::Add, Matrix::new(&right, 3, 2).t(), Matrix::new(&left, 2, 3).t());
        assert_eq!(out, [14., 24., 24., 34.]);
        // The first two columns of `left`, whose rows are three values apart.
        let narrow = Matrix::strided(&left[..5], 2, 2, 3);
        matmul(&mut out, Update::Overwrite, narrow, narrow.t());
        assert_eq!(out, [5., 14., 14., 41.]);
    }

    #[test]
    #[should_panic(expected = "range end index 6")]
    fn a_slice_too_short_is_refused() {
        Matrix::new(&[0f32; 5], 2, 3);
    }
}
