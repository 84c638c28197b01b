//! The command `holdfast`.
fn main() {}
