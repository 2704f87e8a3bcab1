//! The wire format: field values in, the bytes of one event out. No Python, no `unsafe`.
//!
//! The rules are those of the WHATWG event stream,
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>:
//! lines end at CRLF, LF or CR and at nothing else, and a blank line ends an event.

use std::fmt;

use memchr::{memchr_iter, memchr2};

use crate::ends::{find_end, find_lf};

/// The fields of one event. `None` leaves the field out.
#[derive(Clone, Copy, Default)]
pub struct Fields<'a> {
    /// One `:` line for each line of the text.
    pub comment: Option<&'a str>,
    /// The event type; a single line.
    pub event: Option<&'a str>,
    /// The payload.
    pub data: Option<Data<'a>>,
    /// The last event ID; a single line without NUL.
    pub id: Option<&'a str>,
    /// The reconnection time in milliseconds, as ASCII digits.
    pub retry: Option<&'a str>,
}

/// The value of the `data` field.
#[derive(Clone, Copy)]
pub enum Data<'a> {
    /// Any text: one `data:` line for each of its lines.
    Text(&'a str),
    /// JSON as a serializer writes it without indentation: it holds no raw line break, because
    /// JSON escapes control characters inside strings, so it needs no scan.
    Json(&'a [u8]),
}

/// Why a set of fields is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// The named field holds CR or LF, which would start another line of the stream.
    LineBreak(&'static str),
    /// "If the field value does not contain U+0000 NULL, then set the last event ID buffer":
    /// clients ignore an `id` with NUL, so it is refused here.
    NullInId,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineBreak(field) => write!(f, "SSE '{field}' must be a single line"),
            Self::NullInId => f.write_str("SSE 'id' must not contain null characters"),
        }
    }
}

/// Checks the value of an `event` field.
pub fn check_event(value: &str) -> Result<(), FieldError> {
    match find_end(value.as_bytes()) {
        None => Ok(()),
        Some(_) => Err(FieldError::LineBreak("event")),
    }
}

// IDs are a few bytes long: a plain loop over them takes less time than it takes to set up a search.

/// Checks the value of an `id` field.
pub fn check_id(value: &str) -> Result<(), FieldError> {
    if value
        .bytes()
        .all(|byte| byte != b'\r' && byte != b'\n' && byte != b'\0')
    {
        return Ok(());
    }
    Err(if value.contains('\0') {
        FieldError::NullInId
    } else {
        FieldError::LineBreak("id")
    })
}

/// Appends one event to `stream`, or leaves it as it was and says why.
pub fn append_event(stream: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), FieldError> {
    let frame = Frame::new(fields)?;
    stream.reserve(frame.size());
    frame.write(stream);
    Ok(())
}

/// Where framed bytes go.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// One event, checked and measured.
///
/// This is the only thing that writes fields, so no caller can put a second field, event or
/// comment on the wire through a value.
pub struct Frame<'a> {
    comment: Option<Lines<'a>>,
    event: Option<&'a str>,
    data: Option<Lines<'a>>,
    id: Option<&'a str>,
    retry: Option<&'a str>,
    size: usize,
}

impl<'a> Frame<'a> {
    /// Checks the fields.
    pub fn new(fields: &Fields<'a>) -> Result<Self, FieldError> {
        fields.event.map_or(Ok(()), check_event)?;
        fields.id.map_or(Ok(()), check_id)?;
        debug_assert!(
            fields
                .retry
                .is_none_or(|retry| retry.bytes().all(|byte| byte.is_ascii_digit())),
            "retry is written from an integer"
        );
        let comment = fields.comment.map(Lines::of_text);
        let data = fields.data.map(|data| match data {
            Data::Text(text) => Lines::of_text(text),
            Data::Json(json) => Lines::of_json(json),
        });
        let size = comment.map_or(0, |lines| lines.size(COMMENT))
            + line_size(EVENT, fields.event)
            + data.map_or(0, |lines| lines.size(DATA))
            + line_size(ID, fields.id)
            + line_size(RETRY, fields.retry)
            + 1;
        Ok(Self {
            comment,
            event: fields.event,
            data,
            id: fields.id,
            retry: fields.retry,
            size,
        })
    }

    /// How many bytes `write` writes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the event.
    pub fn write(&self, sink: &mut impl Sink) {
        if let Some(lines) = &self.comment {
            lines.write(COMMENT, sink);
        }
        write_line(EVENT, self.event, sink);
        if let Some(lines) = &self.data {
            lines.write(DATA, sink);
        }
        write_line(ID, self.id, sink);
        write_line(RETRY, self.retry, sink);
        sink.put(b"\n");
    }
}

