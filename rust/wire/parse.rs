//! The wire format, read: the bytes of a stream in, cut anywhere, its events out. No Python, no
//! `unsafe`.
//!
//! The rules are those of the WHATWG event stream,
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.
//! Every byte is looked at once, whatever the chunks, and an event takes no more memory than its
//! reader allows.

use std::fmt;

use memchr::{memchr, memchr2};

use crate::ends::find_end;

/// The longest reconnection time, in milliseconds: what fits the timers of clients.
pub const MAX_RECONNECTION_TIME: u32 = i32::MAX as u32;

/// "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present."
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A buffer that one event made larger than this is not kept for the next.
const MAX_IDLE_CAPACITY: usize = 65_536;

/// An event as it is dispatched. All bytes are as they came: what is no UTF-8 is not replaced yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event type; empty for a message.
    pub event_type: &'a [u8],
    /// The lines of `data`, joined with LF.
    pub data: &'a [u8],
    /// The last event ID, unless it is the one of the event before. Told once only, so that the
    /// events after a long one cost nothing for it.
    pub last_event_id: Option<&'a [u8]>,
}

/// An event is larger than its reader allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// How many bytes it allows.
    pub max_event_size: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event of the stream is larger than 'max_event_size', {} bytes",
            self.max_event_size
        )
    }
}

/// Reads one stream.
pub struct Parser {
    max_event_size: usize,
    phase: Phase,
    /// The last byte was a CR, which has ended its line: an LF that follows belongs to it.
    after_cr: bool,
    /// The bytes of the line whose end has not come yet.
    line: Vec<u8>,
    /// The values of the `data` lines, each with an LF behind it.
    data: Vec<u8>,
    /// How many bytes stood before the value of the `data` line whose end has not come yet. What has
    /// come of the value is in `data` already; 0 if there is no such line.
    in_data: usize,
    event_type: Vec<u8>,
    /// "The last event ID buffer", which becomes the last event ID at the blank line.
    id: Vec<u8>,
    /// A line has written to `id` since the last blank line.
    id_is_new: bool,
    last_event_id: Vec<u8>,
    /// No event has told the last event ID yet.
    id_is_untold: bool,
    reconnection_time: Option<u32>,
}

/// How far a stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// As many bytes of a BOM have been read, and nothing else.
    Beginning(usize),
    /// Another BOM is text.
    Reading,
    /// An event was too large.
    Failed,
}

impl Parser {
    /// A reader of a stream that goes on after `last_event_id`; empty if there is none.
    #[must_use]
    pub fn new(max_event_size: usize, last_event_id: &[u8]) -> Self {
        Self {
            max_event_size,
            phase: Phase::Beginning(0),
            after_cr: false,
            line: Vec::new(),
            data: Vec::new(),
            in_data: 0,
            event_type: Vec::new(),
            id: Vec::new(),
            id_is_new: false,
            last_event_id: last_event_id.to_vec(),
            id_is_untold: true,
            reconnection_time: None,
        }
    }

    /// The ID to go on after: of the last event that is complete, also of one without data.
    #[must_use]
    pub fn last_event_id(&self) -> &[u8] {
        &self.last_event_id
    }

    /// The time to wait before reconnecting, in milliseconds, if the stream has said so.
    #[must_use]
    pub fn reconnection_time(&self) -> Option<u32> {
        self.reconnection_time
    }

