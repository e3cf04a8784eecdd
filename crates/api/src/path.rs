//! The path to a field, as errors name it.
//!
//! Checks walk a whole object and name each field on the way, while nearly no field is wrong. So a
//! path is built in place, without the heap, up to a length that nearly all paths keep.

use std::fmt;

/// Paths up to this length, in bytes, need no allocation.
const INLINE: usize = 118;

/// The path to a field, built step by step: `path.child("spec").index(0)`.
#[derive(Clone)]
pub struct Path(Text);

#[derive(Clone)]
enum Text {
    Inline { length: u8, bytes: [u8; INLINE] },
    Heap(String),
}

impl Path {
    /// A path of one name.
    pub fn new(name: &str) -> Path {
        Path::root().with(&[name])
    }

    /// The empty path, for an object as a whole.
    pub fn root() -> Path {
        Path(Text::Inline {
            length: 0,
            bytes: [0; INLINE],
        })
    }

    /// A field of the object here.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        if self.as_str().is_empty() {
            self.with(&[name])
        } else {
            self.with(&[".", name])
        }
    }

    /// An element of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        let mut digits = [0; 20];
        self.with(&["[", decimal(index, &mut digits), "]"])
    }

    /// A value of the map here.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        self.with(&["[", key, "]"])
    }

    /// The path as it is; empty for the object as a whole.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Inline { length, bytes } => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default()
            }
            Text::Heap(text) => text,
        }
    }

    fn with(&self, parts: &[&str]) -> Path {
        if let Text::Inline { length, bytes } = &self.0 {
            let mut at = usize::from(*length);
            let end = at + parts.iter().map(|part| part.len()).sum::<usize>();
            if end <= INLINE {
                let mut bytes = *bytes;
                for part in parts {
                    bytes[at..at + part.len()].copy_from_slice(part.as_bytes());
                    at += part.len();
                }
                return Path(Text::Inline {
                    length: end as u8,
                    bytes,
                });
            }
        }
        let mut text = self.as_str().to_owned();
        text.extend(parts.iter().copied());
        Path(Text::Heap(text))
    }
}

fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &str {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return std::str::from_utf8(&digits[at..]).unwrap_or_default();
        }
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Path {}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Go writes the nil path so.
        f.write_str(if self.as_str().is_empty() {
            "<nil>"
        } else {
            self.as_str()
        })
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let ports = Path::new("spec").child("ports");
        assert_eq!(ports.index(10).child("name").to_string(), "spec.ports[10].name");
        assert_eq!(Path::root().child("data").key("a/b").to_string(), "data[a/b]");
        assert_eq!(Path::root().to_string(), "<nil>");
        assert_eq!(ports.index(0).to_string(), "spec.ports[0]");
    }

    #[test]
    fn long_paths_are_whole() {
        let long = "x".repeat(INLINE);
        assert_eq!(Path::new(&long).as_str(), long);
        assert_eq!(
            Path::new(&long).child("y").index(7).to_string(),
            format!("{long}.y[7]")
        );
    }
}
