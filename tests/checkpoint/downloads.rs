//! Downloads into huggingface_hub's cache: the layout, what is fetched, resuming, revisions, and use without a network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_gpt_input::Error;
use candle_gpt_input::error::{FetchError, HubError};
use candle_gpt_input::hub::{Client, Progress, Repo, Snapshot};

use super::support::http::{COMMIT, Fault, GIT_SHA1, Hub, SHA256, files};
use super::*;

pub(super) fn repo(hub: &Hub, cache: &Path) -> Repo {
    let client = Client::new().with_timeout(Duration::from_secs(5));
    Repo::new(client, &hub.url(), "someone/gpt2").unwrap().with_cache(cache)
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

/// Returns all files and links below a folder: their targets, or their lengths.
pub(super) fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(&inner).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_string();
            if about.is_symlink() {
                found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
            } else if about.is_dir() {
                folders.push(path);
            } else {
                found.insert(name, about.len().to_string());
            }
        }
    }
    found
}

/// Opens what was downloaded, and compares it with the same files in a folder.
#[track_caller]
pub(super) fn assert_opens(snapshot: &Snapshot, folder: &str) {
    let (ours, theirs) = (load(&snapshot.folder).unwrap(), load(golden(folder)).unwrap());
    assert_eq!(ours.config(), theirs.config());
    for (ours, theirs) in tables_of(&ours).iter().zip(&tables_of(&theirs)) {
        assert_bits_eq(ours, theirs);
    }
}

