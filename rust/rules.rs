//! What a protocol asks of the items of a stream, checked and done for each.

use std::borrow::Cow;
use std::ops::Range;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::event::refusal;
use crate::json::wrong_type;
use sserpent_wire::frame::{Data, Fields, check_event};
use sserpent_wire::object::members;
use sserpent_wire::{blocks, json};

/// What a protocol asks of the items of a stream.
///
/// Args:
///     owner: The class whose rules these are, for errors.
///     only_objects: Whether items other than events have to be objects in JSON.
///     name_from: The field of an item that names its event.
///     exclude_none: Whether the fields of models that are None are left out.
///     number_as: The field of an item that gets its number, from 0, whatever it had there.
///     leaves_out: The whole data of events that are left out.
///     keeps_first: Whether the first event is kept.
///     convert: Called with an item and its number; returns what is sent for it, or None for
///         nothing.
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

    fn is(&self, key: &[u8]) -> bool {
        self.json.get(1..self.json.len() - 1) == Some(key)
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

    /// Makes the JSON of an item what is sent, and returns the name of its event.
    pub fn named(
        &self,
        json: &mut Cow<'_, [u8]>,
        item: &Bound<'_, PyAny>,
        number: u64,
    ) -> PyResult<Option<String>> {
        if self.only_objects && json.first() != Some(&b'{') {
            let rule = format!("{} sends dicts, models and events", self.owner);
            return Err(wrong_type(&rule, item));
        }
        if self.name_from.is_none() && self.number_as.is_none() {
            return Ok(None);
        }
        let (mut name, mut number_at) = (None, None);
        for member in members(json) {
            if name.is_none() && has(&self.name_from, member.key) {
                name = Some(&json[member.value.clone()]);
            }
            if number_at.is_none() && has(&self.number_as, member.key) {
                number_at = Some(member.value);
            }
            if name.is_some() && (self.number_as.is_none() || number_at.is_some()) {
                break;
            }
        }
        let name = match &self.name_from {
            None => None,
            Some(field) => Some(self.name(field, name, item)?.into_owned()),
        };
        if let Some(field) = &self.number_as {
            set_number(json.to_mut(), field, number_at, number);
        }
        Ok(name)
    }

    fn name<'a>(
        &self,
        field: &Name,
        json: Option<&'a [u8]>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Cow<'a, str>> {
        let rule = || {
            format!(
                "{} names an event by the field '{}' of its item",
                self.owner, field.text
            )
        };
        let Some(json) = json else {
            let kind = item.get_type().name()?;
            let message = format!("{}, which this {kind} does not have", rule());
            return Err(PyValueError::new_err(message));
        };
        let Some(text) = json
            .strip_prefix(b"\"")
            .and_then(|json| json.strip_suffix(b"\""))
        else {
            let message = format!("{}, which must be a str", rule());
            return Err(PyTypeError::new_err(message));
        };
        if let (false, Ok(text)) = (text.contains(&b'\\'), std::str::from_utf8(text)) {
            check_event(text).map_err(refusal)?;
            return Ok(Cow::Borrowed(text));
        }
        let name = unescaped(item.py(), json)?;
        check_event(&name).map_err(refusal)?;
        Ok(Cow::Owned(name))
    }

    pub fn leaves_out_event(&self, fields: &Fields<'_>) -> bool {
        match (&self.leaves_out, fields.data) {
            (Some(left_out), Some(Data::Text(text))) => text == left_out,
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

fn has(name: &Option<Name>, key: &[u8]) -> bool {
    name.as_ref().is_some_and(|name| name.is(key))
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
    let text = py
        .import(intern!(py, "json"))?
        .call_method1(intern!(py, "loads"), (PyBytes::new(py, json),))?;
    let checked = py
        .import(intern!(py, "sserpent._core.text"))?
        .call_method1(intern!(py, "checked_text"), ("event", text))?;
    Ok(checked.cast::<PyString>()?.to_str()?.to_owned())
}
