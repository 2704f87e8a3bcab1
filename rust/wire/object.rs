//! The members of a JSON object, as a serializer writes it: compact. Nothing panics on other text,
//! in which there may be fewer members than a parser would find.

use std::ops::Range;

use crate::ends::find_quote_or_backslash;

/// A key as it is written, without its quotes, and where its value is.
#[derive(Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Whether the key has escapes.
    pub has_escapes: bool,
    /// The place of the value.
    pub value: Range<usize>,
}

/// Iterates over the members of an object.
pub struct Members<'a> {
    json: &'a [u8],
    at: usize,
}

/// The members of an object, in their order.
#[must_use]
pub fn members(json: &[u8]) -> Members<'_> {
    Members { json, at: 1 }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let (after_key, has_escapes) = after_string(self.json, self.at)?;
        let key = self.json.get(self.at + 1..after_key - 1)?;
        let start = after_key + 1;
        let end = after_value(self.json, start)?;
        self.at = end + 1;
        Some(Member {
            key,
            has_escapes,
            value: start..end,
        })
    }
}

/// The place after a string that begins here, and whether it has escapes; None if none begins.
fn after_string(json: &[u8], start: usize) -> Option<(usize, bool)> {
    if *json.get(start)? != b'"' {
        return None;
    }
    let mut at = start + 1;
    let mut has_escapes = false;
    loop {
        at += find_quote_or_backslash(json.get(at..)?)?;
        if json[at] == b'"' {
            return Some((at + 1, has_escapes));
        }
        has_escapes = true;
        at += 2;
    }
}

fn after_value(json: &[u8], start: usize) -> Option<usize> {
    match *json.get(start)? {
        b'"' => after_string(json, start).map(|(end, _)| end),
        b'{' | b'[' => after_container(json, start),
        _ => {
            let mut rest = json[start..].iter();
            let end = rest.position(|byte| matches!(byte, b',' | b'}' | b']'))?;
            Some(start + end)
        }
    }
}

fn after_container(json: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match *json.get(at)? {
            b'"' => {
                (at, _) = after_string(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json;

    fn found(json: &str) -> Vec<(&str, &str)> {
        members(json.as_bytes())
            .map(|member| {
                let key = std::str::from_utf8(member.key).expect("text in, text out");
                (key, &json[member.value])
            })
            .collect()
    }

    #[test]
    fn each_member_has_its_key_and_its_value() {
        assert_eq!(found("{}"), []);
        assert_eq!(
            found(r#"{"type":"a","b":{"type":[1,"}"]},"c":-1.5e3,"d\"":"x\\","e":null}"#),
            [
                ("type", r#""a""#),
                ("b", r#"{"type":[1,"}"]}"#),
                ("c", "-1.5e3"),
                (r#"d\""#, r#""x\\""#),
                ("e", "null"),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_has_members_that_lie_in_it(json: Vec<u8>) {
            for member in members(&json) {
                prop_assert!(member.value.end <= json.len());
            }
        }

        #[test]
        fn keys_and_values_of_any_text_are_found(pairs: Vec<(String, String)>) {
            let mut json = b"{".to_vec();
            let mut written = Vec::new();
            for (index, (key, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                json::string(&mut json, key);
                json.push(b':');
                let start = json.len();
                json::string(&mut json, value);
                written.push(start..json.len());
            }
            json.push(b'}');
            let values: Vec<_> = members(&json).map(|member| member.value).collect();
            prop_assert_eq!(values, written);
        }
    }
}
