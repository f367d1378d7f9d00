//! Reads texts and JSON lines, packed or not, in batches of pieces.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;

use anyhow::{Context, Result, anyhow};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::Tokenizer;

use crate::field::{self, Field};
use crate::packed;

/// About how much text a batch has.
const BATCH_BYTES: usize = 8 << 20;
/// About how much of a long text is encoded at once.
const PIECE_BYTES: usize = 1 << 20;
/// How far a place to cut a text is searched.
const AHEAD_BYTES: usize = 1 << 12;
/// How much of a text is read to see whether it is JSON.
const N_HEAD: u64 = 1 << 10;
/// U+FEFF in UTF-8, which editors on Windows put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub struct Input {
    pub path: PathBuf,
    pub n_bytes: u64,
    /// The field of the text, of JSON lines.
    key: Option<String>,
    n_read: AtomicU64,
}

/// A part of a document: a line of JSON, or text.
pub struct Piece {
    /// The number of the input.
    pub input: usize,
    /// The line, from 1, of JSON lines.
    pub line: usize,
    bytes: Vec<u8>,
    pub ends: bool,
}

impl Input {
    pub fn open(path: &Path, key: &str) -> Result<Self> {
        let about = std::fs::metadata(path).with_context(|| Shown::path(path).to_string())?;
        if !about.is_file() {
            return Err(anyhow!("{} is not a file: name the files in it", Shown::path(path)));
        }
        let whole_name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = whole_name.trim_end_matches(".gz").trim_end_matches(".zst");
        let mut input = Self { path: path.to_path_buf(), n_bytes: about.len(), key: None, n_read: AtomicU64::new(0) };
        let is_packed = [".gz", ".zst"].iter().any(|extension| whole_name.ends_with(extension));
        if is_packed && input.n_bytes == 0 {
            return Err(anyhow!("{} is packed, and has no bytes: copy it again", Shown::path(path)));
        }
        // By its name, or by its beginning: a text that looks like JSON is not taken as it is.
        let is_json = [".jsonl", ".ndjson", ".json"].iter().any(|extension| name.ends_with(extension))
            || input.begins_an_object().with_context(|| Shown::path(path).to_string())?;
        input.key = is_json.then(|| key.to_string());
        input.n_read = AtomicU64::new(0);
        Ok(input)
    }

    /// Returns whether the text begins with an object of JSON that has a key.
    fn begins_an_object(&self) -> Result<bool> {
        let mut head = Vec::new();
        self.reader()?.take(N_HEAD).read_to_end(&mut head)?;
        let inside = head.trim_ascii_start().strip_prefix(b"{");
        Ok(inside.is_some_and(|inside| inside.trim_ascii_start().starts_with(b"\"")))
    }

    pub fn n_read(&self) -> u64 {
        self.n_read.load(Relaxed)
    }

    /// Names a line, or the whole file.
    pub fn name(&self, line: usize) -> String {
        match line {
            0 => Shown::path(&self.path).to_string(),
            line => format!("{}, line {line}", Shown::path(&self.path)),
        }
    }

    /// Returns what reads the text. A byte order mark at its start is left out.
    fn reader(&self) -> Result<Box<dyn BufRead + '_>> {
        let file = Counted { file: File::open(&self.path)?, input: self };
        let mut reader = packed::unpacked(BufReader::with_capacity(1 << 20, file))?;
        let mut head = Vec::new();
        reader.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut head)?;
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(anyhow!("the text is UTF-16, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`"));
        }
        if head == BYTE_ORDER_MARK {
            head.clear();
        }
        Ok(Box::new(io::Cursor::new(head).chain(reader)))
    }
}

struct Counted<'a> {
    file: File,
    input: &'a Input,
}

impl Read for Counted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(bytes)?;
        self.input.n_read.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

