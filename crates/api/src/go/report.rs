//! The report of a comparison: what changed, with two equal neighbours on either side.
//!
//! Follows go-cmp's reporter (`report_compare.go`, `report_reflect.go`, `report_slices.go`) in what
//! it shows, elides and counts. Texts of several lines are compared as texts of one line.

use super::edits::{self, Edit, Likeness};
use super::text::{Mark, Record, Stats, Text, push_ellipsis};
use super::tree::{Inner, Node};
use super::types::{Shape, Type};
use super::value::{Amount, Data, Value};
use crate::error::quote;

/// Equal records shown beside changed ones.
const CONTEXT: usize = 2;
/// Texts from this length on are compared piece by piece.
const LONG_TEXT: usize = 32;

/// Lays out the report.
pub(super) fn report(node: &Node<'_>) -> String {
    let options = Options {
        show: Show::Diff,
        types: Types::Emit,
        verbosity: 0,
        limited: false,
    };
    match options.diff(node) {
        Some(text @ Text::Wrap { .. }) => text.lay_out(),
        Some(text) => Text::wrap("", text, "").lay_out(),
        None => String::new(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Diff,
    Identical,
    Removed,
    Inserted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    Emit,
    Elide,
    /// Only those of composite values.
    Auto,
}

#[derive(Clone, Copy)]
struct Options {
    show: Show,
    types: Types,
    verbosity: i32,
    limited: bool,
}

impl Options {
    fn showing(self, show: Show) -> Options {
        Options { show, ..self }
    }

    fn typed(self, types: Types) -> Options {
        Options { types, ..self }
    }

    fn at_verbosity(self, verbosity: i32) -> Options {
        Options {
            verbosity,
            limited: true,
            ..self
        }
    }

    fn level(self) -> u32 {
        self.verbosity.clamp(0, 16).unsigned_abs()
    }

    /// How many parts of a value are shown, and the options for them.
    fn limit_parts(self) -> (Option<usize>, Options) {
        if self.limited {
            (
                Some(((1 << self.level()) >> 1) << 2),
                Options {
                    verbosity: self.verbosity - 1,
                    ..self
                },
            )
        } else {
            (None, self)
        }
    }

    fn diff(self, node: &Node<'_>) -> Option<Text> {
        let options = match self.show {
            Show::Identical => self.at_verbosity(1),
            _ if self.level() < 3 => self.at_verbosity(3),
            _ => self,
        };
        if let Some(text) = options.pieces(node) {
            return Some(text);
        }
        match &node.inner {
            Inner::Leaf => options.leaf(node),
            Inner::Pointee(inner) => Some(Text::wrap("&", options.diff(inner)?, "")),
            Inner::Records(_) if node.depth == 0 => options.leaf(node),
            Inner::Records(records) => Some(options.with_type(
                &node.ty,
                options.records(&records.iter().collect::<Vec<_>>(), &node.ty),
            )),
        }
    }

    fn leaf(self, node: &Node<'_>) -> Option<Text> {
        match self.show {
            Show::Removed => self.value(node.x),
            Show::Inserted => self.value(node.y),
            Show::Diff if node.different > 0 => {
                let elided = self.typed(Types::Elide);
                let sides = [
                    (Mark::Removed, elided.value(node.x)),
                    (Mark::Inserted, elided.value(node.y)),
                ];
                let list = sides
                    .into_iter()
                    .filter_map(|(mark, text)| Some(record(mark, "", text?)))
                    .collect();
                Some(self.typed(Types::Emit).with_type(&node.ty, Text::List(list)))
            }
            Show::Diff | Show::Identical => {
                let (x, y) = (self.value(node.x)?, self.value(node.y)?);
                Some(if x.length() < y.length() { x } else { y })
            }
        }
    }

    /// Fields, elements or entries.
    fn records(self, records: &[&(String, Node<'_>)], ty: &Type) -> Text {
        let (name, types) = match ty.shape {
            Shape::List(_) => ("element", Types::Elide),
            Shape::Map(..) => ("entry", Types::Elide),
            _ => ("field", Types::Auto),
        };
        let limit = self.limited.then(|| match self.show {
            Show::Identical => ((1_usize << self.level()) >> 1) << 2,
            _ => (1 << self.level()) << 1,
        });
        let options = Options {
            types,
            verbosity: self.verbosity - i32::from(self.limited),
            ..self
        };
        let list = if self.show == Show::Diff {
            options.changed_records(records, ty, name, limit)
        } else {
            options.one_side(records, ty, limit)
        };
        Text::wrap("{", Text::List(list), "}")
    }

    fn one_side(self, records: &[&(String, Node<'_>)], ty: &Type, limit: Option<usize>) -> Vec<Record> {
        let is_zero = |value: Option<&Value>| value.is_some_and(Value::is_zero);
        let mut list = Vec::new();
        for (key, node) in records {
            if Some(list.len()) == limit {
                push_ellipsis(&mut list, None);
                break;
            }
            let elided = matches!(ty.shape, Shape::Struct(_) | Shape::IntOrString)
                && match self.show {
                    Show::Removed => is_zero(node.x),
                    Show::Inserted => is_zero(node.y),
                    _ => is_zero(node.x) || is_zero(node.y),
                };
            if let Some(text) = self.diff(node).filter(|_| !elided) {
                list.push(record(Mark::Same, &shown_key(ty, key), text));
            }
        }
        list
    }

    fn changed_records(
        self,
        records: &[&(String, Node<'_>)],
        ty: &Type,
        name: &'static str,
        limit: Option<usize>,
    ) -> Vec<Record> {
        let mut list = Vec::new();
        let mut rest = records;
        let mut changes = 0;
        let mut left_out = Stats::new(name);
        let groups = groups(name, records);
        for (at, group) in groups.iter().enumerate() {
            if limit.is_some_and(|limit| changes >= limit) {
                left_out.add(group);
                continue;
            }
            let count = group.identical + group.different();
            let (here, after) = rest.split_at(count);
            rest = after;
            if group.different() == 0 {
                self.equal_group(here, ty, (at > 0, at + 1 < groups.len()), name, &mut list);
            } else {
                here.iter()
                    .for_each(|(key, node)| self.changed_record(&shown_key(ty, key), node, &mut list));
                changes += group.different();
            }
        }
        if !left_out.is_zero() {
            push_ellipsis(&mut list, Some(left_out));
        }
        list
    }

    /// Equal records: those beside a change are shown, the others counted.
    fn equal_group(
        self,
        records: &[&(String, Node<'_>)],
        ty: &Type,
        (change_before, change_after): (bool, bool),
        name: &'static str,
        list: &mut Vec<Record>,
    ) {
        let count = records.len();
        let low = if change_before { CONTEXT.min(count) } else { 0 };
        let mut high = if change_after { CONTEXT.min(count - low) } else { 0 };
        if count - (low + high) == 1 {
            high += 1;
        }
        let push = |list: &mut Vec<Record>, (key, node): &(String, Node<'_>)| {
            if let Some(text) = self.showing(Show::Identical).diff(node) {
                list.push(record(Mark::Same, &shown_key(ty, key), text));
            }
        };
        records[..low].iter().for_each(|entry| push(list, entry));
        if count > low + high {
            push_ellipsis(
                list,
                Some(Stats {
                    identical: count - low - high,
                    ..Stats::new(name)
                }),
            );
        }
        records[count - high..].iter().for_each(|entry| push(list, entry));
    }

    fn changed_record(self, key: &str, node: &Node<'_>, list: &mut Vec<Record>) {
        if let Some(text) = self.pieces(node) {
            list.push(record(Mark::Same, key, text));
        } else if node.descendants == node.depth {
            let mut sides = (
                self.showing(Show::Removed).diff(node),
                self.showing(Show::Inserted).diff(node),
            );
            for more in 0..=6 {
                if sides.0.is_none() || sides.0 != sides.1 {
                    break;
                }
                let louder = Options {
                    verbosity: self.verbosity.max(0) + 2 * more,
                    ..self
                };
                sides = (
                    louder.showing(Show::Removed).diff(node),
                    louder.showing(Show::Inserted).diff(node),
                );
            }
            list.extend(sides.0.map(|text| record(Mark::Removed, key, text)));
            list.extend(sides.1.map(|text| record(Mark::Inserted, key, text)));
        } else if let Some(text) = self.diff(node) {
            list.push(record(Mark::Same, key, text));
        }
    }

    /// Long texts and lists of numbers, compared piece by piece.
    fn pieces(self, node: &Node<'_>) -> Option<Text> {
        if self.show != Show::Diff || node.different == 0 {
            return None;
        }
        match (&node.x?.data, &node.y?.data) {
            (Data::Text(x), Data::Text(y)) if x.len() >= LONG_TEXT && y.len() >= LONG_TEXT => {
                let (a, b) = (x.as_bytes(), y.as_bytes());
                let show = |part: &[u8]| go_string(&String::from_utf8_lossy(part));
                let list = self.chunks(a, b, 64, "byte", &show);
                let joined = Text::wrap("strings.Join({", Text::List(list), "}, \"\")");
                Some(if node.ty.name == "string" {
                    joined
                } else {
                    self.with_type(&node.ty, joined)
                })
            }
            (Data::List(Some(x)), Data::List(Some(y)))
                if is_numbers(&node.ty)
                    && !x.is_empty()
                    && !y.is_empty()
                    && (node.different > node.same || (x.len() >= LONG_TEXT && y.len() >= LONG_TEXT)) =>
            {
                let number = |value: &Value| {
                    if let Data::Int(number) = value.data {
                        number
                    } else {
                        0
                    }
                };
                let (a, b): (Vec<_>, Vec<_>) =
                    (x.iter().map(number).collect(), y.iter().map(number).collect());
                let show = |part: &[i64]| {
                    part.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                let name = if node.ty.name == "[]int32" {
                    "int32"
                } else {
                    "int64"
                };
                let list = self.chunks(&a, &b, 8, name, &show);
                Some(self.with_type(&node.ty, Text::wrap("{", Text::List(list), "}")))
            }
            _ => None,
        }
    }

    fn chunks<T: PartialEq>(
        self,
        x: &[T],
        y: &[T],
        size: usize,
        name: &'static str,
        show: &dyn Fn(&[T]) -> String,
    ) -> Vec<Record> {
        let script = edits::script(x.len(), y.len(), |a, b| Likeness::of_equality(x[a] == y[b]));
        let groups = smooth(edit_groups(name, &script), size / 4);
        let groups = trim_equal_ends(groups, |a, b| x[a] == y[b]);
        let limit = self.limited.then(|| (1_usize << self.level()) << 2);
        let mut list = Vec::new();
        let mut left_out = Stats::new(name);
        let (mut x, mut y, mut changes) = (x, y, 0);
        for (at, group) in groups.iter().enumerate() {
            if limit.is_some_and(|limit| changes >= limit) {
                left_out.add(group);
                continue;
            }
            let push = |part: &[T], mark: Mark, list: &mut Vec<Record>| {
                list.extend(
                    part.chunks(size)
                        .map(|chunk| record(mark, "", Text::line(show(chunk)))),
                );
            };
            if group.different() == 0 {
                let count = group.identical;
                let low = if at > 0 { (size * CONTEXT).min(count) } else { 0 };
                let mut high = if at + 1 < groups.len() {
                    (size * CONTEXT).min(count - low)
                } else {
                    0
                };
                if count - (low + high) <= size {
                    high = count - low;
                }
                push(&x[..low], Mark::Same, &mut list);
                if count > low + high {
                    push_ellipsis(
                        &mut list,
                        Some(Stats {
                            identical: count - low - high,
                            ..Stats::new(name)
                        }),
                    );
                }
                push(&x[count - high..count], Mark::Same, &mut list);
                (x, y) = (&x[count..], &y[count..]);
            } else {
                let before = list.len();
                let (nx, ny) = (
                    group.identical + group.removed + group.modified,
                    group.identical + group.inserted + group.modified,
                );
                push(&x[..nx], Mark::Removed, &mut list);
                push(&y[..ny], Mark::Inserted, &mut list);
                (x, y) = (&x[nx..], &y[ny..]);
                changes += list.len() - before;
            }
        }
        if !left_out.is_zero() {
            push_ellipsis(&mut list, Some(left_out));
        }
        list
    }

    /// A value on its own.
    fn value(self, value: Option<&Value>) -> Option<Text> {
        let value = value?;
        if let Some(text) = self.own_text(value) {
            return Some(text);
        }
        let text = match &value.data {
            Data::Bool(value) => Text::line(value.to_string()),
            Data::Int(value) => Text::line(value.to_string()),
            Data::Float(value) => Text::line(value.to_string()),
            Data::Text(text) => self.string("", text),
            Data::Time(_) => Text::line("{}"),
            Data::Quantity(amount) => self.quantity(amount),
            Data::Struct(fields) => {
                let (limit, options) = self.limit_parts();
                let fields = fields.iter().filter(|(_, _, value)| !value.is_zero());
                let parts = fields.map(|(name, _, value)| ((*name).to_owned(), value));
                options.typed(Types::Auto).parts(parts, limit)
            }
            Data::Pointer(Some(inner)) => return Some(Text::wrap("&", self.value(Some(inner))?, "")),
            Data::Pointer(None) | Data::List(None) | Data::Map(None) => Text::nil(),
            Data::List(Some(list)) => {
                let (limit, options) = self.limit_parts();
                options
                    .typed(Types::Elide)
                    .parts(list.iter().map(|value| (String::new(), value)), limit)
            }
            Data::Map(Some(map)) => {
                let (limit, options) = self.limit_parts();
                let entries = map
                    .iter()
                    .map(|(key, element)| (shown_key(&value.ty, key), element));
                options.typed(Types::Elide).parts(entries, limit)
            }
        };
        // Of an unnamed pointer type only what it points to is named.
        Some(if matches!(value.data, Data::Pointer(_)) && text != Text::nil() {
            text
        } else {
            self.with_type(&value.ty, text)
        })
    }

    fn parts<'v>(self, parts: impl Iterator<Item = (String, &'v Value)>, limit: Option<usize>) -> Text {
        let mut list = Vec::new();
        for (key, value) in parts {
            if Some(list.len()) == limit {
                push_ellipsis(&mut list, None);
                break;
            }
            if let Some(text) = self.value(Some(value)) {
                list.push(record(Mark::Same, &key, text));
            }
        }
        Text::wrap("{", Text::List(list), "}")
    }

    fn quantity(self, amount: &Amount) -> Text {
        let (limit, options) = self.limit_parts();
        let options = options.typed(Types::Auto);
        let (inner_limit, _) = options.limit_parts();
        let mut inner = Vec::new();
        for (name, value) in [("value", amount.value), ("scale", i64::from(amount.scale))] {
            if value != 0 && Some(inner.len()) != inner_limit {
                inner.push(record(Mark::Same, name, Text::line(value.to_string())));
            } else if value != 0 {
                push_ellipsis(&mut inner, None);
            }
        }
        let mut list = Vec::new();
        if amount.value != 0 || amount.scale != 0 {
            let text = Text::wrap("{", Text::List(inner), "}");
            let text = match options.show {
                Show::Identical => text,
                _ => Text::wrap("resource.int64Amount", text, ""),
            };
            list.push(record(Mark::Same, "i", text));
        }
        for (name, text) in [("s", amount.text.as_str()), ("Format", amount.format)] {
            if !text.is_empty() {
                list.push(record(Mark::Same, name, options.string("", text)));
            }
        }
        if let Some(limit) = limit.filter(|limit| list.len() > *limit) {
            list.truncate(limit);
            push_ellipsis(&mut list, None);
        }
        Text::wrap("{", Text::List(list), "}")
    }

    /// The text that a value's own `String` method gives.
    fn own_text(self, value: &Value) -> Option<Text> {
        let text = match (&value.data, value.ty.name.as_str()) {
            (Data::Text(text), "core.ResourceName") => text.clone(),
            (Data::Time(Some(text)), _) => text.clone(),
            (Data::Pointer(Some(inner)), "*intstr.IntOrString") => match &inner.data {
                Data::Struct(fields) => match (&fields[1].2.data, &fields[2].2.data) {
                    (_, Data::Text(text)) if !text.is_empty() => text.clone(),
                    (Data::Int(number), _) => number.to_string(),
                    _ => return None,
                },
                _ => return None,
            },
            (Data::Pointer(Some(inner)), "*resource.Quantity") => match &inner.data {
                Data::Quantity(amount) => amount.text.clone(),
                _ => return None,
            },
            _ => return None,
        };
        Some(self.string("s", &text))
    }

    fn string(self, prefix: &str, text: &str) -> Text {
        let limit = if self.limited {
            (1 << self.level()) << 5
        } else {
            text.len()
        };
        if text.len() > limit + 3 {
            let mut end = limit;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            return Text::line(format!("{prefix}{}...", go_string(&text[..end])));
        }
        Text::line(format!("{prefix}{}", go_string(text)))
    }

    fn with_type(self, ty: &Type, text: Text) -> Text {
        match self.types {
            Types::Elide => return text,
            Types::Auto => {
                let composite = !matches!(
                    ty.shape,
                    Shape::Bool | Shape::Int | Shape::Float | Shape::Text | Shape::Pointer(_)
                );
                if !composite || text == Text::nil() || self.show == Show::Identical {
                    return text;
                }
            }
            Types::Emit => {}
        }
        let name = match ty.shape {
            Shape::Pointer(_) if !ty.named => format!("({})", ty.name),
            _ => ty.name.clone(),
        };
        Text::wrap(name, in_parens(text), "")
    }
}

fn in_parens(text: Text) -> Text {
    match &text {
        Text::Wrap { prefix, suffix, .. }
            if (prefix.starts_with('(') && suffix.ends_with(')'))
                || (prefix.starts_with('{') && suffix.ends_with('}')) =>
        {
            text
        }
        _ => Text::wrap("(", text, ")"),
    }
}

fn record(mark: Mark, key: &str, text: Text) -> Record {
    Record {
        mark,
        key: key.to_owned(),
        text,
        no_comma: false,
        comment: None,
    }
}

fn shown_key(ty: &Type, key: &str) -> String {
    match &ty.shape {
        Shape::Map(key_type, _) if key_type.name == "core.ResourceName" => format!("s{}", go_string(key)),
        Shape::Map(..) => go_string(key),
        Shape::List(_) => String::new(),
        _ => key.to_owned(),
    }
}

fn is_numbers(ty: &Type) -> bool {
    matches!(&ty.shape, Shape::List(element) if matches!(element.shape, Shape::Int | Shape::Bool))
}

/// A text in quotes, or in backquotes where quotes would need escapes.
fn go_string(text: &str) -> String {
    let quoted = quote(text);
    let raw_is_bad = |c: char| c == '`' || c == '\n' || (c.is_control() && c != '\t');
    if quoted.len() == text.len() + 2 || text.contains(raw_is_bad) {
        quoted
    } else {
        format!("`{text}`")
    }
}

/// Adjacent records counted together: equal ones, and changed ones.
fn groups(name: &'static str, records: &[&(String, Node<'_>)]) -> Vec<Stats> {
    let mut groups: Vec<Stats> = Vec::new();
    for (_, node) in records {
        let equal = node.different == 0;
        if groups
            .last()
            .is_none_or(|group| (group.different() == 0) != equal)
        {
            groups.push(Stats::new(name));
        }
        let Some(group) = groups.last_mut() else { continue };
        match (equal, node.x, node.y) {
            (true, ..) => group.identical += 1,
            (false, _, None) => group.removed += 1,
            (false, None, _) => group.inserted += 1,
            (false, ..) => group.modified += 1,
        }
    }
    groups
}

fn edit_groups(name: &'static str, script: &[Edit]) -> Vec<Stats> {
    let mut groups: Vec<Stats> = Vec::new();
    for edit in script {
        let equal = *edit == Edit::Identity;
        if groups
            .last()
            .is_none_or(|group| (group.different() == 0) != equal)
        {
            groups.push(Stats::new(name));
        }
        let Some(group) = groups.last_mut() else { continue };
        match edit {
            Edit::Identity => group.identical += 1,
            Edit::Modified => group.modified += 1,
            Edit::Removed => group.removed += 1,
            Edit::Inserted => group.inserted += 1,
        }
    }
    groups
}

/// Joins changes that only few equal elements part, where both sides have changes.
fn smooth(groups: Vec<Stats>, window: usize) -> Vec<Stats> {
    let mut smoothed: Vec<Stats> = Vec::new();
    for group in groups {
        if let [.., before, between] = smoothed.as_slice()
            && group.different() > 0
        {
            let x = before.removed > 0 || group.removed > 0;
            let y = before.inserted > 0 || group.inserted > 0;
            if x && y && between.identical <= window {
                let between = smoothed.pop();
                if let (Some(before), Some(between)) = (smoothed.last_mut(), between) {
                    before.add(&between);
                    before.add(&group);
                    continue;
                }
            }
        }
        smoothed.push(group);
    }
    smoothed
}

/// Gives equal elements at the ends of a change to the equal groups beside it.
fn trim_equal_ends(groups: Vec<Stats>, equal: impl Fn(usize, usize) -> bool) -> Vec<Stats> {
    let name = groups.first().map_or("", |group| group.name);
    let mut trimmed: Vec<Stats> = Vec::new();
    let (mut x, mut y, mut carried) = (0, 0, 0);
    let give = |trimmed: &mut Vec<Stats>, count: usize| match trimmed.last_mut() {
        Some(last) if last.different() == 0 => last.identical += count,
        _ => trimmed.push(Stats {
            identical: count,
            ..Stats::new(name)
        }),
    };
    for group in groups {
        if group.different() == 0 {
            x += group.identical;
            y += group.identical;
            give(&mut trimmed, group.identical + std::mem::take(&mut carried));
            continue;
        }
        let (nx, ny) = (
            group.identical + group.removed + group.modified,
            group.identical + group.inserted + group.modified,
        );
        let shorter = nx.min(ny);
        let lead = (0..shorter).take_while(|at| equal(x + at, y + at)).count();
        let trail = (0..shorter)
            .take_while(|at| equal(x + nx - 1 - at, y + ny - 1 - at))
            .count();
        x += nx;
        y += ny;
        if lead + trail == 0 {
            trimmed.push(group);
            continue;
        }
        if lead > 0 {
            give(&mut trimmed, lead);
        }
        let taken = (lead + trail).min(shorter);
        trimmed.push(Stats {
            removed: nx - taken,
            inserted: ny - taken,
            ..Stats::new(name)
        });
        carried = taken - lead;
    }
    if carried > 0 {
        give(&mut trimmed, carried);
    }
    trimmed
}
