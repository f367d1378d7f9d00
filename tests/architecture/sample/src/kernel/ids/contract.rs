pub(crate) struct Id(u8);
