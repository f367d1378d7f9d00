//! Positions in all forms, padding, and the laws of splitting and permuting.

use super::*;

#[test]
fn positions_beyond_the_table_are_errors_however_they_are_given() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let too_long = |end: usize| {
            format!(
                "the sequence ends at position {end}, but the model has 7 positions: shorten it to fit, or use a model with more positions"
            )
        };
        let ids = |n: usize| Tensor::zeros((2, n), DType::U32, &device);
        assert!(layer.forward(&ids(7)?).is_ok());
        assert_eq!(error_text(layer.forward(&ids(8)?)), too_long(8));
        assert!(layer.forward_at(&ids(3)?, 4).is_ok());
        assert_eq!(error_text(layer.forward_at(&ids(3)?, 5)), too_long(8));
        assert_eq!(error_text(layer.forward_at(&ids(3)?, usize::MAX)), too_long(usize::MAX));
        assert_eq!(error_text(layer.forward_at(&ids(1)?, Positions::from(5).after(2))), too_long(8));
        assert_eq!(error_text(layer.add_positions(&layer.embed_tokens(&ids(2)?)?, 6)), too_long(8));

        let mask = |n: usize| Tensor::ones((2, n), DType::U8, &device);
        assert_eq!(error_text(layer.forward_at(&ids(1)?, Positions::from_mask(&mask(8)?)?)), too_long(8));
        assert_eq!(error_text(layer.forward_at(&ids(2)?, Positions::from_mask(&mask(3)?)?.after(6))), too_long(8));
        let far = Positions::from_mask(&mask(3)?)?.after(usize::MAX);
        assert_eq!(error_text(layer.forward_at(&ids(2)?, far)), too_long(usize::MAX));

        let outside = |position: i64, at: &str| {
            format!("position {position} at {at} is outside the position table of 7 (valid positions: 0 to 6)")
        };
        let at = |positions: Tensor| error_text(layer.forward_at(&ids(2).unwrap(), &positions));
        assert_eq!(at(Tensor::new(&[[0u32, 1], [2, 7]], &device)?), outside(7, "[1, 1]"));
        assert_eq!(at(Tensor::new(&[-1i64, 0], &device)?), outside(-1, "[0]"));
        assert_eq!(at(Tensor::new(&[255u8, 0], &device)?), outside(255, "[0]"));
        let shifted = Positions::from(&Tensor::new(&[0u32, 6], &device)?).after(1);
        assert_eq!(error_text(layer.forward_at(&ids(2)?, shifted)), outside(7, "[1]"));
        assert!(at(Tensor::new(&[0f32, 0.], &device)?).starts_with("position_ids must be u8, u32 or i64"));
    }
    Ok(())
}

#[test]
fn position_ids_pick_rows() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[3u32, 4, 5], [6, 7, 8]], &device)?;
        let flat = [3, 4, 5, 6, 7, 8];
        let given = Tensor::new(&[[6u32, 0, 2], [1, 1, 5]], &device)?;
        assert_eq!(values(&layer.forward_at(&ids, &given)?), naive(&flat, &[6, 0, 2, 1, 1, 5]));
        for shared in [Tensor::new(&[4i64, 0, 6], &device)?, Tensor::new(&[[4i64, 0, 6]], &device)?] {
            assert_eq!(values(&layer.forward_at(&ids, &shared)?), naive(&flat, &[4, 0, 6, 4, 0, 6]));
        }
        let strided = Tensor::new(&[[0u32, 1], [2, 3], [4, 5]], &device)?.t()?;
        assert_eq!(values(&layer.forward_at(&ids, strided)?), naive(&flat, &[0, 2, 4, 1, 3, 5]));
        let wrong = Tensor::new(&[0u32, 1], &device)?;
        assert_eq!(
            error_text(layer.forward_at(&ids, &wrong)),
            "position_ids has shape [2], expected the shape of the ids, [2, 3], or one that broadcasts to it"
        );
        let scalar = Tensor::new(2u32, &device)?;
        assert_eq!(values(&layer.forward_at(&Tensor::new(9u32, &device)?, &scalar)?), naive(&[9], &[2]));
    }
    Ok(())
}

#[test]
fn a_mask_counts_its_tokens() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let ids = Tensor::new(&[[0u32, 1, 2, 3], [4, 5, 6, 7]], &device)?;
        let flat = [0, 1, 2, 3, 4, 5, 6, 7];
        let mask = Tensor::new(&[[0u8, 0, 1, 1], [1, 0, 1, 0]], &device)?;
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let positions = Positions::from_mask(&mask.to_dtype(dtype)?)?;
            assert_eq!(values(&layer.forward_at(&ids, positions)?), naive(&flat, &[0, 0, 0, 1, 0, 0, 1, 0]));
        }
        let all = |mask: &Tensor| error_text(Positions::from_mask(mask));
        assert_eq!(
            all(&Tensor::new(&[[1u32, 2]], &device)?),
            "attention_mask holds 2 at [0, 1]: it must be 1 (token) or 0 (padding)"
        );
        assert!(all(&Tensor::new(&[[1f32, 0.]], &device)?).starts_with("attention_mask must be u8, u32 or i64"));
        assert!(all(&Tensor::new(1u8, &device)?).starts_with("attention_mask has shape []"));
        let short = Positions::from_mask(&Tensor::new(&[[1u8], [1]], &device)?)?;
        assert_eq!(
            error_text(layer.forward_at(&ids, short)),
            "attention_mask has shape [2, 1], expected the rows of the ids, [2, 4], and at least 4 columns (or say `.after(n_cached)`)"
        );
        let rows = Positions::from_mask(&Tensor::ones((3, 4), DType::U8, &device)?)?;
        assert!(error_text(layer.forward_at(&ids, rows)).starts_with("attention_mask has shape [3, 4]"));
    }
    Ok(())
}

