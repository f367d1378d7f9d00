fn f() {
    panic!()
}
