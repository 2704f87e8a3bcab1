//! Writes a value as JSON in one walk: what a client parses is what it parses from
//! `json.dumps(jsonable_encoder(value))` with null for NaN and infinities.
//!
//! FastAPI encodes a whole value before it dumps it. So what the encoder refuses is raised at
//! once, and what `json.dumps` refuses only when the walk is over.
//!
//! Any part may run Python code, which may change the containers that it is in: of these nothing
//! is borrowed meanwhile, and each step looks at them as they are.

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    IntoPyDict, PyBool, PyBytes, PyDate, PyDateAccess, PyDateTime, PyDelta, PyDeltaAccess, PyDict,
    PyFloat, PyInt, PyList, PyString, PyTime, PyTimeAccess, PyTuple, PyType, PyTzInfo,
    PyTzInfoAccess,
};
use pyo3::{ffi, types::PyAnyMethods};

use super::class::{Field, Model, Treatment, treatment_of};
use super::members::Noted;
use crate::cpython::{Keywords, next_entry};
use crate::once::{Once, intern};
use sserpent_wire::json;

/// How deep the walk goes before it leaves a part to FastAPI's encoder, which knows how to fail
/// on values that contain themselves.
const MAX_DEPTH: usize = 64;

/// The JSON of a value that has no declared type.
///
/// `exclude_none`: whether the fields of models that are None are left out.
pub fn json_of(value: &Bound<'_, PyAny>, exclude_none: bool) -> PyResult<Vec<u8>> {
    json_with_members(value, exclude_none, None)
}

/// Does the same, and notes members of the object that the JSON is.
pub fn json_with_members<'py>(
    value: &Bound<'py, PyAny>,
    exclude_none: bool,
    noted: Option<&mut Noted<'_, 'py>>,
) -> PyResult<Vec<u8>> {
    let mut writer = Writer {
        fastapi: FastAPI::get(value.py(), exclude_none)?,
        out: Vec::with_capacity(256),
        refusal: None,
        noted,
    };
    writer.value(value, Place::default())?;
    match writer.refusal {
        Some(error) => Err(error),
        None => Ok(writer.out),
    }
}

struct Writer<'a, 'b, 'py> {
    fastapi: &'py FastAPI,
    out: Vec<u8>,
    /// The first refusal of `json.dumps`.
    refusal: Option<PyErr>,
    noted: Option<&'a mut Noted<'b, 'py>>,
}

/// Where in the value a part is.
#[derive(Clone, Copy, Default)]
struct Place {
    depth: usize,
    /// Whether `dataclasses.asdict` copies the part, before FastAPI encodes it.
    in_dataclass: bool,
}

impl Place {
    fn inside(self) -> Self {
        Self {
            depth: self.depth + 1,
            ..self
        }
    }

    fn in_dataclass(self) -> Self {
        Self {
            in_dataclass: true,
            ..self.inside()
        }
    }
}

impl<'py> Writer<'_, '_, 'py> {
    /// Exact types first. Subclasses of theirs may be anything, an Enum for example.
    fn value(&mut self, value: &Bound<'py, PyAny>, place: Place) -> PyResult<()> {
        if self.scalar(value)? {
            return Ok(());
        }
        self.composite(value, place)
    }

    /// Writes a value that is no scalar.
    fn composite(&mut self, value: &Bound<'py, PyAny>, place: Place) -> PyResult<()> {
        if place.depth == MAX_DEPTH {
            self.too_deep(value, place)
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.mapping(dict, place)
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            self.sequence(list.iter().map(Ok), place.inside())
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.sequence(tuple.iter().map(Ok), place.inside())
        } else if let Some(leaf) = self.fastapi.leaf(value)? {
            self.leaf(leaf, value)
        } else {
            self.instance(value, place)
        }
    }

    /// Whether the value is of one of JSON's own types, and so written.
    fn scalar(&mut self, value: &Bound<'py, PyAny>) -> PyResult<bool> {
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.text(text)?;
        } else if let Ok(integer) = value.cast_exact::<PyInt>() {
            self.integer(integer)?;
        } else if let Ok(float) = value.cast_exact::<PyFloat>() {
            json::float(&mut self.out, float.value());
        } else if let Ok(bool) = value.cast_exact::<PyBool>() {
            self.out.extend_from_slice(bool_text(bool));
        } else if value.is_none() {
            self.out.extend_from_slice(b"null");
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        match text.to_str() {
            Ok(text) => json::string(&mut self.out, text),
            // It has lone surrogates.
            Err(_) => self.dumped(text)?,
        }
        Ok(())
    }

