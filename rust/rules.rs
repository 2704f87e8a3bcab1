//! What a protocol asks of the items of a stream, checked and done for each.

use std::borrow::Cow;
use std::ops::Range;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::json::wrong_type;
use sserpent_wire::frame::{Data, Fields};
use sserpent_wire::object::members;
use sserpent_wire::{blocks, json};

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
    /// As a key, with its quotes.
    json: Vec<u8>,
}

impl Name {
    fn of(text: String) -> Self {
        let mut json = Vec::new();
        json::string(&mut json, &text);
        Self { text, json }
    }

    fn is(&self, py: Python<'_>, key: &[u8]) -> bool {
        self.json.get(1..self.json.len() - 1) == Some(key)
            || (key.contains(&b'\\') && self.is_escaped(py, key))
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

    /// What the class makes of an item, where it has a say in it; None for nothing.
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

    /// Makes the JSON of an item what is sent, and returns the name of its event. The members are
    /// looked at once for both.
    pub fn adapt(
        &self,
        json: &mut Cow<'_, [u8]>,
        item: &Bound<'_, PyAny>,
        number: u64,
    ) -> PyResult<Option<String>> {
        if self.only_objects && json.first() != Some(&b'{') {
            let rule = format!("{} sends dicts, models and events", self.owner);
            return Err(wrong_type(&rule, item));
        }
        let [name_at, number_at] = places(item.py(), json, [&self.name_from, &self.number_as]);
        let name = self.name(json, name_at, item)?.map(Cow::into_owned);
        if let Some(field) = &self.number_as {
            set_number(json.to_mut(), field, number_at, number);
        }
        Ok(name)
    }

    /// The name of the event of an item, from the place in its JSON.
    fn name<'a>(
        &self,
        json: &'a [u8],
        at: Option<Range<usize>>,
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
        let Some(at) = at else {
            let kind = item.get_type().name()?;
            let message = format!("{}, which this {kind} does not have", rule());
            return Err(PyValueError::new_err(message));
        };
        let value = &json[at];
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

    pub fn leaves_out_event(&self, fields: &Fields<'_>) -> bool {
        match (&self.leaves_out, fields.data) {
            (Some(left_out), Some(Data::Text(text))) => {
                text.as_bytes().trim_ascii() == left_out.as_bytes()
            }
            _ => false,
        }
    }

    /// Events that are framed already, without those that are left out.
    pub fn without<'a>(&self, ready: &'a [u8]) -> Cow<'a, [u8]> {
        let left_out = self.leaves_out.as_ref();
        match left_out.and_then(|text| blocks::without(ready, text.as_bytes())) {
            Some(kept) => Cow::Owned(kept),
            None => Cow::Borrowed(ready),
        }
    }
}

/// Where the values of two fields are, each the first of its name.
fn places(py: Python<'_>, json: &[u8], fields: [&Option<Name>; 2]) -> [Option<Range<usize>>; 2] {
    let mut found = [None, None];
    let mut missing = fields.iter().filter(|field| field.is_some()).count();
    if missing == 0 {
        return found;
    }
    for member in members(json) {
        for (place, field) in found.iter_mut().zip(fields) {
            if place.is_none() && field.as_ref().is_some_and(|field| field.is(py, member.key)) {
                *place = Some(member.value.clone());
                missing -= 1;
            }
        }
        if missing == 0 {
            break;
        }
    }
    found
}

fn set_number(json: &mut Vec<u8>, field: &Name, at: Option<Range<usize>>, number: u64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number).bytes();
    if let Some(at) = at {
        json.splice(at, digits);
        return;
    }
    json.pop();
    if json.len() > 1 {
        json.push(b',');
    }
    json.extend_from_slice(&field.json);
    json.push(b':');
    json.extend(digits);
    json.push(b'}');
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
