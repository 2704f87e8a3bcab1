//! `cargo +nightly fuzz run parse`, or `make fuzz`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    |input: sserpent_fuzz::parse::Input| sserpent_fuzz::parse::check(&input)
);

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("run this with cargo-fuzz");
}
