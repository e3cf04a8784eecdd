//! Text that is laid out on one line where it is short and on many where it is not, as go-cmp lays
//! out its reports (`report_text.go`).

/// Removed or inserted text longer than this stands on lines of its own.
const MAX_COLUMNS: usize = 80;

/// Whether a line is the same before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Same,
    Removed,
    Inserted,
}

impl Mark {
    /// The mark of something inside something marked.
    fn within(self, outer: Mark) -> Mark {
        if outer == Mark::Same { self } else { outer }
    }

    fn sign(self) -> &'static str {
        // The spaces are U+00A0, as in the server whose words are followed.
        match self {
            Mark::Same => "\u{a0}\u{a0}",
            Mark::Removed => "-\u{a0}",
            Mark::Inserted => "+\u{a0}",
        }
    }
}

/// Structured text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    Wrap {
        prefix: String,
        inner: Box<Text>,
        suffix: String,
    },
    List(Vec<Record>),
    Line(String),
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) mark: Mark,
    pub(super) key: String,
    pub(super) text: Text,
    pub(super) no_comma: bool,
    pub(super) comment: Option<Stats>,
}

/// How many records were left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) name: &'static str,
    pub(super) identical: usize,
    pub(super) removed: usize,
    pub(super) inserted: usize,
    pub(super) modified: usize,
}

impl Stats {
    pub(super) fn new(name: &'static str) -> Stats {
        Stats {
            name,
            identical: 0,
            removed: 0,
            inserted: 0,
            modified: 0,
        }
    }

    pub(super) fn different(&self) -> usize {
        self.removed + self.inserted + self.modified
    }

    pub(super) fn add(&mut self, other: &Stats) {
        self.identical += other.identical;
        self.removed += other.removed;
        self.inserted += other.inserted;
        self.modified += other.modified;
    }

    pub(super) fn is_zero(&self) -> bool {
        self.identical + self.different() == 0
    }

    fn write(&self) -> String {
        let counts = [
            (self.identical, "identical"),
            (self.removed, "removed"),
            (self.inserted, "inserted"),
            (self.modified, "modified"),
        ];
        let parts: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, label)| format!("{count} {label}"))
            .collect();
        let name = match (self.identical + self.different(), self.name.strip_suffix('y')) {
            (..=1, _) => self.name.to_owned(),
            (_, Some(stem)) => format!("{stem}ies"),
            (_, None) => format!("{}s", self.name),
        };
        match parts.as_slice() {
            [first @ .., last] if first.len() > 1 => format!("{}, and {last} {name}", first.join(", ")),
            parts => format!("{} {name}", parts.join(" and ")),
        }
    }
}

pub(super) const ELLIPSIS: &str = "...";

impl Text {
    pub(super) fn line(text: impl Into<String>) -> Text {
        Text::Line(text.into())
    }

    pub(super) fn nil() -> Text {
        Text::line("nil")
    }

    pub(super) fn wrap(prefix: impl Into<String>, inner: Text, suffix: &str) -> Text {
        Text::Wrap {
            prefix: prefix.into(),
            inner: Box::new(inner),
            suffix: suffix.to_owned(),
        }
    }

    /// The length on one line.
    pub(super) fn length(&self) -> usize {
        match self {
            Text::Wrap {
                prefix,
                inner,
                suffix,
            } => prefix.len() + inner.length() + suffix.len(),
            Text::Line(line) => line.len(),
            Text::List(records) => {
                let own = |record: &Record| {
                    record.text.length()
                        + if record.key.is_empty() {
                            0
                        } else {
                            record.key.len() + 2
                        }
                };
                records.iter().map(own).sum::<usize>() + 2 * records.len().saturating_sub(1)
            }
        }
    }

    /// The whole text, laid out.
    pub(super) fn lay_out(&self) -> String {
        let (_, compacted) = self.compact(Mark::Same);
        let mut out = String::new();
        indent(&mut out, Mark::Same, 0);
        compacted.expand(&mut out, Mark::Same, 0);
        out.push('\n');
        out
    }

    /// The text on one line, and the text with all that fits one line made into lines.
    fn compact(&self, mark: Mark) -> (String, Text) {
        match self {
            Text::Line(line) => (line.clone(), self.clone()),
            Text::Wrap {
                prefix,
                inner,
                suffix,
            } => {
                let (line, inner) = inner.compact(mark);
                let line = format!("{prefix}{line}{suffix}");
                match inner {
                    Text::Line(_) => (line.clone(), Text::Line(line)),
                    inner => (line, Text::wrap(prefix.clone(), inner, suffix)),
                }
            }
            Text::List(records) => compact_list(records, mark),
        }
    }

    fn expand(&self, out: &mut String, mark: Mark, depth: usize) {
        match self {
            Text::Line(line) => out.push_str(line),
            Text::Wrap {
                prefix,
                inner,
                suffix,
            } => {
                out.push_str(prefix);
                inner.expand(out, mark, depth);
                out.push_str(suffix);
            }
            Text::List(records) => expand_list(records, out, mark, depth),
        }
    }