impl Piece {
    pub fn text(&self, input: &Input) -> Result<Cow<'_, str>> {
        let name = || input.name(self.line);
        let Some(key) = &input.key else {
            return Ok(Cow::Borrowed(std::str::from_utf8(&self.bytes).with_context(name)?));
        };
        match field::of(&self.bytes, key).with_context(name)? {
            Field::Text(text) => Ok(text),
            Field::Other => Err(anyhow!("{}: `{}` is not a text", name(), Shown::name(key))),
            Field::Missing => {
                Err(anyhow!("{}: there is no `{}`: choose the field with --key", name(), Shown::name(key)))
            }
        }
    }
}

/// Sends all pieces in batches, those of the first `n_done` documents excepted. Ends when nobody takes them.
pub fn read(inputs: &[Input], tokenizer: &Tokenizer, n_done: u64, to: &SyncSender<Result<Vec<Piece>>>) {
    let mut sender = Sender { n_skipped: n_done, batch: Vec::new(), n_bytes: 0, to, is_open: true };
    for (number, input) in inputs.iter().enumerate() {
        let read = match &input.key {
            Some(_) => read_lines(number, input, &mut sender),
            None => read_text(number, input, tokenizer, &mut sender),
        };
        if let Err(error) = read {
            sender.flush();
            let _ = to.send(Err(error.context(input.name(0))));
            return;
        }
    }
    sender.flush();
}

struct Sender<'a> {
    n_skipped: u64,
    batch: Vec<Piece>,
    n_bytes: usize,
    to: &'a SyncSender<Result<Vec<Piece>>>,
    is_open: bool,
}

impl Sender<'_> {
    fn push(&mut self, piece: Piece) {
        if self.n_skipped > 0 {
            self.n_skipped -= u64::from(piece.ends);
            return;
        }
        self.n_bytes += piece.bytes.len();
        self.batch.push(piece);
        if self.n_bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.n_bytes = 0;
        self.is_open &= self.to.send(Ok(std::mem::take(&mut self.batch))).is_ok();
    }
}

fn read_lines(number: usize, input: &Input, sender: &mut Sender) -> Result<()> {
    let mut reader = input.reader()?;
    for line in 1.. {
        let mut bytes = Vec::new();
        if !sender.is_open || reader.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if !bytes.trim_ascii().is_empty() {
            sender.push(Piece { input: number, line, bytes, ends: true });
        }
    }
    Ok(())
}

fn read_text(number: usize, input: &Input, tokenizer: &Tokenizer, sender: &mut Sender) -> Result<()> {
    let mut reader = input.reader()?;
    let (mut bytes, mut n_before) = (Vec::new(), 0usize);
    while sender.is_open {
        // A text that cannot be cut is read in ever larger parts, so that none is looked at often.
        let n_wanted = (PIECE_BYTES + AHEAD_BYTES).saturating_sub(bytes.len()).max(bytes.len());
        let n_now = reader.by_ref().take(n_wanted as u64).read_to_end(&mut bytes)?;
        let at_end = n_now < n_wanted;
        // The last character may be cut.
        let n_valid = match std::str::from_utf8(&bytes) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() && !at_end => error.valid_up_to(),
            Err(_) if bytes.contains(&0) => {
                return Err(anyhow!("it looks binary, not text: ids are opened as they are (`dataloader --corpus`)"));
            }
            Err(error) => {
                let at = n_before + error.valid_up_to();
                return Err(anyhow!("byte {at} is not UTF-8: convert it, for example with `iconv -f CP1252 -t UTF-8`"));
            }
        };
        let text = std::str::from_utf8(&bytes[..n_valid])?;
        let mut start = 0;
        while let Some(cut) = tokenizer.cut(text, start + PIECE_BYTES) {
            let bytes = text.as_bytes()[start..cut].to_vec();
            sender.push(Piece { input: number, line: 0, bytes, ends: false });
            start = cut;
        }
        if at_end {
            sender.push(Piece { input: number, line: 0, bytes: bytes.split_off(start), ends: true });
            break;
        }
        bytes.drain(..start);
        n_before += start;
    }
    Ok(())
}
