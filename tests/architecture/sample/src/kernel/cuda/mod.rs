use super::{ids::Id, step::moments::Moments};

pub(super) fn noted(id: Id) {}

pub(super) fn stepped(moments: Moments) {}
