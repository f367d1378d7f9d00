//! The tensors that a step updates.

use candle_core::{Result, Tensor};

use crate::kernel::core::in_place::write_in_place;

/// A parameter and its state: three tensors of one shape, dtype and device. The state shares its memory with nothing
/// else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments<'a> {
    pub(crate) param: &'a Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
}

/// Writes to the storages of a parameter and its state, and reads from others.
type OnStorages<'f, S> = dyn FnMut([&mut S; 3], &[&S]) -> Result<()> + 'f;

impl Moments<'_> {
    /// Calls `f` with the storages of parameter, `exp_avg` and `exp_avg_sq` to write to, and those of `sources` to read
    /// from.
    pub(crate) fn write<S: 'static>(self, sources: &[&Tensor], f: &mut OnStorages<'_, S>) -> Result<()> {
        write_in_place(self.exp_avg, &[], &mut |m: &mut S, _| {
            write_in_place(self.exp_avg_sq, &[], &mut |v: &mut S, _| {
                write_in_place(self.param, sources, &mut |p: &mut S, sources| f([p, &mut *m, v], sources))
            })
        })
    }
}
