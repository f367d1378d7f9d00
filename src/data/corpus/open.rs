//! Opens the files of a corpus.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use super::about::About;
use super::format::CorpusFormat;
use super::meta::Meta;
use super::sources::{self, Source};
use super::stated::{ByPath, Stated, key};
use super::{CorpusOptions, IdBits, llmc, megatron};
use crate::data::Tokens;
use crate::data::documents::Borders;
use crate::data::index::{DocumentIndex, IndexPart};
use crate::data::mapped::{MappedIds, Segment};
use crate::error::{CorpusError, Result};
use crate::files::{self, folder_of};

/// A corpus that was opened.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) tokens: Tokens,
    pub(super) files: Vec<CorpusFile>,
    pub(super) format: CorpusFormat,
    pub(super) id_bits: IdBits,
    pub(super) vocab_size: Option<usize>,
    pub(super) characters: Option<Vec<char>>,
    pub(super) about: Option<About>,
    /// What each folder of the files states.
    pub(super) abouts: Vec<(PathBuf, About)>,
}

/// Describes one file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CorpusFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The number of its ids.
    pub n_tokens: usize,
}

pub(super) fn open(paths: &[impl AsRef<Path>], options: &CorpusOptions) -> Result<Parts> {
    let sources = sources::find(paths)?;
    same_kind(&sources, |source| source.format.to_string())?;
    let format = sources[0].format;
    if format == CorpusFormat::Text {
        return open_texts(&sources, options);
    }
    let abouts = abouts(&sources)?;
    let stated = Stated::by_path(&abouts);
    let mut opened: Vec<Opened> = Vec::with_capacity(sources.len());
    for source in &sources {
        opened.push(Opened::new(source, stated.get(&key(&source.path)).copied(), options)?);
    }
    same_kind(&opened, |file| format!("ids of {} bits", file.bits))?;
    let id_bits = opened[0].bits;
    let mut metas = metas(&sources)?;
    let of_abouts = abouts.iter().map(|(_, about)| about.vocab_size);
    let vocab_size =
        options.vocab_size.into_iter().chain(of_abouts).chain(metas.iter().map(|meta| meta.vocab_size)).min();
    let characters = metas.pop().and_then(|meta| meta.characters);
    let characters = characters.filter(|these| metas.iter().all(|other| other.characters.as_ref() == Some(these)));
    let files: Vec<_> = opened
        .iter()
        .map(|file| CorpusFile { path: file.segment.path.clone(), n_tokens: file.segment.n_ids() })
        .collect();
    let mut n_ids = 0usize;
    for file in &files {
        let too_large = || CorpusError::TooLarge { path: file.path.clone() };
        n_ids = n_ids.checked_add(file.n_tokens).ok_or_else(too_large)?;
    }
    if n_ids == 0 {
        return Err(CorpusError::Empty { path: files[0].path.clone() }.into());
    }
    let (segments, indices): (Vec<_>, Vec<_>) = opened.into_iter().map(|file| (file.segment, file.index)).unzip();
    let ids = MappedIds::new(segments);
    let borders = match format {
        CorpusFormat::Megatron => {
            Borders::Indexed(Arc::new(DocumentIndex::new(indices.into_iter().flatten().collect())))
        }
        _ => Borders::Held(borders_in(&ids, format, options.end_of_text).into()),
    };
    let about = match &abouts[..] {
        [(folder, about)] if sources.iter().all(|source| folder_of(&source.path) == folder) => Some(about.clone()),
        _ => None,
    };
    if options.verify {
        verify(&ids, &stated)?;
    }
    let tokens = Tokens::of_files(ids, borders, vocab_size);
    if let Some(vocab_size) = vocab_size.filter(|_| options.verify) {
        tokens.check_ids(vocab_size)?;
    }
    Ok(Parts { tokens, files, format, id_bits, vocab_size, characters, about, abouts })
}

