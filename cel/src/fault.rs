//! Why an evaluation has no value.

/// An error at run time. Small, because it travels through every step.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Fault(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    message: String,
    /// Nothing may absorb the end of the budget.
    fatal: bool,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Fault {
        Fault(Box::new(Inner { message: message.into(), fatal: false }))
    }

    pub fn no_such_overload() -> Fault {
        Fault::new("no such overload")
    }

    pub(crate) fn cost() -> Fault {
        let message = "operation cancelled: actual cost limit exceeded".to_owned();
        Fault(Box::new(Inner { message, fatal: true }))
    }

    /// The evaluation used up its budget.
    pub fn is_cost(&self) -> bool {
        self.0.fatal
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }
}
