#[cfg(test)]
mod tests;

use crate::{
    base::{self, Base as Bottom},
    kernel::{gather, rows_of},
};

/// `panic!` in words, and `crate::nothing::at_all`.
pub struct Layer(Bottom);

#[cfg(all(test, not(miri)))]
fn only_tests() -> u8 {
    Some(1).unwrap()
}

impl Layer {
    #[cfg(test)]
    fn only_tests() {
        println!("{}", unsafe { crate::layer::tests::unchecked() })
    }

    pub fn rows(&self) -> base::Result<u8> {
        #[cfg(test)]
        todo!();
        Ok(gather() + rows_of!())
    }
}
