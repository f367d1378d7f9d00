//! [`Others`]: where a file has numbers that JSON lacks.

use std::collections::BTreeMap;

/// Where a value has numbers that JSON or 64 bits cannot hold. They are kept as text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Others {
    #[default]
    Nowhere,
    /// The value itself is one.
    Here,
    List(Box<[Others]>),
    Object(BTreeMap<String, Others>),
}

impl Others {
    pub(super) fn of_list(values: Vec<Self>) -> Self {
        match values.iter().all(|others| *others == Self::Nowhere) {
            true => Self::Nowhere,
            false => Self::List(values.into()),
        }
    }

    pub(super) fn of_object(mut values: BTreeMap<String, Self>) -> Self {
        values.retain(|_, others| *others != Self::Nowhere);
        if values.is_empty() { Self::Nowhere } else { Self::Object(values) }
    }

    /// Returns those inside of an element of a list.
    pub(super) fn item(&self, index: usize) -> &Self {
        match self {
            Self::List(values) => values.get(index).unwrap_or(&Self::Nowhere),
            _ => &Self::Nowhere,
        }
    }

    /// Returns those inside of the value of a key.
    pub(super) fn key(&self, key: &str) -> &Self {
        match self {
            Self::Object(values) => values.get(key).unwrap_or(&Self::Nowhere),
            _ => &Self::Nowhere,
        }
    }

    /// Forgets those under a key of an object, which may lie under another one.
    pub(super) fn forget(&mut self, outer: Option<&str>, key: &str) {
        let Self::Object(values) = self else { return };
        match outer.map(|outer| values.get_mut(outer)) {
            Some(Some(inner)) => inner.forget(None, key),
            Some(None) => {}
            None => {
                values.remove(key);
            }
        }
    }
}
