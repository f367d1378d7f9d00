//! The bytes of each token, and byte-level BPE's spelling of bytes as characters.

use tokenizers::pipeline::PipelineToken;

use crate::error::TokenizerError;

/// The bytes of every token, in one slab, with the span of each id.
#[derive(Default)]
pub(super) struct TokenBytes {
    slab: Vec<u8>,
    spans: Vec<Option<Span>>,
    n_tokens: usize,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
    /// The first eight bytes: most tokens are compared without reading the slab.
    head: u64,
}

impl TokenBytes {
    pub(super) fn with_capacity(n_tokens: usize, n_bytes: usize) -> Self {
        Self { slab: Vec::with_capacity(n_bytes), spans: Vec::with_capacity(n_tokens), n_tokens: 0 }
    }

    /// Sets the bytes of `id`. Memory is proportional to the largest id, which the caller bounds.
    pub(super) fn insert(&mut self, id: u32, bytes: &[u8]) {
        let at = id as usize;
        if at >= self.spans.len() {
            self.spans.resize(at + 1, None);
        }
        self.n_tokens += usize::from(self.spans[at].is_none());
        let mut head = [0; 8];
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let (start, len) = (self.slab.len() as u32, bytes.len() as u32);
        self.spans[at] = Some(Span { start, len, head: u64::from_le_bytes(head) });
        self.slab.extend_from_slice(bytes);
    }

    fn span(&self, id: u32) -> Option<Span> {
        *self.spans.get(id as usize)?
    }

    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        self.span(id).and_then(|span| self.slab.get(span.start as usize..)?.get(..span.len as usize))
    }

    /// Returns what follows the token in `text`, if `text` begins with it.
    #[inline]
    pub(super) fn strip<'a>(&self, id: u32, text: &'a [u8]) -> Option<&'a [u8]> {
        let Span { len, head, .. } = self.span(id)?;
        match text.first_chunk() {
            Some(start) if len <= 8 => {
                let unused = u64::MAX.checked_shl(8 * len).unwrap_or(0);
                let equal = (u64::from_le_bytes(*start) ^ head) & !unused == 0;
                if equal { text.get(len as usize..) } else { None }
            }
            _ => text.strip_prefix(self.get(id)?),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.n_tokens
    }

    /// Returns one more than the largest id.
    pub(super) fn end(&self) -> u32 {
        self.spans.len() as u32
    }
}

/// The bytes that no token stands for. The library opens no vocabulary without them, so it is given a token for each,
/// with an id above all others, and a text whose ids hold one is refused.
#[derive(Default)]
pub(super) struct MissingBytes {
    first_id: u32,
    bytes: Vec<u8>,
}

impl MissingBytes {
    /// Finds the bytes of UTF-8 that `has_token` has no token for, and calls `add` with the characters and ids of those
    /// that the library is to be given. The ids begin with `first_id`.
    pub(super) fn find(first_id: u32, has_token: impl Fn(&str) -> bool, mut add: impl FnMut(String, u32)) -> Self {
        let mut bytes = Vec::new();
        for (byte, character) in byte_alphabet() {
            let token = character.to_string();
            if !matches!(byte, 0xc0 | 0xc1 | 0xf5..) && !has_token(&token) {
                add(token, first_id + bytes.len() as u32);
                bytes.push(byte);
            }
        }
        Self { first_id, bytes }
    }

    /// Returns the byte for which the library was given the token `id`.
    pub(super) fn byte(&self, id: u32) -> Option<u8> {
        self.bytes.get(id.checked_sub(self.first_id)? as usize).copied()
    }

    /// Checks that the ids of a text hold no missing byte. The text is searched for its place.
    pub(super) fn check(&self, text: &str, ids: &[PipelineToken]) -> Result<(), TokenizerError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        match ids.iter().find_map(|token| self.byte(token.id())) {
            Some(byte) => {
                let at = text.bytes().position(|other| other == byte).unwrap_or(0);
                Err(TokenizerError::MissingByte { byte, at })
            }
            None => Ok(()),
        }
    }
}

/// Returns the alphabet in which byte-level BPE spells bytes, in the order of GPT-2's first 256 ids.
///
/// As in `bytes_to_unicode` of openai/gpt-2, printable Latin-1 stands for itself, and other bytes become U+0100 and up.
pub(super) fn byte_alphabet() -> impl Iterator<Item = (u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=u8::MAX).filter(printable).map(|byte| (byte, char::from(byte)));
    let shifted = (0..=u8::MAX).filter(move |byte| !printable(byte)).zip('\u{100}'..);
    themselves.chain(shifted)
}

/// One more than the last character of the alphabet: 256 + the 68 bytes that are not printable.
const ALPHABET_END: usize = 256 + 68;

/// The inverse of [`byte_alphabet`]: characters to bytes.
pub(super) struct Spelling([Option<u8>; ALPHABET_END]);

impl Spelling {
    pub(super) fn new() -> Self {
        let mut bytes = [None; ALPHABET_END];
        for (byte, character) in byte_alphabet() {
            bytes[character as usize] = Some(byte);
        }
        Self(bytes)
    }

    fn byte(&self, character: char) -> Option<u8> {
        *self.0.get(character as usize)?
    }

    /// Returns the bytes of a token spelt in the alphabet; a token with any other character stands for its UTF-8.
    pub(super) fn read(&self, token: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(token.len());
        for character in token.chars() {
            match self.byte(character) {
                Some(byte) => bytes.push(byte),
                None => return token.as_bytes().to_vec(),
            }
        }
        bytes
    }
}