    fn integer(&mut self, integer: &Bound<'py, PyInt>) -> PyResult<()> {
        match integer.extract() {
            Ok(integer) => json::integer(&mut self.out, integer),
            Err(_) => self.dumped(integer)?,
        }
        Ok(())
    }

    /// Writes a value that the encoder has returned. It goes to `json.dumps` as it is, and may be of a
    /// subclass.
    fn encoded(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        if self.scalar(value)? {
            Ok(())
        } else if let Ok(text) = value.cast::<PyString>() {
            self.text(text)
        } else if let Ok(integer) = value.cast::<PyInt>() {
            self.integer(integer)
        } else if let Ok(float) = value.cast::<PyFloat>() {
            json::float(&mut self.out, float.value());
            Ok(())
        } else {
            self.dumped(value)
        }
    }

    fn dumped(&mut self, encoded: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Some(json) = self.dump(encoded)? {
            self.out.extend_from_slice(json.as_bytes());
        }
        Ok(())
    }

    /// None where `json.dumps` refuses it.
    fn dump(&mut self, encoded: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = encoded.py();
        match self.fastapi.dump_json.bind(py).call1((encoded,)) {
            Ok(json) => Ok(Some(json.cast_into::<PyBytes>()?)),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                self.refusal.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves the whole value to FastAPI's encoder.
    fn as_fastapi(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let encoder = self.fastapi.jsonable_encoder.bind(value.py());
        self.encoded(&encoder.call1((value,))?)
    }

    fn too_deep(&mut self, value: &Bound<'py, PyAny>, place: Place) -> PyResult<()> {
        if place.in_dataclass {
            return self.as_fastapi(&self.fastapi.copied(value)?);
        }
        self.as_fastapi(value)
    }

    fn sequence(
        &mut self,
        parts: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>,
        inside: Place,
    ) -> PyResult<()> {
        self.out.push(b'[');
        for (index, part) in parts.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&part?, inside)?;
        }
        self.out.push(b']');
        Ok(())
    }

    /// The keys are looked at before the first value that may run Python code, and scalars are
    /// written meanwhile: in most dicts nothing is looked at twice.
    fn mapping(&mut self, dict: &Bound<'py, PyDict>, place: Place) -> PyResult<()> {
        let (start, refused) = (self.out.len(), self.refusal.is_some());
        if self.entries(dict, Keys::Unknown, place.inside())? {
            return Ok(());
        }
        self.out.truncate(start);
        self.noted = None;
        if !refused {
            self.refusal = None;
        }
        if place.in_dataclass {
            return self.copied(dict, place);
        }
        match self.fastapi.with_encoded_keys(dict)? {
            Some(dict) => self
                .entries(&dict, Keys::Encoded, place.inside())
                .map(|_| ()),
            None => self.as_fastapi(dict),
        }
    }

    /// Returns false, with a part of them written, where the encoder has to see the keys first.
    ///
    /// FastAPI leaves out those that start with `_sa`, under which SQLAlchemy keeps its state, but
    /// looks at the keys as they were.
    fn entries(
        &mut self,
        dict: &Bound<'py, PyDict>,
        mut keys: Keys,
        inside: Place,
    ) -> PyResult<bool> {
        let size = dict.len();
        let (mut position, mut seen) = (0, 0);
        let mut notes = self.out.is_empty() && self.noted.is_some();
        self.out.push(b'{');
        let start = self.out.len();
        while let Some((key, value)) = next_entry(dict, &mut position) {
            if seen == size {
                return Err(changed("dictionary keys changed during iteration"));
            }
            seen += 1;
            if matches!(keys, Keys::Unknown) && !is_plain_key(&key) {
                return Ok(false);
            }
            let key = Key::of(&key);
            if !matches!(keys, Keys::Encoded) && key.is_state()? {
                continue;
            }
            if self.out.len() > start {
                self.out.push(b',');
            }
            self.key(&key)?;
            self.out.push(b':');
            let value_at = self.out.len();
            if !self.scalar(&value)? {
                if matches!(keys, Keys::Unknown) {
                    if !has_plain_keys(dict, position) {
                        return Ok(false);
                    }
                    keys = Keys::Plain;
                }
                self.composite(&value, inside)?;
            }
            if notes {
                notes = self.note(&key, &value, value_at);
            }
            if dict.len() != size {
                return Err(changed("dictionary changed size during iteration"));
            }
        }
        self.out.push(b'}');
        if let Some(noted) = self.noted.as_mut().filter(|_| notes) {
            noted.is_complete = true;
        }
        Ok(true)
    }

