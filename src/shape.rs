//! Checks of shapes, dtypes and devices, each written once.

use candle_core::{DType, Device, Shape, Tensor};

use crate::error::{Error, Result};

/// Returns the error for a shape that differs from `expected`.
pub(crate) fn wrong_shape(what: &'static str, got: impl Into<Shape>, expected: impl Into<String>) -> Error {
    Error::ShapeMismatch { what, got: got.into(), expected: expected.into() }
}

/// Checks that `left` and `right` lie on one device.
pub(crate) fn same_device(
    (left, left_device): (&'static str, &Device),
    (right, right_device): (&'static str, &Device),
) -> Result<()> {
    if left_device.same_device(right_device) {
        return Ok(());
    }
    Err(Error::TableMismatch {
        left,
        right,
        property: "device",
        left_value: format!("{:?}", left_device.location()),
        right_value: format!("{:?}", right_device.location()),
    })
}

/// Checks that `left` and `right` have one dtype.
pub(crate) fn same_dtype(
    (left, left_dtype): (&'static str, DType),
    (right, right_dtype): (&'static str, DType),
) -> Result<()> {
    if left_dtype == right_dtype {
        return Ok(());
    }
    let (left_value, right_value) = (format!("{left_dtype:?}"), format!("{right_dtype:?}"));
    Err(Error::TableMismatch { left, right, property: "dtype", left_value, right_value })
}

/// Checks that `x` is `[.., width]` of `dtype`, as `table` is, and returns its outer dimensions.
pub(crate) fn outer_dims<'a>(
    what: &'static str,
    x: &'a Tensor,
    (table, width, dtype): (&'static str, usize, DType),
) -> Result<&'a [usize]> {
    same_dtype((what, x.dtype()), (table, dtype))?;
    match x.dims().split_last() {
        Some((&last, outer)) if last == width => Ok(outer),
        _ => Err(wrong_shape(what, x.shape(), format!("[.., {width}]"))),
    }
}

/// Checks that `x`, whose outer dimensions are `outer`, has one row per id.
pub(crate) fn rows_of_ids(
    what: &'static str,
    (x, outer, width): (&Tensor, &[usize], usize),
    ids_dims: &[usize],
) -> Result<()> {
    if outer == ids_dims {
        return Ok(());
    }
    Err(wrong_shape(what, x.shape(), format!("the shape of the ids, {ids_dims:?}, followed by {width}")))
}

/// Checks that `buffer` is contiguous and has one row per id of shape `ids_dims`.
pub(crate) fn fits_buffer(buffer: &Tensor, ids_dims: &[usize], width: usize) -> Result<()> {
    match buffer.dims().split_last() {
        Some((&last, outer)) if last == width && outer == ids_dims && buffer.is_contiguous() => Ok(()),
        _ => {
            let expected = format!("{ids_dims:?} followed by the width of the tables, contiguous");
            Err(wrong_shape("buffer", buffer.shape(), expected))
        }
    }
}

/// Checks that `parameter` is `[n]`, of the dtype and on the device of `weight`.
pub(crate) fn like_weight(what: &'static str, parameter: &Tensor, n: usize, weight: &Tensor) -> Result<()> {
    if parameter.dims() != [n] {
        return Err(wrong_shape(what, parameter.shape(), format!("[{n}]")));
    }
    same_dtype((what, parameter.dtype()), ("weight", weight.dtype()))?;
    same_device((what, parameter.device()), ("weight", weight.device()))
}

/// Checks that a tensor holds floating-point elements.
pub(crate) fn is_float(what: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
        got => Err(Error::FloatDType { what, got }),
    }
}