/// Refuses things of unequal kinds.
fn same_kind<T: HasPath>(things: &[T], kind: impl Fn(&T) -> String) -> Result<(), CorpusError> {
    let Some((first, others)) = things.split_first() else { return Ok(()) };
    let expected = kind(first);
    match others.iter().find(|other| kind(other) != expected) {
        None => Ok(()),
        Some(other) => Err(CorpusError::Mixed {
            path: other.path().to_path_buf(),
            kind: kind(other),
            other: first.path().to_path_buf(),
            other_kind: expected,
        }),
    }
}

trait HasPath {
    fn path(&self) -> &Path;
}

impl HasPath for Source {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl HasPath for Opened {
    fn path(&self) -> &Path {
        &self.segment.path
    }
}

/// Returns each folder of the files once.
fn folders(sources: &[Source]) -> Vec<&Path> {
    let mut folders: Vec<_> = sources.iter().map(|source| folder_of(&source.path)).collect();
    folders.sort();
    folders.dedup();
    folders
}

/// Returns the `corpus.json` of each folder that has one.
fn abouts(sources: &[Source]) -> Result<Vec<(PathBuf, About)>, CorpusError> {
    let mut found = Vec::new();
    for folder in folders(sources) {
        found.extend(About::of_folder(folder)?.map(|about| (folder.to_path_buf(), about)));
    }
    Ok(found)
}

/// Holds the files that a corpus states against it: that they are there, their lengths and counts.
pub(super) fn check(folder: &Path, about: &About) -> Result<(), CorpusError> {
    let sources = sources::stated(folder, about)?;
    sources.iter().zip(&about.files).try_for_each(|(source, file)| {
        Opened::new(source, Some(Stated { about, file }), &CorpusOptions::default()).map(drop)
    })
}

/// A file of ids that was checked.
struct Opened {
    bits: IdBits,
    segment: Segment,
    index: Option<IndexPart>,
}

impl Opened {
    fn new(source: &Source, stated: Option<Stated>, options: &CorpusOptions) -> Result<Self, CorpusError> {
        let path = &source.path;
        let map = map(path)?;
        let n_bytes = map.len() as u64;
        if let Some(stated) = stated {
            stated.must_be(path, "a length of", stated.file.n_bytes, n_bytes)?;
        }
        let (bits, start, n_ids, index) = match source.format {
            CorpusFormat::Llmc => {
                let (bits, n_ids) = llmc::parse(path, &map)?;
                (bits, llmc::HEADER_BYTES, n_ids, None)
            }
            CorpusFormat::Megatron => {
                let index_path = path.with_extension("idx");
                let (bits, index) = megatron::parse(&index_path, self::map(&index_path)?, (path, n_bytes))?;
                (bits, 0, index.n_ids, Some(index))
            }
            CorpusFormat::NanoGpt | CorpusFormat::Text => {
                let bits = stated.map(|stated| stated.about.id_bits).or(options.id_bits);
                let bits = bits.ok_or_else(|| CorpusError::NoWidth { path: path.clone() })?;
                if !n_bytes.is_multiple_of(bits.n_bytes() as u64) {
                    let path = path.clone();
                    return Err(CorpusError::PartOfId { path, n_bytes, id_bits: bits.into() });
                }
                (bits, 0, map.len() / bits.n_bytes(), None)
            }
        };
        if let Some(stated) = stated {
            stated.must_be(path, "the format", stated.about.format, source.format)?;
            stated.must_be(path, "a width of", stated.about.id_bits, bits)?;
            stated.must_be(path, "ids:", stated.file.n_tokens, n_ids as u64)?;
        }
        if let Some(given) = options.id_bits {
            let wrong = |found: IdBits| CorpusError::Mixed {
                path: path.clone(),
                kind: format!("ids of {found} bits"),
                other: PathBuf::from("--id-bits"),
                other_kind: format!("says {given}"),
            };
            (given == bits).then_some(()).ok_or_else(|| wrong(bits))?;
        }
        let segment = Segment::new(path.clone(), map, start, n_ids, bits == IdBits::ThirtyTwo);
        let segment = segment.ok_or_else(|| CorpusError::TooLarge { path: path.clone() })?;
        Ok(Self { bits, segment, index })
    }
}

fn map(path: &Path) -> Result<Arc<Mmap>, CorpusError> {
    let io = CorpusError::reading(path);
    Ok(Arc::new(files::map(&File::open(path).map_err(io)?).map_err(io)?))
}

/// Returns nanoGPT's `meta.pkl` of each folder that has one.
fn metas(sources: &[Source]) -> Result<Vec<Meta>, CorpusError> {
    let mut found = Vec::new();
    if sources[0].format == CorpusFormat::NanoGpt {
        for folder in folders(sources) {
            found.extend(Meta::of_folder(folder)?);
        }
    }
    Ok(found)
}

/// Returns where documents begin in files without an index, and where the last ends.
fn borders_in(ids: &MappedIds, format: CorpusFormat, end_of_text: Option<u32>) -> Vec<usize> {
    let goes_on = format == CorpusFormat::Llmc;
    let mut borders = vec![0];
    let mut first = 0;
    for segment in ids.segments() {
        let end = first + segment.n_ids();
        if let Some(token) = end_of_text {
            // It begins a document of llm.c, and ends one elsewhere.
            let next = usize::from(!goes_on);
            borders.extend(segment.find(token).into_iter().map(|at| first + at + next));
        }
        if !goes_on {
            borders.push(end);
        }
        first = end;
    }
    borders.push(first);
    borders.dedup();
    borders
}

/// Holds the checksums against the bytes.
fn verify(ids: &MappedIds, stated: &ByPath) -> Result<(), CorpusError> {
    let check = |segment: &Segment| {
        let Some(stated) = stated.get(&key(&segment.path)) else { return Ok(()) };
        stated.checksum(&segment.path, stated.file.crc32, segment.file())?;
        let Some(crc32) = stated.file.index_crc32 else { return Ok(()) };
        let path = segment.path.with_extension("idx");
        stated.checksum(&path, crc32, &map(&path)?)
    };
    ids.segments().par_iter().find_map_first(|segment| check(segment).err()).map_or(Ok(()), Err)
}

#[cfg(feature = "tokenizer")]
fn open_texts(sources: &[Source], options: &CorpusOptions) -> Result<Parts> {
    use crate::data::read_text;
    use crate::tokenizer::Tokenizer;

    let tokenizer = options.tokenizer.as_ref().unwrap_or_else(|| Tokenizer::gpt2());
    let mut documents = Vec::new();
    for source in sources {
        let mut ids = tokenizer.encode(&read_text(&source.path)?)?;
        ids.extend(options.end_of_text);
        documents.push(ids);
    }
    let files = sources.iter().zip(&documents);
    let files = files.map(|(source, ids)| CorpusFile { path: source.path.clone(), n_tokens: ids.len() }).collect();
    let vocab_size = tokenizer.end_of_ids();
    let vocab_size = options.vocab_size.map_or(vocab_size, |given| given.min(vocab_size));
    let tokens = Tokens::from_documents(&documents);
    tokens.check_ids(vocab_size)?;
    let id_bits = IdBits::of_vocabulary(vocab_size);
    Ok(Parts {
        tokens,
        files,
        format: CorpusFormat::Text,
        id_bits,
        vocab_size: Some(vocab_size),
        characters: None,
        about: None,
        abouts: Vec::new(),
    })
}

#[cfg(not(feature = "tokenizer"))]
fn open_texts(sources: &[Source], _: &CorpusOptions) -> Result<Parts> {
    Err(CorpusError::NoTokenizer { path: sources[0].path.clone() }.into())
}
