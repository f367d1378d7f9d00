mod deep;

pub unsafe fn unchecked() -> u8 {
    None.expect("a test")
}
