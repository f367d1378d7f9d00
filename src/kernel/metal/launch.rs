//! Compiles the kernels at first use, and queues their launches as Candle queues its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::metal_backend::DeviceId;
use candle_core::{MetalDevice, MetalError, Result};
use candle_metal_kernels::metal::{Buffer, ComputePipeline, Library};
use objc2::available;
use objc2::rc::Retained;
use objc2_metal::{MTLCompileOptions, MTLMathFloatingPointFunctions, MTLMathMode, MTLSize};

use super::jobs::{GATHER_ADD, Launch, NUMBER, SCATTER_ADD, THREADS};

/// A buffer, and the bytes of it that a kernel may touch.
pub(super) type Bound<'a> = (&'a Buffer, Range<usize>);

/// The kernels of a device: all as one library, and those that were launched.
struct Kernels {
    library: Library,
    pipelines: HashMap<String, ComputePipeline>,
}

static KERNELS: LazyLock<Mutex<HashMap<DeviceId, Kernels>>> = LazyLock::new(Mutex::default);

/// Returns a kernel of the device, compiled.
fn pipeline(device: &MetalDevice, name: &str) -> Result<ComputePipeline> {
    let mut kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    let kernels = match kernels.entry(device.id()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let source = [NUMBER, GATHER_ADD, SCATTER_ADD].concat();
            let library =
                device.metal_device().new_library_with_source(&source, Some(&options())).map_err(MetalError::from)?;
            new.insert(Kernels { library, pipelines: HashMap::new() })
        }
    };
    if let Some(pipeline) = kernels.pipelines.get(name) {
        return Ok(pipeline.clone());
    }
    let function = kernels.library.get_function(name, None).map_err(MetalError::from)?;
    let pipeline =
        device.metal_device().new_compute_pipeline_state_with_function(&function).map_err(MetalError::from)?;
    kernels.pipelines.insert(name.to_string(), pipeline.clone());
    Ok(pipeline)
}

/// Returns options that forbid inexact arithmetic, which Metal's default allows.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    if available!(macos = 15) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    } else {
        #[allow(deprecated, reason = "older systems have no other")]
        options.setFastMathEnabled(false);
    }
    options
}

/// Queues a launch. Candle's encoder orders it behind launches that write its buffers, and behind those that read its
/// outputs.
pub(super) fn encode<J: Copy>(
    device: &MetalDevice,
    launch: &Launch<J>,
    outputs: &[Bound],
    inputs: &[Bound],
) -> Result<()> {
    if outputs.iter().chain(inputs).any(|(buffer, bytes)| bytes.end > buffer.length()) {
        candle_core::bail!("a layout reaches beyond its storage");
    }
    let pipeline = pipeline(device, &launch.kernel)?;
    let guard = device.command_encoder()?;
    let encoder = guard.as_ref();
    encoder.set_compute_pipeline_state(&pipeline);
    for (index, (buffer, bytes)) in outputs.iter().enumerate() {
        encoder.set_output_buffer(index, Some(buffer), bytes.start);
    }
    for (index, (buffer, bytes)) in inputs.iter().enumerate() {
        encoder.set_input_buffer(outputs.len() + index, Some(buffer), bytes.start);
    }
    encoder.set_bytes(outputs.len() + inputs.len(), &launch.job);
    // A kernel may allow fewer threads than others. Those of a smaller group take more rows each.
    let [x, y] = THREADS;
    let height = (pipeline.max_total_threads_per_threadgroup() / x).clamp(1, y);
    let [width_in_groups, height_in_groups] = launch.groups;
    encoder.dispatch_thread_groups(
        MTLSize { width: width_in_groups, height: height_in_groups, depth: 1 },
        MTLSize { width: x, height, depth: 1 },
    );
    Ok(())
}
