//! A server that does not describe a file: what the cache has is used, as in huggingface_hub, and the snapshot says why.

use std::time::Duration;

use candle_gpt_input::Result;
use candle_gpt_input::error::{FetchError, HubError};
use candle_gpt_input::hub::{Client, Repo, Snapshot};

use super::downloads::{assert_opens, refused, repo, tree};
use super::support::http::{COMMIT, Fault, Hub, closed};
use super::{TempDir, error_text, fs};

/// Returns the repository on a port where nothing listens.
fn unreachable(cache: &TempDir) -> Repo {
    Repo::new(Client::new(), &closed(), "someone/gpt2").unwrap().with_cache(cache.path())
}

/// Returns a server, and a cache that has its model.
fn cached() -> (Hub, TempDir) {
    let (hub, cache) = (Hub::of_gpt2(), TempDir::new().unwrap());
    let snapshot = repo(&hub, cache.path()).download_input_tables().unwrap();
    assert!(snapshot.undescribed.is_none());
    (hub, cache)
}

#[track_caller]
fn assert_cached(snapshot: &Snapshot, is_expected: impl Fn(&FetchError) -> bool) {
    assert!(snapshot.undescribed.as_ref().is_some_and(|error| is_expected(error)), "{snapshot:?}");
    assert_eq!((snapshot.commit.as_str(), snapshot.n_bytes_fetched), (COMMIT, 0));
    assert_opens(snapshot, "gpt2_one_file");
}

#[test]
fn a_closed_port_leaves_the_cache() -> Result<()> {
    let (_, cache) = cached();
    let before = tree(cache.path());
    let repo = unreachable(&cache);
    let is_expected = |error: &FetchError| matches!(error, FetchError::Unreachable { .. });
    assert_cached(&repo.download_input_tables()?, is_expected);
    assert_cached(&repo.download_weights()?, is_expected);
    assert_cached(&repo.download_existing(&["config.json"])?, is_expected);
    assert_eq!(tree(cache.path()), before, "nothing was written");
    // Whole commits are not asked for.
    assert!(repo.clone().with_revision(COMMIT)?.download_weights()?.undescribed.is_none());
    Ok(())
}

/// Both causes, in one line.
#[test]
fn what_the_cache_lacks_is_an_error() -> Result<()> {
    let (_, cache) = cached();
    let repo = unreachable(&cache);
    for repo in [repo.clone(), repo.clone().with_revision("v1")?] {
        let result = repo.download(&["config.json", "vocab.json"]);
        let HubError::NotCached { source, .. } = refused(result) else { panic!("no error of both causes") };
        assert!(matches!(*source, FetchError::Unreachable { .. }), "{source}");
    }
    let text = error_text(repo.download(&["vocab.json"]));
    let (url, cache) = (repo.url("vocab.json"), cache.path().display());
    let expected =
        format!("cannot fetch {url}, and the cache {cache} does not have it: the server cannot be reached: ");
    assert!(text.contains(&expected) && !text.contains('\n'), "{text}\n{expected}");
    // A content that is fetched again is not taken from the cache.
    let error = refused(repo.with_force_download(true).download_input_tables());
    assert!(matches!(error, HubError::Fetch { source: FetchError::Unreachable { .. }, .. }), "{error:?}");
    let empty = TempDir::new().unwrap();
    let text = error_text(unreachable(&empty).download_input_tables());
    assert!(text.contains("config.json, and the cache "), "{text}");
    assert!(tree(empty.path()).is_empty());
    Ok(())
}

/// As in `_get_metadata_or_catch_error` of huggingface_hub 2.4.
#[test]
fn which_answers_leave_the_cache() {
    let coded = |code: &str| Fault::Refused(404, vec![("X-Error-Code", code.to_string())]);
    let without = |name| Fault::Headers(vec![(name, String::new())]);
    for fault in [
        Fault::Silent,
        Fault::Status(401, 0),
        Fault::Status(403, 0),
        Fault::Status(500, 0),
        coded("RepoNotFound"),
        without("X-Repo-Commit"),
        without("ETag"),
    ] {
        let (hub, cache) = cached();
        hub.misbehave(usize::MAX, fault.clone());
        let n_before = hub.requests().len();
        let client = Client::new().with_timeout(Duration::from_secs(1));
        let repo = Repo::new(client, &hub.url(), "someone/gpt2").unwrap().with_cache(cache.path());
        assert_cached(&repo.download_input_tables().unwrap(), |_| true);
        assert_eq!(hub.requests().len(), n_before + 1, "{fault:?}: it is not asked again");
    }
    let redirect = Fault::Refused(302, vec![("Location", "ftp://127.0.0.1/".to_string())]);
    for fault in [coded("RevisionNotFound"), coded("EntryNotFound"), redirect] {
        let (hub, cache) = cached();
        hub.misbehave(usize::MAX, fault.clone());
        let error = refused(repo(&hub, cache.path()).download(&["config.json"]));
        assert!(matches!(error, HubError::Fetch { .. }), "{fault:?}: {error:?}");
    }
}

/// A server that dies between two files, of which the cache has the second of another commit.
#[test]
fn commits_are_not_mixed() {
    let (hub, cache) = cached();
    let folder = cache.path().join("models--someone--gpt2");
    fs::rename(folder.join("snapshots").join(COMMIT), folder.join("snapshots/fedcba98")).unwrap();
    fs::write(folder.join("refs/main"), "fedcba98").unwrap();
    hub.misbehave_after(1, usize::MAX, Fault::Status(500, 0));
    let error = refused(repo(&hub, cache.path()).download_input_tables());
    let HubError::NotCached { url, .. } = &error else { panic!("{error:?}") };
    assert!(url.ends_with("/model.safetensors"), "{url}");
    // From the first answer on, it is the commit that the cache knows.
    hub.misbehave(usize::MAX, Fault::Status(500, 0));
    let snapshot = repo(&hub, cache.path()).download_input_tables().unwrap();
    assert_eq!(snapshot.commit, "fedcba98");
    assert_opens(&snapshot, "gpt2_one_file");
}

/// A cache that cannot be written, where nothing needs to be.
#[test]
fn a_cache_that_has_all_need_not_be_writable() -> Result<()> {
    let (hub, cache) = cached();
    let refs = cache.path().join("models--someone--gpt2/refs");
    fs::remove_dir_all(&refs).unwrap();
    fs::write(&refs, "a file, so that no reference can be written").unwrap();
    let repo = repo(&hub, cache.path());
    assert_opens(&repo.download_input_tables()?, "gpt2_one_file");
    let text = error_text(repo.with_force_download(true).download_input_tables());
    assert!(text.contains("cannot use ") && text.contains("in the cache"), "{text}");
    Ok(())
}

/// What a user linked into a snapshot is not the cache's to remove.
#[cfg(unix)]
#[test]
fn nothing_outside_the_cache_is_removed() {
    let (hub, cache) = cached();
    let outside = TempDir::new().unwrap();
    let own = outside.path().join("own.json");
    fs::write(&own, "not JSON").unwrap();
    let pointer = cache.path().join(format!("models--someone--gpt2/snapshots/{COMMIT}/config.json"));
    fs::remove_file(&pointer).unwrap();
    std::os::unix::fs::symlink(&own, &pointer).unwrap();
    let offline = repo(&hub, cache.path()).with_offline(true);
    let error = refused(offline.download_input_tables());
    assert!(matches!(error, HubError::Broken { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&own).unwrap(), "not JSON");
    assert!(!pointer.is_symlink());
}
