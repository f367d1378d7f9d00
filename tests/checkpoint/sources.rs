//! Byte sources that break their contract: one clear error each, and no memory reserved for their claims.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_gpt_input::checkpoint::ByteRanges;

use super::*;

/// Bytes in memory followed by zeros, with a claimed length.
#[derive(Debug, Default)]
struct Liar {
    bytes: Vec<u8>,
    n_bytes: u64,
    /// How many answers it omits, and how many bytes of each.
    n_missing: AtomicUsize,
    n_short: AtomicUsize,
}

impl Liar {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { n_bytes: bytes.len() as u64, bytes, ..Default::default() })
    }

    fn endless(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { n_bytes: u64::MAX, bytes, ..Default::default() })
    }
}

impl ByteRanges for Liar {
    fn name(&self) -> String {
        "liar".to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read(&self, ranges: &[Range<u64>]) -> std::io::Result<Vec<Vec<u8>>> {
        let n_short = self.n_short.load(Ordering::Relaxed);
        let piece = |range: &Range<u64>| {
            let mut piece = self.bytes.get(range.start as usize..).unwrap_or_default().to_vec();
            piece.resize((range.end - range.start) as usize - n_short, 0);
            piece
        };
        Ok(ranges.iter().skip(self.n_missing.load(Ordering::Relaxed)).map(piece).collect())
    }
}

fn open(liar: &Arc<Liar>) -> Result<Checkpoint> {
    Checkpoint::from_ranges(liar.clone(), &CheckpointOptions::default())
}

fn weights() -> Vec<u8> {
    fs::read(golden("formats/tables.safetensors")).unwrap()
}

#[test]
fn answers_of_another_number_or_length_are_refused() -> Result<()> {
    let liar = Liar::new(weights());
    let n_bytes = liar.n_bytes;
    assert!(n_bytes < 16 << 10, "the file is one page");
    let (layer, _) = GptInputLayer::open(
        &open(&liar)?,
        &OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped),
    )?;
    let row = |id: u32| layer.embed_tokens(&Tensor::new(id, &Device::Cpu).unwrap());
    assert_eq!(row(3)?.dims(), [32]);
    liar.n_missing.store(1, Ordering::Relaxed);
    assert_eq!(error_text(open(&liar)), "cannot read liar: asked for 1 ranges, got 0");
    assert_eq!(error_text(row(4)), "cannot read liar: asked for 1 ranges, got 0");
    liar.n_missing.store(0, Ordering::Relaxed);
    liar.n_short.store(1, Ordering::Relaxed);
    let text = error_text(open(&liar));
    assert_eq!(text, format!("cannot read liar: asked for bytes 0..{n_bytes}, got {} bytes", n_bytes - 1));
    let text = error_text(row(5));
    assert!(text.starts_with("cannot read liar: asked for bytes ") && text.ends_with(", got 127 bytes"), "{text}");
    Ok(())
}

/// A file's length is a fact; a source's length is only a claim.
#[test]
fn no_memory_is_set_aside_for_a_claim() {
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend([1u64, 1, 1 << 50].map(u64::to_le_bytes).concat());
    let text = error_text(open(&Liar::endless(gguf)));
    assert!(text.starts_with("liar: not a valid GGUF file: "), "{text}");
    // A text in the pickle of an old PyTorch file, which is skipped.
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let torch = [&magic[..], b"\x80\x04\x8d", &(1u64 << 60).to_le_bytes()].concat();
    let text = error_text(open(&Liar::endless(torch)));
    assert!(text.starts_with("liar: its pickle holds opcode 0x00 at 1152921504606847"), "{text}");
    // A claimed header is fetched before memory is reserved for more of it.
    let mut safetensors = 100_000_000u64.to_le_bytes().to_vec();
    safetensors.push(b'{');
    let text = error_text(open(&Liar::endless(safetensors)));
    assert!(text.starts_with("liar: not a valid safetensors file: its header cannot be parsed"), "{text}");
}
