//! Files of ids by memory map: the layouts of nanoGPT, llm.c and Megatron, and what is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_gpt_input::Result;
use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter, IdBits};
use candle_gpt_input::data::{Loader, Tokens};
use candle_gpt_input::rng::Generator;
use tempfile::TempDir;

use crate::support::{golden, golden_json};
use crate::{config, explicit, global, rows};

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

fn error(result: Result<Corpus>) -> String {
    result.unwrap_err().to_string()
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
        // A name that looks like a pattern.
        megatron(&folder.at("[a]*"), &whole, bits);
        assert_eq!(open(folder.at("[a]*")).unwrap().n_documents(), 3);
    }
}

/// Files that the formats' own writers wrote: `generate_corpora.py`.
#[test]
fn files_of_the_peers_open() {
    let expected = golden_json("corpora/expected.json");
    for (name, path, bits) in [
        ("nanogpt", "train.bin", IdBits::Sixteen),
        ("llmc", "text_train_*.bin", IdBits::Sixteen),
        ("llmc_wide", "", IdBits::ThirtyTwo),
        ("megatron", "text_document", IdBits::Sixteen),
        ("megatron_wide", "text_document.idx", IdBits::ThirtyTwo),
    ] {
        let expected = &expected[name];
        let mut options = CorpusOptions::default().with_id_bits(bits).with_verify(true);
        options.end_of_text = expected["end_of_text"].as_u64().map(|id| id as u32);
        let corpus = Corpus::open(&[golden("corpora").join(name).join(path)], &options).unwrap();
        let expected_documents: Vec<Vec<u32>> = serde_json::from_value(expected["documents"].clone()).unwrap();
        assert_eq!((corpus.id_bits(), documents(corpus.tokens())), (bits, expected_documents), "{name}");
        assert_eq!(corpus.vocab_size(), expected["vocab_size"].as_u64().map(|size| size as usize), "{name}");
        let text = corpus.characters().map(|characters| {
            corpus.ids(0..corpus.n_tokens()).unwrap().iter().map(|id| characters[id as usize]).collect::<String>()
        });
        assert_eq!(text.as_deref(), (name == "nanogpt").then_some("To be, or not to be: that is the question.\n"));
    }
}

/// Draws documents, some of them empty, of sequences.
fn random_documents(generator: &Generator, vocab_size: u64) -> Vec<Vec<Vec<u32>>> {
    let below = |n: u64| generator.random_u64() % n;
    let sequence = || (0..below(60)).map(|_| below(vocab_size) as u32).collect();
    (0..1 + below(12)).map(|_| (0..below(4)).map(|_| sequence()).collect()).collect()
}

/// The inputs and targets of all windows inside documents, by the book's loop.
fn plain_windows(documents: &[Vec<u32>], max_length: usize, stride: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut windows = Vec::new();
    for ids in documents {
        for start in (0..ids.len().saturating_sub(max_length)).step_by(stride) {
            windows.push((ids[start..start + max_length].to_vec(), ids[start + 1..start + max_length + 1].to_vec()));
        }
    }
    windows
}

/// Lays documents out in one of the formats, in several files, and opens them.
fn laid_out(
    folder: &Path,
    generator: &Generator,
    documents: &[Vec<Vec<u32>>],
    bits: IdBits,
) -> (Corpus, Vec<Vec<u32>>) {
    const END: u32 = 499;
    let below = |n: usize| (generator.random_u64() % n as u64) as usize;
    let plain: Vec<Vec<u32>> = documents.iter().map(|document| document.concat()).collect();
    let options = CorpusOptions::default().with_vocab_size(500);
    match generator.random_u64() % 5 {
        0 => {
            let cut = below(documents.len() + 1);
            megatron(&folder.join("part_00"), &documents[..cut], bits);
            megatron(&folder.join("part_01"), &documents[cut..], bits);
            (Corpus::open(&[folder], &options).unwrap(), plain)
        }
        kind @ (1 | 2) => {
            // The end of text begins each document, wherever shards are cut.
            let whole: Vec<Vec<u32>> = plain.iter().map(|ids| [&[END][..], ids].concat()).collect();
            let stream = whole.concat();
            let mut cuts = [below(stream.len() + 1), below(stream.len() + 1)];
            cuts.sort();
            let shards = [&stream[..cuts[0]], &stream[cuts[0]..cuts[1]], &stream[cuts[1]..]];
            for (n, ids) in shards.iter().enumerate() {
                fs::write(folder.join(format!("text_train_{n:06}.bin")), llmc(ids, bits)).unwrap();
            }
            let options = if kind == 1 { options.with_end_of_text(END) } else { options };
            let corpus = Corpus::open(&[folder.join("*_train_*.bin")], &options).unwrap();
            (corpus, if kind == 1 { whole } else { vec![stream] })
        }
        kind => {
            let whole: Vec<Vec<u32>> = plain.iter().map(|ids| [ids, &[END][..]].concat()).collect();
            fs::write(folder.join("train.bin"), bare(&whole.concat(), bits)).unwrap();
            let options = options.with_id_bits(bits);
            let options = if kind == 3 { options.with_end_of_text(END) } else { options };
            let corpus = Corpus::open(&[folder.join("train.bin")], &options.with_verify(true)).unwrap();
            (corpus, if kind == 3 { whole } else { vec![whole.concat()] })
        }
    }
}

