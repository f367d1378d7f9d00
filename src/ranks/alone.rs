//! [`Alone`]: one process.

use super::{Parts, Ranks, one_for_each};
use crate::error::Result;

/// The only rank: what it sends comes back.
///
/// ```
/// use candle_gpt_input::ranks::{Alone, Ranks};
///
/// assert_eq!((Alone.rank(), Alone.size()), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        one_for_each(sent, 1)?;
        received.clone_from(sent);
        Ok(())
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        received.resize([sent.len()]);
        received.bytes_mut().copy_from_slice(sent);
        Ok(())
    }
}
