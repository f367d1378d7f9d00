#[expect(dead_code)]
fn encoded() -> u8 {
    tokenizers::encoded(crate::base::counted(1))
}