#[test]
fn random_corpora_are_what_a_plain_loop_gives() {
    let generator = Generator::manual_seed(2026);
    let mut n_tried = 0;
    while n_tried < 50 {
        let folder = Folder::new();
        let bits = [IdBits::Sixteen, IdBits::ThirtyTwo][(generator.random_u64() % 2) as usize];
        let drawn = random_documents(&generator, 499);
        if drawn.concat().concat().is_empty() {
            continue;
        }
        let (corpus, expected) = laid_out(folder.0.path(), &generator, &drawn, bits);
        let found = documents(corpus.tokens());
        let without_empty =
            |documents: &[Vec<u32>]| documents.iter().filter(|ids| !ids.is_empty()).cloned().collect::<Vec<_>>();
        assert_eq!(without_empty(&found), without_empty(&expected));
        assert_eq!(corpus.n_tokens(), expected.concat().len());
        let [max_length, stride, batch_size] = [8, 8, 5].map(|most| 1 + (generator.random_u64() % most) as usize);
        let windows = plain_windows(&expected, max_length, stride);
        if windows.is_empty() {
            continue;
        }
        n_tried += 1;
        let config = |shuffle| config(batch_size, max_length, stride, shuffle, false);
        let loader = Loader::new(corpus.tokens(), config(false), global(1), &Device::Cpu).unwrap();
        let batches: Vec<_> = loader.epoch().map(Result::unwrap).collect();
        let inputs: Vec<_> = batches.iter().flat_map(|batch| rows(&batch.input_ids)).collect();
        let targets: Vec<_> = batches.iter().flat_map(|batch| rows(&batch.target_ids)).collect();
        assert_eq!(inputs.into_iter().zip(targets).collect::<Vec<_>>(), windows);

        // Shuffled, sharded, stopped and resumed: as of the same documents in memory.
        let n_ranks = 1 + (generator.random_u64() % 2) as usize;
        let in_memory = Tokens::from_documents(&found);
        for rank in 0..n_ranks {
            let shard = |tokens: &Tokens| {
                let loader = Loader::new(tokens, config(true), explicit(7), &Device::Cpu).unwrap();
                loader.shard(rank, n_ranks).ok()
            };
            let (Some(mapped), Some(held)) = (shard(corpus.tokens()), shard(&in_memory)) else { continue };
            let all: Vec<_> = held.epoch().map(|batch| rows(&batch.unwrap().input_ids)).collect();
            let n_first = all.len() / 2;
            let mut seen: Vec<_> = mapped.epoch().take(n_first).map(|b| rows(&b.unwrap().input_ids)).collect();
            let state = mapped.state();
            assert!(serde_json::to_string(&state).unwrap().len() < 8192);
            let resumed = shard(corpus.tokens()).unwrap().resume(&state).unwrap();
            seen.extend(resumed.epoch().map(|batch| rows(&batch.unwrap().input_ids)));
            assert_eq!(seen, all);
        }
        let (before, after) = corpus.tokens().split(0.6).unwrap();
        let (held_before, held_after) = in_memory.split(0.6).unwrap();
        assert_eq!((before, after), (held_before, held_after));
        let (before, after) = corpus.tokens().split_documents(0.6).unwrap();
        let (held_before, held_after) = in_memory.split_documents(0.6).unwrap();
        assert_eq!((before, after), (held_before, held_after));
    }
}

