//! A server that misbehaves: one error of one line in bounded time, nothing outside the cache, no token elsewhere, and
//! right results from a good server afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_gpt_input::Error;
use candle_gpt_input::hub::{Client, Repo};

use super::downloads::{assert_opens, name_of, tree};
use super::support::http::{Fault, Hub, SHA256, files};
use super::*;

const TIMEOUT: Duration = Duration::from_millis(1500);
/// For a server that behaves.
const PATIENT: Duration = Duration::from_secs(60);
/// Two time-outs for each of the files, and the pauses between tries.
const MAX_TIME: Duration = Duration::from_secs(12);

fn repo(hub: &Hub, folder: &Path, timeout: Duration) -> Repo {
    let client = Client::new().with_timeout(timeout).with_token("secret").with_cache(folder.join("ranges"));
    Repo::new(client, &hub.url(), "someone/gpt2").unwrap().with_cache(folder.join("hub"))
}

fn header(name: &'static str, text: &str) -> Fault {
    Fault::Headers(vec![(name, text.to_string())])
}

/// Returns the faults of the server at `url`, what a download says of each, and what ranges say. An empty text: it does
/// no harm there.
fn faults(url: &str, outside: &Path) -> Vec<(Fault, &'static str, &'static str)> {
    let outside = outside.to_str().unwrap();
    let broken = "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n";
    let described =
        "HTTP/1.1 206 Partial Content\r\nX-REPO-COMMIT: 0123\r\neTaG: \"e\"\r\nContent-Range: bytes 0-0/824\r\n";
    let chunks = format!("{described}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\nx\r\n".repeat(100_000));
    let two_lengths = format!("{described}Content-Length: 1\r\nContent-Length: 824\r\n\r\nx");
    let to = |to: String| Fault::Refused(302, vec![("Location", to)]);
    let gzip = || vec![("Content-Encoding", "gzip".to_string())];
    let linked = |size: &str| {
        let etag = format!("\"{}\"", "ab".repeat(32));
        Fault::Headers(vec![("X-Linked-Etag", etag), ("X-Linked-Size", size.to_string())])
    };
    vec![
        (Fault::Silent, "took longer than", "took longer than"),
        (Fault::DrippingHeaders, "took longer than", "took longer than"),
        (Fault::Dripping, "took longer than", "took longer than"),
        (Fault::Endless, "the server sent more", "the server sent more"),
        (Fault::EndlessHeaders, "", ""),
        (Fault::Raw(Vec::new()), "cannot be reached", "cannot be reached"),
        (Fault::Raw(vec![7; 100_000]), "the server's answer cannot be read", "the server's answer cannot be read"),
        (Fault::Raw(broken.into()), "no X-Repo-Commit", "no Content-Range"),
        (Fault::Raw("HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000).into()), "", ""),
        (Fault::Raw(chunks.into()), "but the server sent bytes 0-0/824", "but the server sent more"),
        (Fault::Raw(two_lengths.into()), "", ""),
        (
            Fault::Raw("HTTP/1.1 2\u{1b}[31m OK\r\n\r\n".into()),
            "the server's answer cannot",
            "the server's answer cannot",
        ),
        (header("ETag", "\"a\tb\""), r"the server's ETag is `a\tb`", ""),
        (header("X-Repo-Commit", "a\tb"), r"the server's X-Repo-Commit is `a\tb`", ""),
        (header("Content-Encoding", "x\ty"), r"in the encoding x\ty,", r"in the encoding x\ty,"),
        (header("Content-Range", "bytes\t0-0/824"), "no Content-Length", r"sent bytes\t0-0/824"),
        (to("ftp://a/\tb".to_string()), r"a redirection to `ftp://a/\tb`", r"a redirection to `ftp://a/\tb`"),
        (to(format!("ftp://{}", "a".repeat(5000))), "a redirection to `ftp://aaa", "a redirection to `ftp://aaa"),
        (Fault::Cut(10), "was cut after", "was cut after"),
        (Fault::Shifted, "", "but the server sent bytes 1-1/"),
        (header("Content-Range", "bytes 0-0/18446744073709551615"), "", ""),
        (header("Content-Range", "bytes -1-0/-5"), "no Content-Length", "sent bytes -1-0/-5"),
        (header("Content-Range", "bytes 0-0/*"), "no Content-Length", "sent bytes 0-0/*"),
        (header("Content-Range", ""), "no Content-Length", "sent no Content-Range"),
        (header("Content-Length", "5"), "", "was cut after 5 of 16384"),
        (Fault::Headers(gzip()), "in the encoding gzip", "in the encoding gzip"),
        (Fault::Redirect(url.to_string()), "more than 5 redirections", "more than 5 redirections"),
        (Fault::Redirect("file://".to_string()), "a redirection to `file:///someone", "a redirection to `file:///some"),
        (Fault::Redirect("ftp://127.0.0.1".to_string()), "a redirection to `ftp://127", "a redirection to `ftp://127"),
        (Fault::Redirect("http://user@127.0.0.1".to_string()), "`http://user@127", "`http://user@127"),
        (Fault::Redirect("http://127.0.0.1:1/\u{1b}[31m".to_string()), "invalid header", "invalid header"),
        (Fault::Refused(302, vec![("Location", String::new())]), "a redirection to ``", "a redirection to ``"),
        (header("ETag", &format!("\"{outside}/x\"")), "the server's ETag is `/", ""),
        (header("ETag", "\"../../../../x\""), "the server's ETag is `../../../../x`", ""),
        (header("ETag", &format!("\"{}\"", "a".repeat(5000))), "the server's ETag is `aaaa", ""),
        (header("ETag", ""), "the answer has no ETag", ""),
        (header("X-Repo-Commit", "../../../../x"), "the server's X-Repo-Commit is `../../../../x`", ""),
        (header("X-Repo-Commit", &format!("{outside}/x")), "the server's X-Repo-Commit is `/", ""),
        (header("X-Repo-Commit", ".."), "the server's X-Repo-Commit is `..`", ""),
        (header("X-Repo-Commit", ""), "the answer has no X-Repo-Commit: is the server a hub?", ""),
        (Fault::NewETags, "has changed on the server", "has changed on the server"),
        (linked("1000000000000"), "more than the 67108864 bytes that may be read", ""),
        (linked("23480"), "23480 bytes of the file are left, but the server announces 824", ""),
        (linked("824"), "its bytes are not those of its ETag abab", ""),
        (Fault::WrongBytes, "its bytes are not those of its ETag", ""),
        (Fault::Status(401, 0), "status 401: it does not exist, or needs a token", "status 401: it does not exist, or"),
        (Fault::Status(403, 0), "status 403: it does not exist, or needs a token", "status 403: it does not exist, or"),
        (Fault::Status(429, 99_999_999), "status 429", "status 429"),
        (Fault::Status(500, 0), "status 500", "status 500"),
        (Fault::Status(204, 0), "status 204", "status 204"),
        (
            Fault::Refused(404, vec![("X-Error-Code", "RevisionNotFound".to_string())]),
            "no such revision",
            "no such revi",
        ),
        (
            Fault::Refused(404, vec![("X-Error-Code", "RepoNotFound".to_string())]),
            "status 404: it does",
            "status 404: it",
        ),
    ]
}

/// Tries every fault on a server of its own, all at once, as most of the time is waited.
fn with_each_fault(which: impl Fn(&Hub, &Path, Fault, [&'static str; 2], &mut Failures) + Sync) {
    let outer = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        let outer = outer.path();
        for n in 0..faults("", outer).len() {
            let (folder, which) = (outer.join(n.to_string()), &which);
            scope.spawn(move || {
                let hub = Hub::of_gpt2();
                let (fault, download, ranges) = faults(&hub.url(), outer).swap_remove(n);
                which(&hub, &folder, fault, [download, ranges], &mut Failures::default());
            });
        }
    });
    // One folder for each fault, and nothing beside.
    let entries = fs::read_dir(outer.path()).unwrap().map(|entry| name_of(&entry.unwrap().path()));
    let stray: Vec<_> = entries.filter(|name| name.parse::<usize>().is_err()).collect();
    assert!(stray.is_empty(), "{stray:?}");
}

/// Notes an error that is not one line in bounded time with the expected text.
fn check(what: &str, result: Result<(), Error>, start: Instant, expected: &str, failures: &mut Failures) {
    failures.holds(start.elapsed() < MAX_TIME, format!("{what}: {:?}", start.elapsed()));
    match result {
        Ok(()) => failures.holds(expected.is_empty(), format!("{what}: no error")),
        Err(error) => {
            let text = error_text::<()>(Err(error));
            let is_one_line = !text.contains(char::is_control) && text.len() < 1000;
            failures.holds(is_one_line && text.contains(expected), format!("{what}: {text}\n  expected {expected}"));
        }
    }
}

/// Each fault from the first answer on, and from an answer on that has weights.
#[test]
fn downloads_from_a_hostile_server() {
    with_each_fault(|hub, folder, fault, [expected, _], failures| {
        for n_right in [0, 2, 3] {
            let what = format!("{fault:?}").chars().take(80).collect::<String>() + &format!(", after {n_right}");
            let cache = folder.join(format!("{n_right}/inner/cache"));
            fs::create_dir_all(&cache).unwrap();
            hub.misbehave_after(n_right, usize::MAX, fault.clone());
            let start = Instant::now();
            let result = repo(hub, &cache, TIMEOUT).download_input_tables();
            let result = result.map(|snapshot| assert_opens(&snapshot, "gpt2_one_file"));
            // What begins late may do no harm, or another.
            check(&what, result, start, if n_right == 0 { expected } else { "" }, failures);
            // Parts of a file of another name may stay, none larger than what it was announced as.
            for (name, length) in tree(&cache) {
                let is_small = length.parse().is_ok_and(|n_bytes: u64| n_bytes <= 23480) || length.starts_with("->");
                failures.holds(is_small, format!("{what}: {name} has {length} bytes"));
            }
            hub.behave();
            match repo(hub, &cache, PATIENT).download_input_tables() {
                Ok(snapshot) => assert_opens(&snapshot, "gpt2_one_file"),
                Err(error) => failures.holds(false, format!("{what}, then a good server: {error:?}")),
            }
            let beside = fs::read_dir(cache.parent().unwrap()).unwrap().count();
            failures.holds(beside == 1, format!("{what}: something lies beside the cache"));
        }
    });
}

#[test]
fn ranges_from_a_hostile_server() {
    let ids = Tensor::new(&[[1u32, 0]], &Device::Cpu).unwrap();
    let rows = |hub: &Hub, folder: &Path, timeout| -> Result<Tensor> {
        let repo = repo(hub, folder, timeout);
        let files: Vec<_> = repo.input_tables()?.into_iter().map(Arc::new).collect();
        let checkpoint = repo.open_remote(&files, CheckpointOptions::default())?;
        let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
        GptInputLayer::open(&checkpoint, &options)?.0.forward(&ids)
    };
    let good = load(golden("gpt2_one_file")).unwrap().forward(&ids).unwrap();
    with_each_fault(|hub, folder, fault, [_, expected], failures| {
        let what = format!("{fault:?}").chars().take(80).collect::<String>();
        fs::create_dir_all(folder).unwrap();
        hub.misbehave(usize::MAX, fault);
        let start = Instant::now();
        check(&what, rows(hub, folder, TIMEOUT).map(drop), start, expected, failures);
        hub.behave();
        match rows(hub, folder, PATIENT) {
            Ok(rows) => assert_bits_eq(&rows, &good),
            Err(error) => failures.holds(false, format!("{what}, then a good server: {error:?}")),
        }
    });
}

/// The real hub keeps weights on another server, which must not get the token.
#[test]
fn a_token_stays_with_the_hub() -> Result<()> {
    let (hub, elsewhere) = (Hub::of_gpt2(), Hub::of_gpt2());
    for to in [elsewhere.url(), elsewhere.url().replace("127.0.0.1", "localhost")] {
        let cache = TempDir::new().unwrap();
        hub.misbehave(usize::MAX, Fault::Redirect(to));
        assert_opens(&repo(&hub, cache.path(), PATIENT).download_input_tables()?, "gpt2_one_file");
    }
    assert!(hub.requests().iter().all(|request| request.authorized));
    assert_eq!((elsewhere.requests().len(), elsewhere.requests().iter().any(|request| request.authorized)), (8, false));
    Ok(())
}

/// As huggingface.co answers: a redirect that describes the file, to a server with an `ETag` of its own.
#[test]
fn a_described_redirect_is_not_followed_to_describe() -> Result<()> {
    let (hub, elsewhere, cache) = (Hub::of_gpt2(), Hub::serve(files("gpt2_one_file")), TempDir::new().unwrap());
    let repo = repo(&hub, cache.path(), PATIENT);
    repo.download(&["config.json"])?;
    let target = format!("{}/someone/gpt2/resolve/x/model.safetensors", elsewhere.url());
    let redirect = Fault::Refused(
        302,
        vec![
            ("Location", target),
            ("X-Linked-Etag", format!("\"{}\"", SHA256)),
            ("X-Linked-Size", "23480".to_string()),
        ],
    );
    hub.misbehave_after(1, usize::MAX, redirect);
    let strip = Fault::Headers(vec![("X-Repo-Commit", String::new())]);
    elsewhere.misbehave(usize::MAX, strip);
    let snapshot = repo.download_input_tables()?;
    assert_opens(&snapshot, "gpt2_one_file");
    assert_eq!(elsewhere.requests().len(), 1);
    assert!(snapshot.folder.join("model.safetensors").canonicalize().unwrap().ends_with(SHA256));
    Ok(())
}

/// A tensor's shard must lie in the repository.
#[test]
fn an_index_names_files_of_the_repository_only() {
    let mut all = files("gpt2_sharded");
    for shard in ["../x.safetensors", "/etc/passwd", "a/../../x", ".."] {
        let index = format!(r#"{{"weight_map": {{"wte.weight": "{shard}", "wpe.weight": "{shard}"}}}}"#);
        all.insert("model.safetensors.index.json".to_string(), index.into_bytes());
        let (hub, cache) = (Hub::serve(all.clone()), TempDir::new().unwrap());
        let text = error_text(repo(&hub, cache.path(), PATIENT).download_input_tables());
        assert!(text.contains("is not the name of a file"), "{text}");
        assert!(hub.requests().iter().all(|request| !request.file.contains("x.safetensors")));
    }
}

/// A redirect to a path, and to another server by the same scheme.
#[test]
fn redirects_of_every_kind_are_followed() -> Result<()> {
    let (hub, elsewhere) = (Hub::of_gpt2(), Hub::of_gpt2());
    let path = "/someone/gpt2/resolve/main/config.json";
    let server = elsewhere.url().replace("http:", "");
    for code in [301, 302, 303, 307, 308] {
        for (to, n_elsewhere) in [(path.to_string(), 0), (format!("{server}{path}"), 1)] {
            let (cache, n_before) = (TempDir::new().unwrap(), elsewhere.requests().len());
            hub.misbehave(1, Fault::Refused(code, vec![("Location", to.clone())]));
            let n_bytes = repo(&hub, cache.path(), PATIENT).download(&["config.json"])?.n_bytes_fetched;
            assert_eq!((n_bytes, elsewhere.requests().len() - n_before), (824, n_elsewhere), "{code} {to}");
        }
    }
    assert!(hub.requests().iter().all(|request| request.authorized));
    assert!(elsewhere.requests().iter().all(|request| !request.authorized));
    Ok(())
}
