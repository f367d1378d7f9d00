//! Corpora that are being written: stopped, damaged, in folders of others, and by two writers.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter};
use tempfile::TempDir;

const FORMATS: [CorpusFormat; 2] = [CorpusFormat::Llmc, CorpusFormat::Megatron];

fn create(folder: &Path, format: CorpusFormat) -> Result<CorpusWriter, String> {
    let about = About::new(format, 500, "test", Some(499), 4);
    CorpusWriter::create(folder, about).map_err(|error| error.to_string())
}

/// Writes documents of four ids: each fills a shard of Megatron's, and ends in the next shard of llm.c's.
fn write(writer: &mut CorpusWriter, n_documents: u32) {
    let n_done = u32::try_from(writer.n_done()).unwrap();
    (n_done..n_documents).for_each(|id| writer.push(&[id; 4]).unwrap());
}

/// Writes a corpus, or with `ends` unset the beginning of one, which a kill leaves.
fn written(folder: &Path, format: CorpusFormat, ends: bool) {
    let mut writer = create(folder, format).unwrap();
    write(&mut writer, 6);
    if ends {
        writer.finish().unwrap();
    }
}

fn finish(folder: &Path, format: CorpusFormat) {
    let mut writer = create(folder, format).unwrap();
    write(&mut writer, 6);
    writer.finish().unwrap();
}

/// Returns the names and bytes of all files.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap_or_default())).collect()
}

fn copy(files: &BTreeMap<String, Vec<u8>>) -> TempDir {
    let folder = TempDir::new().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

fn open_error(path: impl AsRef<Path>) -> String {
    Corpus::open(&[path], &CorpusOptions::default()).unwrap_err().to_string()
}

#[test]
fn a_corpus_is_refused_until_it_is_written_to_its_end() {
    for format in FORMATS {
        let folder = TempDir::new().unwrap();
        written(folder.path(), format, false);
        let journal = folder.path().join("corpus.partial.json");
        // A folder, a pattern, a file, and a folder in which no shard is complete.
        for path in ["", "train_*", "train_*.bin", "train_000000.bin"] {
            let text = open_error(folder.path().join(path));
            assert!(text.starts_with(journal.to_str().unwrap()), "{path}: {text}");
            assert!(text.contains("not written to its end: write it again with the same options"), "{path}: {text}");
        }
        finish(folder.path(), format);
        assert!(!journal.exists());
        assert!(Corpus::open(&[folder.path()], &CorpusOptions::default().with_verify(true)).is_ok());
        let empty = TempDir::new().unwrap();
        fs::write(empty.path().join("corpus.partial.json"), "").unwrap();
        assert!(open_error(empty.path()).contains("not written to its end"));
    }
}

/// What each moment of a kill leaves: the line of a shard cut, or whole without its files, or with its index alone.
#[test]
fn a_writer_goes_on_after_a_kill_at_any_moment() {
    for format in FORMATS {
        let whole = TempDir::new().unwrap();
        finish(whole.path(), format);
        let whole = files(whole.path());
        let killed = TempDir::new().unwrap();
        written(killed.path(), format, false);
        let killed = files(killed.path());
        let journal = String::from_utf8(killed["corpus.partial.json"].clone()).unwrap();
        let steps: Vec<&str> = journal.split_inclusive('\n').collect();
        let n_shards = steps.len() - 1;
        assert!(n_shards > 3 && steps.iter().all(|line| line.len() < 400), "a line for each shard: {journal}");
        for n in 0..n_shards {
            let (before, line) = (steps[..=n].concat(), steps[n + 1]);
            for (n_bytes, with_index) in [(0, false), (line.len() / 2, false), (line.len(), false), (line.len(), true)]
            {
                let mut left = killed.clone();
                left.insert("corpus.partial.json".to_string(), [before.as_str(), &line[..n_bytes]].concat().into());
                left.retain(|name, _| match name.strip_prefix("train_").map(|name| name.split_at(6)) {
                    Some((number, kind)) => {
                        let number: usize = number.parse().unwrap();
                        number < n || (number == n && with_index && kind == ".idx")
                    }
                    None => true,
                });
                let folder = copy(&left);
                finish(folder.path(), format);
                assert_eq!(files(folder.path()), whole, "{format}: {n} {n_bytes}");
            }
        }
    }
}

/// Shards that are not as they were are named, whether the corpus is complete or not; nothing is written over them.
#[test]
fn shards_that_are_gone_or_cut_are_named() {
    for format in FORMATS {
        for ends in [true, false] {
            let folder = TempDir::new().unwrap();
            written(folder.path(), format, ends);
            let before = files(folder.path());
            for name in before.keys().filter(|name| name.starts_with("train_")) {
                let is_last = name == before.keys().rfind(|name| name.ends_with(".bin")).unwrap();
                let cut = &before[name][..before[name].len() - 2];
                for bytes in [None, Some(cut)] {
                    let mut left = before.clone();
                    match bytes {
                        None if is_last && !ends => continue, // as a kill leaves it
                        None => left.remove(name),
                        Some(bytes) => left.insert(name.clone(), bytes.to_vec()),
                    };
                    let folder = copy(&left);
                    let text = create(folder.path(), format).err().unwrap();
                    assert!(text.starts_with(folder.path().join(name).to_str().unwrap()), "{format} {name}: {text}");
                    match bytes {
                        None => {
                            assert!(text.contains(" is missing, but its corpus states it: put it back, or "), "{text}")
                        }
                        Some(_) if name.ends_with(".idx") => assert!(text.contains("but it has "), "{text}"),
                        Some(_) => assert!(text.contains("its corpus states a length of "), "{text}"),
                    }
                    assert_eq!(files(folder.path()), left);
                    if ends {
                        assert_eq!(open_error(folder.path()), text);
                    }
                }
            }
        }
    }
}

/// No file of others is replaced, nor taken as a part of the corpus.
#[test]
fn a_folder_with_files_of_others_is_refused() {
    let refused = |folder: &Path, name: &str, format: CorpusFormat| {
        let before = files(folder);
        let about = About::new(format, 500, "test", Some(499), 4);
        let text = CorpusWriter::create(folder, about).err().unwrap().to_string();
        let expected = format!("{} is there, and is of no corpus", folder.join(name).display());
        assert!(text.starts_with(&expected) && text.ends_with("choose another folder, or empty this one"), "{text}");
        assert_eq!(files(folder), before);
    };
    for format in [CorpusFormat::Llmc, CorpusFormat::Megatron, CorpusFormat::NanoGpt] {
        for name in ["train.bin", "train_000000.bin", "train_000007.bin", "train_000003.idx"] {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join(name), "of others").unwrap();
            fs::write(folder.path().join("val.bin"), "of others").unwrap();
            refused(folder.path(), name, format);
        }
    }
    for format in FORMATS {
        // Whoever removes corpus.json to begin anew leaves shards behind.
        let folder = TempDir::new().unwrap();
        written(folder.path(), format, true);
        let about = fs::read(folder.path().join("corpus.json")).unwrap();
        fs::remove_file(folder.path().join("corpus.json")).unwrap();
        let text = create(folder.path(), format).err().unwrap();
        assert!(text.contains("train_00000") && text.ends_with("or empty this one"), "{text}");
        // A shard too many, beside a corpus and beside the beginning of one.
        fs::write(folder.path().join("corpus.json"), about).unwrap();
        fs::write(folder.path().join("train_000099.bin"), "of others").unwrap();
        refused(folder.path(), "train_000099.bin", format);
        let folder = TempDir::new().unwrap();
        written(folder.path(), format, false);
        fs::write(folder.path().join("train_000099.bin"), "of others").unwrap();
        refused(folder.path(), "train_000099.bin", format);
        // A file that comes while shards are written.
        let folder = TempDir::new().unwrap();
        let mut writer = create(folder.path(), format).unwrap();
        writer.push(&[1]).unwrap();
        let path = folder.path().join("train_000000.bin");
        fs::write(&path, "of others").unwrap();
        let text = writer.finish().unwrap_err().to_string();
        assert!(text.starts_with(&format!("{} is there", path.display())), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"of others");
    }
    // Links, also to nothing: what they lead to is not the writer's.
    #[cfg(unix)]
    for name in ["train_000000.bin", "train_000000.idx", "corpus.json", "corpus.partial.json"] {
        let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let target = elsewhere.path().join("target");
        std::os::unix::fs::symlink(&target, folder.path().join(name)).unwrap();
        let text = match create(folder.path(), CorpusFormat::Megatron) {
            Err(text) => text,
            Ok(mut writer) => {
                writer.push(&[1]).unwrap();
                writer.finish().unwrap_err().to_string()
            }
        };
        assert!(text.starts_with(&format!("{} is there", folder.path().join(name).display())), "{text}");
        assert!(!target.exists());
    }
}

