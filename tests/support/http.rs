//! A small stand-in for the Hugging Face Hub on the loopback interface: files, ranges, and the faults of servers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub file: String,
    /// The branch or commit in its URL.
    pub revision: String,
    /// The range: its first byte, and the one after its last.
    pub start: usize,
    pub end: usize,
    /// Whether it had a token.
    pub authorized: bool,
}

/// A wrong answer, or none.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The whole file with status 200.
    NoRanges,
    /// A status, and seconds of `Retry-After`.
    Status(u16, u64),
    /// The connection is closed after this many bytes of the body.
    Cut(usize),
    /// More bytes than requested.
    TooLong,
    /// Bytes from another place in the file, as `Content-Range` says.
    Shifted,
    /// The right bytes, without `Content-Range`.
    NoContentRange,
    /// A redirection to the same path at this address.
    Redirect(String),
    /// The right bytes under this `ETag`.
    ETag(String),
    /// No answer, while the connection stays open.
    Silent,
    /// The headers, then a byte every 20 ms.
    Dripping,
    /// A byte of the headers every 20 ms.
    DrippingHeaders,
    /// The headers without a length, then zeros without end.
    Endless,
    /// Headers without end.
    EndlessHeaders,
    /// The right headers and length, and other bytes.
    WrongBytes,
    /// The right answer with these headers instead of those of the same name; one without a text is left out.
    Headers(Vec<(&'static str, String)>),
    /// A status with these headers.
    Refused(u16, Vec<(&'static str, String)>),
    /// These bytes instead of an answer.
    Raw(Vec<u8>),
    /// Another `ETag` in each answer.
    NewETags,
}

/// The commit that all answers state.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// `sha256sum` of model.safetensors and `git hash-object` of config.json in `gpt2_one_file`.
pub const SHA256: &str = "c2e41a0938ed745b2d37e7393b738cb0fef8dc6bc30210c0e6bb0a54535e1a76";
pub const GIT_SHA1: &str = "9ff014b18bb9907f1f2ef73f0624ca40311c29d8";

/// Reads the files of a golden folder.
pub fn files(folder: &str) -> HashMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(super::golden(folder)).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// Returns the address of a port where nothing listens.
pub fn closed() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

type Mangle = dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync;

pub struct Hub {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    files: HashMap<String, Vec<u8>>,
    /// The `ETag`s of files, quotes included, where they are not made up here.
    etags: HashMap<String, String>,
    /// The number of coming answers that are right, then the number of those that have a fault, and the fault.
    faults: (usize, usize, Option<Fault>),
    delay: Duration,
    /// What becomes of the bytes of every answer.
    mangle: Option<Arc<Mangle>>,
    requests: Vec<Request>,
    n_at_once: usize,
    most_at_once: usize,
}

impl Hub {
    /// Serves `files` of every repository until the process ends.
    pub fn serve(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { files, ..Shared::default() }));
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = for_thread.clone();
                // One request for each connection; a client may disconnect.
                std::thread::spawn(move || answer(stream, &shared));
            }
        });
        Self { port, shared }
    }

    /// Serves a model in one file as the hub describes it: the weights by their SHA-256, the configuration by git's
    /// hash.
    pub fn of_gpt2() -> Self {
        let hub = Self::serve(files("gpt2_one_file"));
        hub.set_etag("model.safetensors", SHA256);
        hub.set_etag("config.json", GIT_SHA1);
        hub
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Closes connections after this many bytes of a body.
    pub fn cut_after(&self, n_bytes: Option<usize>) {
        self.shared.lock().unwrap().faults = (0, usize::MAX, n_bytes.map(Fault::Cut));
    }

    /// Answers the next `n` requests with a fault.
    pub fn misbehave(&self, n: usize, fault: Fault) {
        self.misbehave_after(0, n, fault);
    }

    /// Answers `n_right` requests, and the next `n` with a fault.
    pub fn misbehave_after(&self, n_right: usize, n: usize, fault: Fault) {
        self.shared.lock().unwrap().faults = (n_right, n, Some(fault));
    }

    /// Answers every request rightly.
    pub fn behave(&self) {
        self.shared.lock().unwrap().faults = (0, 0, None);
    }

    /// Sends what a function makes of each answer.
    pub fn mangle(&self, mangle: Option<Arc<Mangle>>) {
        self.shared.lock().unwrap().mangle = mangle;
    }

    /// Sets the `ETag` of a file.
    pub fn set_etag(&self, file: &str, etag: &str) {
        self.shared.lock().unwrap().etags.insert(file.to_string(), format!("\"{etag}\""));
    }

    pub fn remove(&self, file: &str) {
        self.shared.lock().unwrap().files.remove(file);
    }

    /// Waits before each answer.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().unwrap().delay = delay;
    }

    pub fn replace(&self, file: &str, bytes: Vec<u8>) {
        self.shared.lock().unwrap().files.insert(file.to_string(), bytes);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap().requests.clone()
    }

    /// Returns the most requests that were answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.lock().unwrap().most_at_once
    }
}

fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let (mut start, mut end, mut is_range, mut authorized, mut if_range) = (0, usize::MAX, false, false, None);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match &name.to_ascii_lowercase()[..] {
            "range" => {
                let (from, to) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                is_range = true;
                start = from.parse().unwrap();
                end = to.parse().map_or(usize::MAX, |last: usize| last + 1);
            }
            "authorization" => authorized = true,
            "if-range" => if_range = Some(value.to_string()),
            _ => {}
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (revision, file) = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')).unwrap_or_default();
    let (file, revision) = (file.to_string(), revision.to_string());
    let (bytes, etag, fault, delay, mangle) = {
        let mut shared = shared.lock().unwrap();
        shared.requests.push(Request { file: file.clone(), revision, start, end, authorized });
        shared.n_at_once += 1;
        shared.most_at_once = shared.most_at_once.max(shared.n_at_once);
        let (n_right, n_left, fault) = shared.faults.clone();
        let fault = fault.filter(|_| n_right == 0 && n_left > 0);
        shared.faults.0 = n_right.saturating_sub(1);
        shared.faults.1 = n_left - usize::from(fault.is_some());
        (shared.files.get(&file).cloned(), shared.etags.get(&file).cloned(), fault, shared.delay, shared.mangle.clone())
    };
    std::thread::sleep(delay);
    // Before the body is sent: a client that has read it may send its next request at once.
    shared.lock().unwrap().n_at_once -= 1;
    let Some(bytes) = bytes else {
        let length = "Content-Length: 0\r\nConnection: close";
        return write!(stream, "HTTP/1.1 404 Not Found\r\nx-repo-commit: {COMMIT}\r\n{length}\r\n\r\n");
    };
    let mut etag = etag.unwrap_or_else(|| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    });
    let (total, mut start, mut end) = (bytes.len(), start, end.min(bytes.len()));
    let asked_end = end;
    let mut status = "206 Partial Content".to_string();
    if let Some(Fault::ETag(other)) = &fault {
        etag.clone_from(other);
    }
    let mut headers = vec![("x-repo-commit", COMMIT.to_string()), ("ETag", etag.clone())];
    let mut replaced = Vec::new();
    match &fault {
        Some(Fault::Status(code, seconds)) => {
            (status, end) = (format!("{code} Other"), start);
            headers.push(("Retry-After", seconds.to_string()));
        }
        Some(Fault::Refused(code, more)) => {
            (status, end) = (format!("{code} Other"), start);
            replaced.clone_from(more);
        }
        Some(Fault::Redirect(to)) => {
            (status, end) = ("302 Found".to_string(), start);
            headers = vec![("Location", format!("{to}{path}"))];
        }
        Some(Fault::TooLong) => end = total,
        Some(Fault::NewETags) => {
            let n = shared.lock().unwrap().requests.len();
            replaced.push(("ETag", format!("\"new-{n}\"")));
        }
        Some(Fault::Headers(more)) => replaced.clone_from(more),
        Some(Fault::Silent) => std::thread::sleep(Duration::from_secs(60)),
        Some(Fault::Raw(bytes)) => return stream.write_all(bytes),
        Some(Fault::Shifted) => (start, end) = (start + 1, (end + 1).min(total)),
        _ => {}
    }
    let has_changed = if_range.is_some_and(|expected| expected != etag);
    if status.starts_with("206") && start >= total && is_range {
        (status, start, end) = ("416 Range Not Satisfiable".to_string(), 0, 0);
        headers.push(("Content-Range", format!("bytes */{total}")));
    } else if has_changed || (status.starts_with("206") && (!is_range || matches!(fault, Some(Fault::NoRanges)))) {
        (status, start, end) = ("200 OK".to_string(), 0, total);
    } else if status.starts_with("206") && !matches!(fault, Some(Fault::NoContentRange)) {
        let last = if matches!(fault, Some(Fault::TooLong)) { asked_end } else { end }.saturating_sub(1);
        headers.push(("Content-Range", format!("bytes {start}-{last}/{total}")));
    }
    let mut body = bytes[start.min(end)..end].to_vec();
    let is_endless = matches!(fault, Some(Fault::Endless));
    if !is_endless {
        headers.push(("Content-Length", body.len().to_string()));
    }
    for (name, text) in replaced {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.extend((!text.is_empty()).then_some((name, text)));
    }
    let lines: String = headers.iter().map(|(name, text)| format!("{name}: {text}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n");
    if let Some(Fault::DrippingHeaders) = fault {
        return drip(&mut stream, head.as_bytes());
    }
    if let Some(Fault::EndlessHeaders) = fault {
        stream.write_all(b"HTTP/1.1 206 Partial Content\r\n")?;
        loop {
            stream.write_all(b"X-More: of the same\r\n")?;
        }
    }
    if let Some(mangle) = mangle {
        return stream.write_all(&mangle([head.into_bytes(), body].concat()));
    }
    stream.write_all(head.as_bytes())?;
    match fault {
        Some(Fault::Dripping) => return drip(&mut stream, &body),
        Some(Fault::WrongBytes) => body.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Cut(n)) => body.truncate(n),
        _ => {}
    }
    stream.write_all(&body)?;
    if is_endless {
        loop {
            stream.write_all(&[0; 1 << 16])?;
        }
    }
    Ok(())
}

/// Sends a byte every 20 ms.
fn drip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
