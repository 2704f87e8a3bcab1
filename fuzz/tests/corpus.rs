//! The fuzz targets without a fuzzer: over the corpus that fuzzing has found, and over random
//! bytes. Runs on any toolchain.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use proptest::prelude::*;
use sserpent_fuzz::{Event, check, parse};

fn check_bytes(bytes: &[u8]) {
    let events = Vec::<Event>::arbitrary_take_rest(Unstructured::new(bytes));
    check(&events.expect("any bytes make some events"));
}

fn parse_bytes(bytes: &[u8]) {
    let input = parse::Input::arbitrary_take_rest(Unstructured::new(bytes));
    parse::check(&input.expect("any bytes make some stream"));
}

fn check_corpus(target: &str, check: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is kept") {
        check(&std::fs::read(entry.expect("a file").path()).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 10, "the corpus is gone");
}

#[test]
fn the_corpus_of_frame_holds() {
    check_corpus("frame", check_bytes);
}

#[test]
fn the_corpus_of_parse_holds() {
    check_corpus("parse", parse_bytes);
}

proptest! {
    #[test]
    fn random_bytes_hold(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check_bytes(&bytes);
        parse_bytes(&bytes);
    }

    #[test]
    fn hostile_bytes_hold(
        parts in proptest::collection::vec(
            prop_oneof![
                Just(b"\n".to_vec()), Just(b"\r".to_vec()), Just(b"\r\n\r\n".to_vec()),
                Just(b"\0".to_vec()), Just(b"data: ".to_vec()), Just(b": ".to_vec()),
                Just(vec![1]), proptest::collection::vec(any::<u8>(), 1..6),
            ],
            0..60,
        ),
    ) {
        check_bytes(&parts.concat());
        parse_bytes(&parts.concat());
    }
}
