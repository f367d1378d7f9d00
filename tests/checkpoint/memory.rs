//! What loading allocates.

use super::*;

/// Two tables of GPT-2 small in a file of half a gigabyte: loading them in a process of its own needs little more than
/// the tables.
#[cfg(target_os = "linux")]
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
