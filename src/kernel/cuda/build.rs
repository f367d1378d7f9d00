//! Compiles the CUDA kernels to PTX, with the feature `cuda` only.

use std::env;
use std::error::Error;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "src/kernel/cuda";
const KERNELS: &[&str] =
    &["adam_bf16", "adam_f16", "adam_f32", "adam_f64", "gather_add", "scatter_add", "sum_of_squares"];
const HEADERS: &[&str] = &["adam.cuh", "gradient.cuh", "number.cuh"];
/// No product and sum are fused unless the source says so: the bits are those of the CPU.
const FLAGS: &[&str] = &["-O3", "-std=c++17", "--fmad=false"];
/// Where toolkits are installed, in the order in which Candle's build script (cudaforge 0.1.6) looks.
const INSTALLED: &[&str] = &[
    "/usr/local/cuda",
    "/opt/cuda",
    "/usr/lib/cuda",
    "/usr",
    "C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA",
    "C:/CUDA",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}/build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "PATH"] {
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

/// Returns the compiler that Candle's build script takes, so that one driver loads the code of both.
fn nvcc() -> PathBuf {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let named = env::var_os("NVCC").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join(&name));
    // Without its suffix, or with that of Windows: as Candle asks.
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let windows = env::var_os("CUDA_PATH").map(|path| PathBuf::from(path).join("bin/nvcc.exe"));
    let installed =
        INSTALLED.iter().flat_map(|folder| toolkits(Path::new(folder))).map(|folder| folder.join("bin").join(&name));
    let mut candidates = named.into_iter().chain(in_path).chain(home).chain(windows).chain(installed);
    candidates.find(|nvcc| nvcc.is_file()).unwrap_or_else(|| name.into())
}

/// Returns a folder and, on Windows, those of the versions in it.
fn toolkits(folder: &Path) -> Vec<PathBuf> {
    let versions = cfg!(windows).then(|| folder.read_dir().ok()).flatten();
    let versions = versions.into_iter().flatten().flatten().map(|version| version.path());
    iter::once(folder.to_path_buf()).chain(versions).collect()
}

/// Compiles one source to PTX. Names no architecture: PTX for the oldest that this nvcc knows runs on all later ones,
/// and the kernels need no more.
fn compile(nvcc: &Path, source: &Path, ptx: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(nvcc);
    command.arg("--ptx").args(FLAGS);
    // As Candle's build script does it: a compiler that someone has chosen is taken even if nvcc does not know it.
    if let Some(compiler) = env::var_os("NVCC_CCBIN") {
        command.arg("-allow-unsupported-compiler").arg("-ccbin").arg(compiler);
    }
    match command.arg("-o").arg(ptx).arg(source).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} cannot compile {}: {status}", nvcc.display(), source.display()).into()),
        Err(error) => {
            let next = "the feature `cuda` needs the CUDA toolkit, in PATH or CUDA_HOME";
            Err(format!("cannot run {}: {error}: {next}", nvcc.display()).into())
        }
    }
}
