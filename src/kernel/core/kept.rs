//! What a device computes once of an operand that several kernels of one step read.

use std::any::Any;
use std::cell::OnceCell;

use candle_core::Result;

/// A value of any one type, made by the first that needs it.
#[derive(Default)]
pub(crate) struct Kept(OnceCell<Box<dyn Any>>);

impl Kept {
    /// Returns the value, which `make` makes if there is none yet.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only kernels of CUDA keep something"))]
    pub(crate) fn get<T: 'static>(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if self.0.get().is_none() {
            let _ = self.0.set(Box::new(make()?));
        }
        match self.0.get().and_then(|value| value.downcast_ref()) {
            Some(value) => Ok(value),
            None => candle_core::bail!("two kernels of one step keep different things of one operand"),
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "Kept(..)" } else { "Kept" })
    }
}
