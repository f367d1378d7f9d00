//! Opens the files of a corpus.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use super::about::About;
use super::format::CorpusFormat;
use super::sources::{self, META_FILE, Source};
use super::{CorpusOptions, IdBits, llmc, megatron};
use crate::checkpoint::pickled_integer;
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
    let mut opened: Vec<Opened> = Vec::with_capacity(sources.len());
    for source in &sources {
        let about = abouts.iter().find(|(folder, _)| folder == folder_of(&source.path)).map(|(_, about)| about);
        opened.push(Opened::new(source, about, options)?);
    }
    same_kind(&opened, |file| format!("ids of {} bits", file.bits))?;
    let id_bits = opened[0].bits;
    let vocab_size = vocabulary(&sources, &abouts, options)?;
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
        abouts.iter().try_for_each(|(folder, about)| verify(&ids, folder, about))?;
    }
    let tokens = Tokens::of_files(ids, borders, vocab_size);
    if let Some(vocab_size) = vocab_size.filter(|_| options.verify) {
        tokens.check_ids(vocab_size)?;
    }
    Ok(Parts { tokens, files, format, id_bits, vocab_size, about, abouts })
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

/// A file of ids that was checked.
struct Opened {
    bits: IdBits,
    segment: Segment,
    index: Option<IndexPart>,
}

impl Opened {
    fn new(source: &Source, about: Option<&About>, options: &CorpusOptions) -> Result<Self, CorpusError> {
        let path = &source.path;
        let map = map(path)?;
        let n_bytes = map.len() as u64;
        let stated = about.and_then(|about| Some((about, about.file(path)?)));
        if let Some((_, file)) = stated {
            must_be(path, "a length of", file.n_bytes, n_bytes)?;
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
                let bits = stated.map(|(about, _)| about.id_bits).or(options.id_bits);
                let bits = bits.ok_or_else(|| CorpusError::NoWidth { path: path.clone() })?;
                if !n_bytes.is_multiple_of(bits.n_bytes() as u64) {
                    let path = path.clone();
                    return Err(CorpusError::PartOfId { path, n_bytes, id_bits: bits.into() });
                }
                (bits, 0, map.len() / bits.n_bytes(), None)
            }
        };
        if let Some((about, file)) = stated {
            must_be(path, "the format", about.format, source.format)?;
            must_be(path, "a width of", about.id_bits, bits)?;
            must_be(path, "ids:", file.n_tokens, n_ids as u64)?;
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

fn must_be<T: PartialEq + ToString>(path: &Path, what: &'static str, stated: T, found: T) -> Result<(), CorpusError> {
    match stated == found {
        true => Ok(()),
        false => Err(CorpusError::Differs {
            path: path.to_path_buf(),
            what,
            stated: stated.to_string(),
            found: found.to_string(),
        }),
    }
}

fn map(path: &Path) -> Result<Arc<Mmap>, CorpusError> {
    let io = CorpusError::reading(path);
    Ok(Arc::new(files::map(&File::open(path).map_err(io)?).map_err(io)?))
}

/// Returns the smallest vocabulary that is stated.
fn vocabulary(
    sources: &[Source],
    abouts: &[(PathBuf, About)],
    options: &CorpusOptions,
) -> Result<Option<usize>, CorpusError> {
    let mut stated: Vec<usize> = options.vocab_size.into_iter().collect();
    stated.extend(abouts.iter().map(|(_, about)| about.vocab_size));
    for folder in folders(sources) {
        let path = folder.join(META_FILE);
        if sources[0].format == CorpusFormat::NanoGpt && path.exists() {
            stated.push(vocabulary_of_meta(&path)?);
        }
    }
    Ok(stated.into_iter().min())
}

fn vocabulary_of_meta(path: &Path) -> Result<usize, CorpusError> {
    let refused = |reason: String| CorpusError::About { path: path.to_path_buf(), reason };
    let stated = pickled_integer(path, "vocab_size").map_err(|error| refused(error.to_string()))?;
    match stated.map(usize::try_from) {
        Some(Ok(vocab_size)) if vocab_size > 0 => Ok(vocab_size),
        Some(_) => Err(refused("its vocab_size is not a positive number".to_string())),
        None => Err(refused("it has no vocab_size, as nanoGPT's prepare.py writes it".to_string())),
    }
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
fn verify(ids: &MappedIds, folder: &Path, about: &About) -> Result<(), CorpusError> {
    let here = |segment: &&Segment| folder_of(&segment.path) == folder;
    let check = |segment: &Segment| {
        let Some(stated) = about.file(&segment.path) else { return Ok(()) };
        checksum(&segment.path, stated.crc32, segment.file())?;
        let Some(crc32) = stated.index_crc32 else { return Ok(()) };
        let path = segment.path.with_extension("idx");
        checksum(&path, crc32, &map(&path)?)
    };
    let segments: Vec<_> = ids.segments().iter().filter(here).collect();
    segments.into_par_iter().find_map_first(|segment| check(segment).err()).map_or(Ok(()), Err)
}

fn checksum(path: &Path, stated: u32, bytes: &[u8]) -> Result<(), CorpusError> {
    let hex = |crc: u32| format!("{crc:08x}");
    must_be(path, "a CRC-32 of", hex(stated), hex(crc32fast::hash(bytes)))
}

#[cfg(feature = "tokenizer")]
fn open_texts(sources: &[Source], options: &CorpusOptions) -> Result<Parts> {
    use crate::data::read_text;
    use crate::tokenizer::Tokenizer;

    let tokenizer = options.tokenizer.as_ref().unwrap_or_else(|| Tokenizer::gpt2());
    let mut documents = Vec::new();
    for source in sources {
        documents.push(tokenizer.encode(&read_text(&source.path)?)?);
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
        about: None,
        abouts: Vec::new(),
    })
}

#[cfg(not(feature = "tokenizer"))]
fn open_texts(sources: &[Source], _: &CorpusOptions) -> Result<Parts> {
    Err(CorpusError::NoTokenizer { path: sources[0].path.clone() }.into())
}
