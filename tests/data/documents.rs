//! Windows across documents: positions, loss masks and lengths against a plain loop, and what is refused.

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::data::{Batch, Boundaries, Loader, LoaderState, PackedDocuments, Tail, Tokens, Windows};
use proptest::prelude::*;

use crate::support::{devices, error_text, properties};
use crate::{config, global, rows};

/// What a window across documents must hold, in a plain loop over tokens that know their document.
struct Row {
    input_ids: Vec<u32>,
    target_ids: Vec<u32>,
    position_ids: Vec<u32>,
    loss_mask: Vec<u8>,
    lengths: Vec<usize>,
}

fn expected(tokens: &[(u32, usize)], start: usize, max_length: usize) -> Row {
    let (mut row, mut position) =
        (Row { input_ids: vec![], target_ids: vec![], position_ids: vec![], loss_mask: vec![], lengths: vec![0] }, 0);
    for at in start..start + max_length {
        let (now, next) = (tokens.get(at), tokens.get(at + 1));
        // The last token of the text has no target, so it is padding, as whatever would come after it.
        let (input, is_input) = (now.map_or(0, |token| token.0), now.is_some());
        if at > start && next.is_some() && now.unwrap().1 != tokens[at - 1].1 {
            row.lengths.push(0);
            position = 0;
        }
        *row.lengths.last_mut().unwrap() += 1;
        row.input_ids.push(if is_input { input } else { 0 });
        row.target_ids.push(next.map_or(0, |token| token.0));
        row.position_ids.push(position);
        row.loss_mask.push(u8::from(next.is_some_and(|next| next.1 == now.unwrap().1)));
        position += 1;
    }
    row
}

proptest! {
    #![proptest_config(properties(64))]

    #[test]
    fn marked_windows_are_those_of_a_plain_loop(
        lengths in prop::collection::vec(0..9usize, 1..12),
        max_length in 1..14usize,
        stride in 1..14usize,
        keeps: bool,
    ) {
        let mut n = 0;
        let texts: Vec<Vec<u32>> = lengths.iter().map(|&length| { n += length as u32; (n - length as u32 + 1..=n).collect() }).collect();
        let tokens = Tokens::from_documents(&texts);
        let flat: Vec<(u32, usize)> =
            texts.iter().enumerate().flat_map(|(i, text)| text.iter().map(move |&id| (id, i))).collect();
        let tail = if keeps { Tail::Keep } else { Tail::Drop };
        let one = Windows::new(&tokens.joined(&[]), max_length, stride, tail);
        let config = config(3, max_length, stride, false, false).with_tail(tail).with_boundaries(Boundaries::Mark);
        let loader = Loader::new(&tokens, config.clone(), global(0), &Device::Cpu);
        let Ok(one) = one else {
            prop_assert!(loader.is_err());
            return Ok(());
        };
        let loader = loader.unwrap();
        prop_assert_eq!(loader.windows().n_windows(), one.n_windows());
        let batches: Vec<Batch> = loader.epoch().collect::<Result<_, _>>().unwrap();
        let mut number = 0;
        for batch in &batches {
            let documents = batch.documents.as_ref().unwrap();
            let mask: Vec<Vec<u8>> = batch.loss_mask.as_ref().unwrap().to_vec2().unwrap();
            for (i, lengths) in documents.lengths().enumerate() {
                let expected = expected(&flat, number * stride, max_length);
                prop_assert_eq!(&rows(&batch.input_ids)[i], &expected.input_ids);
                prop_assert_eq!(&rows(&batch.target_ids)[i], &expected.target_ids);
                prop_assert_eq!(&rows(batch.position_ids.as_ref().unwrap())[i], &expected.position_ids);
                prop_assert_eq!(&mask[i], &expected.loss_mask);
                prop_assert_eq!(lengths, expected.lengths);
                number += 1;
            }
            prop_assert_eq!(rows(&documents.position_ids(&Device::Cpu).unwrap()), rows(batch.position_ids.as_ref().unwrap()));
        }
        prop_assert_eq!(number, one.n_windows());
        // As one document, the same ids without marks.
        let loader = Loader::new(&tokens, config.with_boundaries(Boundaries::Ignore), global(0), &Device::Cpu).unwrap();
        for (batch, marked) in loader.epoch().zip(&batches) {
            let batch = batch.unwrap();
            prop_assert_eq!(rows(&batch.target_ids), rows(&marked.target_ids));
            prop_assert!(batch.documents.is_none() && batch.position_ids.is_none());
            prop_assert_eq!(batch.loss_mask.is_some(), keeps);
        }
    }
}