const COMMENT: &[u8; 2] = b": ";
const EVENT: &[u8; 7] = b"event: ";
const DATA: &[u8; 6] = b"data: ";
const ID: &[u8; 4] = b"id: ";
const RETRY: &[u8; 7] = b"retry: ";

fn line_size<const LEN: usize>(prefix: &[u8; LEN], value: Option<&str>) -> usize {
    value.map_or(0, |value| prefix.len() + value.len() + 1)
}

fn write_line<const LEN: usize>(prefix: &[u8; LEN], value: Option<&str>, sink: &mut impl Sink) {
    if let Some(value) = value {
        sink.put(prefix);
        sink.put(value.as_bytes());
        sink.put(b"\n");
    }
}

/// A value of any number of lines, each of which becomes a line of the stream.
#[derive(Clone, Copy)]
struct Lines<'a> {
    text: &'a [u8],
    /// How many line ends there are, and how many of them are CRLF.
    ends: usize,
    pairs: usize,
    /// Every one of them is LF.
    are_lf: bool,
}

impl<'a> Lines<'a> {
    fn of_json(json: &'a [u8]) -> Self {
        debug_assert!(first_end(json).is_none(), "JSON escapes line breaks");
        Self::of_line(json)
    }

    fn of_line(text: &'a [u8]) -> Self {
        Self {
            text,
            ends: 0,
            pairs: 0,
            are_lf: true,
        }
    }

    fn of_text(text: &'a str) -> Self {
        let text = text.as_bytes();
        match first_end(text) {
            None => Self::of_line(text),
            Some(first) => Self::of_lines(text, first),
        }
    }

    /// Not inlined: most texts are one line.
    #[inline(never)]
    fn of_lines(text: &'a [u8], first: usize) -> Self {
        let ended = &text[first..];
        let lf = memchr_iter(b'\n', ended).count();
        let (mut cr, mut pairs) = (0, 0);
        for at in memchr_iter(b'\r', ended) {
            cr += 1;
            pairs += usize::from(is_pair(ended, at));
        }
        Self {
            text,
            ends: lf + cr - pairs,
            pairs,
            are_lf: cr == 0,
        }
    }

    fn size<const LEN: usize>(&self, prefix: &[u8; LEN]) -> usize {
        self.text.len() - self.pairs + 1 + (self.ends + 1) * prefix.len()
    }

    fn write<const LEN: usize>(&self, prefix: &[u8; LEN], sink: &mut impl Sink) {
        let last = match (self.ends, self.are_lf) {
            (0, _) => self.text,
            (_, true) => self.write_lf_lines(prefix, sink),
            (_, false) => self.write_lines(prefix, sink),
        };
        sink.put(prefix);
        sink.put(last);
        sink.put(b"\n");
    }

    /// Writes all lines but the last, which it returns. Most texts have no CR: their lines are
    /// found sooner, and are copied with the LF that they have.
    fn write_lf_lines<const LEN: usize>(
        &self,
        prefix: &[u8; LEN],
        sink: &mut impl Sink,
    ) -> &'a [u8] {
        let mut rest = self.text;
        // Counted, so that nothing is searched behind the last one.
        for _ in 0..self.ends {
            let Some(end) = find_lf(rest) else { break };
            let line;
            (line, rest) = rest.split_at(end + 1);
            sink.put(prefix);
            sink.put(line);
        }
        rest
    }

    /// Does the same for lines of any ends.
    fn write_lines<const LEN: usize>(&self, prefix: &[u8; LEN], sink: &mut impl Sink) -> &'a [u8] {
        let mut rest = self.text;
        for _ in 0..self.ends {
            let Some(end) = find_end(rest) else { break };
            sink.put(prefix);
            sink.put(&rest[..end]);
            sink.put(b"\n");
            rest = &rest[end + if is_pair(rest, end) { 2 } else { 1 }..];
        }
        rest
    }
}

/// The place of the first line end of a text that may be long, and have none.
fn first_end(text: &[u8]) -> Option<usize> {
    if text.len() < 128 {
        find_end(text)
    } else {
        memchr2(b'\r', b'\n', text)
    }
}