    /// Notes the member of the outermost object that was written last. Returns false where its key is
    /// no text: what that is in JSON is not known here.
    fn note(&mut self, key: &Key<'_, 'py>, value: &Bound<'py, PyAny>, at: usize) -> bool {
        match (&mut self.noted, key) {
            (Some(noted), Key::Text(name)) => {
                noted.note(name, value, at..self.out.len());
                true
            }
            _ => false,
        }
    }

    fn key(&mut self, key: &Key<'_, 'py>) -> PyResult<()> {
        let key = match key {
            Key::Text(text) => {
                json::string(&mut self.out, text);
                return Ok(());
            }
            Key::Other(key) => key,
        };
        self.out.push(b'"');
        if let Ok(Ok(integer)) = key.cast_exact::<PyInt>().map(|key| key.extract()) {
            json::integer(&mut self.out, integer);
        } else if let Ok(bool) = key.cast_exact::<PyBool>() {
            self.out.extend_from_slice(bool_text(bool));
        } else if key.is_none() {
            self.out.extend_from_slice(b"null");
        } else {
            self.out.pop();
            return self.dumped_key(key);
        }
        self.out.push(b'"');
        Ok(())
    }

    /// A key as `json.dumps` converts it.
    fn dumped_key(&mut self, key: &Bound<'py, PyAny>) -> PyResult<()> {
        let entry = PyDict::new(key.py());
        entry.set_item(key, 0)?;
        if let Some(json) = self.dump(&entry)? {
            let json = json.as_bytes();
            let json = json.strip_prefix(b"{").unwrap_or(json);
            self.out
                .extend_from_slice(json.strip_suffix(b":0}").unwrap_or(json));
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: Leaf, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let out = &mut self.out;
        match leaf {
            Leaf::DateTime => {
                let value = value.cast::<PyDateTime>()?;
                let offset = match value.get_tzinfo() {
                    None => "",
                    Some(zone) if self.fastapi.is_utc(&zone) => "+00:00",
                    Some(_) => return self.iso_format(value),
                };
                out.push(b'"');
                json::iso_date(out, date(value));
                out.push(b'T');
                json::iso_time(out, time(value));
                out.extend_from_slice(offset.as_bytes());
                out.push(b'"');
            }
            Leaf::Date => {
                out.push(b'"');
                json::iso_date(out, date(value.cast::<PyDate>()?));
                out.push(b'"');
            }
            Leaf::Time => {
                let value = value.cast::<PyTime>()?;
                if value.get_tzinfo().is_some() {
                    return self.iso_format(value);
                }
                out.push(b'"');
                json::iso_time(out, time(value));
                out.push(b'"');
            }
            Leaf::TimeDelta => match seconds(value.cast::<PyDelta>()?) {
                Some(seconds) => json::float(out, seconds),
                None => return self.as_fastapi(value),
            },
            Leaf::Uuid => match value.getattr(intern!(value.py(), "int"))?.extract() {
                Ok(uuid) => json::uuid(out, uuid),
                Err(_) => return self.as_fastapi(value),
            },
            Leaf::Decimal => {
                let text = value.str()?;
                match Number::of(text.to_str()?) {
                    Some(Number::Integer(digits)) => out.extend_from_slice(digits.as_bytes()),
                    Some(Number::Float(float)) => json::float(out, float),
                    None => return self.as_fastapi(value),
                }
            }
            Leaf::Bytes => match std::str::from_utf8(value.cast::<PyBytes>()?.as_bytes()) {
                Ok(text) => json::string(out, text),
                Err(_) => return self.as_fastapi(value),
            },
        }
        Ok(())
    }

    fn iso_format(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        self.encoded(&value.call_method0(intern!(value.py(), "isoformat"))?)
    }

    fn instance(&mut self, value: &Bound<'py, PyAny>, place: Place) -> PyResult<()> {
        let inside = place.inside();
        match &*treatment_of(&value.get_type())? {
            Treatment::Dataclass(fields) => self.dataclass(value, fields, place),
            Treatment::Enum(attribute) => self.encoded(&value.getattr(attribute)?),
            _ if place.in_dataclass => self.copied(value, place),
            Treatment::Model(model) => self.model(value, model, inside),
            Treatment::Path => self.text(&value.str()?),
            Treatment::Scalar => self.encoded(value),
            Treatment::Undefined => self.encoded(&value.py().None().into_bound(value.py())),
            Treatment::Mapping { has_own_items } => {
                let dict = value.cast::<PyDict>()?;
                if *has_own_items {
                    return self.mapping(dict, place);
                }
                self.mapping(&self.fastapi.entries(dict)?, place)
            }
            Treatment::Sequence => self.sequence(value.try_iter()?, inside),
            Treatment::Leaf => match self.fastapi.encoder_of(value)? {
                Some(encoder) => self.encoded(&encoder.call1((value,))?),
                None => self.as_fastapi(value),
            },
            Treatment::Other => self.as_fastapi(value),
        }
    }

    /// Writes pydantic-core's own JSON of a model where that is what FastAPI makes of its dump.
    fn model(&mut self, value: &Bound<'py, PyAny>, model: &Model, inside: Place) -> PyResult<()> {
        let py = value.py();
        if !model.writes_plain_json || !model.has_own_dump(value) {
            return self.value(&self.fastapi.model_dump(value, model)?, inside);
        }
        let to_json = model.to_json.bind(py);
        let dump = match self.fastapi.to_json_options.call(to_json, value) {
            Ok(json) => {
                let json = json.cast_into::<PyBytes>()?;
                if !json::is_doubtful(json.as_bytes()) {
                    self.out.extend_from_slice(json.as_bytes());
                    return Ok(());
                }
                if self.fastapi.holds_iterator(value)? {
                    self.fastapi.from_json.bind(py).call1((json,))?
                } else {
                    self.fastapi.model_dump(value, model)?
                }
            }
            // FastAPI accepts more, such as lone surrogates, and its refusals are the known ones.
            Err(error) if error.is_instance_of::<PyException>(py) => {
                if self.fastapi.holds_iterator(value)? {
                    return Err(error);
                }
                self.fastapi.model_dump(value, model)?
            }
            Err(error) => return Err(error),
        };
        self.value(&dump, inside)
    }

    fn dataclass(
        &mut self,
        value: &Bound<'py, PyAny>,
        fields: &[Field],
        place: Place,
    ) -> PyResult<()> {
        let py = value.py();
        let written = self.fields(value, fields, place.in_dataclass());
        if let Err(error) = &written {
            if !place.in_dataclass && error.is_instance_of::<PyException>(py) {
                // FastAPI copies all of it first, so what cannot be copied is named first.
                self.fastapi.copied(value)?;
            }
        }
        written
    }

    fn fields(
        &mut self,
        value: &Bound<'py, PyAny>,
        fields: &[Field],
        inside: Place,
    ) -> PyResult<()> {
        self.out.push(b'{');
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            let part = value.getattr(&field.name)?;
            self.out.extend_from_slice(&field.key);
            self.value(&part, inside)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Writes what `dataclasses.asdict` makes of a part of a dataclass.
    fn copied(&mut self, value: &Bound<'py, PyAny>, place: Place) -> PyResult<()> {
        let copy = self.fastapi.copied(value)?;
        self.value(
            &copy,
            Place {
                in_dataclass: false,
                ..place
            },
        )
    }
}

/// Leaves that are written without running Python code.
#[derive(Clone, Copy)]
enum Leaf {
    DateTime,
    Date,
    Time,
    TimeDelta,
    Uuid,
    Decimal,
    Bytes,
}

impl Leaf {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "datetime" => Self::DateTime,
            "date" => Self::Date,
            "time" => Self::Time,
            "timedelta" => Self::TimeDelta,
            "UUID" => Self::Uuid,
            "Decimal" => Self::Decimal,
            "bytes" => Self::Bytes,
            _ => return None,
        })
    }
}

