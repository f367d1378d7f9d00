pub(in crate::kernel) struct Moments;