#[test]
fn two_writers_do_not_write_to_one_folder() {
    let folder = TempDir::new().unwrap();
    let mut late = create(folder.path(), CorpusFormat::Llmc).unwrap();
    let mut writer = create(folder.path(), CorpusFormat::Llmc).unwrap();
    write(&mut writer, 3);
    assert!(create(folder.path(), CorpusFormat::Llmc).err().unwrap().contains("another process writes this corpus"));
    let before = files(folder.path());
    assert!(late.push(&[7; 8]).is_err());
    assert_eq!(files(folder.path()), before);
    write(&mut writer, 6);
    writer.finish().unwrap();
    assert!(create(folder.path(), CorpusFormat::Llmc).unwrap().is_complete());
}

#[test]
fn what_is_no_journal_is_refused_by_name() {
    for (text, expected) in [("{\n", "EOF while parsing"), ("[]\n", "invalid length 0"), ("{}", "EOF while parsing")] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("corpus.partial.json"), text).unwrap();
        let error = create(folder.path(), CorpusFormat::Llmc).err().unwrap();
        assert!(error.contains("corpus.partial.json: ") && error.contains(expected), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("corpus.partial.json")).unwrap(), text);
    }
    let folder = TempDir::new().unwrap();
    written(folder.path(), CorpusFormat::Llmc, false);
    let path = folder.path().join("corpus.partial.json");
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"file\": 1}\n").unwrap();
    assert!(create(folder.path(), CorpusFormat::Llmc).err().unwrap().contains("invalid type"));
    let text = create(folder.path(), CorpusFormat::Text).err().unwrap();
    assert_eq!(text, "a corpus is not written in the format text: use nanogpt, llmc or megatron");
}
