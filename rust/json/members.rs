//! The members of an object that a protocol asks for, noted while its JSON is written.

use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::PyString;

/// The value of a member of an object.
pub struct Member<'py> {
    /// Where in the JSON it is.
    pub place: Range<usize>,
    /// The text of which that was written, where it is known.
    pub text: Option<Bound<'py, PyString>>,
}

/// Each the first of its name, if there is one.
pub type TwoMembers<'py> = [Option<Member<'py>>; 2];

/// Two members of the outermost object.
pub struct Noted<'a, 'py> {
    names: [Option<&'a str>; 2],
    members: TwoMembers<'py>,
    /// Whether the whole object was seen, so that it has no others of these names.
    pub is_complete: bool,
}

impl<'a, 'py> Noted<'a, 'py> {
    pub fn new(names: [Option<&'a str>; 2]) -> Self {
        Self {
            names,
            members: [None, None],
            is_complete: false,
        }
    }

    /// None where something else has written the object, so that its JSON has to be searched.
    pub fn members(self) -> Option<TwoMembers<'py>> {
        self.is_complete.then_some(self.members)
    }

    /// Notes the value of a member if it is one of the two.
    pub fn note(&mut self, name: &str, value: &Bound<'py, PyAny>, place: Range<usize>) {
        for (wanted, member) in self.names.iter().zip(&mut self.members) {
            if *wanted == Some(name) && member.is_none() {
                *member = Some(Member {
                    place: place.clone(),
                    text: value.cast_exact::<PyString>().ok().cloned(),
                });
            }
        }
    }
}
