//! Label and field selectors, as in the `labelSelector` and `fieldSelector` parameters and in
//! `metav1.LabelSelector`.
//!
//! Follows "Labels and Selectors" and "Field Selectors"; error texts are those of `apimachinery`'s
//! `labels` and `fields` packages.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

use crate::error::{Errors, Path, quote};
use crate::names;

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// Conditions on labels, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    /// Matches nothing, whatever the requirements.
    nothing: bool,
}

/// Anything that maps label keys to values.
pub trait Labels {
    /// The value of a label.
    fn value(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Selector {
        Selector {
            nothing: true,
            ..Selector::default()
        }
    }

    /// No condition at all?
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether labels meet it. Objects without labels are as with an empty map.
    pub fn matches(&self, labels: Option<&(impl Labels + ?Sized)>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| {
                let value = labels.and_then(|labels| labels.value(&requirement.key));
                match (&requirement.test, value) {
                    (Test::In(values), Some(value)) => values.iter().any(|v| v == value),
                    (Test::NotIn(values), Some(value)) => values.iter().all(|v| v != value),
                    (Test::NotIn(_) | Test::DoesNotExist, None) => true,
                    (Test::Exists, found) => found.is_some(),
                    (Test::DoesNotExist, Some(_)) | (Test::In(_), None) => false,
                    (Test::GreaterThan(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v > *bound),
                    (Test::LessThan(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v < *bound),
                    (Test::GreaterThan(_) | Test::LessThan(_), None) => false,
                }
            })
    }

    /// Labels that must all be equal, as in a Service's selector.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Selector {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(vec![value.clone()]),
            })
            .collect();
        Selector {
            requirements,
            nothing: false,
        }
    }

    /// Parses the `labelSelector` parameter, e.g. `app=web,tier in (a,b),!old`.
    pub fn parse(text: &str) -> Result<Selector, String> {
        Parser::new(text).selector()
    }

    /// From a `metav1.LabelSelector`: none selects nothing, an empty one everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Selector, String> {
        let Some(selector) = selector else {
            return Ok(Selector::nothing());
        };
        let mut result = Selector::from_labels(selector.match_labels.iter().flatten());
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", quote(other))),
            };
            result.requirements.push(Requirement {
                key: expression.key.clone(),
                test,
            });
        }
        Ok(result)
    }
}

impl std::fmt::Display for Selector {
    /// As `labels.Selector.String()`: sorted by key, `a=b,c in (d,e),!f`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted: Vec<_> = self.requirements.iter().collect();
        sorted.sort_by_key(|requirement| &requirement.key);
        let list = |values: &[String]| {
            let mut values = values.to_vec();
            values.sort();
            values.join(",")
        };
        let texts: Vec<_> = sorted
            .iter()
            .map(|Requirement { key, test }| match test {
                Test::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
                Test::In(values) => format!("{key} in ({})", list(values)),
                Test::NotIn(values) => format!("{key} notin ({})", list(values)),
                Test::Exists => key.clone(),
                Test::DoesNotExist => format!("!{key}"),
                Test::GreaterThan(bound) => format!("{key}>{bound}"),
                Test::LessThan(bound) => format!("{key}<{bound}"),
            })
            .collect();
        f.write_str(&texts.join(","))
    }
}

/// Checks a `metav1.LabelSelector` that is part of an object.
pub fn validate_label_selector(selector: &LabelSelector, path: &Path, errors: &mut Errors) {
    check_label_selector(selector, false, path, errors);
}

/// Likewise; values that are no label values may be let through, where they have been before.
pub(crate) fn check_label_selector(
    selector: &LabelSelector,
    allow_invalid_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (at, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        errors.invalid_each(
            &path.child("key"),
            &expression.key,
            names::qualified_name(&expression.key),
        );
        for (at, value) in values.iter().enumerate().filter(|_| !allow_invalid_values) {
            errors.invalid_each(&path.child("values").index(at), value, names::label_value(value));
        }
    }
}

/// Checks labels: every key a qualified name, every value a label value.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        validate_label(key, value, path, errors);
    }
}

