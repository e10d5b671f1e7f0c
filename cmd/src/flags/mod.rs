//! The one table of flags, and everything derived from it: the command-line
//! parser and its help, the keys of configuration files, environment variables
//! (`SKIFF_…`) and shell completions.

mod parser;
mod settings;
mod table;

pub use parser::{command, expand_arguments};
pub use settings::{Settings, SettingsError};
pub use table::{FLAGS, Flag, Scope, Value};
