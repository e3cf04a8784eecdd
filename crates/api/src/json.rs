//! What is wrong with a text that is no JSON, in the words of Go's scanner, which clients of the
//! API know. Reading well-formed JSON is serde's business.

use serde_json::Value;

/// The first syntax error of a text, as Go's `encoding/json` reports it; none if it is JSON.
pub fn syntax_error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner {
        text,
        at: 0,
        depth: 0,
    };
    let result = scanner.value().and_then(|()| {
        scanner.space();
        match scanner.peek() {
            None => Ok(()),
            Some(_) => scanner.unexpected("after top-level value"),
        }
    });
    result.err()
}

/// How deep an object may nest lists and objects. What is stored must be readable again, also within
/// a list or an event of a watch, and JSON readers stop at 128 levels.
pub const MAX_DEPTH: usize = 100;

/// How many lists and objects are within one another at most; 0 for a scalar.
pub fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    below.unwrap_or(0) + 1
}

/// Nesting beyond this ends Go's scanner.
const MAX_SCANNED: usize = 10_000;

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
    depth: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// What stands here does not belong here; or nothing stands here.
    fn unexpected(&self, context: &str) -> Result<(), String> {
        Err(match self.peek() {
            None => "unexpected end of JSON input".to_owned(),
            Some(byte) => format!("invalid character {} {context}", quote_char(byte)),
        })
    }

    fn value(&mut self) -> Result<(), String> {
        // An explicit stack: a text must not be able to exhaust ours.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    open.push(b'{');
                    self.space();
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        self.deeper(open.len())?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    open.push(b'[');
                    self.space();
                    if self.peek() != Some(b']') {
                        self.deeper(open.len())?;
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // After a value: close what ends here, or go on to the next one.
            loop {
                self.space();
                let Some(&container) = open.last() else {
                    return Ok(());
                };
                let (close, context) = match container {
                    b'{' => (b'}', "after object key:value pair"),
                    _ => (b']', "after array element"),
                };
                match self.peek() {
                    Some(byte) if byte == close => {
                        self.at += 1;
                        open.pop();
                    }
                    Some(b',') => {
                        self.at += 1;
                        if container == b'{' {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    _ => return self.unexpected(context),
                }
            }
        }
    }

    fn deeper(&mut self, depth: usize) -> Result<(), String> {
        self.depth = depth;
        if depth > MAX_SCANNED {
            Err("exceeded max depth".to_owned())
        } else {
            Ok(())
        }
    }

    fn key(&mut self) -> Result<(), String> {
        if self.peek() != Some(b'"') {
            return self.unexpected("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.unexpected("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return self.unexpected(&format!("in literal {word} (expecting {})", quote_char(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                                    return self.unexpected("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.unexpected("in string escape code"),
                    }
                }
                Some(0x20..) => self.at += 1,
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.unexpected(context);
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }
}

fn quote_char(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = crate::error::quote(&char::from(byte).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_texts_have_no_error() {
        for text in [
            "{}",
            " [1, -2.5e+3, \"a\\u00e9\\n\", true, false, null, {\"a\": {}}] ",
            "0",
            "\"\"",
        ] {
            assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn errors_are_those_of_go() {
        for (text, error) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\":1", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            (
                "{a:1}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 \"b\"}",
                "invalid character '\"' after object key:value pair",
            ),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru3", "invalid character '3' in literal true (expecting 'e')"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("-a", "invalid character 'a' in numeric literal"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
        ] {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), Some(error), "{text}");
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        let text = "[".repeat(20_000);
        assert_eq!(
            syntax_error(text.as_bytes()).as_deref(),
            Some("exceeded max depth")
        );
    }
}
