//! Checks of numbers, quantities and numbers-or-percentages.

use serde_json::Value;
use skiff_api::Quantity;

use super::{Errors, Path};

/// Refuses a negative number; absent is fine.
pub fn non_negative(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if let Some(number) = value.as_i64()
        && number < 0
    {
        errors.invalid(path, number, "must be greater than or equal to 0");
    }
}

/// Refuses zero and negative numbers; absent is fine.
pub fn positive(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if let Some(number) = value.as_i64()
        && number <= 0
    {
        errors.invalid(path, number, "must be greater than zero");
    }
}

/// A quantity as text or number; `None` (with an error) when it is not one.
pub fn quantity(errors: &mut Errors, path: &Path<'_>, value: &Value) -> Option<Quantity> {
    let parsed = parse_quantity(value);
    if parsed.is_none() {
        errors.invalid(
            path,
            value,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    }
    parsed
}

/// Reads a quantity that JSON may hold as text or as a number.
pub fn parse_quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// A number or a percentage such as `25%`; never negative.
pub fn int_or_percent(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    match value {
        Value::String(text) if percent(value).is_none() => {
            errors.invalid(
                path,
                text,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
                 used for validation is '[0-9]+%')",
            );
        }
        Value::Number(_) => non_negative(errors, path, value),
        _ => {}
    }
}

/// The number before `%`.
pub fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Refuses percentages over 100.
pub fn not_more_than_100_percent(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lines, *};
    use serde_json::json;

    #[test]
    fn percentages_and_numbers() {
        let path = Path::new("x");
        let check = |value: Value| {
            let mut errors = Errors::new();
            int_or_percent(&mut errors, &path, &value);
            not_more_than_100_percent(&mut errors, &path, &value);
            lines(errors.into_causes())
        };
        assert!(check(json!("25%")).is_empty() && check(json!(3)).is_empty());
        assert_eq!(check(json!("101%")), ["x: Invalid value: \"101%\": must not be greater than 100%"]);
        assert_eq!(check(json!(-1)), ["x: Invalid value: -1: must be greater than or equal to 0"]);
        assert_eq!(check(json!("x")).len(), 1);
    }
}
