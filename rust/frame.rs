//! The wire format: field values in, the bytes of one event out. No Python, no `unsafe`.
//!
//! The rules are those of the WHATWG event stream,
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>:
//! lines end at CRLF, LF or CR and at nothing else, and a blank line ends an event.
#![forbid(unsafe_code)]

use std::fmt;

use memchr::{memchr, memchr2, memchr2_iter};

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

/// What the `data` field carries.
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
    check_single_line("event", value)
}

/// Checks the value of an `id` field.
pub fn check_id(value: &str) -> Result<(), FieldError> {
    if memchr(b'\0', value.as_bytes()).is_some() {
        return Err(FieldError::NullInId);
    }
    check_single_line("id", value)
}

fn check_single_line(field: &'static str, value: &str) -> Result<(), FieldError> {
    match memchr2(b'\r', b'\n', value.as_bytes()) {
        Some(_) => Err(FieldError::LineBreak(field)),
        None => Ok(()),
    }
}

/// Appends one event to `stream`, or leaves it as it was and says why.
///
/// This is the only place that writes fields, so no caller can put a second field, event or
/// comment on the wire through a value.
pub fn append_event(stream: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), FieldError> {
    fields.event.map_or(Ok(()), check_event)?;
    fields.id.map_or(Ok(()), check_id)?;
    debug_assert!(
        fields
            .retry
            .is_none_or(|retry| retry.bytes().all(|byte| byte.is_ascii_digit())),
        "retry is written from an integer"
    );

    if let Some(comment) = fields.comment {
        append_lines(stream, b": ", comment);
    }
    if let Some(event) = fields.event {
        append_line(stream, b"event: ", event.as_bytes());
    }
    match fields.data {
        Some(Data::Text(text)) => append_lines(stream, b"data: ", text),
        Some(Data::Json(json)) => append_json(stream, json),
        None => {}
    }
    if let Some(id) = fields.id {
        append_line(stream, b"id: ", id.as_bytes());
    }
    if let Some(retry) = fields.retry {
        append_line(stream, b"retry: ", retry.as_bytes());
    }
    stream.push(b'\n');
    Ok(())
}

fn append_json(stream: &mut Vec<u8>, json: &[u8]) {
    debug_assert!(
        memchr2(b'\r', b'\n', json).is_none(),
        "JSON escapes line breaks"
    );
    stream.reserve(json.len() + 8);
    append_line(stream, b"data: ", json);
}

fn append_lines(stream: &mut Vec<u8>, prefix: &[u8], text: &str) {
    let mut rest = text.as_bytes();
    let mut next = memchr2(b'\r', b'\n', rest);
    let breaks = next.map_or(0, |first| {
        memchr2_iter(b'\r', b'\n', &rest[first..]).count()
    });
    stream.reserve(rest.len() + (breaks + 1) * (prefix.len() + 1) + 1);
    while let Some(end) = next {
        append_line(stream, prefix, &rest[..end]);
        let is_pair = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        rest = &rest[end + 1 + usize::from(is_pair)..];
        next = memchr2(b'\r', b'\n', rest);
    }
    append_line(stream, prefix, rest);
}

fn append_line(stream: &mut Vec<u8>, prefix: &[u8], value: &[u8]) {
    stream.extend_from_slice(prefix);
    stream.extend_from_slice(value);
    stream.push(b'\n');
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

    /// What a client makes of the stream, written straight from the parsing rules of the standard
    /// and from nothing else in this file.
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
            comment in proptest::option::of(any::<String>()),
            event in proptest::option::of(any::<String>()),
            data in proptest::option::of(any::<String>()),
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