/// Puts integers in place of bytes.
fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    [&bytes[..at], new, &bytes[at + new.len()..]].concat()
}

/// What the error of each damaged file says.
#[test]
fn damaged_files_are_one_error_each() {
    let folder = Folder::new();
    let shard = llmc(&[1, 2, 3], IdBits::Sixteen);
    let big_endian: Vec<u8> = shard.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let says = |name: &str, bytes: &[u8], text: &str| {
        let path = folder.write(name, bytes);
        let error = error(open(&path));
        assert!(error.starts_with(path.to_str().unwrap()) && error.contains(text), "{error}");
    };
    says("a.bin", &[], "it holds no ids");
    says("a.bin", &[1, 0, 2, 0], "state which (`--id-bits 16`");
    says("a.bin", &shard[..500], "but the file has 500");
    says("a.bin", &shard[..1028], "3 ids need 1030 bytes, but the file has 1028");
    says("a.bin", &[&shard[..], &[0]].concat(), "3 ids need 1030 bytes, but the file has 1031");
    says("a.bin", &with(&shard, 8, &(-3i32).to_le_bytes()), "-3 ids need 1018 bytes");
    says("a.bin", &with(&shard, 8, &i32::MAX.to_le_bytes()), "2147483647 ids need 4294968318 bytes");
    says("a.bin", &with(&shard, 4, &[2]), "version 2 of llm.c's ids is not supported: expected 1");
    says("a.bin", &with(&llmc(&[1], IdBits::ThirtyTwo), 4, &[1]), "expected 7");
    says("a.bin", &big_endian, "llm.c's ids in big-endian order");
    says("a.bin", &with(&shard, 0, &20_240_522u32.to_le_bytes()), "examples for llm.c's evaluation");
    says("a.bin", &llmc(&[], IdBits::Sixteen), "it holds no ids");
    says("a.gz", b"\x1f\x8b\x08", "packed with gzip");
    says("a.parquet", b"PAR1\x15\x04", "a Parquet file");
    says("a.zst", b"\x50\x2a\x4d\x18\x04\0\0\0", "packed with zstd");
    for (name, text) in [("a.jsonl", "x"), ("a.json", "[1]"), ("wiki_00", " {\"text\": \"a\"}\n"), ("a.txt", "{ \"a\"")]
    {
        says(name, text.as_bytes(), "this is JSON, not text: `tokenize` writes the texts in its lines as a corpus");
    }
    assert!(open(folder.write("gutenberg.txt", "[Illustration]\n{not JSON}")).is_ok());
    let ids = bare(&[464, 3290, 318, 0], IdBits::Sixteen);
    says("ids.dat", &ids, "this looks binary, not text: name a file of bare token ids .bin, .u16 or .u32, and state");
    let binary = open(folder.write("ids.txt", [&b"The dog ".repeat(200)[..], &ids].concat())).unwrap_err();
    let text = std::error::Error::source(&binary).unwrap().to_string();
    assert!(text.starts_with("byte 1600 begins no character") && text.contains("this looks binary"), "{text}");

    let documents = vec![vec![vec![1, 2], vec![3]], vec![vec![4, 5, 6]]];
    let index = index(&documents, IdBits::Sixteen); // 34 bytes, 3 lengths, 3 offsets from 46 on, 3 borders from 70 on
    let i64s = |number: i64| number.to_le_bytes();
    fs::write(folder.at("m.bin"), bare(&documents.concat().concat(), IdBits::Sixteen)).unwrap();
    assert!(open(folder.write("m.idx", &index)).is_ok());
    let says = |bytes: &[u8], text: &str| says("m.idx", bytes, text);
    says(b"", "0 bytes are less than its header of 34");
    says(&with(&index, 0, b"X"), "does not begin with MMIDIDX");
    says(&with(&index, 9, &2u64.to_le_bytes()), "version 2 of a Megatron index");
    says(&with(&index, 9, &1u64.to_be_bytes()), "a Megatron index in big-endian order");
    says(&with(&index, 17, &[5]), "its ids are i64 (code 5)");
    says(&with(&index, 17, &[9]), "of no known type (code 9)");
    says(&index[..93], "3 sequences and 3 borders of documents need 94 bytes, but it has 93");
    says(&with(&index, 18, &u64::MAX.to_le_bytes()), "but it has 94");
    says(&[&index[..], &[0, 0, 0]].concat(), "multimodal");
    says(&with(&index, 34, &(-1i32).to_le_bytes()), "sequence 0 has -1 ids");
    says(&with(&index, 54, &i64s(2)), "sequence 1 begins at byte 2, not 4: merge");
    says(&with(&index, 70, &i64s(1)), "its documents begin at sequence 1 instead of 0");
    says(&with(&index, 78, &i64s(4)), "document 2 begins before the one before it");
    says(&with(&index, 86, &i64s(2)), "its documents end at sequence 2, but it has 3, as after a merge that forgot");
    fs::write(folder.at("m.idx"), &index).unwrap();
    for (n_bytes, text) in [(10, "6 ids need 12 bytes, but the file has 10"), (14, "but the file has 14")] {
        fs::write(folder.at("m.bin"), vec![0; n_bytes]).unwrap();
        assert!(error(open(folder.at("m"))).contains(text));
    }
    fs::remove_file(folder.at("m.bin")).unwrap();
    assert!(error(open(folder.at("m.idx"))).ends_with("belong together"));
    assert!(error(open(folder.at("m"))).ends_with("belong together"));
    assert!(error(open(folder.at("none"))).contains("cannot read"));
}

