//! Unpacks gzip and zstd.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// The largest window, 2 GB, which `zstd --long=31` takes.
const MOST_WINDOW_LOG: u32 = 31;

/// Returns what reads a file, packed or not, by its first bytes.
pub fn unpacked<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(match reader.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(BufReader::new(Gzip { member: Some(GzDecoder::new(reader)) })),
        // A frame, or one that is skipped: pzstd and others put such before the first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut frames = zstd::stream::read::Decoder::with_buffer(reader)?;
            frames.window_log_max(MOST_WINDOW_LOG)?;
            Box::new(BufReader::new(frames))
        }
        _ => Box::new(reader),
    })
}

/// The members of a gzip file, between and after which zeros are skipped, as gzip does.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(bytes)?;
            if n > 0 || bytes.is_empty() {
                return Ok(n);
            }
            let rest = self.member.take().map(GzDecoder::into_inner);
            self.member = rest.map(after_zeros).transpose()?.flatten().map(GzDecoder::new);
        }
        Ok(0)
    }
}

/// Skips zeros. `None` if nothing follows.
fn after_zeros<R: BufRead>(mut reader: R) -> io::Result<Option<R>> {
    loop {
        let bytes = reader.fill_buf()?;
        let (n_bytes, n_zeros) = (bytes.len(), bytes.iter().take_while(|byte| **byte == 0).count());
        reader.consume(n_zeros);
        if n_bytes == 0 {
            return Ok(None);
        }
        if n_zeros < n_bytes {
            return Ok(Some(reader));
        }
    }
}