/// Each token of a padded batch has the vector that it has alone, in prefill and in cached decode.
#[test]
fn padded_equals_unpadded() -> Result<()> {
    for device in complete_devices() {
        let layer = layer(&device);
        let prompts: [&[u32]; 3] = [&[3, 1, 4], &[1], &[5, 9]];
        for left in [true, false] {
            let (mut ids, mut mask) = (vec![], vec![]);
            for prompt in prompts {
                let padding = vec![0u32; 3 - prompt.len()];
                let (row, row_mask) = if left {
                    ([padding.clone(), prompt.to_vec()].concat(), [padding, vec![1; prompt.len()]].concat())
                } else {
                    ([prompt.to_vec(), padding.clone()].concat(), [vec![1; prompt.len()], padding].concat())
                };
                ids.push(row);
                mask.push(row_mask);
            }
            let (ids, mask) = (Tensor::new(ids, &device)?, Tensor::new(mask, &device)?);
            let prefill = layer.forward_at(&ids, Positions::from_mask(&mask)?)?;
            let new_ids = Tensor::new(&[[7u32, 8], [2, 6], [10, 0]], &device)?;
            // The mask of everything so far counts from its end; with the prompt's own mask, `after` gives the columns.
            let longer = Tensor::cat(&[&mask, &mask.ones_like()?.narrow(1, 0, 2)?], 1)?;
            for positions in [Positions::from_mask(&longer)?, Positions::from_mask(&mask)?.after(3)] {
                let decode = layer.forward_at(&new_ids, positions)?;
                for (row, prompt) in prompts.iter().enumerate() {
                    let n = prompt.len();
                    let alone = [prompt.to_vec(), new_ids.get(row)?.to_vec1()?].concat();
                    let alone = layer.forward(&Tensor::new(alone, &device)?)?;
                    let first = if left { 3 - n } else { 0 };
                    assert_bits_eq(&prefill.get(row)?.narrow(0, first, n)?, &alone.narrow(0, 0, n)?);
                    assert_bits_eq(&decode.get(row)?, &alone.narrow(0, n, 2)?);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(properties(256))]
    #[test]
    fn splitting_a_sequence_changes_nothing(
        ids in prop::collection::vec(0..V as u32, 2 * P), cut in 0..=P,
    ) {
        let ids = Tensor::from_vec(ids, (2, P), &Device::Cpu).unwrap();
        let layer = layer(&Device::Cpu);
        let whole = layer.forward(&ids).unwrap();
        let head = layer.forward_at(&ids.narrow(1, 0, cut).unwrap(), 0).unwrap();
        let tail = layer.forward_at(&ids.narrow(1, cut, P - cut).unwrap(), cut).unwrap();
        assert_bits_eq(&Tensor::cat(&[head, tail], 1).unwrap(), &whole);
    }

    #[test]
    fn permuting_the_batch_permutes_the_output(
        ids in prop::collection::vec(0..V as u32, 3 * 5), order in Just(vec![0u32, 1, 2]).prop_shuffle(),
    ) {
        let ids = Tensor::from_vec(ids, (3, 5), &Device::Cpu).unwrap();
        let order = Tensor::new(order, &Device::Cpu).unwrap();
        let layer = layer(&Device::Cpu);
        let permuted = layer.forward(&ids.index_select(&order, 0).unwrap()).unwrap();
        assert_bits_eq(&permuted, &layer.forward(&ids).unwrap().index_select(&order, 0).unwrap());
    }

    #[test]
    fn a_lookup_is_a_one_hot_product(ids in prop::collection::vec(0..V as u32, 1..20)) {
        let one_hot: Vec<f32> =
            ids.iter().flat_map(|&id| (0..V as u32).map(move |v| f32::from(u8::from(v == id)))).collect();
        let one_hot = Tensor::from_vec(one_hot, (ids.len(), V), &Device::Cpu).unwrap();
        let wte = addressed(0., V, C, &Device::Cpu);
        let rows = layer(&Device::Cpu).embed_tokens(&Tensor::new(ids, &Device::Cpu).unwrap()).unwrap();
        assert_bits_eq(&rows, &one_hot.matmul(&wte).unwrap());
    }
}
