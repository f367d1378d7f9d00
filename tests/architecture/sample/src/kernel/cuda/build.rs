fn main() {
    println!("a program of its own")
}