/// Checks one label.
pub(crate) fn validate_label(key: &str, value: &str, path: &Path, errors: &mut Errors) {
    errors.invalid_each(path, key, names::qualified_name(key));
    errors.invalid_each(path, value, names::label_value(value));
}

/// One token of the selector language.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

struct Parser<'t> {
    text: &'t str,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

const SYMBOLS: [&str; 10] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<", "in"];

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Parser<'t> {
        Parser {
            text,
            tokens: tokens(text).into_iter().peekable(),
        }
    }

    fn next(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token::End)
    }

    fn error(&self, found: &Token, expected: &str) -> String {
        let found = match found {
            Token::Word(word) => word.clone(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::End => String::new(),
        };
        format!("unable to parse requirement: found '{found}', expected: {expected}")
    }

    fn selector(mut self) -> Result<Selector, String> {
        let mut requirements = Vec::new();
        if self.text.trim().is_empty() {
            return Ok(Selector::everything());
        }
        loop {
            if let found @ (Token::Symbol(_) | Token::End) = self.tokens.peek().cloned().unwrap_or(Token::End)
                && found != Token::Symbol("!")
            {
                let shown = self.error(&found, "!, identifier, or 'end of string'");
                return Err(shown.replacen("unable to parse requirement: ", "", 1));
            }
            requirements.push(self.requirement()?);
            match self.next() {
                Token::End => {
                    return Ok(Selector {
                        requirements,
                        nothing: false,
                    });
                }
                Token::Symbol(",") => match self.tokens.peek() {
                    Some(Token::Word(_) | Token::Symbol("!" | "in")) => {}
                    other => {
                        let found = other.cloned().unwrap_or(Token::End);
                        let shown = self.error(&found, "identifier after ','");
                        return Err(shown.replacen("unable to parse requirement: ", "", 1));
                    }
                },
                found => {
                    let shown = self.error(&found, "',' or 'end of string'");
                    return Err(shown.replacen("unable to parse requirement: ", "", 1));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = matches!(self.tokens.peek(), Some(Token::Symbol("!")));
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            found => return Err(self.error(&found, "identifier")),
        };
        let test = match self.tokens.peek().cloned().unwrap_or(Token::End) {
            Token::End | Token::Symbol(",") if negated => Test::DoesNotExist,
            Token::End | Token::Symbol(",") => Test::Exists,
            _ if negated => {
                // `!key` must stand alone.
                let found = self.next();
                return Err(self.error(&found, "',' or 'end of string'"));
            }
            _ => self.test()?,
        };
        check_requirement(&key, &test)?;
        Ok(Requirement { key, test })
    }

    fn test(&mut self) -> Result<Test, String> {
        match self.next() {
            Token::Symbol("=" | "==") => Ok(Test::In(vec![self.exact_value()])),
            Token::Symbol("!=") => Ok(Test::NotIn(vec![self.exact_value()])),
            Token::Symbol(">") => Ok(Test::GreaterThan(self.number()?)),
            Token::Symbol("<") => Ok(Test::LessThan(self.number()?)),
            Token::Word(word) if word == "in" => Ok(Test::In(self.values()?)),
            Token::Word(word) if word == "notin" => Ok(Test::NotIn(self.values()?)),
            found => Err(self.error(&found, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// An absent value is the empty one.
    fn exact_value(&mut self) -> String {
        match self.tokens.peek() {
            Some(Token::Word(_)) => match self.next() {
                Token::Word(word) => word,
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.exact_value();
        value.parse().map_err(|_| {
            format!(
                "unable to parse requirement: values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                quote(&value)
            )
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            found => return Err(self.error(&found, "'('").replacen("', expected", "' expected", 1)),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word);
                    match self.next() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => return Ok(values),
                        found => return Err(self.error(&found, "',' or ')'")),
                    }
                }
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    values.push(String::new());
                    return Ok(values);
                }
                found => return Err(self.error(&found, "',', ')' or identifier")),
            }
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS[..9].iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "=!(),><".contains(c))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            rest = after;
        }
        rest = rest.trim_start();
    }
    tokens
}

fn check_requirement(key: &str, test: &Test) -> Result<(), String> {
    let mut errors = Errors::new();
    // Upstream has no path for the key here, which Go shows so.
    errors.invalid_each(&Path::new("<nil>"), key, names::qualified_name(key));
    if let Test::In(values) | Test::NotIn(values) = test {
        for (at, value) in values.iter().enumerate() {
            let path = Path::new("values").index(at).key(key);
            errors.invalid_each(&path, value, names::label_value(value));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(format!("unable to parse requirement: {}", errors.summary()))
    }
}

/// Conditions on an object's fields, e.g. `status.phase=Running,spec.nodeName!=n1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` parameter.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let operator = ["!=", "==", "="]
                .iter()
                .filter_map(|op| part.find(op).map(|at| (at, *op)))
                .min();
            let Some((at, operator)) = operator else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            // `a==b` is found by its first `=` too.
            let operator = if part[at..].starts_with("==") {
                "=="
            } else {
                operator
            };
            let value = unescape(&part[at + operator.len()..])?;
            terms.push((part[..at].to_owned(), operator != "!=", value));
        }
        Ok(FieldSelector { terms })
    }

    /// No condition at all?
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The fields it asks for.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|(field, _, _)| field.as_str())
    }

    /// The same conditions on fields of other names.
    pub fn renamed(self, name: impl Fn(&str) -> String) -> FieldSelector {
        let terms = self.terms.into_iter();
        FieldSelector {
            terms: terms
                .map(|(field, equal, value)| (name(&field), equal, value))
                .collect(),
        }
    }

    /// The value that a field must be equal to, if it says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|(name, equal, _)| *equal && name == field);
        term.map(|(_, _, value)| value.as_str())
    }

    /// Whether an object meets it, given what its fields are. An absent field is empty.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.terms
            .iter()
            .all(|(name, equal, value)| (field(name).unwrap_or_default() == *value) == *equal)
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(term) = terms.last_mut() {
            term.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    terms
}

fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                Some(other) => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{other}"
                    ));
                }
                None => return Err("invalid field selector: unterminated escape sequence".to_owned()),
            },
            (',' | '=', _) => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {c}"
                ));
            }
            _ => value.push(c),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors_select() {
        let web = labels(&[("app", "web"), ("tier", "2")]);
        for (text, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!old", true),
            ("app=web", true),
            ("app==web,tier=2", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("other notin (a)", true),
            ("tier>1", true),
            ("tier<2", false),
            ("app=", false),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.matches(Some(&web)), expected, "{text}");
        }
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for text in [
            "app=web=db",
            "app in web",
            "app in (a",
            ",",
            "app,",
            "a b",
            "!app=web",
            "tier>x",
            "a!b",
            "=x",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_selector_is_written_sorted() {
        let selector = Selector::parse("b in (z,y),a=1,!c").expect("a selector");
        assert_eq!(selector.to_string(), "a=1,b in (y,z),!c");
    }

    #[test]
    fn no_label_selector_selects_nothing_and_an_empty_one_everything() {
        let none: Option<&BTreeMap<String, String>> = None;
        assert!(
            !Selector::from_label_selector(None)
                .expect("nothing")
                .matches(none)
        );
        assert!(
            Selector::from_label_selector(Some(&LabelSelector::default()))
                .expect("all")
                .matches(none)
        );
    }

    #[test]
    fn field_selectors_compare_texts() {
        let field = |name: &str| (name == "metadata.name").then(|| "web-0".to_owned());
        for (text, expected) in [
            ("metadata.name=web-0", true),
            ("metadata.name==web-0", true),
            ("metadata.name!=web-0", false),
            ("metadata.name=web-1", false),
            ("spec.nodeName=", true),
            ("metadata.name=web-0,spec.nodeName=n1", false),
            ("", true),
        ] {
            assert_eq!(
                FieldSelector::parse(text).expect(text).matches(field),
                expected,
                "{text}"
            );
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
    }
}