/// Returns why the hub gave nothing.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T>) -> HubError {
    match result {
        Err(Error::Hub(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn the_cache_is_laid_out_as_huggingface_hub_has_it() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let snapshot = repo(&hub, cache.path()).download_input_tables()?;
    assert_eq!((snapshot.commit.as_str(), snapshot.n_bytes_fetched), (COMMIT, 23480 + 824));
    assert_eq!(snapshot.folder, cache.path().join(format!("models--someone--gpt2/snapshots/{COMMIT}")));
    assert_opens(&snapshot, "gpt2_one_file");
    let at = |name: &str| format!("models--someone--gpt2/{name}");
    let expected = [
        ("CACHEDIR.TAG".to_string(), "44".to_string()),
        (format!(".locks/{}", at(&format!("{GIT_SHA1}.lock"))), "0".to_string()),
        (format!(".locks/{}", at(&format!("{SHA256}.lock"))), "0".to_string()),
        (at(&format!("blobs/{GIT_SHA1}")), "824".to_string()),
        (at(&format!("blobs/{SHA256}")), "23480".to_string()),
        (at("refs/main"), "40".to_string()),
        (at(&format!("snapshots/{COMMIT}/config.json")), format!("-> ../../blobs/{GIT_SHA1}")),
        (at(&format!("snapshots/{COMMIT}/model.safetensors")), format!("-> ../../blobs/{SHA256}")),
    ];
    assert_eq!(tree(cache.path()), BTreeMap::from(expected));
    assert_eq!(fs::read_to_string(cache.path().join("models--someone--gpt2/refs/main")).unwrap(), COMMIT);
    // The root of the repository in the cache opens too.
    let root = load(cache.path().join("models--someone--gpt2"))?;
    assert_bits_eq(&tables_of(&root)[0], &tables_of(&load(&snapshot.folder)?)[0]);
    Ok(())
}

/// A cache as huggingface_hub 2.4 leaves it, with what a killed Python left too.
#[cfg(unix)]
#[test]
fn a_cache_of_huggingface_hub_is_used() -> Result<()> {
    use std::os::unix::fs::symlink;

    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let folder = cache.path().join("models--someone--gpt2");
    for inner in ["blobs", "refs", ".no_exist", "snapshots"] {
        fs::create_dir_all(folder.join(inner)).unwrap();
    }
    fs::create_dir_all(folder.join("snapshots").join(COMMIT)).unwrap();
    for (name, etag) in [("config.json", GIT_SHA1), ("model.safetensors", SHA256)] {
        fs::copy(golden("gpt2_one_file").join(name), folder.join("blobs").join(etag)).unwrap();
        let pointer = folder.join("snapshots").join(COMMIT).join(name);
        symlink(format!("../../blobs/{etag}"), pointer).unwrap();
    }
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    fs::write(folder.join(format!("blobs/{SHA256}.0a1b2c3d.incomplete")), "a part").unwrap();
    let before = tree(cache.path());
    let repo = repo(&hub, cache.path());
    for repo in [repo.clone().with_offline(true), repo.clone(), repo.with_revision(COMMIT)?] {
        let snapshot = repo.download_input_tables()?;
        assert_eq!((snapshot.n_bytes_fetched, snapshot.dropped.len()), (0, 0));
        assert_opens(&snapshot, "gpt2_one_file");
    }
    assert!(hub.requests().iter().all(|request| request.end == 1));
    assert_eq!(tree(cache.path()), before, "nothing was written");
    Ok(())
}

#[test]
fn a_second_call_asks_for_a_byte_of_each() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    repo.download_input_tables()?;
    // The first file by the branch, then all by its commit; each is described, then fetched.
    let asked: Vec<_> = hub.requests().into_iter().map(|r| (r.file, r.revision, r.end.min(2))).collect();
    let expected = [("config.json", "main"), ("config.json", "main"), ("model.safetensors", COMMIT)];
    let expected = expected.into_iter().chain([("model.safetensors", COMMIT)]).zip([1, 2, 1, 2]);
    assert!(asked.iter().map(|(file, revision, end)| ((&file[..], &revision[..]), *end)).eq(expected), "{asked:?}");
    let again = repo.download_input_tables()?;
    assert_eq!(again.n_bytes_fetched, 0);
    assert!(hub.requests()[4..].iter().all(|request| request.end == 1));
    assert_eq!(hub.requests().len(), 6);
    // A commit does not change: nothing is asked.
    let pinned = repo.clone().with_revision(COMMIT)?.download_input_tables()?;
    assert_eq!((pinned.folder, hub.requests().len()), (again.folder, 6));
    // Unless all is to be fetched again.
    assert_eq!(repo.with_force_download(true).download_input_tables()?.n_bytes_fetched, 23480 + 824);
    Ok(())
}

#[test]
fn of_shards_only_those_with_tables_come() -> Result<()> {
    let (hub, cache) = (Hub::serve(files("gpt2_sharded")), TempDir::new().unwrap());
    let n_shards = |snapshot: &Snapshot| {
        let names = fs::read_dir(&snapshot.folder).unwrap().map(|entry| name_of(&entry.unwrap().path()));
        names.filter(|name| name.starts_with("model-0")).count()
    };
    let tables = repo(&hub, cache.path()).download_input_tables()?;
    assert_eq!(n_shards(&tables), 1);
    assert_opens(&tables, "gpt2_sharded");
    assert_eq!(n_shards(&repo(&hub, cache.path()).download_weights()?), 4);
    // The absence of the one file is noted.
    assert!(cache.path().join(format!("models--someone--gpt2/.no_exist/{COMMIT}/model.safetensors")).is_file());
    let offline = repo(&hub, cache.path()).with_offline(true).download_weights()?;
    assert_opens(&offline, "gpt2_sharded");
    Ok(())
}

#[test]
fn pytorch_files_come_where_there_are_no_others() -> Result<()> {
    let bytes = fs::read(golden("formats/state_dict.pth")).unwrap();
    let (hub, cache) = (Hub::serve([("pytorch_model.bin".to_string(), bytes)].into()), TempDir::new().unwrap());
    let snapshot = repo(&hub, cache.path()).download_input_tables()?;
    assert_eq!(
        tables_of(&load(&snapshot.folder)?)[0].dims(),
        tables_of(&load(golden("formats/state_dict.pth"))?)[0].dims()
    );
    let remote: Vec<_> = repo(&hub, cache.path()).input_tables()?.into_iter().map(Arc::new).collect();
    let checkpoint = repo(&hub, cache.path()).open_remote(&remote, CheckpointOptions::default())?;
    assert_eq!(checkpoint.config()?, Checkpoint::open(golden("formats/state_dict.pth"))?.config()?);
    hub.remove("pytorch_model.bin");
    let error = refused(repo(&hub, cache.path()).download_input_tables());
    assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
    Ok(())
}

#[test]
fn files_by_name() -> Result<()> {
    let mut all = files("gpt2_one_file");
    all.insert("onnx/a b#1.txt".to_string(), b"text".to_vec());
    all.insert("empty.txt".to_string(), Vec::new());
    // The server of these tests does not decode URLs.
    all.insert("onnx/a%20b%231.txt".to_string(), b"text".to_vec());
    let (hub, cache) = (Hub::serve(all), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    let snapshot = repo.download(&["onnx/a b#1.txt", "empty.txt"])?;
    assert_eq!(fs::read_to_string(snapshot.folder.join("onnx/a b#1.txt")).unwrap(), "text");
    assert_eq!(fs::read_to_string(snapshot.folder.join("empty.txt")).unwrap(), "");
    let n = repo.download_existing(&["merges.txt", "config.json"])?.n_bytes_fetched;
    assert_eq!(n, 824);
    let error = refused(repo.download(&["config.json", "merges.txt"]));
    assert!(matches!(error, HubError::Fetch { source: FetchError::NotFound, .. }), "{error}");
    for name in ["", "../x", "/x", "a/../../x", "a\\b", "a//b"] {
        assert!(matches!(refused(repo.download(&[name])), HubError::FileName { .. }), "{name}");
    }
    for revision in ["", "..", "../main", "a\nb", "/main"] {
        assert!(matches!(refused(repo.clone().with_revision(revision)), HubError::Revision { .. }), "{revision}");
    }
    for name in ["a--b", "a/b--c", "a..b/c", &"a".repeat(97)] {
        assert!(matches!(refused(Repo::new(Client::new(), &hub.url(), name)), HubError::RepoName { .. }), "{name}");
    }
    let mirror = Repo::new(Client::new(), "http://hub:1/mirror//", "a/b")?;
    assert_eq!(mirror.url("c d"), "http://hub:1/mirror/a/b/resolve/main/c%20d");
    let without_cache = Repo::new(Client::new(), &hub.url(), "a/b")?;
    assert!(matches!(refused(without_cache.download(&["config.json"])), HubError::NoCache));
    Ok(())
}

#[test]
fn a_cut_download_goes_on_where_it_ended() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    repo.download(&["config.json"])?;
    let part = cache.path().join(format!("models--someone--gpt2/blobs/{SHA256}.incomplete"));
    // Both descriptions come; each of four tries is cut after 1000 bytes more.
    for got in [4000, 8000] {
        hub.misbehave_after(2, usize::MAX, Fault::Cut(1000));
        let error = refused(repo.download_input_tables());
        let HubError::Fetch { source: FetchError::Cut { got: cut, wanted: 23480 }, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((cut, fs::metadata(&part).unwrap().len()), (got, got));
    }
    hub.behave();
    let n_before = hub.requests().len();
    let snapshot = repo.download_input_tables()?;
    assert_eq!(snapshot.n_bytes_fetched, 23480 - 8000);
    assert_eq!(hub.requests()[n_before..].iter().map(|r| r.start).max(), Some(8000));
    assert!(!part.exists());
    assert_opens(&snapshot, "gpt2_one_file");
    Ok(())
}

#[test]
fn a_broken_part_is_fetched_again_from_its_start() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let blobs = cache.path().join("models--someone--gpt2/blobs");
    fs::create_dir_all(&blobs).unwrap();
    for (broken, n_bytes_fetched) in [(5000, 2 * 23480 - 5000), (23480, 23480), (30000, 23480)] {
        fs::write(blobs.join(format!("{SHA256}.incomplete")), vec![7; broken]).unwrap();
        let snapshot = repo(&hub, cache.path()).download(&["model.safetensors"])?;
        assert_eq!(snapshot.n_bytes_fetched, n_bytes_fetched);
        assert_opens(&repo(&hub, cache.path()).download_weights()?, "gpt2_one_file");
        fs::remove_dir_all(&blobs).unwrap();
        fs::create_dir_all(&blobs).unwrap();
    }
    Ok(())
}

/// Without a hash, `If-Range` and the length keep parts of two versions apart.
#[test]
fn a_part_of_another_version_is_not_used() -> Result<()> {
    let (hub, cache) = (Hub::serve(files("gpt2_one_file")), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    hub.misbehave_after(3, usize::MAX, Fault::Cut(1000));
    refused(repo.download_input_tables());
    let mut changed = files("gpt2_one_file").remove("model.safetensors").unwrap();
    *changed.last_mut().unwrap() ^= 1;
    hub.replace("model.safetensors", changed.clone());
    hub.behave();
    let snapshot = repo.download_input_tables()?;
    assert_eq!(snapshot.n_bytes_fetched, 23480);
    assert_eq!(fs::read(snapshot.folder.join("model.safetensors")).unwrap(), changed);
    // A server that sends all again, though the rest was asked for: what came before is dropped.
    let cache = TempDir::new().unwrap();
    let repo = self::repo(&hub, cache.path());
    hub.misbehave_after(3, usize::MAX, Fault::Cut(1000));
    refused(repo.download_input_tables());
    hub.misbehave_after(2, 1, Fault::NoRanges);
    let snapshot = repo.download_input_tables()?;
    assert_eq!(snapshot.n_bytes_fetched, 23480);
    assert_eq!(fs::read(snapshot.folder.join("model.safetensors")).unwrap(), changed);
    Ok(())
}

#[test]
fn a_branch_moves_and_its_old_files_stay() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    let old = repo.download_input_tables()?;
    let moved = Fault::Headers(vec![("x-repo-commit", "fedcba98".to_string())]);
    hub.misbehave(usize::MAX, moved);
    let new = repo.download_input_tables()?;
    // Both commits have the same contents, which are there.
    assert_eq!((new.commit.as_str(), new.n_bytes_fetched), ("fedcba98", 0));
    assert_eq!(fs::read_to_string(cache.path().join("models--someone--gpt2/refs/main")).unwrap(), "fedcba98");
    assert_opens(&old, "gpt2_one_file");
    assert_opens(&new, "gpt2_one_file");
    // A branch that moves between two files of one call is refused.
    hub.misbehave_after(1, usize::MAX, Fault::Headers(vec![("x-repo-commit", "0000".to_string())]));
    let error = refused(repo.download_input_tables());
    assert!(matches!(error, HubError::Fetch { source: FetchError::Changed { .. }, .. }), "{error:?}");
    let tagged = repo.clone().with_revision("refs/pr/1")?;
    hub.behave();
    tagged.download_input_tables()?;
    assert!(hub.requests().iter().any(|request| request.revision == "refs%2Fpr%2F1"));
    assert_eq!(fs::read_to_string(cache.path().join("models--someone--gpt2/refs/refs/pr/1")).unwrap(), COMMIT);
    Ok(())
}

#[test]
fn without_a_network_the_cache_is_used() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let offline = repo(&hub, cache.path()).with_offline(true);
    let error = error_text(offline.download_input_tables());
    assert!(error.contains("`config.json` of someone/gpt2 (revision main) is not in the cache"), "{error}");
    assert!(error.ends_with("download it without HF_HUB_OFFLINE"), "{error}");
    repo(&hub, cache.path()).download(&["config.json"])?;
    let error = refused(offline.download_input_tables());
    assert!(matches!(&error, HubError::Offline { file, .. } if file == "model.safetensors"), "{error:?}");
    repo(&hub, cache.path()).download_input_tables()?;
    let n_requests = hub.requests().len();
    assert_opens(&offline.download_input_tables()?, "gpt2_one_file");
    assert!(matches!(refused(offline.text("config.json")), HubError::Offline { .. }));
    assert!(matches!(refused(offline.weights()), HubError::Offline { .. }));
    assert_eq!(hub.requests().len(), n_requests);
    Ok(())
}

