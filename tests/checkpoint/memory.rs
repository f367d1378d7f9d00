//! Memory that loading allocates.

use super::*;

/// Loading the tables of GPT-2 small from a file of half a gigabyte needs little more memory than the tables. It runs
/// in a process of its own.
#[test]
fn only_the_tables_are_read_into_memory() -> Result<()> {
    const PATH: &str = "CHECKPOINT_TO_LOAD";
    if let Ok(path) = std::env::var(PATH) {
        let layer = load(path)?;
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_string();
        println!("loaded {} {peak}", layer.config().vocab_size);
        return Ok(());
    }
    let folder = TempDir::new().unwrap();
    let tables = (50257 + 1024) * 768 * 4u64;
    let (wte, rest) = (50257 * 768 * 4u64, 500_000_000 - tables);
    let header = format!(
        r#"{{"wte.weight":{{"dtype":"F32","shape":[50257,768],"data_offsets":[0,{wte}]}},"wpe.weight":{{"dtype":"F32","shape":[1024,768],"data_offsets":[{wte},{tables}]}},"rest":{{"dtype":"U8","shape":[{rest}],"data_offsets":[{tables},500000000]}}}}"#
    );
    let path = file(folder.path().join("model.safetensors"), &header, 500_000_000);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::only_the_tables_are_read_into_memory", "--nocapture"])
        .env(PATH, path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("loaded 50257")).unwrap_or_else(|| panic!("{text}"));
    let peak_kb: u64 = line.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
    let beyond = peak_kb * 1024 - tables;
    assert!(beyond < 60_000_000, "{beyond} bytes more than the tables");
    Ok(())
}

/// A process limited to 512 MB of anonymous memory (`ulimit -d`) can map a table of 1.6 GB, but not load it. A file of
/// 6.4 GB needs no more.
#[test]
fn tables_larger_than_memory_are_embedded() -> Result<()> {
    const PATH: &str = "CHECKPOINT_TO_MAP";
    if let Ok(path) = std::env::var(PATH) {
        let own = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().to_string();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = own();
        let (layer, _) = open_as(&path, DType::BF16, TableStorage::Mapped)?;
        let ids: Vec<u32> = (0..1024).map(|i| i * 7919 % layer.config().vocab_size as u32).collect();
        let hidden = layer.forward(&Tensor::from_vec(ids, (1, 1024), &Device::Cpu)?)?;
        println!("embedded {:?} {}", hidden.dims(), own() - before);
        drop(GptInputLayer::from_pretrained(&path, DType::BF16, &Device::Cpu)?);
        println!("loaded");
        return Ok(());
    }
    let folder = TempDir::new().unwrap();
    for (dtype, size, v, c, n_file) in
        [("BF16", 2, 256_000u64, 3072u64, 1_700_000_000u64), ("F32", 4, 50257, 1600, 6_430_000_000)]
    {
        let (wte, tables) = (v * c * size, (v + 1024) * c * size);
        let header = format!(
            r#"{{"wte.weight":{{"dtype":"{dtype}","shape":[{v},{c}],"data_offsets":[0,{wte}]}},"wpe.weight":{{"dtype":"{dtype}","shape":[1024,{c}],"data_offsets":[{wte},{tables}]}},"rest":{{"dtype":"U8","shape":[{}],"data_offsets":[{tables},{n_file}]}}}}"#,
            n_file - tables
        );
        let path = file(folder.path().join("model.safetensors"), &header, n_file);
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                r#"ulimit -d 524288; exec "$0" --exact memory::tables_larger_than_memory_are_embedded --nocapture"#,
            ])
            .arg(std::env::current_exe().unwrap())
            .env(PATH, path)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("embedded")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(&format!("embedded [1, 1024, {c}]")), "{line}");
        let own_kb: u64 = line.split_whitespace().last().unwrap().parse().unwrap();
        // The hidden states take 6.3 or 3.3 MB; threads and the header take the rest.
        assert!(own_kb < 24_000, "{own_kb} kB");
        assert_eq!(text.contains("loaded"), v * c * 2 < 512 << 20, "{text}");
    }
    Ok(())
}
