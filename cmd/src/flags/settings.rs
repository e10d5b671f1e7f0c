//! The values in force after command line, files, environment and defaults.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr};

use clap::{ArgMatches, parser::ValueSource};

use super::{FLAGS, Value};

/// A value that its flag cannot take.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {message}")]
pub struct SettingsError {
    pub flag: &'static str,
    pub message: String,
}

impl SettingsError {
    pub fn new(flag: &'static str, message: impl Display) -> Self {
        SettingsError { flag, message: message.to_string() }
    }
}

/// Flag values by name; a flag without a value is absent.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<&'static str, Vec<String>>);

impl Settings {
    /// Collects the values of all flags the matched sub-command knows.
    pub fn from_matches(matches: &ArgMatches) -> Settings {
        let mut values = BTreeMap::new();
        for flag in FLAGS {
            let Ok(Some(given)) = matches.try_get_raw(flag.name) else { continue };
            let given: Vec<String> = given.map(|value| value.to_string_lossy().into_owned()).collect();
            let switch_off = flag.value == Value::Switch && given.last().is_some_and(|value| value == "false");
            let empty_default = matches.value_source(flag.name) == Some(ValueSource::DefaultValue)
                && given.iter().all(String::is_empty);
            if !switch_off && !empty_default {
                values.insert(flag.name, given);
            }
        }
        Settings(values)
    }

    pub fn switch(&self, name: &'static str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of a one-value flag; absent and empty are the same.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.last()).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// All values of a repeatable flag.
    pub fn many(&self, name: &'static str) -> Vec<String> {
        let values = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        values.iter().filter(|value| !value.is_empty()).cloned().collect()
    }

    /// Parses the value of a one-value flag.
    pub fn parsed<T>(&self, name: &'static str) -> Result<Option<T>, SettingsError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text(name)
            .map(|text| text.parse().map_err(|error| SettingsError::new(name, format!("{text:?}: {error}"))))
            .transpose()
    }

    /// Parses a flag that has a default and is therefore always there.
    pub fn required<T>(&self, name: &'static str) -> Result<T, SettingsError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.parsed(name)?.ok_or_else(|| SettingsError::new(name, "a value is needed"))
    }
}