/// 2^31 bytes and more, in a file with holes: the offsets of an old merge wrap around.
#[test]
fn overflows_of_old_merges_are_named() {
    let folder = Folder::new();
    let n = i32::MAX - 1;
    let mut bytes = index(&[vec![vec![], vec![]]], IdBits::Sixteen);
    bytes.splice(34..38, n.to_le_bytes());
    let ends = i64::from(n) * 2;
    fs::File::create(folder.at("m.bin")).unwrap().set_len(ends as u64).unwrap();
    let path = folder.write("m.idx", with(&bytes, 50, &ends.to_le_bytes()));
    assert_eq!(open(&path).unwrap().n_tokens(), n as usize);
    fs::write(&path, with(&bytes, 50, &i64::from(ends as i32).to_le_bytes())).unwrap();
    let text = error(open(&path));
    assert!(text.contains("begins at byte -4, not 4294967292, an overflow of 32 bits in an old merge"), "{text}");
}

#[test]
fn folders_and_widths_must_be_of_one_kind() {
    let folder = Folder::new();
    assert!(error(open(folder.0.path())).contains("no files of token ids"));
    assert!(error(open(folder.at("*.bin"))).contains("no files of token ids"));
    assert!(error(open(folder.at("[.bin"))).contains("of the pattern"));
    folder.write("train_0.bin", llmc(&[1], IdBits::Sixteen));
    folder.write("train_1.bin", llmc(&[1], IdBits::ThirtyTwo));
    assert!(error(open(folder.0.path())).contains("ids of 32 bits, but"));
    folder.write("train_1.bin", [1, 0]);
    assert!(error(open(folder.0.path())).contains("holds nanogpt, but"));
    folder.write("train_1.bin", llmc(&[2, 3], IdBits::Sixteen));
    folder.write("prepare.py", "text");
    folder.write("input.txt", "text");
    assert_eq!(documents(open(folder.0.path()).unwrap().tokens()), [[1, 2, 3]]);
    let wide = CorpusOptions::default().with_id_bits(IdBits::ThirtyTwo);
    assert!(error(Corpus::open(&[folder.0.path()], &wide)).contains("ids of 16 bits, but --id-bits says 32"));
    folder.write("val_0.bin", llmc(&[9], IdBits::Sixteen));
    assert!(error(open(folder.0.path())).contains("holds both val_0.bin and train_0.bin: name the files for training"));
    assert!(error(open(folder.at("*_0.bin"))).contains("holds both"));
    assert_eq!(documents(open(folder.at("val*")).unwrap().tokens()), [[9]]);
    let path = folder.write("odd.bin", [1, 0, 2]);
    let options = CorpusOptions::default().with_id_bits(IdBits::Sixteen);
    assert!(error(Corpus::open(&[&path], &options)).contains("3 bytes are not a whole number of ids of 16 bits"));
    assert!("8".parse::<IdBits>().unwrap_err().to_string().contains("use 16 or 32"));
}

