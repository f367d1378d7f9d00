//! Tables over HTTP give the same results as tables in memory, and a misbehaving server gives one clear error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_gpt_input::Error;
use candle_gpt_input::checkpoint::ByteRanges;
use candle_gpt_input::error::{FetchError, HubError};
use candle_gpt_input::hub::{Client, RemoteFile, Repo};

use super::support::http::{Fault, Hub, closed, files};
use super::*;

/// Returns a file with 500 rows of 37 elements, and an unused megabyte between the two tables.
fn weights(base: f32) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let wte = (addressed(base, 500, 37, &Device::Cpu) / 7.).unwrap();
    let wpe = (addressed(0.5, 64, 37, &Device::Cpu) / 3.).unwrap();
    let other = Tensor::zeros(1 << 18, DType::F32, &Device::Cpu).unwrap();
    save_tensors(&path, [("wte.weight", &wte), ("h.0.attn.bias", &other), ("wpe.weight", &wpe)], []).unwrap();
    fs::read(path).unwrap()
}

fn serve(bytes: Vec<u8>) -> Hub {
    Hub::serve([("x".to_string(), bytes)].into())
}

fn url(hub: &Hub) -> String {
    format!("{}/someone/gpt2/resolve/main/x", hub.url())
}

/// Opens the file without a token and without a cache.
fn open(hub: &Hub) -> RemoteFile {
    Client::new().open(&url(hub)).unwrap()
}

/// Returns why a file was not fetched.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>) -> FetchError {
    match result {
        Err(Error::Hub(HubError::Fetch { source, .. })) => source,
        other => panic!("{other:?}"),
    }
}

fn layer(file: RemoteFile) -> Result<GptInputLayer> {
    let checkpoint = Checkpoint::from_ranges(Arc::new(file), &CheckpointOptions::default())?;
    Ok(GptInputLayer::open(
        &checkpoint,
        &OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped),
    )?
    .0)
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
            let checkpoint = Checkpoint::from_ranges(Arc::new(open(&hub)), &CheckpointOptions::default())?;
            let (remote, _) = GptInputLayer::open(
                &checkpoint,
                &OpenOptions::new(dtype, &Device::Cpu).with_storage(TableStorage::Mapped),
            )?;
            let resident = GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?;
            mapped::assert_same_rows(&remote, &resident)?;
            let (whole, _) = GptInputLayer::open(&checkpoint, &OpenOptions::new(dtype, &Device::Cpu))?;
            assert_bits_eq(&tables_of(&whole)[0], &tables_of(&resident)[0]);
            assert!(error_text(remote.lm_head()).ends_with("open the checkpoint with dense tables"));
        }
    }
    Ok(())
}

#[test]
fn only_the_rows_are_fetched_and_only_once() -> Result<()> {
    let (bytes, cache) = (weights(0.), TempDir::new().unwrap());
    let hub = serve(bytes.clone());
    let open = || Client::new().with_cache(cache.path()).open(&url(&hub));
    let remote = layer(open().unwrap())?;
    let n_header = hub.requests().len();
    assert_eq!(n_header, 2, "the first byte and one page");
    assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    let rows: Vec<_> = hub.requests().split_off(n_header);
    // Rows 0, 1; 7, 8, 9, 10; 250; 499 of `wte`, and rows 0 to 5 of `wpe`: one request for each run, as rows more than
    // 512 bytes apart are fetched separately.
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert_eq!(rows.iter().map(|row| row.end - row.start).sum::<usize>(), (8 + 6) * 37 * 4);
    // A second process fetches one byte to check that the file is the same.
    let n_before = hub.requests().len();
    let remote = layer(open().unwrap())?;
    remote.prefetch(&ids())?;
    assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    assert_eq!(hub.requests().len(), n_before + 1);
    // A row that is not in the cache is fetched alone.
    remote.embed_tokens(&Tensor::new(&[7u32, 11], &Device::Cpu)?)?;
    assert_eq!(hub.requests().len(), n_before + 2);
    // A changed file has new rows, whatever the cache holds.
    let changed = weights(-9.);
    hub.replace("x", changed.clone());
    assert_bits_eq(&layer(open().unwrap())?.forward(&ids())?, &resident(&changed).forward(&ids())?);
    Ok(())
}

