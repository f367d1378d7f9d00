//! `explore` on tables whose answers are known.

use candle_core::{Device, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::tokenizer::Tokenizer;
use tempfile::TempDir;

use crate::labels::{Frame, place};
use crate::{example, failure, stdout};

const WIDTH: usize = 4;

/// Returns the id of a word inside a sentence.
fn id(word: &str) -> usize {
    let ids = Tokenizer::gpt2().encode(&format!(" {word}")).unwrap();
    assert_eq!(ids.len(), 1, "{word}");
    ids[0] as usize
}

/// Saves tables with `rows` at the tokens of these words, and a direction of its own for every other token.
fn save(folder: &TempDir, rows: &[(&str, [f32; WIDTH])], wpe: Vec<f32>) {
    let vocab_size = Tokenizer::gpt2().vocab_size();
    let mut wte: Vec<f32> = (0..vocab_size)
        .flat_map(|id| {
            let angle = id as f32 / vocab_size as f32; // all different, and far from the first two axes
            [0.0, 0.0, angle.cos(), angle.sin()]
        })
        .collect();
    for (word, row) in rows {
        wte[id(word) * WIDTH..][..WIDTH].copy_from_slice(row);
    }
    let wte = Tensor::from_vec(wte, (vocab_size, WIDTH), &Device::Cpu).unwrap();
    let n_positions = wpe.len() / WIDTH;
    let wpe = Tensor::from_vec(wpe, (n_positions, WIDTH), &Device::Cpu).unwrap();
    GptInputLayer::new(wte, wpe).unwrap().save(folder.path()).unwrap();
}

#[test]
fn explore_finds_what_is_there() {
    let folder = TempDir::new().unwrap();
    let rows = [
        ("man", [1.0, 0.0, 0.0, 0.0]),
        ("woman", [1.0, 0.5, 0.0, 0.0]),
        ("king", [2.0, 0.0, 0.0, -2.0]),
        ("queen", [2.0, 1.0, 0.0, -2.0]),
        ("river", [0.0, f32::NAN, 0.0, 0.0]),
        ("stone", [0.0, 1e-6, 0.0, 0.0]),
    ];
    // Twelve positions that are alike, and twelve that are unrelated.
    let alike = (0..12).flat_map(|p| [1.0, p as f32 / 100.0, 0.0, 0.0]);
    let apart = (0..12).flat_map(|p| if p % 2 == 0 { [0.0, 0.0, 1.0, 0.0] } else { [0.0, 0.0, 0.0, 1.0] });
    save(&folder, &rows, alike.chain(apart).collect());
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "the man and the woman saw the king").unwrap();
    let out = folder.path().join("pictures");
    let output = stdout(
        example("explore")
            .args(["--near", "queen", "--analogy", "man:woman::king", "-n", "2", "--map", "man,woman,king"])
            .arg("--weights")
            .arg(folder.path())
            .arg("--text-file")
            .arg(&text)
            .arg("--out")
            .arg(&out),
    );
    let after: Vec<&str> = output.lines().filter(|line| line.starts_with("  after")).collect();
    assert!(after[0].contains("\" king\" 0.94"), "{output}");
    assert!(after[1].starts_with("  after  \" queen\" 0.9"), "{output}");
    assert!(output.contains("1 tokens (0.0 %) with a NaN or an infinity: \" river\""), "{output}");
    assert!(output.contains("1 tokens (0.0 %) shorter than 0.1 of the median: \" stone\""), "{output}");
    assert!(output.contains("50250 tokens (100.0 %) not in the text"), "{output}"); // all but seven
    assert!(output.contains("12 positions from the first on are like their neighbours; 12 beyond"), "{output}");
    for name in ["positions.png", "tokens.png"] {
        assert!(std::fs::read(out.join(name)).unwrap().starts_with(b"\x89PNG"), "{name}");
    }

    let fails = |args: &[&str]| failure(example("explore").args(args).arg("--out").arg(&out), 1);
    assert!(fails(&["--near", "unbelievableness"]).contains("\"unbelievableness\" is"));
    assert!(fails(&["--analogy", "man:king"]).contains("write an analogy as A:B::C"));
    assert!(fails(&["--weights", "/no/such"]).ends_with("no such file or folder"));
}

/// The page to send needs what `examples/web/build` makes, which `.ci/web` opens in a browser.
#[test]
fn explore_writes_a_page_or_says_what_to_build() {
    let (folder, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    save(&folder, &[("man", [1.0, 0.0, 0.0, 0.0]), ("woman", [1.0, 0.5, 0.0, 0.0])], vec![1.0; 8 * WIDTH]);
    let path = out.path().join("page.html");
    let mut command = example("explore");
    command.args(["--near", "man", "--analogy", "man:woman::man", "--map", "man,woman", "-n", "1", "--weights"]);
    command.arg(folder.path()).arg("--out").arg(out.path()).arg("--html").arg(&path);
    let is_built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web/www/pkg/web_bg.wasm").exists();
    if !is_built {
        assert!(failure(&mut command, 1).contains("the page is not built; run examples/web/build"));
        assert!(!path.exists());
        return;
    }
    assert!(stdout(&mut command).contains("page.html"));
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(
        page.contains("id=\"embedded\"") && page.contains("class Strips") && !page.contains("src=\""),
        "not one file"
    );
}

/// Fifty dots in a square that has no room for fifty labels.
#[test]
fn no_two_labels_overlap() {
    let within = Frame { left: 0, top: 0, right: 300, bottom: 300 };
    let dots: Vec<(i32, i32)> = (0..50).map(|i| (i * 7919 % 300, i * 6007 % 300)).collect();
    let sizes: Vec<(i32, i32)> = (0..50).map(|i| (20 + i % 5 * 10, 16)).collect();
    let frames = place(&dots, 3, &sizes, &within);
    let placed: Vec<(usize, Frame)> = frames.iter().enumerate().filter_map(|(i, frame)| Some((i, (*frame)?))).collect();
    assert!((20..50).contains(&placed.len()), "{}", placed.len());
    for (n, (i, frame)) in placed.iter().enumerate() {
        assert!(within.contains(frame) && (frame.right - frame.left, frame.bottom - frame.top) == sizes[*i]);
        assert!(dots.iter().all(|&dot| !frame.overlaps(&Frame::around(dot, 3))), "{frame:?} covers a dot");
        assert!(placed[n + 1..].iter().all(|(_, other)| !frame.overlaps(other)), "{frame:?}");
    }
    // A label that has room all around stands on the right; at the right border, on the left.
    let frames = place(&[(100, 100), (299, 200)], 3, &[(40, 16); 2], &within);
    let (alone, border) = (frames[0].unwrap(), frames[1].unwrap());
    assert!(alone.left > 100 && alone.top == 92 && border.right < 299 && border.top == 192);
}