/// FastAPI's encoder, and how it treats what the walk leaves to it.
struct FastAPI {
    jsonable_encoder: Py<PyAny>,
    dump_json: Py<PyAny>,
    encoders: Py<PyDict>,
    leaves: Vec<(Py<PyType>, Py<PyAny>, Leaf)>,
    utc: Py<PyAny>,
    copied: Py<PyAny>,
    entries: Py<PyAny>,
    from_json: Py<PyAny>,
    holds_iterator: Py<PyAny>,
    with_encoded_keys: Py<PyAny>,
    model_dump_options: Py<PyDict>,
    to_python_options: Keywords,
    to_json_options: Keywords,
}

impl FastAPI {
    fn get(py: Python<'_>, exclude_none: bool) -> PyResult<&Self> {
        static FASTAPI: PyOnceLock<FastAPI> = PyOnceLock::new();
        static WITHOUT_NONE: PyOnceLock<FastAPI> = PyOnceLock::new();
        let (fastapi, encoder, options) = if exclude_none {
            let options = "MODEL_DUMP_OPTIONS_WITHOUT_NONE";
            (&WITHOUT_NONE, "encoded_without_none", options)
        } else {
            (&FASTAPI, "jsonable_encoder", "MODEL_DUMP_OPTIONS")
        };
        fastapi.try_once(py, || {
            let treatment = py.import("sserpent._core.treatment")?;
            let function = |name: &str| treatment.getattr(name).map(Bound::unbind);
            let dict = |name: &str| -> PyResult<Bound<'_, PyDict>> {
                Ok(treatment.getattr(name)?.cast_into::<PyDict>()?)
            };
            let mut leaves = Vec::new();
            for (class, encoder) in dict("LEAF_ENCODERS")? {
                let class = class.cast_into::<PyType>()?;
                if let Some(leaf) = Leaf::named(class.name()?.to_str()?) {
                    leaves.push((class.unbind(), encoder.unbind(), leaf));
                }
            }
            let to_json_options = [("by_alias", true), ("exclude_none", true)];
            let to_json_options = &to_json_options[..if exclude_none { 2 } else { 1 }];
            Ok(Self {
                jsonable_encoder: function(encoder)?,
                dump_json: function("dump_json")?,
                encoders: dict("ENCODERS_BY_TYPE")?.unbind(),
                leaves,
                utc: PyTzInfo::utc(py)?.to_owned().into_any().unbind(),
                copied: function("copied")?,
                entries: function("entries")?,
                from_json: function("from_json")?,
                holds_iterator: function("holds_iterator")?,
                with_encoded_keys: function("with_encoded_keys")?,
                model_dump_options: dict(options)?.unbind(),
                to_python_options: Keywords::new(&dict(options)?)?,
                to_json_options: Keywords::new(&to_json_options.into_py_dict(py)?)?,
            })
        })
    }

    /// Which leaf the value is; None if an application has given its type another encoder.
    fn leaf(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<Leaf>> {
        let class = value.get_type_ptr();
        let known = self
            .leaves
            .iter()
            .find(|(known, ..)| known.as_ptr().cast() == class);
        let Some((_, encoder, leaf)) = known else {
            return Ok(None);
        };
        let is_own = self
            .encoder_of(value)?
            .is_some_and(|current| current.is(encoder));
        Ok(is_own.then_some(*leaf))
    }

    fn encoder_of<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.encoders.bind(value.py()).get_item(value.get_type())
    }

    fn is_utc(&self, zone: &Bound<'_, PyTzInfo>) -> bool {
        zone.is(&self.utc)
    }

    fn model_dump<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        model: &Model,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        if model.has_own_dump(value) {
            return self.to_python_options.call(model.to_python.bind(py), value);
        }
        let options = self.model_dump_options.bind(py);
        value.call_method(intern!(py, "model_dump"), (), Some(options))
    }

    /// Whether a second encoding of a model may find less than the first.
    fn holds_iterator(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.holds_iterator
            .bind(value.py())
            .call1((value,))?
            .is_truthy()
    }

    fn copied<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.copied.bind(value.py()).call1((value,))
    }

    fn entries<'py>(&self, dict: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
        let entries = self.entries.bind(dict.py()).call1((dict,))?;
        Ok(entries.cast_into::<PyDict>()?)
    }

    /// None where the keys decide that FastAPI's encoder has to see all of it.
    fn with_encoded_keys<'py>(
        &self,
        dict: &Bound<'py, PyDict>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let encoded = self.with_encoded_keys.bind(dict.py()).call1((dict,))?;
        if encoded.is_none() {
            return Ok(None);
        }
        Ok(Some(encoded.cast_into::<PyDict>()?))
    }
}

