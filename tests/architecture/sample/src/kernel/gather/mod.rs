use super::core;
use super::ids::Ids;

pub(crate) fn gather() -> u8 {
    core::rows()
}
