//! The events that a route declares, each with the type of its data.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::event::{self, ServerSentEvent};
use crate::json::{self, ItemSchema, Json};
use sserpent_wire::frame::Fields;

#[doc = doc!("DeclaredEvents")]
#[pyclass(frozen, module = "sserpent._core.compiled")]
pub struct DeclaredEvents {
    by_name: Py<PyDict>,
    by_class: Py<PyDict>,
    otherwise: Py<PyAny>,
}

#[pymethods]
impl DeclaredEvents {
    #[new]
    fn new(
        by_name: Bound<'_, PyDict>,
        by_class: Bound<'_, PyDict>,
        otherwise: Py<PyAny>,
    ) -> PyResult<Self> {
        Ok(Self {
            by_name: by_name.copy()?.unbind(),
            by_class: by_class.copy()?.unbind(),
            otherwise,
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.by_name)?;
        visit.call(&self.by_class)?;
        visit.call(&self.otherwise)
    }
}

impl DeclaredEvents {
    /// Hands the fields of the event that an item is, or becomes, to `use_fields`.
    pub fn with_fields<R>(
        &self,
        item: &Bound<'_, PyAny>,
        use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        if let Ok(event) = item.cast::<ServerSentEvent>() {
            return self.with_event(event, use_fields);
        }
        if json::is_fastapi_event(item)? {
            let event = Bound::new(item.py(), event::from_fastapi(item)?)?;
            return self.with_event(&event, use_fields);
        }
        let by_class = self.by_class.bind(item.py());
        let (name, json) = match by_class.get_item(item.get_type())? {
            Some(found) => {
                let (name, schema): NameAndSchema<'_> = found.extract()?;
                (name, schema.get().json_of(item)?)
            }
            None => self.asked(item)?,
        };
        let json = Json::Compact(json);
        use_fields(&Fields {
            event: name.as_ref().map(|name| name.to_str()).transpose()?,
            data: Some(json.as_data()?),
            ..Fields::default()
        })
    }

    fn with_event<R>(
        &self,
        event: &Bound<'_, ServerSentEvent>,
        use_fields: impl FnOnce(&Fields<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        let py = event.py();
        let Some(data) = event.get().data(py) else {
            return ServerSentEvent::with_fields(event, use_fields);
        };
        let by_name = self.by_name.bind(py);
        let named = match event.get().event(py) {
            Some(name) => by_name.get_item(name)?,
            None => None,
        };
        let schema = match named {
            Some(schema) => Some(schema),
            None => by_name.get_item(py.None())?,
        };
        let json = match schema {
            Some(schema) => schema.cast::<ItemSchema>()?.get().json_of(data)?,
            None => self.asked(event)?.1,
        };
        let json = Json::Compact(json);
        event.get().with_data(py, Some(json.as_data()?), use_fields)
    }

    fn asked<'py>(&self, item: &Bound<'py, PyAny>) -> PyResult<NameAndJson<'py>> {
        let answer = self.otherwise.bind(item.py()).call1((item,))?;
        let (name, schema, data): (_, Bound<'_, ItemSchema>, Bound<'_, PyAny>) =
            answer.extract()?;
        Ok((name, schema.get().written(&data)?))
    }
}

type NameAndJson<'py> = (Option<Bound<'py, PyString>>, Bound<'py, PyBytes>);
type NameAndSchema<'py> = (Option<Bound<'py, PyString>>, Bound<'py, ItemSchema>);
