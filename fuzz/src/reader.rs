//! A reader of event streams, written from the standard:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

/// One line of a stream, as the standard tells them apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// "If the line is empty": dispatches an event.
    Blank,
    /// "If the line starts with a U+003A COLON character": ignored.
    Comment(String),
    /// A field, with one leading space removed from its value.
    Field(String, String),
}

/// The lines of a whole stream.
///
/// # Panics
///
/// If the stream stops within a line: the framing writes whole lines only.
pub fn lines(stream: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut characters = stream.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                lines.push(interpret(std::mem::take(&mut line)));
            }
            '\n' => lines.push(interpret(std::mem::take(&mut line))),
            other => line.push(other),
        }
    }
    assert_eq!(line, "", "the stream stops within a line");
    lines
}

fn interpret(line: String) -> Line {
    if line.is_empty() {
        return Line::Blank;
    }
    match line.find(':') {
        Some(0) => Line::Comment(line[1..].to_owned()),
        Some(colon) => {
            let value = &line[colon + 1..];
            let value = value.strip_prefix(' ').unwrap_or(value);
            Line::Field(line[..colon].to_owned(), value.to_owned())
        }
        None => Line::Field(line, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_standard_says() {
        let field = |name: &str, value: &str| Line::Field(name.into(), value.into());
        assert_eq!(
            lines(": test stream\n\ndata: first event\rid: 1\r\n\r\ndata:  x\nid\nretry:7\n\n"),
            [
                Line::Comment(" test stream".into()),
                Line::Blank,
                field("data", "first event"),
                field("id", "1"),
                Line::Blank,
                field("data", " x"),
                field("id", ""),
                field("retry", "7"),
                Line::Blank,
            ]
        );
    }

    #[test]
    #[should_panic(expected = "within a line")]
    fn a_stream_that_is_cut_is_no_stream() {
        lines("data: a\n\ndata");
    }
}
