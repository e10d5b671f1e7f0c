//! Label selectors: the text of `labelSelector=` and the `LabelSelector` object.
//!
//! ```
//! use skiff_api::Selector;
//! use std::collections::BTreeMap;
//! let selector: Selector = "app=web,tier in (a, b),!legacy".parse().unwrap();
//! let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "a".to_owned())]);
//! assert!(selector.matches(&labels));
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::names;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of the listed ones.
    In,
    /// The label is absent or its value is not listed.
    NotIn,
    Exists,
    DoesNotExist,
    /// The value is an integer greater than the one given.
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted; one value for comparisons, none for existence.
    pub values: Vec<String>,
}

/// A conjunction of requirements; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why text or an object is not a selector; answered with code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    #[error("unable to parse requirement: <nil>: Invalid value: {}: {message}", crate::quote::quote(value))]
    Invalid { value: String, message: String },
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

impl Selector {
    /// Selects every object.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Selects no object.
    pub fn nothing() -> Selector {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// The conjunction of given requirements.
    pub fn new(requirements: Vec<Requirement>) -> Result<Selector, SelectorError> {
        requirements.iter().try_for_each(check)?;
        let mut requirements = requirements;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector { requirements, nothing: false })
    }

    /// Selects objects that carry all of the given labels.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Selector {
        let requirements = labels.into_iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        });
        Selector { requirements: requirements.collect(), nothing: false }
    }

    /// The object form: absent selects nothing, empty selects everything.
    pub fn from_object(selector: Option<&LabelSelector>) -> Result<Selector, SelectorError> {
        let Some(selector) = selector else { return Ok(Selector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values: vec![value.clone()] });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let mut values = expression.values.clone().unwrap_or_default();
            values.sort_unstable();
            let operator = object_operator(&expression.operator)?;
            requirements.push(Requirement { key: expression.key.clone(), operator, values });
        }
        Selector::new(requirements)
    }

    /// The object form as a dynamic value; `null` and absent select nothing.
    pub fn from_value(selector: Option<&Value>) -> Result<Selector, SelectorError> {
        let Some(selector) = selector.filter(|value| !value.is_null()) else { return Ok(Selector::nothing()) };
        let typed: LabelSelector =
            serde_json::from_value(selector.clone()).map_err(|error| SelectorError::Syntax(error.to_string()))?;
        Selector::from_object(Some(&typed))
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether no object can be left out.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Matches labels held as a JSON object (`metadata.labels`).
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        self.matches_with(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }

    /// Matches labels looked up by a function.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl Requirement {
    /// Whether the value of the label, if it has one, meets this requirement.
    pub fn matches(&self, label: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|listed| listed == value);
        let compare = |holds: fn(i64, i64) -> bool| {
            let have = label.and_then(|label| label.parse::<i64>().ok());
            let wanted = self.values.first().and_then(|value| value.parse::<i64>().ok());
            have.zip(wanted).is_some_and(|(have, wanted)| holds(have, wanted))
        };
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compare(|have, wanted| have > wanted),
            Operator::LessThan => compare(|have, wanted| have < wanted),
        }
    }
}

fn object_operator(name: &str) -> Result<Operator, SelectorError> {
    match name {
        "In" => Ok(Operator::In),
        "NotIn" => Ok(Operator::NotIn),
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        other => Err(SelectorError::Operator(other.to_owned())),
    }
}

fn check(requirement: &Requirement) -> Result<(), SelectorError> {
    let invalid = |value: &str, message: &str| {
        Err(SelectorError::Invalid { value: value.to_owned(), message: message.to_owned() })
    };
    if let Some(message) = names::qualified_name(&requirement.key).first() {
        return invalid(&requirement.key, message);
    }
    let values = requirement.values.join(",");
    match requirement.operator {
        Operator::In | Operator::NotIn if requirement.values.is_empty() => {
            return invalid(&values, "for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Exists | Operator::DoesNotExist if !requirement.values.is_empty() => {
            return invalid(&values, "values set must be empty for exists and does not exist");
        }
        Operator::GreaterThan | Operator::LessThan => {
            if requirement.values.len() != 1 {
                return invalid(&values, "for 'Gt', 'Lt' operators, exactly one value is required");
            }
            if requirement.values[0].parse::<i64>().is_err() {
                return invalid(&requirement.values[0], "for 'Gt', 'Lt' operators, the value must be an integer");
            }
        }
        _ => {}
    }
    for value in &requirement.values {
        if let Some(message) = names::label_value(value).first() {
            return invalid(value, message);
        }
    }
    Ok(())
}

/// The canonical text; parsing it gives an equal selector, but for the one that
/// selects nothing, which has no text form.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, requirement) in self.requirements.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(requirement, f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = self;
        match (operator, values.as_slice()) {
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, values) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(",")),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, values) => write!(f, "{key}>{}", values.join(",")),
            (Operator::LessThan, values) => write!(f, "{key}<{}", values.join(",")),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { tokens: tokenize(text), at: 0 };
        let mut requirements = Vec::new();
        if parser.peek() == &Token::End {
            return Ok(Selector::everything());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                Token::End => break,
                Token::Comma => {
                    if !matches!(parser.peek(), Token::Word(_) | Token::Not) {
                        return Err(parser.unexpected("identifier after ','"));
                    }
                }
                other => {
                    return Err(SelectorError::Syntax(format!("found '{other}', expected: ',' or 'end of string'")));
                }
            }
        }
        Selector::new(requirements)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Not => "!",
            Token::Equal => "=",
            Token::DoubleEqual => "==",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::End => "",
        })
    }
}

fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '!' => (Token::Not, 1),
            '=' if rest.starts_with("==") => (Token::DoubleEqual, 2),
            '=' => (Token::Equal, 1),
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || ",()!=<>".contains(c)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    /// Ends with [`Token::End`], which is never passed.
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        SelectorError::Syntax(format!("found '{}', expected: {expected}", self.peek()))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = *self.peek() == Token::Not;
        if absent {
            self.next();
        }
        let Token::Word(key) = self.peek().clone() else {
            return Err(self.unexpected("!, identifier, or 'end of string'"));
        };
        self.next();
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let (operator, set) = match self.peek() {
            Token::End | Token::Comma => {
                return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
            }
            Token::Word(word) if word == "in" => (Operator::In, true),
            Token::Word(word) if word == "notin" => (Operator::NotIn, true),
            Token::Equal | Token::DoubleEqual => (Operator::In, false),
            Token::NotEqual => (Operator::NotIn, false),
            Token::Greater => (Operator::GreaterThan, false),
            Token::Less => (Operator::LessThan, false),
            _ => return Err(self.unexpected("in, notin, =, ==, !=, gt, lt")),
        };
        self.next();
        let mut values = if set { self.set()? } else { vec![self.value()?] };
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key, operator, values })
    }

    /// A value may be empty: `key=` and `key=,other`.
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            Token::End | Token::Comma => Ok(String::new()),
            _ => Err(self.unexpected("identifier")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if *self.peek() != Token::Open {
            return Err(self.unexpected("'('"));
        }
        self.next();
        let mut values = Vec::new();
        loop {
            match self.peek().clone() {
                Token::Word(word) => {
                    self.next();
                    values.push(word);
                }
                Token::Comma | Token::Close => values.push(String::new()),
                _ => return Err(self.unexpected("',', ')' or identifier")),
            }
            match self.peek() {
                Token::Comma => self.next(),
                Token::Close => break,
                _ => return Err(self.unexpected("',' or ')'")),
            };
        }
        self.next();
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
        selector.parse::<Selector>().expect(selector).matches(&labels(pairs))
    }

    #[test]
    fn text_selectors_match_as_upstream() {
        assert!(matches("", &[]));
        assert!(matches("a=b", &[("a", "b")]) && !matches("a=b", &[("a", "c")]) && !matches("a=b", &[]));
        assert!(matches("a == b, c!=d", &[("a", "b")]));
        assert!(matches("a in (x,y)", &[("a", "y")]) && !matches("a in (x,y)", &[]));
        assert!(matches("a notin (x,y)", &[]) && !matches("a notin (x,y)", &[("a", "x")]));
        assert!(matches("a", &[("a", "")]) && !matches("a", &[]) && matches("!a", &[]));
        assert!(matches("a=", &[("a", "")]) && matches("a in (,x)", &[("a", "")]));
        assert!(matches("n>5", &[("n", "6")]) && !matches("n>5", &[("n", "x")]) && matches("n<5", &[("n", "-1")]));
        assert!(matches("example.com/a=b", &[("example.com/a", "b")]));
        assert!(matches("in in (in)", &[("in", "in")]), "words of the syntax are fine as keys and values");
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in [
            "=", "a=b,", ",a", "a in", "a in (", "a in (x", "a in x", "!", "a b", "a!b", "a>x", "a=b=c", "-a", "a=-",
            "a,,b",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }

    #[test]
    fn printing_gives_back_an_equal_selector() {
        for text in ["b=1,a in (x,y),!c,d,e!=1,f notin (p,q),g>3", "", "a=", "k in (,v)"] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn object_form_absent_selects_nothing_and_empty_everything() {
        assert!(!Selector::from_value(None).unwrap().matches(&labels(&[])));
        assert!(!Selector::from_value(Some(&Value::Null)).unwrap().matches(&labels(&[])));
        assert!(Selector::from_value(Some(&json!({}))).unwrap().is_everything());
        let selector = Selector::from_value(Some(&json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["z", "y"]}, {"key": "d", "operator": "Exists"}]})))
        .unwrap();
        assert!(selector.matches(&labels(&[("a", "b"), ("d", "")])));
        assert_eq!(selector.to_string(), "a=b,c notin (y,z),d");
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Near"}]});
        assert_eq!(Selector::from_value(Some(&bad)), Err(SelectorError::Operator("Near".to_owned())));
    }
}
