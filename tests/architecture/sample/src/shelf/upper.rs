use super::Lower;

pub struct Upper(Lower);

pub fn first() {
    super::lower::lower()
}
