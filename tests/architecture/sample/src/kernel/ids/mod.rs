mod check;
mod contract;

pub(crate) use check::Ids;
pub(crate) use contract::Id;