/// How much is known about the keys of a dict.
enum Keys {
    Unknown,
    /// The encoder leaves all of them as they are.
    Plain,
    /// They are what the encoder has made of them.
    Encoded,
}

/// Whether the encoder leaves all keys from a position on as they are.
fn has_plain_keys(dict: &Bound<'_, PyDict>, mut position: ffi::Py_ssize_t) -> bool {
    while let Some((key, _)) = next_entry(dict, &mut position) {
        if !is_plain_key(&key) {
            return false;
        }
    }
    true
}

fn is_plain_key(key: &Bound<'_, PyAny>) -> bool {
    key.is_exact_instance_of::<PyString>()
        || key.is_exact_instance_of::<PyInt>()
        || key.is_exact_instance_of::<PyFloat>()
        || key.is_exact_instance_of::<PyBool>()
        || key.is_none()
}

/// A key, read once.
enum Key<'a, 'py> {
    Text(&'a str),
    /// No str, or one with lone surrogates.
    Other(&'a Bound<'py, PyAny>),
}

impl<'a, 'py> Key<'a, 'py> {
    fn of(key: &'a Bound<'py, PyAny>) -> Self {
        match key.cast_exact::<PyString>().map(|key| key.to_str()) {
            Ok(Ok(text)) => Self::Text(text),
            _ => Self::Other(key),
        }
    }

