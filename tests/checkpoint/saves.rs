//! What saving does to the files that are there: modes, links, leftovers, other writers; and that its files open.

use candle_gpt_input::checkpoint::write_file;

use super::*;

fn write(path: &Path, text: &str) -> Result<()> {
    write_file(path, |out| out.write_all(text.as_bytes()))
}

type Saver = (&'static str, Box<dyn Fn(&Path) -> Result<()>>);

/// Every way in which the library writes a file at `path`.
fn savers() -> Vec<Saver> {
    let (wte, wpe) = tables(9, 5, 3);
    let layer = GptInputLayer::new(wte.clone(), wpe).unwrap();
    let gguf = layer.clone();
    let source = TempDir::new().unwrap();
    layer.save(source.path().join("source.safetensors")).unwrap();
    let var = candle_core::Var::from_tensor(&wte).unwrap();
    let adamw = candle_gpt_input::optim::AdamW::new_lr(vec![var], 0.1).unwrap();
    let tensors = move |path: &Path| save_tensors(path, [("a", &wte)], []);
    vec![
        ("write_file", Box::new(|path: &Path| write(path, "new"))),
        ("save_tensors", Box::new(tensors)),
        ("save", Box::new(move |path: &Path| layer.save_as(path, SaveFormat::Safetensors))),
        ("gguf", Box::new(move |path: &Path| gguf.save_as(path, SaveFormat::Gguf))),
        ("AdamW::save", Box::new(move |path: &Path| adamw.save(path))),
        (
            "convert",
            Box::new(move |path: &Path| {
                let source = Checkpoint::open(source.path().join("source.safetensors"))?;
                source.convert(path, None, None).map(|_| ())
            }),
        ),
    ]
}

#[cfg(unix)]
#[test]
fn an_existing_file_keeps_its_mode_and_its_links() -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (name, save) in savers() {
        let folder = TempDir::new().unwrap();
        let (ordinary, path) = (folder.path().join("ordinary"), folder.path().join("x.safetensors"));
        fs::write(&ordinary, "").unwrap();
        save(&path)?;
        assert_eq!(mode(&path), mode(&ordinary), "{name}: a new file has the mode that the umask leaves");
        for kept in [0o600, 0o666, 0o640, 0o444] {
            fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
            save(&path)?;
            assert_eq!(mode(&path), kept, "{name}");
        }
        // A link to a link to a file in another folder, and one to a file that is yet to be.
        let elsewhere = TempDir::new().unwrap();
        let (target, link) = (elsewhere.path().join("target.safetensors"), folder.path().join("link.safetensors"));
        symlink(&target, elsewhere.path().join("second")).unwrap();
        symlink(elsewhere.path().join("second"), &link).unwrap();
        for _ in 0..2 {
            save(&link)?;
            assert_eq!(fs::read_link(&link).unwrap(), elsewhere.path().join("second"), "{name}");
            assert!(fs::symlink_metadata(&target).unwrap().is_file() && mode(&target) == mode(&ordinary), "{name}");
            assert_eq!(fs::read(&target).unwrap(), fs::read(&path).unwrap(), "{name}");
        }
        symlink("ordinary", folder.path().join("relative.safetensors")).unwrap();
        save(&folder.path().join("relative.safetensors"))?;
        assert_eq!(fs::read(&ordinary).unwrap(), fs::read(&path).unwrap(), "{name}");
        assert_eq!(names(elsewhere.path()), ["second", "target.safetensors"], "{name}");
        let left = ["link.safetensors", "ordinary", "relative.safetensors", "x.safetensors"];
        assert_eq!(names(folder.path()), left, "{name}");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_by_name() {
    use std::os::unix::fs::{FileTypeExt, symlink};

    for (name, save) in savers() {
        let folder = TempDir::new().unwrap();
        let (pipe, link) = (folder.path().join("pipe.safetensors"), folder.path().join("link.safetensors"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            let text = error_text(save(path));
            assert!(
                text.starts_with(&format!("cannot write {}: it exists and is not a regular file", path.display())),
                "{name}: {text}"
            );
        }
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let circle = folder.path().join("circle.safetensors");
        symlink(&circle, &circle).unwrap();
        let text = error_text(save(&circle));
        assert!(text.contains("circle.safetensors") && text.contains("links"), "{name}: {text}");
        assert_eq!(names(folder.path()), ["circle.safetensors", "link.safetensors", "pipe.safetensors"], "{name}");
    }
    let folder = TempDir::new().unwrap();
    assert!(error_text(write(folder.path(), "x")).contains("not a regular file"));
    assert!(error_text(write(&folder.path().join(".."), "x")).contains("not a regular file"));
}

#[test]
fn the_next_writer_removes_what_a_kill_left() -> Result<()> {
    for (name, save) in savers() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(".x.safetensors.partial"), "half a file").unwrap();
        fs::write(folder.path().join(".y.partial"), "of another file").unwrap();
        save(&folder.path().join("x.safetensors"))?;
        assert_eq!(names(folder.path()), [".y.partial", "x.safetensors"], "{name}");
        fs::create_dir(folder.path().join(".x.safetensors.partial")).unwrap();
        let text = error_text(save(&folder.path().join("x.safetensors")));
        assert!(text.contains(".x.safetensors.partial exists and is not a regular file: remove it"), "{name}: {text}");
    }
    Ok(())
}

#[test]
fn writers_of_one_file_do_not_disturb_each_other() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                for i in 0..50 {
                    let text = format!("{writer} {i} ").repeat(1000);
                    write(path, &text).unwrap();
                    let read = fs::read_to_string(path).unwrap();
                    let first = read.split_inclusive(' ').take(2).collect::<String>();
                    assert!(read == first.repeat(1000), "{} bytes from {first}", read.len());
                }
            });
        }
    });
    assert_eq!(names(folder.path()), ["x"]);
    Ok(())
}

