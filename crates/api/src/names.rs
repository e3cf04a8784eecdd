//! The forms that names, labels and keys may have, with the messages Kubernetes gives for others.
//!
//! Follows "Object Names and IDs", "Labels and Selectors" and `apimachinery`'s `validation`
//! package. Each function returns all objections to a value; none means that it is well formed.

/// A rule for names: all objections to one.
pub type NameRule = fn(&str) -> Vec<String>;

const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn max_length(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// `message (e.g. 'a',  or 'b', regex used for validation is 're')`.
pub fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{regex}')",
        examples.join(" or ")
    )
}

fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// First and last characters as `edge` says, the rest as `inner` does.
fn shaped(value: &str, edge: fn(char) -> bool, inner: fn(char) -> bool) -> bool {
    let mut chars = value.chars();
    chars.next().is_some_and(edge) && value.chars().next_back().is_some_and(edge) && chars.all(inner)
}

fn matches_label(value: &str) -> bool {
    shaped(value, lower_or_digit, |c| lower_or_digit(c) || c == '-')
}

fn matches_qualified(value: &str) -> bool {
    shaped(
        value,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || "-_.".contains(c),
    )
}

/// A DNS label (RFC 1123), e.g. a namespace's or a container's name.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_length(LABEL_MAX));
    }
    if !matches_label(value) {
        // A name that would do but for its dots gets told so.
        if dns_subdomain(value).is_empty() {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// A DNS subdomain (RFC 1123): the form of most objects' names.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_length(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(matches_label) {
        errors.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    errors
}

/// A DNS subdomain with `*` as its first label.
pub fn wildcard_dns_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_length(SUBDOMAIN_MAX));
    }
    let rest = value.strip_prefix("*.");
    if !rest.is_some_and(|rest| rest.split('.').all(matches_label)) {
        errors.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_FMT}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// A DNS subdomain whose labels may have underscores, as search domains may.
pub fn dns_subdomain_with_underscores(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_length(SUBDOMAIN_MAX));
    }
    let is_label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        shaped(rest, lower_or_digit, |c| {
            lower_or_digit(c) || c == '-' || c == '_'
        })
    };
    if !value.split('.').all(is_label) {
        errors.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// The number of a user or group.
pub fn user_id(value: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&value) {
        Vec::new()
    } else {
        vec![in_range(0, i32::MAX.into())]
    }
}

/// A DNS label that starts with a letter (RFC 1035): a Service's name.
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_length(LABEL_MAX));
    }
    if !(matches_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_FMT,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A qualified name: `[prefix/]name`, the form of label and annotation keys and of finalizers.
pub fn qualified_name(value: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|error| format!("prefix part {error}")),
                );
            }
            name
        }
        _ => {
            errors.push(format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_message(QUALIFIED_MSG, QUALIFIED_FMT, &examples)
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_length(LABEL_MAX)));
    }
    if !matches_qualified(name) {
        errors.push(format!(
            "name part {}",
            regex_message(QUALIFIED_MSG, QUALIFIED_FMT, &examples)
        ));
    }
    errors
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_length(LABEL_MAX));
    }
    if !value.is_empty() && !matches_qualified(value) {
        errors.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_length(SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    {
        errors.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(not_a_directory(value));
    errors
}

/// The name of an environment variable: printable ASCII but `=` (the rule since 1.34).
pub fn env_var_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

fn not_a_directory(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A name that can stand as one segment of a path.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => ["/", "%"]
            .iter()
            .filter(|bad| value.contains(**bad))
            .map(|bad| format!("may not contain '{bad}'"))
            .collect(),
    }
}

/// The name of a port (IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !value.chars().all(|c| lower_or_digit(c) || c == '-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.contains(|c: char| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The number of a port.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        Vec::new()
    } else {
        vec![in_range(1, 65535)]
    }
}

/// `must be between LOW and HIGH, inclusive`.
pub fn in_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A percentage such as `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The same check for the prefix that `generateName` is: a trailing `-` is all right there.
pub fn as_prefix(check: fn(&str) -> Vec<String>, value: &str) -> Vec<String> {
    match value.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => check(&format!("{stem}a")),
        _ => check(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_values_have_no_objections() {
        for (check, values) in [
            (
                dns_label as fn(&str) -> Vec<String>,
                &["a", "web-0", "123-abc"][..],
            ),
            (dns_subdomain, &["a.b-c.d", "web"]),
            (dns_1035_label, &["web-0"]),
            (qualified_name, &["MyName", "example.com/my.name", "a_b"]),
            (label_value, &["", "a.b", "12345"]),
            (
                config_key,
                &[
                    "key.name",
                    "_x",
                    "..".trim_end_matches('.').trim_start_matches(' '),
                ][..2],
            ),
            (env_var_name, &["A", "a b", "1x"]),
            (port_name, &["http", "web-1"]),
            (percent, &["0%", "100%"]),
        ] {
            for value in values {
                assert_eq!(check(value), Vec::<String>::new(), "{value:?}");
            }
        }
    }

    #[test]
    fn others_are_objected_to() {
        for (check, values) in [
            (
                dns_label as fn(&str) -> Vec<String>,
                &["", "A", "-a", "a-", "a.b", "a_b"][..],
            ),
            (dns_subdomain, &["", "a..b", ".a", "a."]),
            (dns_1035_label, &["0web", ""]),
            (qualified_name, &["a/b/c", "/a", "a/", "a b", "-a"]),
            (label_value, &["a b", "-", "c!"]),
            (config_key, &["a/b", "", "..", "..x", "."]),
            (env_var_name, &["", "a=b", "ü"]),
            (port_name, &["80", "a--b", "-a", "A", "averyveryverylongname"]),
            (percent, &["%", "5", "x%"]),
        ] {
            for value in values {
                assert!(!check(value).is_empty(), "{value:?}");
            }
        }
    }

    #[test]
    fn a_name_with_dots_where_a_label_is_wanted_is_told_so() {
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
    }
}
