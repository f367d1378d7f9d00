//! The id contract: dtypes, ranges, strides, ranks, and when a bad id is reported.

use super::*;

#[test]
fn every_type_of_id_gives_the_same_rows() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0i64, 10, 5], [1, 1, 9]], &device)?;
        let expected = layer.forward(&ids)?;
        for dtype in [DType::U8, DType::U32, DType::I64] {
            assert_bits_eq(&layer.forward(&ids.to_dtype(dtype)?)?, &expected);
        }
        // Ids on the host are copied to the table's device.
        assert_bits_eq(&layer.forward(&ids.to_device(&Device::Cpu)?)?, &expected);
        let text = error_text(layer.forward(&ids.to_dtype(DType::F32)?));
        assert_eq!(text, "input_ids must be u8, u32 or i64, not F32: convert with `.to_dtype(DType::U32)`");
    }
    Ok(())
}

/// Only ids on CUDA are checked later; any other call reports at once, and `check_ids` finds nothing.
#[test]
fn checks_are_deferred_on_cuda_alone() -> Result<()> {
    for device in devices() {
        let layer = layer(&device).with_id_check(IdCheck::Deferred)?;
        let bad = Tensor::new(&[[0u32, 1], [2, 11]], &device)?;
        let at_once = layer.forward(&bad).map(drop);
        let later = layer.check_ids();
        let (reported, other) = if device.is_cuda() { (later, at_once) } else { (at_once, later) };
        assert_eq!(error_text(reported), "token id 11 at [1, 1] is outside the vocabulary of 11 (valid ids: 0 to 10)");
        assert!(other.is_ok());
        assert!(layer.forward(&bad.to_device(&Device::Cpu)?).is_err(), "ids on the host");
        layer.check_ids()?;
    }
    Ok(())
}

#[test]
fn ids_outside_the_vocabulary_are_named() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        let outside =
            |id: i64, at: &str| format!("token id {id} at {at} is outside the vocabulary of 11 (valid ids: 0 to 10)");
        let text = |ids: Tensor| error_text(layer.forward(&ids));
        assert!(layer.forward(&Tensor::new(&[[0u32, 10]], &device)?).is_ok(), "the last valid id");
        assert_eq!(text(Tensor::new(&[[0u32, 1], [2, 11]], &device)?), outside(11, "[1, 1]"));
        assert_eq!(text(Tensor::new(&[[0u8, 255]], &device)?), outside(255, "[0, 1]"));
        assert_eq!(text(Tensor::new(&[[u32::MAX]], &device)?), outside(4294967295, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[i64::MAX]], &device)?), outside(i64::MAX, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[-1i64]], &device)?), outside(-1, "[0, 0]"));
        assert_eq!(text(Tensor::new(&[[i64::MIN]], &device)?), outside(i64::MIN, "[0, 0]"));
        assert_eq!(error_text(layer.embed_tokens(&Tensor::new(11u32, &device)?)), outside(11, "[]"));
        assert_eq!(text(Tensor::new(&[[[0u32, 1], [99, 98]]], &device)?), outside(99, "[0, 1, 0]"));
        let error = layer.forward(&Tensor::new(&[11u32], &device)?).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { id: 11, vocab_size: 11, ref at } if at == &[0]));
    }
    Ok(())
}

#[test]
fn the_largest_u8_is_an_id_like_any_other() -> Result<()> {
    for device in devices() {
        let layer = GptInputLayer::new(addressed(0., 256, C, &device), Tensor::zeros((P, C), DType::F32, &device)?)?;
        let rows = layer.forward(&Tensor::new(&[255u8, 254], &device)?)?;
        assert_eq!(rows.to_vec2::<f32>()?, [[25500., 25501., 25502.], [25400., 25401., 25402.]]);
    }
    Ok(())
}

#[test]
fn empty_ids_give_empty_hidden_states() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        for (shape, expected) in [(vec![0, 4], vec![0, 4, C]), (vec![2, 0], vec![2, 0, C]), (vec![0], vec![0, C])] {
            let ids = Tensor::zeros(shape, DType::U32, &device)?;
            assert_eq!(layer.forward(&ids)?.dims(), expected);
            assert_eq!(layer.embed_tokens(&ids)?.dims(), expected);
            assert_eq!(layer.forward_at(&ids, 3)?.dims(), expected);
        }
        // Without tokens there are no positions to be out of range.
        assert_eq!(layer.forward_at(&Tensor::zeros((2, 0), DType::U32, &device)?, 1_000_000)?.dims(), [2, 0, C]);
    }
    Ok(())
}

#[test]
fn strides_do_not_matter() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 0]], &device)?;
        let column = ids.i((.., 1))?;
        assert!(!column.is_contiguous());
        assert_bits_eq(&layer.forward(&column)?, &layer.forward(&Tensor::new(&[1u32, 4, 7, 10], &device)?)?);
        assert_bits_eq(&layer.forward(&ids.t()?)?, &layer.forward(&ids.t()?.contiguous()?)?);
        let row = Tensor::new(&[[7u32, 8]], &device)?;
        let expanded = row.broadcast_as((3, 2))?;
        assert_bits_eq(&layer.forward(&expanded)?, &layer.forward(&expanded.contiguous()?)?);
        // A bad id is reported by its place in the view, not in the memory behind it.
        let bad = Tensor::new(&[[0u32, 1], [2, 77]], &device)?.t()?;
        assert!(error_text(layer.forward(&bad.i((0.., 0..))?)).contains("77 at [1, 1]"));
    }
    Ok(())
}

#[test]
fn any_rank_of_ids() -> Result<()> {
    for device in devices() {
        let layer = layer(&device);
        let scalar = layer.embed_tokens(&Tensor::new(4u32, &device)?)?;
        assert_eq!(scalar.to_vec1::<f32>()?, [400., 401., 402.]);
        let text = error_text(layer.forward(&Tensor::new(4u32, &device)?));
        let expected = "expected a sequence ([T] or [B, T]); for a single id use embed_tokens";
        assert_eq!(text, format!("input_ids has shape [], {expected}"));
        let ids = Tensor::new(&[[[1u32, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [0, 1]]], &device)?;
        let hidden_states = layer.forward(&ids)?;
        assert_eq!(hidden_states.dims(), [3, 2, 2, C]);
        let flat = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1];
        assert_eq!(values(&hidden_states), naive(&flat, &[0, 1].repeat(6)));
    }
    Ok(())
}