#[test]
fn ranges_come_at_the_same_time_but_not_all() -> Result<()> {
    let hub = serve(weights(0.));
    let remote = layer(open(&hub))?;
    hub.delay(Duration::from_millis(100));
    let far_apart: Vec<u32> = (0..25).map(|i| i * 20).collect();
    remote.embed_tokens(&Tensor::new(far_apart, &Device::Cpu)?)?;
    assert!((4..=8).contains(&hub.most_at_once()), "{}", hub.most_at_once());
    Ok(())
}

/// Three temporary faults, then a right answer.
#[test]
fn what_passes_is_tried_again() -> Result<()> {
    let bytes = weights(0.);
    let hub = serve(bytes.clone());
    let expected = resident(&bytes).forward(&ids())?;
    let remote = layer(open(&hub))?;
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
    let remote = layer(open(&hub))?;
    for (fault, expected) in [
        (Fault::NoRanges, "the server does not serve ranges: download the file instead"),
        (Fault::Status(500, 0), "the server answers with status 500"),
        (Fault::Status(403, 0), "the server answers with status 403"),
        (Fault::Status(404, 0), "the server has no such file (status 404)"),
        (Fault::Cut(10), "the connection was cut after 10 of 148 bytes"),
        (Fault::TooLong, "148 bytes were requested, but the server sent more"),
        (Fault::Shifted, "but the server sent bytes "),
        (Fault::NoContentRange, "but the server sent no Content-Range"),
        (Fault::Redirect(hub.url()), "more than 5 redirections"),
        (Fault::Redirect("ftp://127.0.0.1".to_string()), "a redirection to `ftp://127.0.0.1"),
        (Fault::Redirect(hub.url().replace("//", "//user@")), "a redirection to `http://user@127.0.0.1"),
    ] {
        hub.misbehave(usize::MAX, fault);
        let text = error_text(remote.embed_tokens(&Tensor::new(3u32, &Device::Cpu)?));
        assert!(text.starts_with(&format!("cannot read {at}: ")) && text.contains(expected), "{text}");
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
    let open = |url: &str| Client::new().open(url);
    assert!(matches!(refused(open(&format!("{}y", url(&hub)))), FetchError::NotFound));
    hub.misbehave(1, Fault::NoRanges);
    assert!(matches!(refused(open(&url(&hub))), FetchError::NoRanges));
    // The server does not speak TLS.
    let error = refused(open(&url(&hub).replace("http:", "https:")));
    assert!(matches!(error, FetchError::Tls { .. } | FetchError::Unreachable { .. }), "{error:?}");
    // No server listens on this port.
    let nobody = refused(open(&format!("{}/x", closed())));
    assert!(matches!(nobody, FetchError::Unreachable { .. }), "{nobody:?}");
    for address in ["", "x", "/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://user:password@127.0.0.1/x"] {
        assert!(matches!(refused(open(address)), FetchError::Address), "{address}");
    }
    assert!(matches!(refused(open("http://127.0.0.1/a b")), FetchError::Address));
    let error = refused(Client::new().with_token("a\nb").open(&url(&hub)));
    assert!(matches!(error, FetchError::Request { .. }), "{error:?}");
}

#[test]
fn a_token_stays_with_the_server_that_it_is_for() -> Result<()> {
    let bytes = weights(0.);
    let (hub, elsewhere) = (serve(bytes.clone()), serve(bytes.clone()));
    let client = Client::new().with_token("secret");
    // Another port of the same machine is another server, and so is the same port under another name.
    for to in [elsewhere.url(), elsewhere.url().replace("127.0.0.1", "localhost")] {
        hub.misbehave(usize::MAX, Fault::Redirect(to));
        let remote = layer(client.open(&url(&hub)).unwrap())?;
        assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
        assert_eq!(client.read(&url(&hub), 1 << 30)?, bytes);
    }
    assert!(hub.requests().iter().all(|request| request.authorized));
    assert!(elsewhere.requests().iter().all(|request| !request.authorized) && !elsewhere.requests().is_empty());
    assert!(!format!("{client:?}").contains("secret"));
    Ok(())
}

/// The cache writes only below its folder.
#[test]
fn names_that_a_server_chooses_stay_in_the_cache() -> Result<()> {
    let bytes = weights(0.);
    let hub = serve(bytes.clone());
    let outer = TempDir::new().unwrap();
    let (cache, target) = (outer.path().join("a/b"), outer.path().join("target"));
    for etag in [target.to_str().unwrap(), "../../../target", "..", "\\..\\target"] {
        hub.misbehave(usize::MAX, Fault::ETag(format!("\"{etag}\"")));
        let remote = layer(Client::new().with_cache(&cache).open(&url(&hub))?)?;
        assert_bits_eq(&remote.forward(&ids())?, &resident(&bytes).forward(&ids())?);
    }
    assert_eq!([names(outer.path()), names(&outer.path().join("a"))], [["a"], ["b"]]);
    Ok(())
}

#[test]
fn a_server_that_takes_its_time_is_left() {
    let hub = serve(weights(0.));
    let client = Client::new().with_timeout(Duration::from_millis(300));
    let remote = layer(client.open(&url(&hub)).unwrap()).unwrap();
    let start = Instant::now();
    for fault in [Fault::Dripping, Fault::Silent] {
        hub.misbehave(usize::MAX, fault);
        let error = refused(client.read(&url(&hub), 1 << 30));
        assert!(matches!(error, FetchError::TimedOut { .. }), "{error:?}");
        let text = format!("{:?}", remote.embed_tokens(&Tensor::new(3u32, &Device::Cpu).unwrap()).unwrap_err());
        assert!(text.contains("TimedOut"), "{text}");
    }
    let error = refused(client.open(&url(&hub)));
    assert!(matches!(error, FetchError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn whole_files_are_bounded() -> Result<()> {
    let hub = serve(vec![7; 1000]);
    let read = |max_bytes| Client::new().read(&url(&hub), max_bytes);
    assert_eq!(read(1000)?, [7; 1000]);
    assert!(matches!(refused(read(999)), FetchError::TooLarge { max_bytes: 999 }));
    hub.misbehave(usize::MAX, Fault::Cut(10));
    assert!(matches!(refused(read(1000)), FetchError::Cut { got: 10, wanted: 1000 }));
    hub.misbehave(3, Fault::Cut(10));
    assert_eq!(read(1000)?, [7; 1000]);
    hub.misbehave(usize::MAX, Fault::Redirect(hub.url()));
    assert!(matches!(refused(read(1000)), FetchError::TooManyRedirects { max: 5 }));
    Ok(())
}

#[test]
fn shards_are_one_checkpoint() -> Result<()> {
    let hub = Hub::serve(files("gpt2_sharded"));
    let repo = Repo::new(Client::new(), &hub.url(), "someone/gpt2")?;
    let shards = repo.weights()?.into_iter().map(|file| Arc::new(file) as Arc<dyn ByteRanges>).collect();
    let remote = Checkpoint::from_shards(
        shards,
        &CheckpointOptions::default().with_config_json(repo.text("config.json")?.unwrap()),
    )?;
    let here = Checkpoint::open(golden("gpt2_sharded"))?;
    assert_eq!(remote.config()?, here.config()?);
    let names = |checkpoint: &Checkpoint| -> Result<Vec<_>> {
        Ok(checkpoint.tensors()?.into_iter().map(|entry| (entry.name, entry.shape)).collect())
    };
    assert_eq!(names(&remote)?, names(&here)?);
    for (name, _) in names(&here)? {
        let tensor = |checkpoint: &Checkpoint| {
            checkpoint.var_builder(DType::F32, &Device::Cpu).get_unchecked_dtype(&name, DType::F32).unwrap()
        };
        assert_bits_eq(&tensor(&remote), &tensor(&here));
    }
    assert_eq!(repo.input_tables()?.len(), 1);
    assert_eq!(repo.text("none.txt")?, None);
    for name in ["", "a/b/c", "../b", "a/..", "a b", "a/", "/a", "a?b"] {
        assert!(matches!(Repo::new(Client::new(), &hub.url(), name), Err(Error::Hub(HubError::RepoName { .. }))));
    }
    // A shard given twice holds the same names twice.
    let twice = vec![Arc::new(repo.input_tables()?.remove(0)) as Arc<dyn ByteRanges>; 2];
    let text = error_text(Checkpoint::from_shards(twice, &CheckpointOptions::default()));
    assert!(text.contains("which an earlier file holds too"), "{text}");
    Ok(())
}
