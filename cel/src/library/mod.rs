//! What functions do. One file per library; [`implementation`] finds a function by name.

pub mod authorizer;
mod conversions;
mod formats;
mod lists;
mod network;
pub mod opaque;
pub mod operators;
mod optionals;
pub mod quantity;
pub mod regex;
mod strings;
mod times;
mod url;
mod versions;

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::{List, Value},
};

/// The implementation of a function.
pub fn implementation(name: &str) -> Option<Implementation> {
    const LIBRARIES: [fn(&str) -> Option<Implementation>; 13] = [
        operators::find,
        conversions::find,
        strings::find,
        regex::find,
        lists::find,
        times::find,
        optionals::find,
        quantity::find,
        network::find,
        url::find,
        versions::find,
        formats::find,
        authorizer::find,
    ];
    LIBRARIES.iter().find_map(|library| library(name))
}

/// Whether a text is a URL.
pub fn is_url(text: &str) -> bool {
    url::check(text).is_ok()
}

impl<'a> Args<'_, 'a> {
    pub(crate) fn get(&self, index: usize) -> Result<&Value<'a>, Fault> {
        self.values.get(index).ok_or_else(Fault::no_such_overload)
    }

    pub(crate) fn text(&self, index: usize) -> Result<&str, Fault> {
        self.get(index)?.as_str().ok_or_else(Fault::no_such_overload)
    }

    pub(crate) fn int(&self, index: usize) -> Result<i64, Fault> {
        match self.get(index)? {
            Value::Int(number) => Ok(*number),
            _ => Err(Fault::no_such_overload()),
        }
    }

    pub(crate) fn list(&self, index: usize) -> Result<&List<'a>, Fault> {
        match self.get(index)? {
            Value::List(list) => Ok(list),
            _ => Err(Fault::no_such_overload()),
        }
    }
}
