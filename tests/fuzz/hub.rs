//! A hub whose answers are damaged at random: status, headers and bodies of a download, and of ranges.
//!
//! A call gives files or one clear error, writes nothing outside the cache, and leaves nothing that a good server's answer
//! does not mend.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_gpt_input::checkpoint::CheckpointOptions;
use candle_gpt_input::hub::{Client, Repo};

use super::support::http::{Hub, files};
use super::*;

fn repo(hub: &Hub, cache: &Path, timeout: Duration) -> Repo {
    let client = Client::new().with_timeout(timeout).with_token("secret");
    Repo::new(client, &hub.url(), "someone/gpt2").unwrap().with_cache(cache)
}

/// Downloads, and opens by ranges; errors are fine.
fn session(hub: &Hub, cache: &Path) -> Result<(), String> {
    // A time-out this short leaves no time to try again.
    let repo = repo(hub, cache, Duration::from_millis(100));
    let downloaded = repo.download_input_tables().map_err(one_line).map(drop);
    let ranges = || -> candle_gpt_input::Result<()> {
        let files: Vec<_> = repo.input_tables()?.into_iter().map(Arc::new).collect();
        let checkpoint = repo.open_remote(&files, CheckpointOptions::default())?;
        let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
        let (layer, _) = GptInputLayer::open(&checkpoint, &options)?;
        layer.forward(&Tensor::new(&[[1u32, 0]], &Device::Cpu)?).map(drop)
    };
    downloaded.and(ranges().map_err(one_line))
}

/// Returns the bytes of all files below a folder, links not followed.
fn n_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let n_of = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        about if about.is_dir() => n_below(&entry.path()),
        about => about.len(),
    };
    entries.map(n_of).sum()
}

#[test]
fn fuzz_hub() {
    let (time, seed) = (variable("FUZZ_SECONDS"), variable("FUZZ_SEED"));
    let generator = Generator::manual_seed(seed);
    let (hub, files) = (Hub::of_gpt2(), files("gpt2_one_file"));
    let n_good: usize = files.values().map(Vec::len).sum();
    let (mut n_sessions, mut n_read, start) = (0u64, 0u64, Instant::now());
    while start.elapsed() < Duration::from_secs(time) {
        let outer = folder_in_memory();
        let cache = outer.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let dice = generator.clone();
        hub.mangle(Some(Arc::new(move |answer| match dice.randint(0, 3, 1).unwrap()[0] {
            0 => mutate(&[answer], &[Field::Json], &dice),
            _ => answer,
        })));
        let (result, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| session(&hub, &cache))));
        hub.mangle(None);
        let what = format!("session {n_sessions} of seed {seed}");
        spent.check(4 * n_good as u64, 0).unwrap_or_else(|finding| panic!("{what}: {finding}"));
        n_read += u64::from(result.unwrap_or_else(|_| panic!("{what} panicked")).is_ok());
        // A body and what is inserted into it, twice if it is fetched again.
        assert!(n_below(outer.path()) <= 2 * n_good as u64 + 4096, "{what}: {} bytes", n_below(outer.path()));
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "{what}: something lies beside the cache");
        let mended = repo(&hub, &cache, Duration::from_secs(60)).download_input_tables();
        let mended = mended.unwrap_or_else(|error| panic!("{what}, then a good server: {error:?}"));
        for (name, bytes) in &files {
            assert!(fs::read(mended.folder.join(name)).unwrap() == *bytes, "{what}: {name} is wrong");
        }
        n_sessions += 1;
    }
    println!("hub: {n_sessions} sessions in {:.0?}, of which {n_read} were read whole", start.elapsed());
    assert!(n_read < n_sessions, "nothing was damaged");
    assert!(n_read > 0 || time < 10, "nothing was read whole");
}
