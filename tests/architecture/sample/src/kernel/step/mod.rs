mod moments;

#[cfg(feature = "cuda")]
use super::cuda::stepped;
use moments::Moments;
