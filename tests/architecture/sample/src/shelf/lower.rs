pub(crate) struct Lower;

pub(in crate::shelf) fn lower() {}
