//! Compiles the CUDA kernels to PTX, with the feature `cuda` only.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "src/kernel/cuda";
const KERNELS: &[&str] = &["adam", "gather_add", "scatter_add", "sum_of_squares"];
const HEADERS: &[&str] = &["gradient.cuh", "number.cuh"];
/// No product and sum are fused unless the source says so: the bits are those of the CPU.
const FLAGS: &[&str] = &["-O3", "-std=c++17", "--fmad=false"];
/// Variables that may name the toolkit, in the order in which Candle's own build script reads them.
const TOOLKITS: &[&str] = &["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}/build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for name in TOOLKITS.iter().chain(&["NVCC", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for header in HEADERS {
        println!("cargo::rerun-if-changed={FOLDER}/{header}");
    }
    let nvcc = nvcc();
    if nvcc.is_file() {
        println!("cargo::rerun-if-changed={}", nvcc.display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for kernel in KERNELS {
        let source = format!("{FOLDER}/{kernel}.cu");
        println!("cargo::rerun-if-changed={source}");
        compile(&nvcc, Path::new(&source), &out.join(format!("{kernel}.ptx")))?;
    }
    Ok(())
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let of_toolkit = |variable: &&str| Some(PathBuf::from(env::var_os(variable)?).join("bin").join(&name));
    TOOLKITS.iter().filter_map(of_toolkit).find(|path| path.is_file()).unwrap_or_else(|| name.into())
}

/// Compiles one source to PTX. Names no architecture: PTX for the oldest that this nvcc knows runs on all later ones,
/// and the kernels need no more.
fn compile(nvcc: &Path, source: &Path, ptx: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new(nvcc).arg("--ptx").args(FLAGS).arg("-o").arg(ptx).arg(source).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} cannot compile {}: {status}", nvcc.display(), source.display()).into()),
        Err(error) => {
            let next = "the feature `cuda` needs the CUDA toolkit, in PATH or CUDA_HOME";
            Err(format!("cannot run {}: {error}: {next}", nvcc.display()).into())
        }
    }
}
