use super::Id;
#[cfg(feature = "cuda")]
use crate::kernel::cuda::noted;

pub(crate) struct Ids(Id);