#[test]
fn a_split_keeps_its_documents() {
    let tokens = Tokens::from_documents([vec![1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    let (_, after) = tokens.split(0.45).unwrap(); // 5 6 7 | 8 9
    for device in devices() {
        let config = config(1, 4, 4, false, false).with_boundaries(Boundaries::Mark);
        let loader = Loader::new(&after, config, global(0), &device).unwrap();
        let batch = loader.epoch().next().unwrap().unwrap();
        assert_eq!(rows(&batch.input_ids), [[5, 6, 7, 8]]);
        assert_eq!(batch.documents.unwrap().lengths().collect::<Vec<_>>(), [[3, 1]]);
        assert_eq!(batch.loss_mask.unwrap().to_vec2::<u8>().unwrap(), [[1, 1, 0, 1]]);
    }
}

#[test]
fn documents_of_a_batch_are_what_flash_attention_takes() {
    let cpu = Device::Cpu;
    let documents = PackedDocuments::from_lengths([vec![4], vec![1, 1, 2]]).unwrap();
    assert_eq!((documents.n_rows(), documents.row_length(), documents.max_length()), (2, 4, 4));
    assert_eq!(documents.cu_seqlens(&cpu).unwrap().to_vec1::<u32>().unwrap(), [0, 4, 5, 6, 8]);
    let mask: Vec<Vec<u8>> = documents
        .attention_mask(&cpu)
        .unwrap()
        .narrow(0, 1, 1)
        .unwrap()
        .squeeze(0)
        .unwrap()
        .squeeze(0)
        .unwrap()
        .to_vec2()
        .unwrap();
    assert_eq!(mask, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]);
    let refused = |rows: &[&[usize]]| error_text(PackedDocuments::from_lengths(rows));
    assert_eq!(refused(&[&[1, 0]]), "`length of a document` must be at least 1");
    assert_eq!(refused(&[]), "`number of documents` must be at least 1");
    let unequal = "row 1 has documents of 4 tokens in all, but row 0 of 3: all rows need the same number";
    assert_eq!(refused(&[&[3], &[2, 2]]), unequal);
    let huge = PackedDocuments::from_lengths([[usize::MAX - 1]]).unwrap();
    assert!(error_text(huge.cu_seqlens(&cpu)).contains("does not fit in memory"));
    assert!(error_text(huge.attention_mask(&cpu)).contains("does not fit in memory"));
}

#[test]
fn what_contradicts_boundaries_is_an_error() {
    let tokens = Tokens::from_documents([vec![1, 2, 3], vec![4, 5, 6, 7]]);
    let new = |boundaries| {
        let config = config(1, 2, 2, false, false).with_boundaries(boundaries);
        Loader::new(&tokens, config, global(0), &Device::Cpu).unwrap()
    };
    let state = new(Boundaries::Mark).state();
    let text = error_text(new(Boundaries::Ignore).resume(&state));
    assert_eq!(text, "cannot resume: the state is of a loader with boundaries mark, but this one has ignore");
    // States of earlier versions say nothing of boundaries: no window crossed.
    let old = serde_json::to_string(&new(Boundaries::Keep).state()).unwrap().replace(r#""boundaries":"keep","#, "");
    let old: LoaderState = serde_json::from_str(&old).unwrap();
    assert!(new(Boundaries::Keep).resume(&old).is_ok());
    assert!(error_text(new(Boundaries::Mark).resume(&old)).contains("boundaries keep"));
    let twice = config(1, 2, 2, false, false).with_boundaries(Boundaries::Mark).with_reset_positions_after(9);
    let text = error_text(Loader::new(&tokens, twice, global(0), &Device::Cpu));
    assert!(text.contains("`reset_positions_after` 9") && text.contains("choose one"), "{text}");
    assert!(error_text("cut".parse::<Boundaries>()).contains("`boundaries` is cut, expected keep, mark or ignore"));
    for boundaries in ["keep", "mark", "ignore"] {
        assert_eq!(boundaries.parse::<Boundaries>().unwrap().to_string(), boundaries);
    }
}

#[test]
fn parts_of_a_batch_are_its_rows() {
    let tokens = Tokens::from_documents([vec![1, 2, 3], vec![4, 5, 6, 7, 8], vec![9, 10, 11, 12, 13, 14]]);
    let config = config(3, 4, 4, false, false).with_boundaries(Boundaries::Mark).with_tail(Tail::Keep);
    let loader = Loader::new(&tokens, config, global(1), &Device::Cpu).unwrap();
    let batch = loader.epoch().next().unwrap().unwrap();
    for n_rows in 1..5 {
        let parts = batch.split(n_rows).unwrap();
        assert_eq!(parts.len(), 3usize.div_ceil(n_rows));
        let whole = |of: &dyn Fn(&Batch) -> Tensor| {
            let parts: Vec<Tensor> = parts.iter().map(of).collect();
            assert_eq!(
                Tensor::cat(&parts, 0).unwrap().to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap(),
                of(&batch).to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap()
            );
        };
        whole(&|batch| batch.input_ids.clone());
        whole(&|batch| batch.target_ids.clone());
        whole(&|batch| batch.position_ids.clone().unwrap());
        whole(&|batch| batch.loss_mask.clone().unwrap());
        whole(&|batch| batch.documents.as_ref().unwrap().position_ids(&Device::Cpu).unwrap());
    }
    assert_eq!(error_text(batch.split(0)), "`n_rows` must be at least 1");
}