/// An id outside the vocabulary is found when a batch takes it, or on opening; the error has the file and the place.
#[test]
fn ids_are_held_against_the_vocabulary() {
    let folder = Folder::new();
    let ids: Vec<u32> = (0..40).collect();
    let paths = [ids[..30].to_vec(), [&ids[30..], &[77]].concat()];
    let paths: Vec<PathBuf> = paths
        .iter()
        .enumerate()
        .map(|(n, ids)| folder.write(&format!("{n}.bin"), llmc(ids, IdBits::Sixteen)))
        .collect();
    let options = CorpusOptions::default().with_vocab_size(40);
    let corpus = Corpus::open(&paths, &options).unwrap();
    let loader = Loader::new(corpus.tokens(), config(1, 8, 8, false, true), global(1), &Device::Cpu).unwrap();
    let results: Vec<_> = loader.epoch().map(|batch| batch.map_err(|error| error.to_string())).collect();
    assert!(results.len() == 5 && results[..4].iter().all(Result::is_ok), "the epoch ends with the error");
    let text = format!("{}: token id 77 at [10] is outside the vocabulary of 40", paths[1].display());
    assert!(results[4].as_ref().unwrap_err().starts_with(&text));
    assert!(error(Corpus::open(&paths, &options.with_verify(true))).starts_with(&text));

    // nanoGPT's meta.pkl of characters: pickle.dump({'vocab_size': 65, 'itos': {0: '\n'}}, f)
    let meta = b"\x80\x04\x95\x26\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\nvocab_size\x94KA\x8c\x04itos\x94}\x94K\x00\x8c\x01\n\x94su.";
    folder.write("meta.pkl", meta);
    let bare_ids = folder.write("train.bin", bare(&[64, 65], IdBits::Sixteen));
    let options = CorpusOptions::default().with_id_bits(IdBits::Sixteen);
    let corpus = Corpus::open(&[&bare_ids], &options).unwrap();
    assert_eq!((corpus.vocab_size(), corpus.characters()), (Some(65), None));
    assert!(error(Corpus::open(&[&bare_ids], &options.clone().with_verify(true))).contains("token id 65 at [1]"));
    folder.write("meta.pkl", b"\x80\x04N.");
    assert!(error(Corpus::open(&[&bare_ids], &options)).contains("meta.pkl: it has no vocab_size"));
    folder.write("meta.pkl", b"not a pickle");
    assert!(error(Corpus::open(&[&bare_ids], &options)).contains("meta.pkl: "));
}

#[test]
#[cfg(feature = "tokenizer")]
fn texts_are_tokenized() {
    let folder = Folder::new();
    folder.write("b.txt", " tea");
    folder.write("a.txt", "Hello");
    let corpus = open(folder.0.path()).unwrap();
    assert_eq!((corpus.format(), documents(corpus.tokens())), (CorpusFormat::Text, vec![vec![15496], vec![8887]]));
    let options = CorpusOptions::default().with_end_of_text(50256);
    let corpus = Corpus::open(&[folder.0.path()], &options).unwrap();
    assert_eq!(documents(corpus.tokens()), [[15496, 50256], [8887, 50256]]);
    assert_eq!(corpus.files().iter().map(|file| file.n_tokens).collect::<Vec<_>>(), [2, 2]);
}

