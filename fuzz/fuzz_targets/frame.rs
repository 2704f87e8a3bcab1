//! `cargo +nightly fuzz run frame`, or `make fuzz`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|events: Vec<sserpent_fuzz::Event>| sserpent_fuzz::check(&events));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("run this with cargo-fuzz");
}
