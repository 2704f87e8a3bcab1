//! The blocks of an event stream that somebody else has framed.

use memchr::memmem;

use crate::ends::find_end;

/// Returns a stream without the events whose whole data is `left_out`, blanks around it or not, and
/// whether the last event with data was one of them; None if there are none.
#[must_use]
pub fn without(stream: &[u8], left_out: &[u8]) -> Option<(Vec<u8>, bool)> {
    memmem::find(stream, left_out)?;
    let mut kept = Vec::with_capacity(stream.len());
    let (mut block, mut at) = (0, 0);
    let mut is_last = false;
    let mut data: Option<Vec<u8>> = None;
    while at < stream.len() {
        let (line, next) = line_at(stream, at);
        at = next;
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
        if line.is_empty() {
            let is_left_out = data.take().map(|data| data.trim_ascii() == left_out);
            if is_left_out != Some(true) {
                kept.extend_from_slice(&stream[block..at]);
            }
            is_last = is_left_out.unwrap_or(is_last);
            block = at;
        }
    }
    kept.extend_from_slice(&stream[block..]);
    Some((kept, is_last))
}

/// A line, and where the next one begins.
fn line_at(stream: &[u8], start: usize) -> (&[u8], usize) {
    let rest = &stream[start..];
    let Some(end) = find_end(rest) else {
        return (rest, stream.len());
    };
    let is_pair = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
    (&rest[..end], start + end + if is_pair { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(stream: &[u8]) -> Vec<u8> {
        without(stream, b"[DONE]").map_or_else(|| stream.to_vec(), |(kept, _)| kept)
    }

    #[test]
    fn an_event_whose_whole_data_it_is_is_left_out() {
        assert_eq!(kept(b"data: [DONE]\n\n"), b"");
        assert_eq!(
            kept(b"data:[DONE]\r\n\r\ndata: a\r\rdata: [DONE]\n\n"),
            b"data: a\r\r"
        );
        assert_eq!(kept(b"event: x\ndata: [DONE]\n\n: c\n\n"), b": c\n\n");
        assert_eq!(kept(b"data:  [DONE] \t\n\ndata:\ndata: [DONE]\n\n"), b"");
    }

    #[test]
    fn all_else_is_kept() {
        for stream in [
            &b"data: [DONE]\ndata: x\n\n"[..],
            b"data: [DONE]\n",
            b"data: \"[DONE]\"\n\n",
            b": [DONE]\n\n",
            b"",
        ] {
            assert_eq!(kept(stream), stream);
        }
    }
}
