//! Tables over HTTP give what tables in memory give, and a server that misbehaves gives one clear error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_gpt_input::checkpoint::ByteRanges;

use super::hub::remote::RemoteFile;
use super::hub::request::RemoteError;
use super::support::http::{Fault, Hub};
use super::*;

/// 500 rows of 37 numbers, and a megabyte between the two tables that nobody asks for.
fn weights(base: f32) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let wte = (addressed(base, 500, 37, &Device::Cpu) / 7.).unwrap();
    let wpe = (addressed(0.5, 64, 37, &Device::Cpu) / 3.).unwrap();
    let other = Tensor::zeros(1 << 18, DType::F32, &Device::Cpu).unwrap();
    save_tensors(&path, &[("wte.weight", &wte), ("h.0.attn.bias", &other), ("wpe.weight", &wpe)], &[]).unwrap();
    fs::read(path).unwrap()
}

fn serve(bytes: Vec<u8>) -> Hub {
    Hub::serve([("x".to_string(), bytes)].into())
}

fn url(hub: &Hub) -> String {
    format!("{}/someone/gpt2/resolve/main/x", hub.url())
}

fn layer(file: RemoteFile) -> Result<GptInputLayer> {
    let checkpoint = Checkpoint::from_ranges(Arc::new(file), None)?;
    Ok(GptInputLayer::from_checkpoint_mapped(&checkpoint, DType::F32, &Device::Cpu)?.0)
}

fn resident(bytes: &[u8]) -> GptInputLayer {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, bytes).unwrap();
    load(path).unwrap()
}

fn ids() -> Tensor {
    Tensor::new(&[[499u32, 0, 7, 8, 9, 7], [0, 250, 10, 499, 1, 1]], &Device::Cpu).unwrap()
}

#[test]
fn remote_rows_are_those_in_memory() -> Result<()> {
    for name in
        ["tables.safetensors", "state_dict.pth", "legacy.bin", "stored.npz", "bf16.gguf", "q4_0.gguf", "llmc_f32.bin"]
    {
        let path = golden("formats").join(name);
        let hub = serve(fs::read(&path).unwrap());
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            let checkpoint =
                Checkpoint::from_ranges(Arc::new(RemoteFile::open(&url(&hub), None, None).unwrap()), None)?;
            let (remote, _) = GptInputLayer::from_checkpoint_mapped(&checkpoint, dtype, &Device::Cpu)?;
            let resident = GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?;
            mapped::assert_same_rows(&remote, &resident)?;
            let (whole, _) = GptInputLayer::from_checkpoint(&checkpoint, dtype, &Device::Cpu)?;
            assert_bits_eq(&tables_of(&whole)[0], &tables_of(&resident)[0]);
            assert!(error_text(remote.lm_head()).ends_with("and this needs it in memory: use `from_pretrained`"));
        }
    }
    Ok(())
}

#[test]
fn only_the_rows_are_fetched_and_only_once() -> Result<()> {
    let (bytes, cache) = (weights(0.), TempDir::new().unwrap());
    let hub = serve(bytes.clone());
    let open = || RemoteFile::open(&url(&hub), None, Some(cache.path()));
    let remote = layer(open().unwrap())?;
    let n_header = hub.requests().len();
    assert_eq!(n_header, 2, "the first byte and one page");
    assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    let rows: Vec<_> = hub.requests().split_off(n_header);
    // Rows 0, 1; 7, 8, 9, 10; 250; 499 of `wte`, one request each run (two rows more than 512 bytes apart are two requests),
    // and rows 0 to 5 of `wpe`.
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert_eq!(rows.iter().map(|row| row.end - row.start).sum::<usize>(), (8 + 6) * 37 * 4);
    // A second process asks for one byte, to see whether the file is the same.
    let n_before = hub.requests().len();
    let remote = layer(open().unwrap())?;
    remote.prefetch(&ids())?;
    assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    assert_eq!(hub.requests().len(), n_before + 1);
    // Neighbours that were not asked for before are fetched alone.
    remote.embed_tokens(&Tensor::new(&[7u32, 11], &Device::Cpu)?)?;
    assert_eq!(hub.requests().len(), n_before + 2);
    // Another content has other rows, whatever was kept.
    let changed = weights(-9.);
    hub.replace("x", changed.clone());
    assert_bits_eq(&layer(open().unwrap())?.forward(&ids())?, &resident(&changed).forward(&ids())?);
    Ok(())
}

#[test]
fn ranges_come_at_the_same_time_but_not_all() -> Result<()> {
    let hub = serve(weights(0.));
    let remote = layer(RemoteFile::open(&url(&hub), None, None).unwrap())?;
    hub.delay(Duration::from_millis(100));
    let far_apart: Vec<u32> = (0..25).map(|i| i * 20).collect();
    remote.embed_tokens(&Tensor::new(far_apart, &Device::Cpu)?)?;
    assert!((4..=8).contains(&hub.most_at_once()), "{}", hub.most_at_once());
    Ok(())
}

