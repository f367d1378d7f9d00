//! Files of ids by memory map: the layouts of nanoGPT, llm.c and Megatron, and what is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use candle_gpt_input::Result;
use candle_gpt_input::data::Tokens;
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions, IdBits};
use tempfile::TempDir;

/// Writes ids as `np.array(ids, dtype=..).tofile(path)` does.
pub fn bare(ids: &[u32], bits: IdBits) -> Vec<u8> {
    match bits {
        IdBits::Sixteen => ids.iter().flat_map(|id| u16::try_from(*id).unwrap().to_le_bytes()).collect(),
        IdBits::ThirtyTwo => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    }
}

/// Writes a shard as `write_datafile` of llm.c's `dev/data/data_common.py` does.
pub fn llmc(ids: &[u32], bits: IdBits) -> Vec<u8> {
    let mut header = [0i32; 256];
    (header[0], header[1]) = if bits == IdBits::Sixteen { (20_240_520, 1) } else { (20_240_801, 7) };
    header[2] = ids.len().try_into().unwrap();
    [header.iter().flat_map(|number| number.to_le_bytes()).collect(), bare(ids, bits)].concat()
}

/// Writes an index as `_IndexWriter` of Megatron's `indexed_dataset.py` does: documents are lists of sequences.
pub fn index(documents: &[Vec<Vec<u32>>], bits: IdBits) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(if bits == IdBits::Sixteen { 8 } else { 4 });
    let sequences: Vec<&Vec<u32>> = documents.iter().flatten().collect();
    bytes.extend((sequences.len() as u64).to_le_bytes());
    bytes.extend((documents.len() as u64 + 1).to_le_bytes());
    bytes.extend(sequences.iter().flat_map(|ids| (ids.len() as i32).to_le_bytes()));
    let mut offset = 0i64;
    for ids in &sequences {
        bytes.extend(offset.to_le_bytes());
        offset += (ids.len() * bits.n_bytes()) as i64;
    }
    let mut n_sequences = 0i64;
    bytes.extend(n_sequences.to_le_bytes());
    for document in documents {
        n_sequences += document.len() as i64;
        bytes.extend(n_sequences.to_le_bytes());
    }
    bytes
}

pub fn megatron(prefix: &Path, documents: &[Vec<Vec<u32>>], bits: IdBits) {
    fs::write(prefix.with_extension("bin"), bare(&documents.concat().concat(), bits)).unwrap();
    fs::write(prefix.with_extension("idx"), index(documents, bits)).unwrap();
}

fn open(path: impl AsRef<Path>) -> Result<Corpus> {
    Corpus::open(&[path], &CorpusOptions::default())
}

fn documents(tokens: &Tokens) -> Vec<Vec<u32>> {
    tokens.documents().map(|ids| ids.to_vec()).collect()
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.at(name), bytes).unwrap();
        self.at(name)
    }
}

#[test]
fn each_format_opens() {
    let folder = Folder::new();
    for bits in [IdBits::Sixteen, IdBits::ThirtyTwo] {
        let ids: Vec<u32> = (0..10).map(|id| id * 1000).collect();
        let options = CorpusOptions::default().with_id_bits(bits);
        let path = folder.write("train.bin", bare(&ids, bits));
        let corpus = Corpus::open(&[path], &options).unwrap();
        assert_eq!((corpus.format(), corpus.n_tokens(), corpus.id_bits()), (CorpusFormat::NanoGpt, 10, bits));
        assert_eq!((corpus.n_documents(), documents(corpus.tokens()).concat()), (1, ids.clone()));

        // The first document goes on in the second shard.
        let shards = [&ids[..3], &ids[3..]].map(|ids| llmc(ids, bits));
        let paths = [folder.write("a_000001.bin", &shards[0]), folder.write("a_000002.bin", &shards[1])];
        let corpus = Corpus::open(&paths, &CorpusOptions::default()).unwrap();
        assert_eq!((corpus.format(), corpus.n_tokens(), corpus.id_bits()), (CorpusFormat::Llmc, 10, bits));
        assert_eq!((corpus.n_documents(), documents(corpus.tokens()).concat()), (1, ids.clone()));
        assert_eq!(corpus.ids(2..5).unwrap(), [2000, 3000, 4000]);
        assert_eq!(corpus.ids(2..5).unwrap().iter().sum::<u32>(), 9000);
        assert_eq!(corpus.ids(9..11), None);
        let by_pattern = open(folder.at("a_*.bin")).unwrap();
        assert_eq!(by_pattern.tokens(), corpus.tokens());

        let whole = vec![vec![vec![1, 2], vec![3]], vec![], vec![vec![4, 5, 6]]];
        megatron(&folder.at("text_document"), &whole, bits);
        for name in ["text_document", "text_document.bin", "text_document.idx"] {
            let corpus = open(folder.at(name)).unwrap();
            assert_eq!((corpus.format(), corpus.id_bits()), (CorpusFormat::Megatron, bits));
            assert_eq!(documents(corpus.tokens()), [vec![1, 2, 3], vec![], vec![4, 5, 6]]);
            assert_eq!(documents(&corpus.tokens().joined(&[])), [[1, 2, 3, 4, 5, 6]]);
        }
    }
}
