//! Two values compared into a tree that knows at every node how many leaves are the same.

use super::edits::{self, Edit, Likeness};
use super::types::{Shape, Table, Type};
use super::value::{Data, Value};

/// A node of the comparison. On one side there may be nothing, as for an added element.
pub(super) struct Node<'v> {
    pub(super) ty: Type,
    pub(super) x: Option<&'v Value>,
    pub(super) y: Option<&'v Value>,
    /// Leaves that are the same, and that differ.
    pub(super) same: usize,
    pub(super) different: usize,
    /// Descendants, and how deep they go; zero for a leaf.
    pub(super) descendants: usize,
    pub(super) depth: usize,
    pub(super) inner: Inner<'v>,
}

/// What is below a node.
pub(super) enum Inner<'v> {
    Leaf,
    /// What a pointer points to.
    Pointee(Box<Node<'v>>),
    /// Fields, elements or entries, each with its key.
    Records(Vec<(String, Node<'v>)>),
}

/// Compares two values of a type.
pub(super) fn compare<'v>(table: &Table, ty: &Type, x: Option<&'v Value>, y: Option<&'v Value>) -> Node<'v> {
    let (Some(a), Some(b)) = (x, y) else {
        return leaf(ty, x, y, false);
    };
    match (&a.data, &b.data) {
        (Data::Struct(fields_x), Data::Struct(fields_y)) => {
            let pairs = fields_x.iter().zip(fields_y);
            let records = pairs
                .filter(|((_, newer, x), (_, _, y))| !newer || !x.is_zero() || !y.is_zero())
                .map(|((name, _, x), (_, _, y))| {
                    ((*name).to_owned(), compare(table, &x.ty, Some(x), Some(y)))
                })
                .collect();
            branch(ty, x, y, Inner::Records(records))
        }
        (Data::Pointer(Some(inner_x)), Data::Pointer(Some(inner_y))) => {
            let node = compare(table, &inner_x.ty, Some(inner_x), Some(inner_y));
            branch(ty, x, y, Inner::Pointee(Box::new(node)))
        }
        (Data::List(Some(list_x)), Data::List(Some(list_y))) => {
            let Shape::List(element) = &ty.shape else {
                return leaf(ty, x, y, false);
            };
            branch(ty, x, y, Inner::Records(elements(table, element, list_x, list_y)))
        }
        (Data::Map(Some(map_x)), Data::Map(Some(map_y))) => {
            let Shape::Map(_, element) = &ty.shape else {
                return leaf(ty, x, y, false);
            };
            branch(ty, x, y, Inner::Records(entries(table, element, map_x, map_y)))
        }
        (a, b) => leaf(ty, x, y, same_leaf(a, b)),
    }
}

fn elements<'v>(table: &Table, ty: &Type, xs: &'v [Value], ys: &'v [Value]) -> Vec<(String, Node<'v>)> {
    let script = edits::script(xs.len(), ys.len(), |a, b| {
        let node = compare(table, ty, Some(&xs[a]), Some(&ys[b]));
        Likeness {
            same: node.same,
            different: node.different,
        }
    });
    let (mut a, mut b) = (0, 0);
    script
        .into_iter()
        .map(|edit| {
            let x = (edit != Edit::Inserted).then(|| &xs[a]);
            let y = (edit != Edit::Removed).then(|| &ys[b]);
            a += usize::from(x.is_some());
            b += usize::from(y.is_some());
            (String::new(), compare(table, ty, x, y))
        })
        .collect()
}

fn entries<'v>(
    table: &Table,
    ty: &Type,
    xs: &'v [(String, Value)],
    ys: &'v [(String, Value)],
) -> Vec<(String, Node<'v>)> {
    let mut keys: Vec<&String> = xs.iter().chain(ys).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let get = |entries: &'v [(String, Value)], key: &str| -> Option<&'v Value> {
        entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    };
    keys.into_iter()
        .map(|key| (key.clone(), compare(table, ty, get(xs, key), get(ys, key))))
        .collect()
}

fn same_leaf(x: &Data, y: &Data) -> bool {
    match (x, y) {
        (Data::Bool(x), Data::Bool(y)) => x == y,
        (Data::Int(x), Data::Int(y)) => x == y,
        (Data::Float(x), Data::Float(y)) => x == y,
        (Data::Text(x), Data::Text(y)) => x == y,
        (Data::Quantity(x), Data::Quantity(y)) => x.equals(y),
        (Data::Time(x), Data::Time(y)) => x == y,
        (Data::Pointer(None), Data::Pointer(None))
        | (Data::List(None), Data::List(None))
        | (Data::Map(None), Data::Map(None)) => true,
        _ => false,
    }
}

fn leaf<'v>(ty: &Type, x: Option<&'v Value>, y: Option<&'v Value>, same: bool) -> Node<'v> {
    Node {
        ty: ty.clone(),
        x,
        y,
        same: usize::from(same),
        different: usize::from(!same),
        descendants: 0,
        depth: 0,
        inner: Inner::Leaf,
    }
}

fn branch<'v>(ty: &Type, x: Option<&'v Value>, y: Option<&'v Value>, inner: Inner<'v>) -> Node<'v> {
    let mut node = Node {
        ty: ty.clone(),
        x,
        y,
        same: 0,
        different: 0,
        descendants: 0,
        depth: 0,
        inner: Inner::Leaf,
    };
    let mut add = |child: &Node<'v>| {
        node.same += child.same;
        node.different += child.different;
        node.descendants += child.descendants + 1;
        node.depth = node.depth.max(child.depth + 1);
    };
    match &inner {
        Inner::Leaf => {}
        Inner::Pointee(child) => add(child),
        Inner::Records(records) => records.iter().for_each(|(_, child)| add(child)),
    }
    node.inner = inner;
    node
}
