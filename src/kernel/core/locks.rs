//! The locks of tensors' memory: who shares it, and whose turn it is.
//!
//! Candle locks the memory of every operand of an operation. Two operands in one memory, of which one is written, would
//! wait for each other. So the kernels compare memories before they lock any.

use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Shape, Tensor};

use crate::error::{Error, Result};

type CandleResult<T> = candle_core::Result<T>;

/// Checks that `written` shares its memory with none of `others`. Each has a name for the error.
///
/// # Errors
/// [`Error::SharedMemory`]
pub(crate) fn apart(written: (&'static str, &Tensor), others: &[(&'static str, &Tensor)]) -> Result<()> {
    let ((what, written), mut others) = (written, others.iter());
    let memory = memory_of(written);
    match others.find(|(_, other)| other.dtype() == written.dtype() && memory_of(other) == memory) {
        Some(&(with, _)) => Err(Error::SharedMemory { what, with }),
        None => Ok(()),
    }
}

/// Returns the address of a tensor's memory, which its views and clones share. The caller must not hold it for writing.
pub(crate) fn memory_of(tensor: &Tensor) -> usize {
    let address = Address(Cell::new(0));
    // An operation reads past a writer that waits, which may wait for this very thread. It never succeeds.
    let _: CandleResult<Tensor> = tensor.apply_op1_no_bwd(&address);
    address.0.get()
}

/// Notes where the memory of its argument lies, and computes nothing.
struct Address(Cell<usize>);

impl Address {
    fn note<S>(&self, storage: &S) -> CandleResult<(S, Shape)> {
        self.0.set(std::ptr::from_ref(storage).addr());
        Err(candle_core::Error::Msg(String::new()))
    }
}

impl CustomOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.note(storage)
    }

    fn cuda_fwd(&self, storage: &CudaStorage, _: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        self.note(storage)
    }

    fn metal_fwd(&self, storage: &MetalStorage, _: &Layout) -> CandleResult<(MetalStorage, Shape)> {
        self.note(storage)
    }
}

/// Calls `f` with the memory of tensors on the CPU, which may share it, and returns its result.
///
/// Locks as [`memory_of`] does: a second lock of a memory that this thread holds does not wait for a writer that waits for
/// the first.
pub(crate) fn read_all<R>(
    tensors: &[&Tensor],
    f: impl FnOnce(&[(&CpuStorage, &Layout)]) -> CandleResult<R>,
) -> CandleResult<R> {
    let (mut f, mut result) = (Some(f), None);
    read_next(tensors, &[], &mut |held| {
        result = f.take().map(|f| f(held)).transpose()?;
        Ok(())
    })?;
    result.ok_or_else(|| candle_core::Error::Msg("memory was not read".to_string()))
}

type Held<'a> = (&'a CpuStorage, &'a Layout);
type ReadFn<'a> = &'a mut dyn FnMut(&[Held<'_>]) -> CandleResult<()>;

fn read_next(tensors: &[&Tensor], held: &[Held<'_>], f: ReadFn<'_>) -> CandleResult<()> {
    match tensors {
        [] => f(held),
        [next, rest @ ..] => next.apply_op1_no_bwd(&Read { rest, held, f: RefCell::new(f) }).map(drop),
    }
}

/// Holds the memory of its argument while it goes on with the rest; computes nothing.
struct Read<'a> {
    rest: &'a [&'a Tensor],
    held: &'a [Held<'a>],
    f: RefCell<ReadFn<'a>>,
}

impl CustomOp1 for Read<'_> {
    fn name(&self) -> &'static str {
        "read"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let held: Vec<Held<'_>> = self.held.iter().copied().chain([(storage, layout)]).collect();
        read_next(self.rest, &held, &mut **self.f.borrow_mut())?;
        Ok((CpuStorage::U8(Vec::new()), 0.into()))
    }
}

/// Waits for a writer that waits for the memory of `tensor`. Call it before an operation that only reads.
///
/// Candle's operations read past a writer that waits, so a few threads that read all the time would keep it out for
/// ever. This lock is fair. A thread of rayon's pool does not wait: it may have begun a read of the same memory, and
/// taken this call over while it waits for others.
#[inline]
pub(crate) fn let_writers_pass(tensor: &Tensor) {
    if rayon::current_thread_index().is_none() {
        drop(tensor.storage_and_layout());
    }
}

/// Calls `f` while this thread reads `var` and another waits to write ones to it, which it has done on return.
#[cfg(test)]
pub(crate) fn while_a_writer_waits(var: &candle_core::Var, f: impl FnOnce() -> CandleResult<()>) -> CandleResult<()> {
    let (begun, waits) = (std::sync::Barrier::new(2), std::time::Duration::from_millis(50));
    let ones = var.ones_like()?;
    std::thread::scope(|scope| {
        read_all(&[var], |_| {
            scope.spawn(|| {
                begun.wait();
                var.set(&ones).unwrap();
            });
            begun.wait();
            std::thread::sleep(waits); // until the writer waits
            f()
        })
    })?;
    assert_eq!(var.sum_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?, var.elem_count() as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn memory_is_read_twice_while_a_writer_waits() -> Result<()> {
        let var = Var::zeros(3, DType::F32, &Device::Cpu)?;
        while_a_writer_waits(&var, || {
            let view = var.detach().narrow(0, 1, 1)?;
            let sizes = read_all(&[&var, &view], |held| Ok(held.iter().map(|(_, l)| l.dims()[0]).sum::<usize>()))?;
            assert_eq!(sizes, 4);
            Ok(())
        })?;
        assert_eq!(var.to_vec1::<f32>()?, [1.0; 3]);
        Ok(())
    }

    #[test]
    fn views_share_memory_and_copies_do_not() -> Result<()> {
        let var = Var::zeros((3, 2), DType::F32, &Device::Cpu)?;
        let view = var.detach().t()?.narrow(1, 1, 2)?;
        assert_eq!(memory_of(&var), memory_of(&view));
        assert_ne!(memory_of(&var), memory_of(&view.copy()?));
        assert!(apart(("buffer", &view), &[("wpe", &view.copy()?)]).is_ok());
        let error = apart(("buffer", &view), &[("wpe", &view.copy()?), ("wte", &var)]).unwrap_err();
        assert_eq!(error.to_string(), "buffer shares its memory with wte: pass a copy");
        Ok(())
    }
}