    /// Reads the next bytes, and hands each event to `dispatch` as it is complete.
    ///
    /// # Errors
    ///
    /// The event that comes now is too large; the ones before it have been dispatched. The parser
    /// reads no further: every call after this one fails in the same way.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        mut dispatch: impl FnMut(Event<'_>),
    ) -> Result<(), TooLarge> {
        if self.phase == Phase::Failed {
            return Err(self.too_large());
        }
        let mut rest = self.skip_bom(chunk);
        // The value of the event's only `data` line so far, if this chunk holds it whole: an event
        // of one line, as most are, is copied only by its receiver.
        let mut value: Option<&[u8]> = None;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = next_end(rest) {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            self.check_size(value, line)?;
            rest = match (rest[end], behind.first()) {
                (b'\r', Some(b'\n')) => &behind[1..],
                (b'\r', None) => {
                    self.after_cr = true;
                    behind
                }
                _ => behind,
            };
            if self.in_data > 0 {
                self.in_data = 0;
                self.keep_data(line);
            } else if self.line.is_empty() {
                if line.is_empty() {
                    self.end_event(value.take(), &mut dispatch);
                } else if let Some(data) = self.process_line(line) {
                    value = self.add_data(value, data);
                }
            } else {
                self.line.extend_from_slice(line);
                self.process_kept_line();
            }
        }
        self.check_size(value, rest)?;
        if let Some(value) = value {
            self.keep_data(value);
        }
        self.keep_line(rest);
        Ok(())
    }

    /// The chunk without what belongs to a BOM at the beginning of the stream.
    fn skip_bom<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Phase::Beginning(read) = self.phase else {
            return chunk;
        };
        let missing = &BOM[read..];
        if let Some(rest) = chunk.strip_prefix(missing) {
            self.phase = Phase::Reading;
            return rest;
        }
        if missing.starts_with(chunk) {
            self.phase = Phase::Beginning(read + chunk.len());
            return b"";
        }
        self.phase = Phase::Reading;
        self.line.extend_from_slice(&BOM[..read]);
        chunk
    }

    /// Checks the line being read, with `more` at its end, and the data before it; before anything
    /// is copied. What a line may be thus does not depend on the chunks it comes in.
    fn check_size(&mut self, value: Option<&[u8]>, more: &[u8]) -> Result<(), TooLarge> {
        let data = value.map_or(self.data.len(), |value| value.len() + 1);
        if data + self.in_data + self.line.len() + more.len() <= self.max_event_size {
            return Ok(());
        }
        self.phase = Phase::Failed;
        self.line = Vec::new();
        self.data = Vec::new();
        Err(self.too_large())
    }

    fn too_large(&self) -> TooLarge {
        TooLarge {
            max_event_size: self.max_event_size,
        }
    }

    /// Processes a line that is not empty; returns the value if the field is `data`.
    #[inline]
    fn process_line<'a>(&mut self, line: &'a [u8]) -> Option<&'a [u8]> {
        match line.strip_prefix(b"data:") {
            Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
            None => self.process_rare_line(line),
        }
    }

    fn process_rare_line<'a>(&mut self, line: &'a [u8]) -> Option<&'a [u8]> {
        let (name, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => return Some(value),
            b"event" => replace(&mut self.event_type, value),
            // "If the field value does not contain U+0000 NULL".
            b"id" if memchr(0, value).is_none() => {
                replace(&mut self.id, value);
                self.id_is_new = true;
            }
            b"retry" => self.reconnection_time = milliseconds(value).or(self.reconnection_time),
            // Comments, whose name is empty, among them.
            _ => {}
        }
        None
    }

    /// Keeps what may go on in the next chunk. A long value is kept once, where it will be taken from.
    fn keep_line(&mut self, rest: &[u8]) {
        if self.in_data > 0 {
            self.data.extend_from_slice(rest);
            return;
        }
        self.line.extend_from_slice(rest);
        let value = self.line.strip_prefix(b"data:").unwrap_or_default();
        if let Some(first) = value.first() {
            self.in_data = if *first == b' ' { 6 } else { 5 };
            self.data.extend_from_slice(&self.line[self.in_data..]);
            self.line.clear();
        }
    }

    /// Processes the line that earlier chunks began.
    fn process_kept_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if let Some(value) = self.process_line(&line) {
            self.keep_data(value);
        }
        line.clear();
        give_back(&mut line);
        self.line = line;
    }

    /// Adds a value to the data; returns it if it can stay where it is.
    fn add_data<'a>(&mut self, first: Option<&'a [u8]>, value: &'a [u8]) -> Option<&'a [u8]> {
        if first.is_none() && self.data.is_empty() {
            return Some(value);
        }
        if let Some(first) = first {
            self.keep_data(first);
        }
        self.keep_data(value);
        None
    }

    fn keep_data(&mut self, value: &[u8]) {
        self.data.reserve(value.len() + 1);
        self.data.extend_from_slice(value);
        self.data.push(b'\n');
    }

    /// A blank line: the ID counts from now on, and what has data is an event.
    fn end_event(&mut self, value: Option<&[u8]>, dispatch: &mut impl FnMut(Event<'_>)) {
        if self.id_is_new {
            self.id_is_new = false;
            std::mem::swap(&mut self.last_event_id, &mut self.id);
            self.id_is_untold = true;
        }
        if let Some(data) = value.or_else(|| self.data.strip_suffix(b"\n")) {
            dispatch(Event {
                event_type: &self.event_type,
                data,
                last_event_id: self.id_is_untold.then_some(&*self.last_event_id),
            });
            self.id_is_untold = false;
            self.data.clear();
            give_back(&mut self.data);
        }
        self.event_type.clear();
        give_back(&mut self.event_type);
    }
}

/// The place of the end of the line. A blank line needs no search, and a line that is long a search
/// for long ones.
fn next_end(rest: &[u8]) -> Option<usize> {
    if rest.first() == Some(&b'\n') {
        return Some(0);
    }
    let (near, far) = rest.split_at(rest.len().min(NEAR));
    find_end(near).or_else(|| memchr2(b'\r', b'\n', far).map(|end| NEAR + end))
}

/// How many bytes make a line long.
const NEAR: usize = 256;