/// Each broken entry is removed, named, and fetched again.
#[test]
fn broken_entries_are_dropped_and_named() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path());
    repo.download_input_tables()?;
    let blobs = cache.path().join("models--someone--gpt2/blobs");
    let whole = fs::read(blobs.join(SHA256)).unwrap();
    let mut bad_header = whole.clone();
    bad_header[8] = b'x';
    type Break<'a> = Box<dyn Fn() + 'a>;
    let breaks: [(Break, &str); 4] = [
        (Box::new(|| fs::write(blobs.join(SHA256), &whole[..100]).unwrap()), "it has 100 bytes, not 23480"),
        (Box::new(|| fs::write(blobs.join(SHA256), &bad_header).unwrap()), "not a valid safetensors file"),
        (Box::new(|| fs::write(blobs.join(GIT_SHA1), "x".repeat(824)).unwrap()), "not JSON"),
        (Box::new(|| fs::remove_file(blobs.join(SHA256)).unwrap()), "it points nowhere"),
    ];
    for (n, (break_it, expected)) in breaks.iter().enumerate() {
        break_it();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let again = repo
            .clone()
            .with_progress(move |progress| {
                if let Progress::Dropped(dropped) = progress {
                    listener.lock().unwrap().push(dropped.clone());
                }
            })
            .download_input_tables()?;
        if cfg!(unix) || n < 3 {
            assert!(again.dropped.iter().any(|dropped| dropped.reason.starts_with(expected)), "{:?}", again.dropped);
        }
        assert_eq!(*told.lock().unwrap(), again.dropped);
        assert_opens(&again, "gpt2_one_file");
        // Without a network it is an error that names the entry, and the next call with one fetches it again.
        break_it();
        let offline = repo.clone().with_offline(true);
        if n != 0 {
            let text = error_text(offline.download_input_tables());
            assert!(
                text.contains("was removed from the cache, for it was broken") && text.contains(expected),
                "{text}"
            );
        }
        assert_opens(&repo.download_input_tables()?, "gpt2_one_file");
    }
    Ok(())
}