    fn is_line(&self) -> bool {
        matches!(self, Text::Line(_))
    }
}

/// Appends an ellipsis for records left out, or adds to the one that is there.
pub(super) fn push_ellipsis(list: &mut Vec<Record>, stats: Option<Stats>) {
    let is_ellipsis = |record: &Record| record.text == Text::line(ELLIPSIS);
    match (list.last_mut().filter(|record| is_ellipsis(record)), stats) {
        (Some(last), Some(stats)) => match &mut last.comment {
            Some(comment) => comment.add(&stats),
            None => last.comment = Some(stats),
        },
        (Some(_), None) => {}
        (None, comment) => list.push(Record {
            mark: Mark::Same,
            key: String::new(),
            text: Text::line(ELLIPSIS),
            no_comma: true,
            comment,
        }),
    }
}

fn compact_list(records: &[Record], mark: Mark) -> (String, Text) {
    let mut line = String::new();
    let mut many_lines = false;
    let mut compacted = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        let (own, text) = record.text.compact(record.mark.within(mark));
        many_lines |= record.mark != Mark::Same || !text.is_line() || record.comment.is_some();
        if !record.key.is_empty() {
            line.push_str(&record.key);
            line.push_str(": ");
        }
        line.push_str(&own);
        if at + 1 < records.len() {
            line.push_str(", ");
        }
        compacted.push(Record {
            text,
            ..record.clone()
        });
    }
    if many_lines || (mark != Mark::Same && line.len() > MAX_COLUMNS) {
        (line, Text::List(compacted))
    } else {
        (line.clone(), Text::Line(line))
    }
}

fn indent(out: &mut String, mark: Mark, depth: usize) {
    out.push_str(mark.sign());
    out.extend(std::iter::repeat_n('\t', depth));
}

fn new_line(out: &mut String, mark: Mark, depth: usize) {
    out.push('\n');
    indent(out, mark, depth);
}

fn expand_list(records: &[Record], out: &mut String, mark: Mark, depth: usize) {
    let is_simple = |record: &Record| {
        record.mark == Mark::Same
            && record.key.is_empty()
            && record.text.is_line()
            && record.comment.is_none()
    };
    if !records.is_empty() && records.iter().all(is_simple) {
        expand_batched(records, out, mark, depth + 1);
    } else {
        expand_lines(records, out, mark, depth + 1);
    }
    new_line(out, mark, depth);
}

/// Several short items on each line.
fn expand_batched(records: &[Record], out: &mut String, mark: Mark, depth: usize) {
    let mut batch = String::new();
    let mut emit = |batch: &mut String| {
        if !batch.is_empty() {
            new_line(out, mark, depth);
            out.push_str(batch.trim_end_matches(' '));
            batch.clear();
        }
    };
    for record in records {
        let Text::Line(line) = &record.text else { continue };
        if batch.len() + line.len() + 2 > MAX_COLUMNS {
            emit(&mut batch);
        }
        batch.push_str(line);
        batch.push_str(", ");
    }
    emit(&mut batch);
}

fn expand_lines(records: &[Record], out: &mut String, mark: Mark, depth: usize) {
    let key_pads = pads(records, |record| {
        (!record.key.is_empty() && record.text.is_line()).then(|| record.key.chars().count())
    });
    let value_pads = pads(records, |record| match &record.text {
        Text::Line(line) if line != ELLIPSIS && record.comment.is_some() => Some(line.chars().count()),
        _ => None,
    });
    for (at, record) in records.iter().enumerate() {
        let own = record.mark.within(mark);
        new_line(out, own, depth);
        if !record.key.is_empty() {
            out.push_str(&record.key);
            out.push_str(": ");
        }
        out.extend(std::iter::repeat_n(' ', key_pads[at]));
        record.text.expand(out, own, depth);
        if !record.no_comma {
            out.push(',');
        }
        out.extend(std::iter::repeat_n(' ', value_pads[at]));
        if let Some(comment) = &record.comment {
            out.push_str(" // ");
            out.push_str(&comment.write());
        }
    }
}

/// What each record of a run lacks to the longest of the run. A record without length ends a run.
fn pads(records: &[Record], length: impl Fn(&Record) -> Option<usize>) -> Vec<usize> {
    let lengths: Vec<_> = records.iter().map(length).collect();
    let mut pads = vec![0; records.len()];
    for run in lengths
        .iter()
        .enumerate()
        .collect::<Vec<_>>()
        .split(|(_, length)| length.is_none())
    {
        let longest = run.iter().filter_map(|(_, length)| **length).max().unwrap_or(0);
        for (at, length) in run {
            pads[*at] = longest - length.unwrap_or(longest);
        }
    }
    pads
}
