//! Bounds of the language. The cost numbers are the ones that clients of
//! Kubernetes meet; the others keep hostile expressions from hurting the process.

/// Longest expression, in characters.
pub const EXPRESSION_CHARS_MAX: usize = 100_000;
/// Deepest nesting of an expression, in source and as a tree.
pub const DEPTH_MAX: u16 = 250;
/// Nodes of one expression, macros expanded.
pub const NODES_MAX: usize = 200_000;
/// Compile errors reported for one expression.
pub const ERRORS_MAX: usize = 100;
/// Nesting of a declared type.
pub const TYPE_DEPTH_MAX: usize = 128;

/// Cost of one evaluation.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// Cost of all expressions evaluated for one object or one policy binding.
pub const REQUEST_COST_MAX: u64 = 10_000_000;
/// Cost of all match conditions of one object.
pub const MATCH_CONDITIONS_COST_MAX: u64 = 2_500_000;
/// Estimated cost of one rule of a definition.
pub const ESTIMATED_RULE_COST_MAX: u64 = 10_000_000;
/// Estimated cost of all rules of a definition together.
pub const ESTIMATED_DEFINITION_COST_MAX: u64 = 100_000_000;
/// Largest request; bounds what an unbounded schema may hold.
pub const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Longest result of a message expression.
pub const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Elements of a list made by a library function out of a number.
pub const RANGE_MAX: i64 = 1_000_000;
/// Bytes of one string made by an expression.
pub const STRING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Compiled size of a regular expression.
pub const REGEX_BYTES_MAX: usize = 2 * 1024 * 1024;
