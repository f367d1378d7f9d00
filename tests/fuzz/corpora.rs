//! Damaged corpora: llm.c's shards, Megatron's indices, `corpus.json`, that of a writer, and nanoGPT's `meta.pkl`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter, IdBits};
use candle_gpt_input::data::{Boundaries, Loader, LoaderConfig, Seeding};
use candle_gpt_input::rng::Generator;

use crate::limits::{measured, n_there};
use crate::mutate::Field;
use crate::support::{copy_files, golden};
use crate::{folder_in_memory, fuzz_with, one_line};

/// Opens a corpus and reads all of it, documents and batches.
fn read(path: &Path, options: &CorpusOptions) -> Result<(), String> {
    let corpus = Corpus::open(&[path], options).map_err(one_line)?;
    let n_tokens: usize = corpus.tokens().documents().map(|ids| ids.len()).sum();
    assert_eq!(n_tokens, corpus.n_tokens());
    assert_eq!(corpus.ids(0..n_tokens).unwrap().iter().count(), n_tokens);
    let config = LoaderConfig::default().with_batch_size(2).with_max_length(4).with_stride(4);
    for boundaries in [Boundaries::Keep, Boundaries::Mark] {
        let seeding = Seeding::Global(Generator::manual_seed(1));
        let config = config.clone().with_boundaries(boundaries);
        let loader = Loader::new(corpus.tokens(), config, seeding, &Device::Cpu).map_err(one_line)?;
        for batch in loader.epoch() {
            batch.map_err(one_line)?;
        }
    }
    Ok(())
}

/// Damages one file of a corpus, whose others `lay_out` writes.
fn fuzz(target: &str, seeds: &[Vec<u8>], fields: &[Field], lay_out: impl Fn(&Path, &[u8]) -> PathBuf) {
    let all = CorpusOptions::default().with_verify(true).with_end_of_text(50256);
    fuzz_with(target, seeds, fields, |bytes, _| {
        let folder = folder_in_memory();
        let path = lay_out(folder.path(), bytes);
        let mut was_read = false;
        for options in [CorpusOptions::default(), all.clone(), all.clone().with_id_bits(IdBits::Sixteen)] {
            let (result, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| read(&path, &options))));
            let checked = spent.check(n_there(folder.path()), 0);
            match result.map_err(|_| "reading it panicked".to_string()).and_then(|read| checked.map(|()| read)) {
                Ok(read) => was_read |= read.is_ok(),
                Err(finding) => return Err(format!("{finding}; kept as {}", folder.keep().display())),
            }
        }
        Ok(was_read)
    });
}

fn seeds(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| fs::read(golden("corpora").join(name)).unwrap()).collect()
}

/// A shard before one that is whole.
#[test]
fn fuzz_corpus_llmc() {
    let [narrow, wide] = ["llmc", "llmc_wide"].map(|name| format!("{name}/text_train_000001.bin"));
    fuzz("llm.c's ids", &seeds(&[&narrow, &wide]), &[], |folder, bytes| {
        let other = if bytes.get(4) == Some(&7) { &wide } else { &narrow };
        fs::write(folder.join("a_1.bin"), bytes).unwrap();
        fs::copy(golden("corpora").join(other), folder.join("a_2.bin")).unwrap();
        folder.join("a_*.bin")
    });
}

/// An index beside ids that are whole.
#[test]
fn fuzz_corpus_index() {
    let [narrow, wide] = ["megatron", "megatron_wide"].map(|name| format!("{name}/text_document.idx"));
    fuzz("Megatron's index", &seeds(&[&narrow, &wide]), &[], |folder, bytes| {
        let of = if bytes.get(17) == Some(&4) { "megatron_wide" } else { "megatron" };
        fs::copy(golden("corpora").join(of).join("text_document.bin"), folder.join("a.bin")).unwrap();
        fs::write(folder.join("a.idx"), bytes).unwrap();
        folder.join("a")
    });
}

#[test]
fn fuzz_corpus_json() {
    let made = tempfile::tempdir().unwrap();
    let about = About::new(CorpusFormat::Megatron, 500, "test", Some(499), 4);
    let mut writer = CorpusWriter::create(made.path(), about).unwrap();
    (0..5).for_each(|id| writer.push(&[id; 6]).unwrap());
    writer.finish().unwrap();
    let seeds = [fs::read(made.path().join("corpus.json")).unwrap()];
    fuzz("corpus.json", &seeds, &[Field::Json], |folder, bytes| {
        copy_files(made.path(), folder);
        fs::write(folder.join("corpus.json"), bytes).unwrap();
        folder.to_path_buf()
    });
}

#[test]
fn fuzz_corpus_meta() {
    fuzz("meta.pkl", &seeds(&["nanogpt/meta.pkl"]), &[Field::Pickle], |folder, bytes| {
        fs::copy(golden("corpora/nanogpt/train.bin"), folder.join("train.bin")).unwrap();
        fs::write(folder.join("meta.pkl"), bytes).unwrap();
        folder.join("train.bin")
    });
}

/// A damaged `corpus.partial.json` beside shards that are whole: a writer goes on to the same bytes, or refuses it.
#[test]
fn fuzz_corpus_journal() {
    let create = |folder: &Path| {
        let about = About::new(CorpusFormat::Megatron, 500, "test", Some(499), 4);
        CorpusWriter::create(folder, about).map_err(one_line)
    };
    let push = |writer: &mut CorpusWriter| (writer.n_done()..5).try_for_each(|id| writer.push(&[id as u32; 6]));
    let made = tempfile::tempdir().unwrap();
    push(&mut create(made.path()).unwrap()).unwrap();
    let seeds = [fs::read(made.path().join("corpus.partial.json")).unwrap()];
    fuzz_with("corpus.partial.json", &seeds, &[Field::Json], |bytes, _| {
        let folder = folder_in_memory();
        copy_files(made.path(), folder.path());
        fs::write(folder.path().join("corpus.partial.json"), bytes).unwrap();
        let go_on = || {
            let mut writer = create(folder.path())?;
            push(&mut writer).and_then(|()| writer.finish()).map_err(one_line)
        };
        let (result, spent) = measured(|| catch_unwind(AssertUnwindSafe(go_on)));
        let checked = spent.check(n_there(folder.path()), 0);
        match result.map_err(|_| "going on panicked".to_string()).and_then(|went| checked.map(|()| went)) {
            Ok(went) => Ok(went.is_ok()),
            Err(finding) => Err(format!("{finding}; kept as {}", folder.keep().display())),
        }
    });
}
