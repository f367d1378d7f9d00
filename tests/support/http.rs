//! A small stand-in for the Hugging Face Hub on the loopback: files, ranges, and connections cut on purpose.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub file: String,
    /// First byte of the range.
    pub start: usize,
}

pub struct Hub {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    files: HashMap<String, Vec<u8>>,
    cut_after: Option<usize>,
    requests: Vec<Request>,
}

impl Hub {
    /// Serves `files` of every repository until the process ends.
    pub fn serve(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { files, cut_after: None, requests: Vec::new() }));
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One request a connection; a client that goes away is no fault of the server.
                let _ = answer(stream, &for_thread);
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Closes connections after this many bytes of a body.
    pub fn cut_after(&self, n_bytes: Option<usize>) {
        self.shared.lock().unwrap().cut_after = n_bytes;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap().requests.clone()
    }
}

fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let (mut start, mut end) = (0, usize::MAX);
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap();
            start = from.parse().unwrap();
            end = to.parse().map_or(usize::MAX, |last: usize| last + 1);
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let file = path.split_once("/resolve/main/").map_or("", |(_, file)| file).to_string();
    let (bytes, cut_after) = {
        let mut shared = shared.lock().unwrap();
        shared.requests.push(Request { file: file.clone(), start });
        (shared.files.get(&file).cloned(), shared.cut_after)
    };
    let Some(bytes) = bytes else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (total, end) = (bytes.len(), end.min(bytes.len()));
    let body = &bytes[start.min(end)..end];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\n\
         ETag: \"{file}-{total}\"\r\nx-repo-commit: 0123abcd\r\nConnection: close\r\n\r\n",
        body.len(),
        end.saturating_sub(1)
    )?;
    stream.write_all(&body[..cut_after.unwrap_or(usize::MAX).min(body.len())])
}
