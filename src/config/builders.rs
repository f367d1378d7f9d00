//! Builder methods of structs that may grow.

/// Gives a `#[non_exhaustive]` struct one `with_…` method for each field listed. `Some` after the type marks a field
/// that is an `Option` of that type.
macro_rules! builders {
    ($of:ident { $($with:ident($field:ident: $value:ty $(, $some:ident)?)),+ $(,)? }) => {
        impl $of {
            $(
                #[doc = concat!("Sets `", stringify!($field), "`.")]
                #[must_use]
                pub fn $with(self, $field: $value) -> Self {
                    $(let $field = $some($field);)?
                    Self { $field, ..self }
                }
            )+
        }
    };
}

pub(crate) use builders;