#[test]
fn a_long_name_is_written() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let long = [&"n".repeat(255), &format!("{}m", "n".repeat(254))].map(|name| folder.path().join(name));
    for path in &long {
        write(path, "new")?;
    }
    assert_eq!(names(folder.path()).len(), 2);
    Ok(())
}

#[test]
fn the_same_input_gives_the_same_bytes() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = Tensor::new(&[1f32], &Device::Cpu)?;
    let metadata = || (0..20).rev().map(|i| (format!("k{i:02}"), i.to_string()));
    save_tensors(&path, [("b", &tensor), ("a", &tensor)], metadata())?;
    let text = fs::read(&path).unwrap();
    let sorted: Vec<String> = (0..20).map(|i| format!(r#""k{i:02}":"{i}""#)).collect();
    let expected = format!(
        r#"{{"__metadata__":{{"format":"pt",{}}},"b":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"a":{{"#,
        sorted.join(",")
    );
    assert!(text[8..].starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&text));
    for (name, save) in savers() {
        let saved = |_| {
            save(&path).unwrap();
            fs::read(&path).unwrap()
        };
        let [first, second, third] = [0, 1, 2].map(saved);
        assert!(first == second && second == third, "{name}");
    }
    Ok(())
}

#[test]
fn what_could_not_be_read_back_is_not_written() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    write(&path, "before")?;
    let tensor = Tensor::new(&[1f32], &Device::Cpu)?;
    let long = |n: usize| vec![("k".to_string(), "v".repeat(n))];
    let deep = tensor.reshape(vec![1; 65])?;
    let cases = [
        (&*"n".repeat(65536), &tensor, vec![], "a tensor's name has 65536 bytes, more than 65535"),
        ("a", &deep, vec![], "`a` has 65 dimensions, more than 64"),
        ("a", &tensor, long(100_000_000), "more than the limit of 100000000"),
        ("a\u{85}b", &tensor, vec![], "as `a\\u{85}b`: it has control characters"),
    ];
    for (name, tensor, metadata, found) in cases {
        let text = error_text(save_tensors(&path, [(name, tensor)], metadata));
        assert!(text.contains(found) && text.contains("x.safetensors"), "{text}");
        assert!(text.lines().count() == 1 && text.len() < 300, "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"before");
    }
    // What is just within the limits opens.
    save_tensors(&path, [("n".repeat(65535), &tensor.reshape(vec![1; 64])?)], long(1_000_000))?;
    assert_eq!(Checkpoint::open(&path)?.tensors()?[0].shape, [1; 64]);
    let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?;
    let text = error_text(save_tensors(&path, [("a", &empty), ("a", &empty)], []));
    assert!(text.contains("another tensor has that name"), "{text}");
    Ok(())
}