fn is_pair(text: &[u8], end: usize) -> bool {
    text[end] == b'\r' && text.get(end + 1) == Some(&b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(fields: Fields<'_>) -> String {
        let mut stream = Vec::new();
        append_event(&mut stream, &fields).expect("valid fields");
        String::from_utf8(stream).expect("text in, text out")
    }

    fn text(value: &str) -> Fields<'_> {
        Fields {
            data: Some(Data::Text(value)),
            ..Fields::default()
        }
    }

    #[test]
    fn fields_come_in_order_and_end_with_a_blank_line() {
        let fields = Fields {
            comment: Some("c"),
            event: Some("e"),
            data: Some(Data::Json(b"{\"a\":1}")),
            id: Some("7"),
            retry: Some("5000"),
        };
        assert_eq!(
            framed(fields),
            ": c\nevent: e\ndata: {\"a\":1}\nid: 7\nretry: 5000\n\n"
        );
        assert_eq!(framed(Fields::default()), "\n");
    }

    #[test]
    fn lines_split_on_the_three_line_ends_only() {
        assert_eq!(
            framed(text("a\r\nb\rc\nd")),
            "data: a\ndata: b\ndata: c\ndata: d\n\n"
        );
        assert_eq!(framed(text("\n\r")), "data: \ndata: \ndata: \n\n");
        assert_eq!(
            framed(text("a\u{2028}b\u{b}c\u{c}d\u{85}e")),
            "data: a\u{2028}b\u{b}c\u{c}d\u{85}e\n\n"
        );
    }

    #[test]
    fn lines_of_any_length_end_at_each_end() {
        for length in 0..300 {
            for end in ["\n", "\r", "\r\n"] {
                let value = "x".repeat(length);
                assert_eq!(
                    framed(text(&format!("{value}{end}{end}b"))),
                    format!("data: {value}\ndata: \ndata: b\n\n")
                );
            }
        }
    }

    #[test]
    fn refused_fields_leave_the_stream_as_it_was() {
        let cases = [
            (
                Fields {
                    event: Some("a\nb"),
                    ..Fields::default()
                },
                FieldError::LineBreak("event"),
            ),
            (
                Fields {
                    id: Some("a\rb"),
                    ..Fields::default()
                },
                FieldError::LineBreak("id"),
            ),
            (
                Fields {
                    id: Some("\0\n"),
                    ..Fields::default()
                },
                FieldError::NullInId,
            ),
        ];
        for (fields, error) in cases {
            let mut stream = b"before".to_vec();
            assert_eq!(append_event(&mut stream, &fields), Err(error));
            assert_eq!(stream, b"before");
        }
    }

    /// Reads a stream as a client does: written straight from the parsing rules of the standard, and
    /// from nothing else in this file.
    fn parse(stream: &str) -> Vec<(String, String, Option<String>)> {
        let normalised = stream.replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut event, mut data, mut id) = (vec![], String::new(), vec![], None);
        for line in normalised.split_terminator('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((event.clone(), data.join("\n"), id.clone()));
                }
                event.clear();
                data.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event = value.to_owned(),
                "data" => data.push(value.to_owned()),
                "id" => id = Some(value.to_owned()),
                _ => {}
            }
        }
        events
    }

    proptest! {
        #[test]
        fn a_client_reads_back_what_was_framed(
            comment in proptest::option::of("(?s).{0,20}"),
            event in proptest::option::of("[^\r\n]{0,20}"),
            data in "(?s)(.|\r|\n){0,40}",
            id in proptest::option::of("[^\r\n\0]{0,20}"),
        ) {
            let stream = framed(Fields {
                comment: comment.as_deref(),
                event: event.as_deref(),
                data: Some(Data::Text(&data)),
                id: id.as_deref(),
                retry: None,
            });
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(parse(&stream), vec![(event.unwrap_or_default(), lines, id)]);
        }

        #[test]
        fn no_value_adds_an_event_or_is_half_written(
            comment in proptest::option::of("(?s)(.|\r|\n){0,20}"),
            event in proptest::option::of(any::<String>()),
            data in proptest::option::of("(?s)(.|\r|\n){0,40}"),
            id in proptest::option::of(any::<String>()),
        ) {
            let mut stream = Vec::new();
            let fields = Fields {
                comment: comment.as_deref(),
                event: event.as_deref(),
                data: data.as_deref().map(Data::Text),
                id: id.as_deref(),
                retry: None,
            };
            match append_event(&mut stream, &fields) {
                Ok(()) => {
                    prop_assert_eq!(stream.len(), Frame::new(&fields).expect("framed").size());
                    let stream = String::from_utf8(stream).expect("text in, text out");
                    prop_assert!(stream.ends_with('\n'));
                    prop_assert!(!stream[..stream.len() - 1].contains("\n\n"));
                    prop_assert!(parse(&stream).len() <= 1);
                }
                Err(_) => prop_assert!(stream.is_empty()),
            }
        }
    }
}