/// What the writer writes opens here, and has the layouts of the formats' own writers.
#[test]
fn writers_write_the_layouts_of_the_formats() {
    let documents: Vec<Vec<u32>> = vec![vec![1, 2, 3], vec![], vec![4; 5], vec![5, 6]];
    for (format, vocab_size, bits) in [
        (CorpusFormat::Llmc, 500, IdBits::Sixteen),
        (CorpusFormat::Llmc, 70_000, IdBits::ThirtyTwo),
        (CorpusFormat::Megatron, 65_499, IdBits::Sixteen),
        (CorpusFormat::Megatron, 65_500, IdBits::ThirtyTwo),
        (CorpusFormat::NanoGpt, 500, IdBits::Sixteen),
    ] {
        let about = About::new(format, vocab_size, "test", Some(499), 4);
        let begins = format == CorpusFormat::Llmc;
        let marked = |ids: &Vec<u32>| if begins { [&[499], &ids[..]].concat() } else { [&ids[..], &[499]].concat() };
        let whole: Vec<Vec<u32>> = documents.iter().map(marked).collect();
        let stream = whole.concat();
        // Whole, and in parts, stopped after each document in turn: the same bytes.
        let folders: Vec<Folder> = (0..=documents.len()).map(|_| Folder::new()).collect();
        for (stop, folder) in folders.iter().enumerate() {
            let create = || CorpusWriter::create(folder.0.path(), about.clone()).unwrap();
            let mut writer = create();
            documents[..stop].iter().for_each(|ids| writer.push(ids).unwrap());
            drop(writer);
            let mut writer = create();
            assert!(writer.n_done() <= stop as u64 && !writer.is_complete());
            for ids in &documents[writer.n_done() as usize..] {
                let (first, rest) = ids.split_at(ids.len() / 2);
                if format == CorpusFormat::Llmc {
                    writer.push_part(first, false).unwrap();
                    writer.push_part(rest, true).unwrap();
                } else {
                    writer.push(ids).unwrap();
                }
            }
            writer.finish().unwrap();
            assert!(create().is_complete());
            let names = |folder: &Folder| {
                let entries = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap());
                let mut files: Vec<_> = entries.map(|e| (e.file_name(), fs::read(e.path()).unwrap())).collect();
                files.sort();
                files
            };
            assert_eq!(names(folder), names(&folders[0]));
        }
        let folder = &folders[0];
        let corpus = Corpus::open(&[folder.0.path()], &CorpusOptions::default().with_verify(true)).unwrap();
        let n_documents = documents.len() - usize::from(format == CorpusFormat::Megatron); // the empty one
        assert_eq!(corpus.about().unwrap().n_documents, n_documents as u64);
        assert_eq!((corpus.format(), corpus.id_bits(), corpus.vocab_size()), (format, bits, Some(vocab_size)));
        let file = |name: &str| fs::read(folder.at(name)).unwrap();
        match format {
            CorpusFormat::Llmc => {
                let shards: Vec<_> = stream.chunks(4).map(|ids| llmc(ids, bits)).collect();
                assert_eq!(corpus.files().len(), shards.len());
                (0..).zip(&shards).for_each(|(n, shard)| assert_eq!(file(&format!("train_{n:06}.bin")), *shard));
            }
            CorpusFormat::Megatron => {
                // A document that does not fit begins a shard; empty ones are left out.
                for (n, ids) in [&whole[0], &whole[2], &whole[3]].into_iter().enumerate() {
                    assert_eq!(file(&format!("train_{n:06}.bin")), bare(ids, bits));
                    assert_eq!(file(&format!("train_{n:06}.idx")), index(&[vec![ids.clone()]], bits));
                }
            }
            _ => assert_eq!(file("train.bin"), bare(&stream, bits)),
        }
        let other = About::new(format, vocab_size, "other", Some(499), 4);
        let text = CorpusWriter::create(folder.0.path(), other).err().unwrap().to_string();
        assert!(text.contains("the tokenizer test, not other"), "{text}");

        // Another byte, another length, a file less.
        let name = if format == CorpusFormat::NanoGpt { "train.bin" } else { "train_000000.bin" };
        let bytes = file(name);
        fs::write(folder.at(name), with(&bytes, bytes.len() - 1, &[bytes[bytes.len() - 1] ^ 8])).unwrap();
        let verified = || Corpus::open(&[folder.0.path()], &CorpusOptions::default().with_verify(true));
        assert!(open(folder.0.path()).is_ok());
        assert!(error(verified()).contains("its corpus states a CRC-32 of"));
        fs::write(folder.at(name), &bytes[..bytes.len() - 2]).unwrap();
        assert!(error(open(folder.0.path())).contains("its corpus states a length of"));
        fs::remove_file(folder.at(name)).unwrap();
        assert!(open(folder.0.path()).is_err());
    }
    let folder = Folder::new();
    for format in [CorpusFormat::Llmc, CorpusFormat::Megatron] {
        let mut writer = CorpusWriter::create(folder.0.path(), About::new(format, 500, "test", None, 4)).unwrap();
        writer.push(&[]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().ends_with("it holds no ids"));
        assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
    }
    let too_long = About::new(CorpusFormat::Llmc, 500, "test", None, 1 << 31);
    let error = CorpusWriter::create(Folder::new().0.path(), too_long).err().unwrap().to_string();
    assert!(error.contains("use 1 to 1073741311"), "{error}");
}
