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
}

pub struct Hub {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    files: HashMap<String, Vec<u8>>,
    /// The number of coming answers that have a fault, and the fault.
    faults: (usize, Option<Fault>),
    delay: Duration,
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

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Closes connections after this many bytes of a body.
    pub fn cut_after(&self, n_bytes: Option<usize>) {
        self.shared.lock().unwrap().faults = (usize::MAX, n_bytes.map(Fault::Cut));
    }

    /// Answers the next `n` requests with a fault.
    pub fn misbehave(&self, n: usize, fault: Fault) {
        self.shared.lock().unwrap().faults = (n, Some(fault));
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
    let file = path.split_once("/resolve/main/").map_or("", |(_, file)| file).to_string();
    let (bytes, fault, delay) = {
        let mut shared = shared.lock().unwrap();
        shared.requests.push(Request { file: file.clone(), start, end, authorized });
        shared.n_at_once += 1;
        shared.most_at_once = shared.most_at_once.max(shared.n_at_once);
        let (n_left, fault) = shared.faults.clone();
        shared.faults.0 = n_left.saturating_sub(1);
        (shared.files.get(&file).cloned(), fault.filter(|_| n_left > 0), shared.delay)
    };
    std::thread::sleep(delay);
    // Before the body is sent: a client that has read it may send its next request at once.
    shared.lock().unwrap().n_at_once -= 1;
    let Some(bytes) = bytes else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let mut etag = format!("\"{:016x}\"", hasher.finish());
    let (total, mut start, mut end) = (bytes.len(), start, end.min(bytes.len()));
    let asked_end = end;
    let mut status = "206 Partial Content".to_string();
    let mut more = String::new();
    match &fault {
        Some(Fault::Status(code, seconds)) => {
            (status, end) = (format!("{code} Other"), start);
            more = format!("Retry-After: {seconds}\r\n");
        }
        Some(Fault::Redirect(to)) => {
            (status, end) = ("302 Found".to_string(), start);
            more = format!("Location: {to}{path}\r\n");
        }
        Some(Fault::TooLong) => end = total,
        Some(Fault::ETag(other)) => etag = other.clone(),
        Some(Fault::Silent) => std::thread::sleep(Duration::from_secs(60)),
        Some(Fault::Shifted) => (start, end) = (start + 1, (end + 1).min(total)),
        _ => {}
    }
    let has_changed = if_range.is_some_and(|expected| expected != etag);
    if has_changed || (status.starts_with("206") && (!is_range || matches!(fault, Some(Fault::NoRanges)))) {
        (status, start, end) = ("200 OK".to_string(), 0, total);
    } else if status.starts_with("206") && !matches!(fault, Some(Fault::NoContentRange)) {
        let last = if matches!(fault, Some(Fault::TooLong)) { asked_end } else { end }.saturating_sub(1);
        more = format!("Content-Range: bytes {start}-{last}/{total}\r\n");
    }
    let body = &bytes[start.min(end)..end];
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}ETag: {etag}\r\nx-repo-commit: 0123abcd\r\nConnection: close\r\n\r\n",
        body.len(),
    )?;
    if let Some(Fault::Dripping) = fault {
        for byte in body {
            stream.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        return Ok(());
    }
    let n_sent = if let Some(Fault::Cut(n)) = fault { n } else { usize::MAX };
    stream.write_all(&body[..n_sent.min(body.len())])
}
