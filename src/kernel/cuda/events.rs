//! Other streams of the context wait for the kernels by Candle's events: whoever reads a result waits for the launch,
//! and whoever overwrites an operand, too.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

use super::on_cuda;
use super::tests::on;
use crate::GptInputLayer;
use crate::error::Result;
use crate::kernel::core::samples::{bits, shifted};
use crate::kernel::ids::IdCheck;
use crate::optim::{AdamW, RowAdamW, RowGrad, RowOptimizer};

/// Overwrites memory of f32 or u32 with sevens, on a device by a copy on another stream.
struct Overwrite(Arc<CudaStream>);

impl Overwrite {
    fn fill<T: CudaDType + DeviceRepr + Clone>(&self, storage: &mut CudaStorage, value: T) -> candle_core::Result<()> {
        let memory = storage.as_cuda_slice_mut::<T>()?;
        self.0.memcpy_htod(&vec![value; memory.len()], memory).w()?;
        self.0.synchronize().w()
    }
}

impl InplaceOp1 for Overwrite {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        match storage {
            CpuStorage::F32(values) => values.fill(7.0),
            CpuStorage::U32(values) => values.fill(7),
            _ => candle_core::bail!("neither f32 nor u32"),
        }
        Ok(())
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        match storage.dtype() {
            DType::U32 => self.fill(storage, 7u32),
            _ => self.fill(storage, 7f32),
        }
    }
}

/// Reads f32 memory by a copy on another stream.
fn read(other: &Arc<CudaStream>, tensor: &Tensor) -> Result<Tensor> {
    let (storage, _) = tensor.storage_and_layout();
    let values = other.clone_dtoh(on_cuda(&storage)?.as_cuda_slice::<f32>()?).w()?;
    Ok(Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?)
}

#[test]
fn other_streams_wait_for_the_kernels() -> Result<()> {
    if crate::tests::cuda().is_none() {
        return Ok(());
    }
    let device = Device::new_cuda_with_stream(0)?;
    let other = device.as_cuda_device()?.cuda_stream().context().new_stream().w()?;
    let (n_rows, width, n) = (40, 24, 600);
    // One id comes up more often than one part of a sum has places.
    let ids: Vec<u32> = (0..n).map(|i| if i % 2 == 0 { 3 } else { (i * 7 % n_rows) as u32 }).collect();
    let ids = Tensor::from_vec(ids, n, &Device::Cpu)?;
    let over = |tensor: &Tensor| tensor.inplace_op1(&Overwrite(other.clone()));
    let run = |device: &Device, read: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let table = |n_rows, seed| on(device, &shifted(n_rows, width, 0, DType::F32, seed)?);
        let mut results = Vec::new();
        let (wte, wpe) = (table(n_rows, 1)?, table(n, 2)?);
        let layer = GptInputLayer::new(wte.clone(), wpe.clone())?;
        results.push(read(&layer.forward(&ids)?)?);
        let sum = layer.forward(&ids)?;
        over(&wte)?;
        results.push(read(&sum)?);
        let sum = layer.forward(&ids)?;
        over(&wpe)?;
        results.push(read(&sum)?);
        let buffer = table(n, 6)?;
        layer.forward_into(&ids, 0, &buffer)?;
        results.push(read(&buffer)?);
        // Ids and positions on the device.
        let (ids_there, places) = (on(device, &ids.copy()?)?, on(device, &ids.copy()?)?);
        let layer = GptInputLayer::new(table(n_rows, 1)?, table(n, 2)?)?.with_id_check(IdCheck::Deferred)?;
        let sum = layer.forward_at(&ids_there, &places)?;
        over(&ids_there)?;
        results.push(read(&sum)?);
        let sum = layer.forward_at(&ids_there, &places)?;
        over(&places)?;
        results.push(read(&sum)?);

        let var = Var::from_tensor(&table(n_rows, 3)?)?;
        let rows = table(n, 4)?;
        results.push(read(&RowGrad::new(&var, &ids, &rows)?.to_dense()?)?);
        let dense = RowGrad::new(&var, &ids, &rows)?.to_dense()?;
        over(&rows)?;
        results.push(read(&dense)?);
        let rows = || RowGrad::new(&var, &ids, &table(n, 5)?);
        AdamW::new(vec![var.clone()], ParamsAdamW::default())?.step_rows(&[rows()?])?;
        results.push(read(&var)?);
        RowAdamW::new(vec![var.clone()], 1e-2)?.step_rows(&[rows()?])?;
        results.push(read(&var)?);
        // Who has waited for one result of a step has waited for all, so each is of a step of its own.
        let mut adamw = AdamW::new(vec![var.clone()], ParamsAdamW::default())?;
        let dense = table(n_rows, 7)?;
        let mut grads = GradStore::default();
        grads.insert(&var, dense.clone());
        adamw.step(&grads)?;
        results.extend(adamw.state(&var).map(|state| read(&state.exp_avg)).transpose()?);
        adamw.step(&grads)?;
        results.extend(adamw.state(&var).map(|state| read(&state.exp_avg_sq)).transpose()?);
        adamw.step(&grads)?;
        over(&dense)?;
        results.push(read(&var)?);
        Ok::<_, crate::Error>(results)
    };
    let there = run(&device, &|tensor| read(&other, tensor))?;
    let here = run(&Device::Cpu, &|tensor| Ok(tensor.copy()?))?;
    for (i, (there, here)) in there.iter().zip(&here).enumerate() {
        assert_eq!(bits(there)?, bits(here)?, "{i}");
    }
    Ok(())
}
