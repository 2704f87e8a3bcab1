//! What fuzzing checks: fields go into the framing of sserpent, and a reader that knows only the
//! standard gets them back, or they are refused for a true reason.

pub mod parse;
mod reader;

use arbitrary::Arbitrary;

use reader::Line;
use sserpent_wire::frame::{self, Data, FieldError, Fields, Frame};

/// The fields of one event, as a fuzzer makes them up.
#[derive(Arbitrary, Debug)]
pub struct Event {
    comment: Option<String>,
    event: Option<String>,
    data: Option<Payload>,
    id: Option<String>,
    retry: Option<u64>,
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Text(String),
    /// Stands for JSON: the framing may rely on it that it holds no line break.
    Json(String),
}

/// Frames the events one after the other and reads the stream back.
pub fn check(events: &[Event]) {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for event in events {
        let before = stream.clone();
        match append(&mut stream, event) {
            Ok(()) => {
                assert!(stream.starts_with(&before), "what was there has changed");
                expected.extend(lines_of(event));
            }
            Err(error) => {
                assert_eq!(stream, before, "a refused event left something behind");
                check_refusal(event, error);
            }
        }
    }
    let stream = String::from_utf8(stream).expect("text in, text out");
    assert_eq!(reader::lines(&stream), expected);
}

fn append(stream: &mut Vec<u8>, event: &Event) -> Result<(), FieldError> {
    let json;
    let data = match &event.data {
        None => None,
        Some(Payload::Text(text)) => Some(Data::Text(text)),
        Some(Payload::Json(text)) => {
            json = without_line_breaks(text);
            Some(Data::Json(json.as_bytes()))
        }
    };
    let retry = event.retry.map(|retry| retry.to_string());
    let fields = Fields {
        comment: event.comment.as_deref(),
        event: event.event.as_deref(),
        data,
        id: event.id.as_deref(),
        retry: retry.as_deref(),
    };
    let before = stream.len();
    frame::append_event(stream, &fields)?;
    assert_eq!(stream.len() - before, Frame::new(&fields)?.size());
    Ok(())
}

fn check_refusal(event: &Event, error: FieldError) {
    let breaks =
        |value: &Option<String>| value.as_ref().is_some_and(|it| it.contains(['\r', '\n']));
    let holds = match error {
        FieldError::LineBreak("event") => breaks(&event.event),
        FieldError::LineBreak("id") => breaks(&event.id),
        FieldError::LineBreak(_) => false,
        FieldError::NullInId => event.id.as_ref().is_some_and(|id| id.contains('\0')),
    };
    assert!(holds, "{error:?} is no reason to refuse {event:?}");
}

/// What a reader has to find, in order.
fn lines_of(event: &Event) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in event.comment.iter().flat_map(|text| split(text)) {
        lines.push(Line::Comment(format!(" {line}")));
    }
    let field = |name: &str, value: String| Line::Field(name.to_owned(), value);
    lines.extend(event.event.clone().map(|value| field("event", value)));
    match &event.data {
        None => {}
        Some(Payload::Text(text)) => {
            lines.extend(split(text).into_iter().map(|line| field("data", line)));
        }
        Some(Payload::Json(text)) => lines.push(field("data", without_line_breaks(text))),
    }
    lines.extend(event.id.clone().map(|value| field("id", value)));
    lines.extend(event.retry.map(|value| field("retry", value.to_string())));
    lines.push(Line::Blank);
    lines
}

fn split(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.split('\n').map(str::to_owned).collect()
}

fn without_line_breaks(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}
