//! The rules of a protocol for the items of a stream, checked and done for each.

use std::borrow::Cow;
use std::ops::Range;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::json::{Member, Noted, TwoMembers, wrong_type};
use crate::once::intern;
use sserpent_wire::{blocks, json, object};

#[doc = doc!("ItemRules")]
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct ItemRules {
    owner: String,
    only_objects: bool,
    name_from: Option<Name>,
    pub exclude_none: bool,
    number_as: Option<Name>,
    leaves_out: Option<String>,
    pub keeps_first: bool,
    convert: Option<Py<PyAny>>,
}

/// The name of a field.
struct Name {
    text: String,
    /// As a key in JSON, without its quotes.
    key: Vec<u8>,
}

impl Name {
    fn of(text: String) -> Self {
        let mut json = Vec::new();
        json::string(&mut json, &text);
        let key = json[1..json.len() - 1].to_vec();
        Self { text, key }
    }

    fn is(&self, py: Python<'_>, member: &object::Member<'_>) -> bool {
        self.key == member.key || (member.has_escapes && self.is_escaped(py, member.key))
    }

    /// Whether a key is this name, written with escapes.
    fn is_escaped(&self, py: Python<'_>, key: &[u8]) -> bool {
        let json = [b"\"", key, b"\""].concat();
        // A key with a lone surrogate is no `str` that Rust can have, and no name.
        loaded(py, &json)
            .and_then(|text| Ok(text.extract::<String>()? == self.text))
            .unwrap_or(false)
    }
}

/// The number that is written into an item: over the value that it has, or behind its members.
pub struct Number<'a> {
    field: &'a Name,
    place: Option<Range<usize>>,
    value: u64,
}

impl Number<'_> {
    /// Writes it into JSON that begins somewhere in a stream, and ends with an event.
    pub fn write(self, stream: &mut Vec<u8>, json_at: usize) {
        const END: &[u8] = b"}\n\n";
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(self.value).as_bytes();
        if let Some(place) = self.place {
            let place = json_at + place.start..json_at + place.end;
            match stream.get_mut(place.clone()) {
                Some(same) if same.len() == digits.len() => same.copy_from_slice(digits),
                _ => drop(stream.splice(place, digits.iter().copied())),
            }
            return;
        }
        stream.truncate(stream.len() - END.len());
        stream.extend_from_slice(if stream.ends_with(b"{") {
            b"\""
        } else {
            b",\""
        });
        stream.extend_from_slice(&self.field.key);
        stream.extend_from_slice(b"\":");
        stream.extend_from_slice(digits);
        stream.extend_from_slice(END);
    }
}

#[pymethods]
impl ItemRules {
    #[new]
    #[pyo3(signature = (
        owner,
        *,
        only_objects = true,
        name_from = None,
        exclude_none = false,
        number_as = None,
        leaves_out = None,
        keeps_first = false,
        convert = None,
    ))]
    #[expect(clippy::too_many_arguments)]
    fn new(
        owner: String,
        only_objects: bool,
        name_from: Option<String>,
        exclude_none: bool,
        number_as: Option<String>,
        leaves_out: Option<String>,
        keeps_first: bool,
        convert: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            owner,
            only_objects,
            name_from: name_from.map(Name::of),
            exclude_none,
            number_as: number_as.map(Name::of),
            leaves_out,
            keeps_first,
            convert,
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.convert)
    }
}

impl ItemRules {
    /// Whether the number of an item matters.
    pub fn asks_for_number(&self) -> bool {
        self.number_as.is_some() || self.convert.is_some()
    }

