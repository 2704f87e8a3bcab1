//! What fuzzing checks of the parser: however a stream is cut, it yields the events that a reader
//! of whole streams finds, which knows only the standard; and it keeps no more than it may.

use arbitrary::Arbitrary;
use sserpent_wire::parse::{MAX_RECONNECTION_TIME, Parser};

/// A stream, where it is cut, and how large its events may be.
#[derive(Arbitrary, Debug)]
pub struct Input {
    max_event_size: u16,
    cuts: Vec<u8>,
    stream: Vec<u8>,
}

/// What can be seen of a stream that was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Type, data and last event ID.
    events: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    last_event_id: Vec<u8>,
    reconnection_time: Option<u32>,
    is_too_large: bool,
}

/// Reads the stream in its chunks, and whole.
pub fn check(input: &Input) {
    let max_event_size = usize::from(input.max_event_size).max(1);
    assert_eq!(
        parsed(&chunks(input), max_event_size),
        read(&input.stream, max_event_size)
    );
}

/// The chunks, of the lengths that the cuts say, over and over.
fn chunks(input: &Input) -> Vec<&[u8]> {
    let mut rest = &input.stream[..];
    let mut chunks = Vec::new();
    if input.cuts.iter().any(|&length| length > 0) {
        for &length in input.cuts.iter().cycle() {
            let (chunk, behind) = rest.split_at(usize::from(length).min(rest.len()));
            chunks.push(chunk);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
    }
    chunks.push(rest);
    chunks
}

fn parsed(chunks: &[&[u8]], max_event_size: usize) -> Seen {
    let mut parser = Parser::new(max_event_size, b"");
    let mut seen = Seen::default();
    let mut id = Vec::new();
    for chunk in chunks {
        let fed = parser.feed(chunk, |event| {
            if let Some(new) = event.last_event_id {
                id = new.to_vec();
            }
            seen.events
                .push((event.event_type.to_vec(), event.data.to_vec(), id.clone()));
        });
        assert!(fed.is_err() || !seen.is_too_large, "an error is for ever");
        seen.is_too_large = fed.is_err();
    }
    seen.last_event_id = parser.last_event_id().to_vec();
    seen.reconnection_time = parser.reconnection_time();
    seen
}

/// "The stream must then be parsed by reading everything line by line".
fn read(stream: &[u8], max_event_size: usize) -> Seen {
    let mut seen = Seen::default();
    let (mut event_type, mut data, mut id) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    // What may still become a BOM is no line yet.
    if b"\xef\xbb\xbf".starts_with(rest) {
        return seen;
    }
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let line = &rest[..end.unwrap_or(rest.len())];
        if data.len() + line.len() > max_event_size {
            seen.is_too_large = true;
            return seen;
        }
        let Some(end) = end else { return seen };
        rest = match &rest[end..] {
            [b'\r', b'\n', behind @ ..] | [_, behind @ ..] => behind,
            [] => rest,
        };
        if line.is_empty() {
            seen.last_event_id.clone_from(&id);
            if data.pop().is_some() {
                seen.events.push((event_type, data, id.clone()));
            }
            (event_type, data) = (Vec::new(), Vec::new());
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => event_type = value.to_vec(),
            b"data" => {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            b"id" if !value.contains(&0) => id = value.to_vec(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let digits = String::from_utf8_lossy(value);
                let digits = digits.trim_start_matches('0');
                let time = match digits.len() {
                    0 => 0,
                    1..=15 => digits.parse::<u64>().expect("few digits"),
                    _ => u64::MAX,
                };
                seen.reconnection_time =
                    Some(u32::try_from(time).map_or(MAX_RECONNECTION_TIME, |time| {
                        time.min(MAX_RECONNECTION_TIME)
                    }));
            }
            _ => {}
        }
    }
}