/// Faults that pass: three of them, and the fourth try is right.
#[test]
fn what_passes_is_tried_again() -> Result<()> {
    let bytes = weights(0.);
    let hub = serve(bytes.clone());
    let expected = resident(&bytes).forward(&ids())?;
    let remote = layer(RemoteFile::open(&url(&hub), None, None).unwrap())?;
    for fault in [Fault::Cut(0), Fault::Cut(100), Fault::Status(503, 0), Fault::Status(429, 0)] {
        hub.misbehave(3, fault);
        assert_bits_eq(&remote.forward(&ids())?, &expected);
    }
    hub.misbehave(1, Fault::Status(503, 1));
    let start = Instant::now();
    remote.forward(&ids())?;
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After is obeyed");
    Ok(())
}

#[test]
fn a_server_that_misbehaves_is_an_error() -> Result<()> {
    let hub = serve(weights(0.));
    let at = url(&hub);
    let remote = layer(RemoteFile::open(&at, None, None).unwrap())?;
    for (fault, expected) in [
        (Fault::NoRanges, "the server does not serve ranges: download the file instead (without --remote)"),
        (Fault::Status(500, 0), "the server answers with status 500"),
        (Fault::Status(403, 0), "the server answers with status 403"),
        (Fault::Status(404, 0), "it is not there (status 404)"),
        (Fault::Cut(10), "the connection was cut after 10 of 148 bytes"),
        (Fault::TooLong, "148 bytes were asked for, but the server sent more"),
        (Fault::Shifted, "but the server sent bytes "),
        (Fault::NoContentRange, "but the server sent no Content-Range"),
        (Fault::Redirect(hub.url()), "more than 5 redirections"),
        (Fault::Redirect("ftp://127.0.0.1".to_string()), "a redirection to `ftp://127.0.0.1"),
    ] {
        hub.misbehave(usize::MAX, fault);
        let text = error_text(remote.embed_tokens(&Tensor::new(3u32, &Device::Cpu)?));
        assert!(text.starts_with(&format!("{at}: ")) && text.contains(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    hub.misbehave(0, Fault::NoRanges);
    hub.replace("x", weights(5.));
    let text = error_text(remote.forward(&ids()));
    assert!(text.contains("the file has changed on the server (ETag \""), "{text}");
    hub.replace("x", b"short".to_vec());
    assert!(error_text(remote.forward(&ids())).contains("the file has changed on the server"));
    Ok(())
}

#[test]
fn opening_says_what_is_wrong() {
    let hub = serve(weights(0.));
    let open = |url: &str| RemoteFile::open(url, None, None);
    assert!(matches!(open(&format!("{}y", url(&hub))), Err(RemoteError::NotFound)));
    hub.misbehave(1, Fault::NoRanges);
    assert!(matches!(open(&url(&hub)), Err(RemoteError::NoRanges)));
    // It speaks no TLS.
    let error = open(&url(&hub).replace("http:", "https:"));
    assert!(matches!(error, Err(RemoteError::Tls(_) | RemoteError::Unreachable(_))), "{error:?}");
    // Nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = open(&format!("http://127.0.0.1:{port}/x"));
    assert!(matches!(nobody, Err(RemoteError::Unreachable(_))), "{nobody:?}");
}

#[test]
fn a_redirection_is_followed_and_the_token_stays() -> Result<()> {
    let bytes = weights(0.);
    let (hub, elsewhere) = (serve(bytes.clone()), serve(bytes.clone()));
    hub.misbehave(usize::MAX, Fault::Redirect(elsewhere.url()));
    let remote = layer(RemoteFile::open(&url(&hub), Some("secret"), None).unwrap())?;
    assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    assert!(hub.requests().iter().all(|request| request.authorized));
    assert!(elsewhere.requests().iter().all(|request| !request.authorized) && !elsewhere.requests().is_empty());
    Ok(())
}

/// A source that does not keep to its contract.
#[derive(Debug)]
struct Liar {
    bytes: Vec<u8>,
    n_bytes: u64,
    drop: usize,
}

impl ByteRanges for Liar {
    fn name(&self) -> String {
        "liar".to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read(&self, ranges: &[std::ops::Range<u64>]) -> std::io::Result<Vec<Vec<u8>>> {
        let piece = |range: &std::ops::Range<u64>| {
            let mut piece = self.bytes.get(range.start as usize..).unwrap_or_default().to_vec();
            piece.resize((range.end - range.start) as usize, 0);
            piece
        };
        Ok(ranges.iter().skip(self.drop).map(piece).collect())
    }
}

#[test]
fn sources_are_not_believed() {
    let open = |liar: Liar| Checkpoint::from_ranges(Arc::new(liar), None).map(drop);
    let bytes = weights(0.);
    let n_bytes = bytes.len() as u64;
    assert!(open(Liar { bytes: bytes.clone(), n_bytes, drop: 0 }).is_ok());
    let text = error_text(open(Liar { bytes: bytes.clone(), n_bytes, drop: 1 }));
    assert_eq!(text, "liar: 1 ranges were asked for, but 0 came");
    // No memory is set aside for what a length claims.
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend([1u64, 1, 1 << 50].map(u64::to_le_bytes).concat());
    let text = error_text(open(Liar { bytes: gguf, n_bytes: u64::MAX, drop: 0 }));
    assert!(text.starts_with("liar: not a valid GGUF file: "), "{text}");
}