    /// Returns what the class converts an item to; None if it converts none.
    pub fn converted<'py>(
        &self,
        item: &Bound<'py, PyAny>,
        number: u64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.convert {
            None => Ok(None),
            Some(convert) => convert.bind(item.py()).call1((item, number)).map(Some),
        }
    }

    /// Raises for an item that has to be an object in JSON, and is none.
    pub fn check_object(&self, json: &[u8], item: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.only_objects && json.first() != Some(&b'{') {
            let rule = format!("{} sends dicts, models and events", self.owner);
            return Err(wrong_type(&rule, item));
        }
        Ok(())
    }

    /// Whether any member of an item matters.
    pub fn asks_for_members(&self) -> bool {
        self.name_from.is_some() || self.number_as.is_some()
    }

    /// Returns what notes the members while JSON is written; None if none matter.
    pub fn noted<'py>(&self) -> Option<Noted<'_, 'py>> {
        let names = || self.fields().map(|field| Some(&*field.as_ref()?.text));
        self.asks_for_members().then(|| Noted::new(names()))
    }

    fn fields(&self) -> [&Option<Name>; 2] {
        [&self.name_from, &self.number_as]
    }

    /// The members that matter, looked for in JSON at once.
    pub fn members_in<'py>(&self, py: Python<'py>, json: &[u8]) -> TwoMembers<'py> {
        let mut found = [None, None];
        let mut missing = self.fields().iter().filter(|field| field.is_some()).count();
        for member in object::members(json) {
            for (place, field) in found.iter_mut().zip(self.fields()) {
                if place.is_none() && field.as_ref().is_some_and(|field| field.is(py, &member)) {
                    *place = Some(Member {
                        place: member.value.clone(),
                        text: None,
                    });
                    missing -= 1;
                }
            }
            if missing == 0 {
                break;
            }
        }
        found
    }

    /// The name of the event of an item, by a member of its JSON.
    pub fn name<'a>(
        &self,
        json: &'a [u8],
        member: Option<&'a Member<'_>>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Cow<'a, str>>> {
        let Some(field) = &self.name_from else {
            return Ok(None);
        };
        let rule = || {
            format!(
                "{} names an event by the field '{}' of its item",
                self.owner, field.text
            )
        };
        let Some(Member { place, text }) = member else {
            let kind = item.get_type().name()?;
            let message = format!("{}, which this {kind} does not have", rule());
            return Err(PyValueError::new_err(message));
        };
        // Of lone surrogates JSON may make pairs, which are a character.
        if let Some(Ok(text)) = text.as_ref().map(|text| text.to_str()) {
            return Ok(Some(Cow::Borrowed(text)));
        }
        let value = &json[place.clone()];
        let inner = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        let Some(text) = inner else {
            let message = format!("{}, which must be a str", rule());
            return Err(PyTypeError::new_err(message));
        };
        Ok(Some(match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\\') => Cow::Borrowed(text),
            _ => Cow::Owned(unescaped(item.py(), value)?),
        }))
    }

    /// The number of an item, if it gets one.
    pub fn number(&self, member: Option<&Member<'_>>, number: u64) -> Option<Number<'_>> {
        Some(Number {
            field: self.number_as.as_ref()?,
            place: member.map(|member| member.place.clone()),
            value: number,
        })
    }

    /// Whether an event with this `raw_data` is left out.
    pub fn leaves_out(&self, raw_data: Option<&Bound<'_, PyString>>) -> bool {
        let (Some(left_out), Some(Ok(text))) =
            (&self.leaves_out, raw_data.map(|text| text.to_str()))
        else {
            return false;
        };
        text.as_bytes().trim_ascii() == left_out.as_bytes()
    }

    /// Events that are framed already, without those that are left out, and whether the last one
    /// with data was.
    pub fn without<'a>(&self, ready: &'a [u8]) -> (Cow<'a, [u8]>, bool) {
        let left_out = self.leaves_out.as_ref();
        match left_out.and_then(|text| blocks::without(ready, text.as_bytes())) {
            Some((kept, is_last)) => (Cow::Owned(kept), is_last),
            None => (Cow::Borrowed(ready), false),
        }
    }
}

/// The text that a JSON string with escapes is.
fn unescaped(py: Python<'_>, json: &[u8]) -> PyResult<String> {
    let checked = py
        .import(intern!(py, "sserpent._core.text"))?
        .call_method1(intern!(py, "checked_text"), ("event", loaded(py, json)?))?;
    Ok(checked.cast::<PyString>()?.to_str()?.to_owned())
}

fn loaded<'py>(py: Python<'py>, json: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "json"))?
        .call_method1(intern!(py, "loads"), (PyBytes::new(py, json),))
}
