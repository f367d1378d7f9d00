//! Runs PyTorch or llama.cpp as a child process, one turn at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::cases::{Case, Shape};
use super::products::gpt2_of_width;
use candle_gpt_input::error::Shown;

/// PyTorch's variants in a case: on one thread, on all, with sparse gradients.
pub fn variants(case: Case) -> &'static [&'static str] {
    match case {
        Case::StepRows => &["torch_1", "torch_n", "torch_sparse"],
        _ => &["torch_1", "torch_n"],
    }
}

/// The Python programs of both.
const TORCH: &str = concat!(include_str!("torch.py"), include_str!("answers.py"));
const LLAMA: &str = concat!(include_str!("torch.py"), include_str!("llama.py"), include_str!("answers.py"));

/// How long threads of OpenMP and of llama.cpp ask for more work at most: the cores are not free meanwhile.
const UNTIL_ASLEEP: Duration = Duration::from_millis(20);

pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub version: String,
    python: std::path::PathBuf,
}

impl Peer {
    pub fn start_torch(python: &Path) -> Result<Self> {
        Self::run(python, TORCH)
    }

    /// Starts llama.cpp, which has the case `decode` alone.
    pub fn start_llama(python: &Path) -> Result<Self> {
        Self::run(python, LLAMA)
    }

    fn run(python: &Path, program: &str) -> Result<Self> {
        let started =
            Command::new(python).args(["-u", "-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| Shown::path(python).to_string())?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to {}", Shown::path(python));
        };
        let answers = BufReader::new(answers);
        let mut peer = Self { child, requests, answers, version: String::new(), python: python.to_path_buf() };
        peer.version = peer.ask(json!({ "do": "version" }))?.as_str().unwrap_or_default().to_string();
        Ok(peer)
    }

    /// Makes the inputs, runs the case once, and returns samples of its results.
    pub fn start_case(&mut self, case: Case, shape: &Shape) -> Result<Vec<Vec<f32>>> {
        Ok(serde_json::from_value(self.ask(request("start", case, shape))?)?)
    }

    /// Returns the seconds of `n` runs, when the peer's threads are asleep.
    pub fn time(&mut self, variant: &str, n: usize) -> Result<f64> {
        let seconds = self.ask(json!({ "do": "time", "variant": variant, "n": n }))?.as_f64().context("no number")?;
        std::thread::sleep(UNTIL_ASLEEP);
        Ok(seconds)
    }

    /// Returns the peak memory in MB of a process of its own in this case, less what it had before.
    pub fn peak(&self, case: Case, shape: &Shape) -> Result<f64> {
        Self::start_torch(&self.python)?.ask(request("peak", case, shape))?.as_f64().context("no number")
    }

    fn ask(&mut self, request: Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("the process of Python has ended; its error is above")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(what: &str, case: Case, shape: &Shape) -> Value {
    let gpt2 = gpt2_of_width(shape.n_embd, shape.vocab_size);
    json!({
        "do": what, "case": case.name(), "batch": shape.batch, "length": shape.length, "n_embd": shape.n_embd,
        "vocab_size": shape.vocab_size, "dtype": shape.stored(), "ids": shape.ids.to_string(),
        "n_layer": gpt2.n_layer, "n_head": gpt2.n_head,
    })
}
