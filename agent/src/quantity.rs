//! Quantities of typed objects as numbers, and back.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn parse(quantity: &Quantity) -> Option<skiff_api::Quantity> {
    quantity.0.parse().ok()
}

/// The value in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    parse(quantity).map(skiff_api::Quantity::milli_value)
}

/// The value in whole units, rounded up.
pub fn value(quantity: &Quantity) -> Option<i64> {
    parse(quantity).map(skiff_api::Quantity::value)
}

/// Whole units in plain decimal form.
pub fn from_value(value: i64) -> Quantity {
    Quantity(skiff_api::Quantity::from_value(value).to_string())
}

/// Thousandths in canonical form.
pub fn from_milli(milli: i64) -> Quantity {
    Quantity(skiff_api::Quantity::from_millis(milli).to_string())
}

/// Bytes in kibibytes when they divide, as nodes report memory.
pub fn from_bytes(bytes: u64) -> Quantity {
    if bytes != 0 && bytes.is_multiple_of(1024) {
        Quantity(format!("{}Ki", bytes / 1024))
    } else {
        Quantity(bytes.to_string())
    }
}