#[test]
fn progress_tells_files_and_bytes() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let repo = repo(&hub, cache.path()).with_progress(move |progress| {
        if let Progress::Fetched { file, n_done, n_bytes } = progress {
            listener.lock().unwrap().push((file.to_string(), n_done, n_bytes));
        }
    });
    repo.download_input_tables()?;
    let told = told.lock().unwrap();
    assert_eq!(told.first().map(|(file, _, n_bytes)| (&file[..], *n_bytes)), Some(("config.json", 824)));
    assert_eq!(told.last(), Some(&("model.safetensors".to_string(), 23480, 23480)));
    assert!(told.iter().all(|(_, n_done, n_bytes)| n_done <= n_bytes));
    Ok(())
}

/// Several at once fetch a content once.
#[test]
fn downloads_at_the_same_time_share_one() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    hub.delay(Duration::from_millis(50));
    std::thread::scope(|scope| {
        let work = || repo(&hub, cache.path()).download_input_tables().map(|snapshot| snapshot.n_bytes_fetched);
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        let fetched: u64 = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).sum();
        assert_eq!(fetched, 23480 + 824);
    });
    assert_opens(&repo(&hub, cache.path()).with_offline(true).download_weights()?, "gpt2_one_file");
    Ok(())
}

/// Several at once put a content that is there into a snapshot: no reader sees half a copy, and no writer fails.
#[test]
fn snapshots_are_filled_at_the_same_time() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let snapshot = repo(&hub, cache.path()).download_input_tables()?;
    let whole = fs::read(golden("gpt2_one_file").join("model.safetensors")).unwrap();
    for round in 0..20 {
        fs::remove_dir_all(&snapshot.folder).unwrap();
        fs::remove_dir_all(cache.path().join("models--someone--gpt2/refs")).unwrap();
        std::thread::scope(|scope| {
            let work = || {
                let repo = repo(&hub, cache.path()).with_symlinks(round % 2 == 0);
                assert_eq!(repo.download_input_tables().unwrap().n_bytes_fetched, 0);
                assert!(fs::read(snapshot.folder.join("model.safetensors")).unwrap() == whole);
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let is_link = snapshot.folder.join("model.safetensors").is_symlink();
        assert_eq!(is_link, cfg!(unix) && round % 2 == 0);
    }
    Ok(())
}

/// A lock that another process holds without progress.
#[test]
fn a_lock_that_is_held_is_named() {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let lock = cache.path().join(format!(".locks/models--someone--gpt2/{GIT_SHA1}.lock"));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let (told, client) = (Arc::new(Mutex::new(Vec::new())), Client::new().with_timeout(Duration::from_secs(1)));
    let listener = told.clone();
    let repo = Repo::new(client, &hub.url(), "someone/gpt2").unwrap().with_cache(cache.path());
    let repo = repo.with_progress(move |progress| {
        if let Progress::Waiting { lock } = progress {
            listener.lock().unwrap().push(lock.to_path_buf());
        }
    });
    let text = error_text(repo.download_input_tables());
    let expected = format!("cannot use {} in the cache: another process holds this lock", lock.display());
    assert!(text.contains(&expected), "{text}");
    assert_eq!(*told.lock().unwrap(), [lock]);
    drop(held);
    assert_opens(&repo.download_input_tables().unwrap(), "gpt2_one_file");
}

#[test]
fn copies_stand_in_for_links() -> Result<()> {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path()).with_symlinks(false);
    let snapshot = repo.download_input_tables()?;
    assert!(!snapshot.folder.join("model.safetensors").is_symlink());
    // huggingface_hub moves the content; what a snapshot holds is enough.
    fs::remove_dir_all(cache.path().join("models--someone--gpt2/blobs")).unwrap();
    assert_eq!(repo.download_input_tables()?.n_bytes_fetched, 0);
    fs::write(snapshot.folder.join("model.safetensors"), "cut").unwrap();
    let again = repo.download_input_tables()?;
    assert_eq!((again.n_bytes_fetched, again.dropped.len()), (23480, 1));
    assert_opens(&again, "gpt2_one_file");
    Ok(())
}
