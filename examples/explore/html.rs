//! The page of `examples/web` as one file, with the rows of chosen tokens inside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::save_tensors;
use candle_gpt_input::error::Shown;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::corpora::Files;

/// What `examples/web/build` makes.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web/www");
const STYLE: &str = "<link rel=\"stylesheet\" href=\"style.css\" />";

/// Returns the page, with the rows of `ids` before training and after, and the files of the tokenizer if it is not
/// GPT-2's.
pub fn page(name: &str, [before, after]: [&GptInputLayer; 2], ids: &BTreeSet<u32>, tokenizer: Files) -> Result<String> {
    let n_rows = after.config().vocab_size;
    let ids: Vec<u32> = ids.iter().copied().filter(|&id| (id as usize) < n_rows).collect();
    ensure!(!ids.is_empty(), "none of the tokens has a row in the table");
    let text_of = |(name, bytes)| Some((name, String::from_utf8(bytes).ok()?));
    let texts: BTreeMap<&str, String> = tokenizer.into_iter().filter_map(text_of).collect();
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&read("pkg/web_bg.wasm")?)?;
    let embedded = json!({
        "name": name,
        "tokenizer": texts,
        "wasm": STANDARD.encode(packed.finish()?),
        "trained": STANDARD.encode(rows(after, &ids)?),
        "before": STANDARD.encode(rows(before, &ids)?),
    });
    // In a script of HTML no text may end it; JSON has another way to write a `<`.
    let embedded = embedded.to_string().replace('<', "\\u003c");
    let page = text("index.html")?.replacen(STYLE, &format!("<style>\n{}</style>", text("style.css")?), 1);
    with_scripts(&page, &format!("<script type=\"application/json\" id=\"embedded\">{embedded}</script>\n"))
}

/// Puts the text of each script in its place, and `embedded` before the first.
fn with_scripts(page: &str, embedded: &str) -> Result<String> {
    const START: &str = "<script src=\"";
    let mut parts = page.split(START);
    let mut whole = parts.next().unwrap_or_default().to_string() + embedded;
    for part in parts {
        let (file, after) = part.split_once("\"></script>").context("index.html: a script without an end")?;
        let script = text(file)?;
        ensure!(!script.contains("</script"), "{file}: it holds the end of a script");
        whole.extend(["<script>\n", &script, "</script>", after]);
    }
    Ok(whole)
}

/// Returns a safetensors file of these rows, as the page reads it.
fn rows(layer: &GptInputLayer, ids: &[u32]) -> Result<Vec<u8>> {
    let ids = Tensor::new(ids, &Device::Cpu)?;
    let wte = layer.wte_embedding()?.embeddings().index_select(&ids, 0)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("rows.safetensors");
    let wpe = layer.wpe_embedding()?.embeddings();
    let ids = ids.to_dtype(DType::F64)?; // a checkpoint is floats
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", wpe), ("chosen_ids", &ids)], [])?;
    Ok(std::fs::read(path)?)
}

fn read(file: &str) -> Result<Vec<u8>> {
    let path = Path::new(PAGE).join(file);
    let fault = || format!("{}: the page is not built; run examples/web/build", Shown::path(&path));
    std::fs::read(&path).with_context(fault)
}

fn text(file: &str) -> Result<String> {
    String::from_utf8(read(file)?).with_context(|| format!("{file} is not UTF-8"))
}