/// "If the field value consists of only ASCII digits".
fn milliseconds(value: &[u8]) -> Option<u32> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let time = value.iter().fold(0_u32, |time, digit| {
        time.saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    });
    Some(time.min(MAX_RECONNECTION_TIME))
}

fn replace(buffer: &mut Vec<u8>, value: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(value);
}

/// Frees the memory of an empty buffer if it is much.
fn give_back(buffer: &mut Vec<u8>) {
    if buffer.capacity() > MAX_IDLE_CAPACITY {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

    fn read(parser: &mut Parser, chunk: &[u8]) -> (Vec<Seen>, Result<(), TooLarge>) {
        let mut events = Vec::new();
        let fed = parser.feed(chunk, |event| {
            events.push((
                event.event_type.to_vec(),
                event.data.to_vec(),
                event.last_event_id.map(<[u8]>::to_vec),
            ));
        });
        (events, fed)
    }

    impl Parser {
        fn memory(&self) -> usize {
            let buffers = [
                &self.line,
                &self.data,
                &self.event_type,
                &self.id,
                &self.last_event_id,
            ];
            buffers.iter().map(|buffer| buffer.capacity()).sum()
        }
    }

    #[test]
    fn lines_of_any_length_end_at_each_end() {
        for length in 0..2 * NEAR {
            for end in ["\n", "\r", "\r\n"] {
                let value = "x".repeat(length);
                let stream = format!("data: {value}{end}data: b{end}{end}");
                let (events, _) = read(&mut Parser::new(1000, b""), stream.as_bytes());
                assert_eq!(events.len(), 1, "{stream:?}");
                assert_eq!(events[0].1, format!("{value}\nb").into_bytes());
            }
        }
    }

    #[test]
    fn an_id_is_told_once() {
        let mut parser = Parser::new(100, b"0");
        let (events, _) = read(
            &mut parser,
            b"data: a\n\ndata: b\n\nid: 1\n\ndata: c\n\ndata: d\n\n",
        );
        let ids: Vec<_> = events.into_iter().map(|(_, _, id)| id).collect();
        assert_eq!(ids, [Some(b"0".to_vec()), None, Some(b"1".to_vec()), None]);
        assert_eq!(parser.last_event_id(), b"1");
    }

    #[test]
    fn the_buffers_are_bounded() {
        const LIMIT: usize = 100_000;
        for hostile in ["data: xxx\n", "x", "data:a\n", "data\n", "event", "id: "] {
            let mut parser = Parser::new(LIMIT, b"");
            let mut peak = 0;
            while parser.feed(hostile.as_bytes(), |_| {}).is_ok() {
                peak = peak.max(parser.memory());
            }
            // A buffer that grows doubles.
            assert!(peak <= 2 * LIMIT + 64, "{peak} for {hostile}");
            assert!(parser.memory() < 64, "a failed parser keeps its buffers");
        }
    }

    #[test]
    fn a_large_chunk_is_refused_before_it_is_copied() {
        let mut parser = Parser::new(100, b"");
        assert!(parser.feed(&vec![b'x'; 1_000_000], |_| {}).is_err());
        assert!(parser.memory() < 64);
    }

    #[test]
    fn a_large_event_leaves_no_large_buffer() {
        let mut parser = Parser::new(1_000_000, b"");
        for chunk in [
            &[&b"event: "[..], &vec![b'x'; 200_000]].concat(),
            &b"\ndata: ".to_vec(),
        ] {
            assert_eq!(read(&mut parser, chunk).1, Ok(()));
        }
        assert_eq!(read(&mut parser, &vec![b'x'; 500_000]).1, Ok(()));
        assert_eq!(read(&mut parser, b"\n\n").0.len(), 1);
        assert!(parser.memory() <= 2 * MAX_IDLE_CAPACITY);
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "\n", "\r", "\r\n", "\n\n", "data: ", "data", "event: e", "id: ", "1", "\0",
                    "\u{feff}", ": ", "abc",
                ]),
                0..30,
            ),
            places in proptest::collection::vec(0_usize..200, 0..6),
            limit in 1_usize..40,
        ) {
            let stream = parts.concat().into_bytes();
            let mut whole = Parser::new(limit, b"");
            let (expected, fed) = read(&mut whole, &stream);
            let mut edges: Vec<_> = places.iter().map(|place| place % (stream.len() + 1)).collect();
            edges.extend([0, stream.len()]);
            edges.sort_unstable();
            let mut parser = Parser::new(limit, b"");
            let (mut found, mut last) = (Vec::new(), Ok(()));
            for edge in edges.windows(2) {
                let (events, fed) = read(&mut parser, &stream[edge[0]..edge[1]]);
                found.extend(events);
                last = last.and(fed);
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(last, fed);
            prop_assert_eq!(parser.last_event_id(), whole.last_event_id());
            prop_assert_eq!(parser.reconnection_time(), whole.reconnection_time());
        }
    }
}
