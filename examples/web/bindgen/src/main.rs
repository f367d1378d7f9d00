//! Writes the JavaScript through which the page calls its wasm: `bindgen FILE.wasm FOLDER`.

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, folder] = &arguments[..] else { anyhow::bail!("usage: bindgen FILE.wasm FOLDER") };
    // A classic script and not a module: it works in a page that is a single file, too.
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(wasm).out_name("web").no_modules(true)?.typescript(false);
    bindgen.remove_name_section(true).remove_producers_section(true).generate(folder)
}
