//! A failed read changes nothing: a source that must not block notes what it lacks, fails, and is asked again.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_gpt_input::Error;
use candle_gpt_input::checkpoint::ByteRanges;
use candle_gpt_input::error::CheckpointError;

use super::*;

/// Has only the ranges that came, as (start, end).
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    came: Mutex<BTreeSet<(u64, u64)>>,
    missing: Mutex<Vec<Range<u64>>>,
}

impl Waiting {
    fn new(path: &Path) -> Self {
        Self { bytes: fs::read(path).unwrap(), came: Mutex::default(), missing: Mutex::default() }
    }

    /// Asks until the answer is there, and returns it with how many rounds of requests it took.
    fn ask<T>(&self, question: impl Fn() -> Result<T>) -> (T, usize) {
        for n_rounds in 0..20 {
            let error = match question() {
                Ok(answer) => return (answer, n_rounds),
                Err(error) => error,
            };
            let Error::Checkpoint(CheckpointError::Io { source, .. }) = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), io::ErrorKind::WouldBlock);
            let missing = std::mem::take(&mut *self.missing.lock().unwrap());
            assert!(!missing.is_empty());
            self.came.lock().unwrap().extend(missing.into_iter().map(|range| (range.start, range.end)));
        }
        panic!("no answer after 20 rounds");
    }
}

impl ByteRanges for Waiting {
    fn name(&self) -> String {
        "waiting".to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let came = self.came.lock().unwrap();
        let lacks = ranges.iter().filter(|range| !came.contains(&(range.start, range.end))).cloned();
        let lacks: Vec<_> = lacks.collect();
        if !lacks.is_empty() {
            self.missing.lock().unwrap().extend(lacks);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(ranges.iter().map(|range| self.bytes[range.start as usize..range.end as usize].to_vec()).collect())
    }
}

#[test]
fn a_failed_read_changes_nothing() -> Result<()> {
    let ids = Tensor::new(&[[0u32, 12, 5, 5]], &Device::Cpu)?;
    for name in ["tables.safetensors", "state_dict.pth", "legacy.bin", "stored.npz", "bf16.gguf", "llmc_f32.bin"] {
        let path = golden("formats").join(name);
        let resident = load(&path)?;
        let source = Arc::new(Waiting::new(&path));
        for storage in [TableStorage::Mapped, TableStorage::Dense] {
            let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(storage);
            let (checkpoint, _) = source.ask(|| Checkpoint::from_ranges(source.clone(), &CheckpointOptions::default()));
            let ((layer, _), _) = source.ask(|| GptInputLayer::open(&checkpoint, &options));
            // The same checkpoint and the same layer answer after they failed.
            for start in [0, 2] {
                let (hidden_states, _) = source.ask(|| layer.forward_at(&ids, start));
                assert_bits_eq(&hidden_states, &resident.forward_at(&ids, start)?);
            }
        }
    }
    Ok(())
}

#[test]
fn prefetch_asks_for_the_rows_of_both_tables_at_once() -> Result<()> {
    let path = golden("formats").join("tables.safetensors");
    let source = Arc::new(Waiting::new(&path));
    let (checkpoint, n_rounds) = source.ask(|| Checkpoint::from_ranges(source.clone(), &CheckpointOptions::default()));
    assert_eq!(n_rounds, 1, "the header is one page");
    let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
    let ((layer, _), n_rounds) = source.ask(|| GptInputLayer::open(&checkpoint, &options));
    assert_eq!(n_rounds, 0);
    for (ids, start) in [([0u32, 3, 12], 0), ([1, 3, 6], 3)] {
        let ids = Tensor::new(&[ids], &Device::Cpu)?;
        assert_eq!(source.ask(|| layer.prefetch_at(&ids, start)).1, 1);
        assert_eq!(source.ask(|| layer.forward_at(&ids, start)).1, 0);
    }
    let position_ids = Tensor::new(&[[5u32]], &Device::Cpu)?;
    source.came.lock().unwrap().clear();
    assert_eq!(source.ask(|| layer.prefetch_at(&position_ids, &position_ids)).1, 1);
    assert_eq!(source.ask(|| layer.forward_at(&position_ids, &position_ids)).1, 0);
    let too_long = Tensor::zeros((1, 7), DType::U32, &Device::Cpu)?;
    assert!(matches!(layer.prefetch(&too_long), Err(Error::SequenceTooLong { end: 7, n_positions: 6 })));
    Ok(())
}
