//! The JSON text of scalars, as RFC 8259 has it: compact, in UTF-8, without a raw line break.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Appends a string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(index) = first_escaped(rest) {
        out.extend_from_slice(&rest[..index]);
        escape(out, rest[index]);
        rest = &rest[index + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest number that is read as `value`; null if it is not finite.
pub fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends what `str(UUID)` is, as a string.
pub fn uuid(out: &mut Vec<u8>, value: u128) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"\"________-____-____-____-____________\"";
    let digits = text.iter_mut().filter(|byte| **byte == b'_');
    for (index, digit) in digits.enumerate() {
        *digit = HEX[(value >> (124 - 4 * index)) as usize & 0xf];
    }
    out.extend_from_slice(&text);
}

/// A day of the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug)]
pub struct Date {
    /// 0 to 9999.
    pub year: u32,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
}

/// A time of day without its offset.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999.
    pub microsecond: u32,
}

/// Appends a date as Python's `isoformat()` has it, without quotes.
pub fn iso_date(out: &mut Vec<u8>, date: Date) {
    let mut text = *b"0000-00-00";
    digits(&mut text[..4], date.year);
    digits(&mut text[5..7], date.month.into());
    digits(&mut text[8..], date.day.into());
    out.extend_from_slice(&text);
}

/// Appends a time as Python's `isoformat()` has it, without quotes: microseconds if there are any.
pub fn iso_time(out: &mut Vec<u8>, time: Time) {
    let mut text = *b"00:00:00.000000";
    digits(&mut text[..2], time.hour.into());
    digits(&mut text[3..5], time.minute.into());
    digits(&mut text[6..8], time.second.into());
    digits(&mut text[9..], time.microsecond);
    let length = if time.microsecond == 0 { 8 } else { 15 };
    out.extend_from_slice(&text[..length]);
}

/// Fills the text with the last digits of a number.
fn digits(text: &mut [u8], mut number: u32) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// "All Unicode characters may be placed within the quotation marks, except for the characters
/// that MUST be escaped: quotation mark, reverse solidus, and the control characters (U+0000
/// through U+001F)." <https://www.rfc-editor.org/rfc/rfc8259#section-7>
fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

const WORD: usize = size_of::<u64>();

/// Where the first byte is that has to be escaped. Eight bytes at a time, the last of which may
/// have been looked at before.
fn first_escaped(bytes: &[u8]) -> Option<usize> {
    let Some(last) = bytes.last_chunk::<WORD>() else {
        return first_in_few(bytes);
    };
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<WORD>() {
        if let Some(found) = first_in_word(*word) {
            return Some(bytes.len() - rest.len() + found);
        }
        rest = after;
    }
    first_in_word(*last).map(|found| bytes.len() - WORD + found)
}

/// Fewer than eight.
fn first_in_few(bytes: &[u8]) -> Option<usize> {
    const HALF: usize = WORD / 2;
    let (Some(first), Some(last)) = (bytes.first_chunk::<HALF>(), bytes.last_chunk::<HALF>())
    else {
        return bytes
            .iter()
            .position(|byte| matches!(byte, 0..b' ' | b'"' | b'\\'));
    };
    let mut word = [0; WORD];
    word[..HALF].copy_from_slice(first);
    word[HALF..].copy_from_slice(last);
    first_in_word(word).map(|found| {
        if found < HALF {
            found
        } else {
            found + bytes.len() - WORD
        }
    })
}

/// Each test sets the highest bit of a byte of which it holds. A borrow may set the bit of a byte
/// above one of which it holds too, so the lowest bit is always right.
fn first_in_word(word: [u8; WORD]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; WORD]);
    const HIGHEST: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
    let is = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let found = (less(word, b' ') | is(b'"') | is(b'\\')) & HIGHEST;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Whether FastAPI may make something else of a model's JSON: it leaves out keys that start with
/// `_sa`, makes NaN and infinities null, and refuses integers of more digits than
/// `sys.get_int_max_str_digits()`. That is 640 at least, which fill a block of 320.
#[must_use]
pub fn is_doubtful(json: &[u8]) -> bool {
    static MARKS: LazyLock<[Finder<'_>; 3]> =
        LazyLock::new(|| [b"\"_sa".as_slice(), b"NaN", b"Infinity"].map(Finder::new));
    MARKS.iter().any(|mark| mark.find(json).is_some())
        || json.len() > 640
            && json
                .chunks_exact(320)
                .any(|block| block.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// One character at a time, as one would write it first.
    fn plainly(text: &str) -> String {
        let escaped: String = text.chars().map(plain_escape).collect();
        format!("\"{escaped}\"")
    }

    fn plain_escape(each: char) -> String {
        match each {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            '\u{8}' => "\\b".into(),
            '\u{c}' => "\\f".into(),
            '\0'..' ' => format!("\\u{:04x}", u32::from(each)),
            _ => each.into(),
        }
    }

    proptest! {
        #[test]
        fn strings(text in "([ -~]|[\0-\u{20}]|[\"\\\\!#\\[\\]\u{7f}\u{80}\u{9f}\u{a2}\u{2028}🐍]){0,40}") {
            prop_assert_eq!(text_of(|out| string(out, &text)), plainly(&text));
        }

        #[test]
        fn floats(bits: u64) {
            let value = f64::from_bits(bits);
            let text = text_of(|out| float(out, value));
            if value.is_finite() {
                prop_assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(bits));
                // Only then is it no integer to the reader.
                prop_assert!(text.contains(['.', 'e']));
            } else {
                prop_assert_eq!(text, "null");
            }
        }
    }

    #[test]
    fn every_byte_at_every_place() {
        for character in '\0'..='\u{ff}' {
            for before in 0..20 {
                let text = format!("{}{character}{}", "é".repeat(before), "x".repeat(9));
                assert_eq!(text_of(|out| string(out, &text)), plainly(&text));
            }
        }
    }

    #[test]
    fn moments() {
        let date = Date {
            year: 7,
            month: 2,
            day: 29,
        };
        assert_eq!(text_of(|out| iso_date(out, date)), "0007-02-29");
        let mut time = Time {
            hour: 3,
            minute: 59,
            second: 0,
            microsecond: 0,
        };
        assert_eq!(text_of(|out| iso_time(out, time)), "03:59:00");
        time.microsecond = 70;
        assert_eq!(text_of(|out| iso_time(out, time)), "03:59:00.000070");
    }

    #[test]
    fn uuids() {
        let value = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        let text = "\"01234567-89ab-cdef-0011-223344556677\"";
        assert_eq!(text_of(|out| uuid(out, value)), text);
    }
}
