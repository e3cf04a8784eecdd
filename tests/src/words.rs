//! Command lines as one would type them.

/// Splits a command line at blanks. `'…'` keeps a word together, as in a shell; nothing else is special.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for char in line.chars() {
        match char {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            blank if blank.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn lines_are_split_at_blanks_outside_quotes() {
        assert_eq!(words("get  po\n -o wide "), ["get", "po", "-o", "wide"]);
        assert_eq!(
            words("sh -c 'echo \"a  b\"' ''"),
            ["sh", "-c", "echo \"a  b\"", ""]
        );
        assert_eq!(words("-o jsonpath='{.a} {.b}'"), ["-o", "jsonpath={.a} {.b}"]);
        assert_eq!(words("  "), Vec::<String>::new());
    }
}