    fn is_state(&self) -> PyResult<bool> {
        match self {
            Self::Text(text) => Ok(text.starts_with("_sa")),
            Self::Other(key) if key.is_exact_instance_of::<PyString>() => key
                .call_method1(intern!(key.py(), "startswith"), ("_sa",))?
                .is_truthy(),
            Self::Other(_) => Ok(false),
        }
    }
}

fn changed(how: &'static str) -> PyErr {
    PyRuntimeError::new_err(how)
}

fn bool_text(bool: &Bound<'_, PyBool>) -> &'static [u8] {
    if bool.is_true() { b"true" } else { b"false" }
}

fn date(value: &impl PyDateAccess) -> json::Date {
    json::Date {
        year: value.get_year().unsigned_abs(),
        month: value.get_month(),
        day: value.get_day(),
    }
}

fn time(value: &impl PyTimeAccess) -> json::Time {
    json::Time {
        hour: value.get_hour(),
        minute: value.get_minute(),
        second: value.get_second(),
        microsecond: value.get_microsecond(),
    }
}

/// `timedelta.total_seconds()`, where a float holds the microseconds exactly: up to 142 years.
fn seconds(value: &Bound<'_, PyDelta>) -> Option<f64> {
    const EXACT: f64 = 4_503_599_627_370_496.0; // 2**52
    let microseconds = f64::from(value.get_days()) * 86_400e6
        + f64::from(value.get_seconds()) * 1e6
        + f64::from(value.get_microseconds());
    (microseconds.abs() < EXACT).then_some(microseconds / 1e6)
}

/// A Decimal as FastAPI encodes it.
enum Number<'a> {
    Integer(&'a str),
    Float(f64),
}

impl<'a> Number<'a> {
    /// From `str(Decimal)`. None for what is long, not finite, or has an exponent.
    fn of(text: &'a str) -> Option<Self> {
        // `json.dumps` refuses integers of more digits than `sys.get_int_max_str_digits()`, which
        // is 640 at least.
        const MAX_DIGITS: usize = 640;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return None;
        }
        if digits.contains('.') {
            return text.parse().ok().map(Self::Float);
        }
        // An int has no minus zero.
        let text = if digits == "0" { digits } else { text };
        (digits.len() < MAX_DIGITS).then_some(Self::Integer(text))
    }
}
