//! One nftables transaction, encoded as it is written.
//!
//! A batch is a run of netlink messages between a "begin" and an "end". All of one batch changes one table.
//! Format: `linux/netfilter/nfnetlink.h` and `nf_tables.h`; attribute numbers are named after the latter.

use super::rule::Rule;

/// The changes of one transaction.
pub(crate) struct Batch {
    table: String,
    buffer: Vec<u8>,
    sequence: u32,
}

/// Where in a packet's way a base chain is called.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What a base chain is for, which also gives its place among other programs' chains at the same hook.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Filter,
    /// A filter before connection tracking.
    Raw,
    DestinationNat,
    SourceNat,
}

/// What a set or map is made of.
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: &'a [Field],
    pub(crate) kind: SetKind<'a>,
}

/// What a set holds beside its keys.
#[derive(Clone, Copy)]
pub(crate) enum SetKind<'a> {
    /// Keys only.
    Plain,
    /// A verdict for each key.
    Verdicts,
    /// A value for each key.
    Values(&'a [Field]),
    /// Keys only, added by rules and forgotten after a while; at most this many.
    Dynamic { size: u32 },
}

/// A type of data, for keys and values: `nft`'s number for it and its length in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Field(u32, u32);

impl Field {
    pub(crate) const ADDRESS: Self = Self(7, 4);
    pub(crate) const PROTOCOL: Self = Self(12, 1);
    pub(crate) const PORT: Self = Self(13, 2);
    /// A number in the machine's own byte order.
    pub(crate) const NUMBER: Self = Self(19, 4);
    pub(crate) const LINK: Self = Self(20, 4);
}

/// What a map gives for a key.
pub(crate) enum Data<'a> {
    Value(Vec<u8>),
    Goto(&'a str),
}

const NFPROTO_IPV4: u8 = 2;
const SUBSYSTEM_NFTABLES: u16 = 10 << 8;
const MESSAGE_BATCH_BEGIN: u16 = 16;
const MESSAGE_BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

#[cfg(test)]
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const VERDICT_GOTO: u32 = -4_i32 as u32;

/// An element is less than 100 bytes, and a list of them (a nested attribute) 64 KiB at most.
const ELEMENTS_PER_MESSAGE: usize = 500;

impl Batch {
    pub(crate) fn new(table: &str) -> Self {
        let mut batch = Self {
            table: table.to_owned(),
            buffer: Vec::with_capacity(4096),
            sequence: 0,
        };
        batch.frame(MESSAGE_BATCH_BEGIN);
        batch
    }

    pub(crate) fn add_table(&mut self) {
        self.message(NEW_TABLE, NLM_F_CREATE, |_, _| {});
    }

    /// Deletes the table with everything in it.
    pub(crate) fn delete_table(&mut self) {
        self.message(DELETE_TABLE, 0, |_, _| {});
    }

    pub(crate) fn add_base_chain(&mut self, name: &str, hook: Hook, kind: Kind) {
        self.base_chain(name, hook, kind, POLICY_ACCEPT);
    }

    /// A chain such as other programs have, for tests.
    #[cfg(test)]
    pub(crate) fn add_dropping_chain(&mut self, name: &str, hook: Hook, kind: Kind) {
        self.base_chain(name, hook, kind, POLICY_DROP);
    }

    fn base_chain(&mut self, name: &str, hook: Hook, kind: Kind, policy: u32) {
        let (type_name, priority): (_, i32) = match kind {
            Kind::Filter => ("filter", 0),
            Kind::Raw => ("filter", -300),
            Kind::DestinationNat => ("nat", -100),
            Kind::SourceNat => ("nat", 100),
        };
        self.message(NEW_CHAIN, NLM_F_CREATE, |attributes, _| {
            attributes.text(3, name);
            attributes.nested(4, |hook_attributes| {
                hook_attributes.be32(1, hook as u32);
                hook_attributes.be32(2, priority as u32);
            });
            attributes.be32(5, policy);
            attributes.text(7, type_name);
        });
    }

    pub(crate) fn add_chain(&mut self, name: &str) {
        self.message(NEW_CHAIN, NLM_F_CREATE, |attributes, _| attributes.text(3, name));
    }

    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.message(DELETE_CHAIN, 0, |attributes, _| attributes.text(3, name));
    }

    /// Deletes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, chain: &str) {
        self.message(DELETE_RULE, 0, |attributes, _| attributes.text(2, chain));
    }

    pub(crate) fn add_rule(&mut self, chain: &str, rule: Rule) {
        self.message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |attributes, _| {
            attributes.text(2, chain);
            attributes.raw(4 | NESTED, &rule.into_expressions());
        });
    }

    pub(crate) fn add_set(&mut self, set: &Set<'_>) {
        let flags = match set.kind {
            SetKind::Plain => 0,
            SetKind::Verdicts | SetKind::Values(_) => SET_MAP,
            SetKind::Dynamic { .. } => SET_TIMEOUT | SET_EVAL,
        };
        self.message(NEW_SET, NLM_F_CREATE, |attributes, sequence| {
            attributes.text(2, set.name);
            attributes.be32(3, flags);
            attributes.be32(4, type_of(set.key));
            attributes.be32(5, length_of(set.key));
            match set.kind {
                SetKind::Verdicts => attributes.be32(6, TYPE_VERDICT),
                SetKind::Values(fields) => {
                    attributes.be32(6, type_of(fields));
                    attributes.be32(7, length_of(fields));
                }
                SetKind::Dynamic { size } => attributes.nested(9, |description| description.be32(1, size)),
                SetKind::Plain => {}
            }
            // The id must differ from those of the batch's other new sets.
            attributes.be32(10, sequence);
        });
    }

    pub(crate) fn delete_set(&mut self, name: &str) {
        self.message(DELETE_SET, 0, |attributes, _| attributes.text(2, name));
    }

    pub(crate) fn add_elements<'d>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (Vec<u8>, Option<Data<'d>>)>,
    ) {
        self.elements(NEW_ELEMENTS, NLM_F_CREATE, set, elements);
    }

    pub(crate) fn delete_elements(&mut self, set: &str, keys: impl IntoIterator<Item = Vec<u8>>) {
        self.elements(DELETE_ELEMENTS, 0, set, keys.into_iter().map(|key| (key, None)));
    }

    /// Deletes all elements of a set.
    pub(crate) fn flush_set(&mut self, set: &str) {
        self.message(DELETE_ELEMENTS, 0, |attributes, _| attributes.text(2, set));
    }

    /// The name of the table and the encoded batch.
    pub(super) fn finish(mut self) -> (String, Vec<u8>) {
        self.frame(MESSAGE_BATCH_END);
        (self.table, self.buffer)
    }

    fn elements<'d>(
        &mut self,
        message: u16,
        flags: u16,
        set: &str,
        elements: impl IntoIterator<Item = (Vec<u8>, Option<Data<'d>>)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.message(message, flags, |attributes, _| {
                attributes.text(2, set);
                attributes.nested(3, |list| {
                    for (key, data) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                        list.nested(1, |element| element.element(&key, data));
                    }
                });
            });
        }
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Attributes<'_>, u32)) {
        self.sequence += 1;
        let start = self.buffer.len();
        self.header(SUBSYSTEM_NFTABLES | kind, flags, NFPROTO_IPV4, 0);
        let mut attributes = Attributes(&mut self.buffer);
        attributes.text(1, &self.table);
        body(&mut attributes, self.sequence);
        self.close(start);
    }

    fn frame(&mut self, kind: u16) {
        self.sequence += 1;
        let start = self.buffer.len();
        self.header(kind, 0, 0, SUBSYSTEM_NFTABLES >> 8);
        self.close(start);
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        self.buffer.extend(0_u32.to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend(self.sequence.to_ne_bytes());
        self.buffer.extend(0_u32.to_ne_bytes());
        self.buffer.extend([family, 0]);
        self.buffer.extend(resource.to_be_bytes());
    }

    fn close(&mut self, start: usize) {
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Appends netlink attributes to a buffer.
pub(super) struct Attributes<'b>(pub(super) &'b mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn raw(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.0.extend((5 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value.as_bytes());
        self.0.push(0);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(super) fn be64(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        body(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// `NFTA_DATA_VALUE` inside an attribute.
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |data| data.raw(1, value));
    }

    /// `NFTA_DATA_VERDICT` inside an attribute.
    pub(super) fn verdict(&mut self, kind: u16, code: u32, chain: Option<&str>) {
        self.nested(kind, |data| {
            data.nested(2, |verdict| {
                verdict.be32(1, code);
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    }

    fn element(&mut self, key: &[u8], data: Option<Data<'_>>) {
        self.value(1, key);
        match data {
            Some(Data::Value(value)) => self.value(2, &value),
            Some(Data::Goto(chain)) => self.verdict(2, VERDICT_GOTO, Some(chain)),
            None => {}
        }
    }
}

/// The type of a concatenation: six bits for each part.
fn type_of(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |types, Field(number, _)| types << 6 | number)
}

/// Each part of a concatenation begins in a new register of four bytes.
fn length_of(fields: &[Field]) -> u32 {
    match fields {
        [Field(_, length)] => *length,
        _ => fields
            .iter()
            .map(|Field(_, length)| length.next_multiple_of(4))
            .sum(),
    }
}

/// What the message of a batch with this sequence number was to do, for an error text.
pub(super) fn describe(buffer: &[u8], sequence: u32) -> &'static str {
    let mut rest = buffer;
    while let Some((header, _)) = rest.split_first_chunk::<12>() {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3] = *header;
        if u32::from_ne_bytes([s0, s1, s2, s3]) == sequence {
            return match u16::from_ne_bytes([k0, k1]) & 0xff {
                NEW_TABLE => "add the table",
                DELETE_TABLE => "delete the table",
                NEW_CHAIN => "add a chain",
                DELETE_CHAIN => "delete a chain",
                NEW_RULE => "add a rule",
                DELETE_RULE => "delete rules",
                NEW_SET => "add a set",
                DELETE_SET => "delete a set",
                NEW_ELEMENTS => "add elements",
                DELETE_ELEMENTS => "delete elements",
                _ => "commit",
            };
        }
        rest = rest
            .get(u32::from_ne_bytes([l0, l1, l2, l3]) as usize..)
            .unwrap_or(&[]);
    }
    "send"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn messages(buffer: &[u8]) -> Vec<(u16, u32, &[u8])> {
        let (mut found, mut rest) = (Vec::new(), buffer);
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
            found.push((
                kind,
                u32::from_ne_bytes(rest[8..12].try_into().unwrap()),
                &rest[20..length],
            ));
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn a_batch_is_framed_and_every_message_names_the_table() {
        let mut batch = Batch::new("t");
        batch.add_table();
        batch.flush_chain("c");
        let (table, buffer) = batch.finish();
        assert_eq!(table, "t");
        let messages = messages(&buffer);
        let kinds: Vec<_> = messages
            .iter()
            .map(|(kind, sequence, _)| (*kind, *sequence))
            .collect();
        assert_eq!(kinds, [(16, 1), (0xa00, 2), (0xa08, 3), (17, 4)]);
        assert_eq!(messages[1].2, [6, 0, 1, 0, b't', 0, 0, 0]);
        assert_eq!(
            messages[2].2,
            [6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'c', 0, 0, 0]
        );
        assert_eq!(describe(&buffer, 3), "delete rules");
        assert_eq!(describe(&buffer, 9), "send");
    }

    #[test]
    fn many_elements_are_split_so_that_a_list_stays_under_64_kib() {
        let mut batch = Batch::new("t");
        batch.delete_elements("s", (0..1201_u32).map(|n| n.to_ne_bytes().to_vec()));
        let (_, buffer) = batch.finish();
        let counts: Vec<_> = messages(&buffer)
            .iter()
            .map(|(_, _, body)| body.len() / 16)
            .collect();
        // An element of four bytes takes 16: the list entry, the key, the value.
        assert_eq!(counts, [0, 501, 501, 202, 0]);
        assert!(messages(&buffer).iter().all(|(_, _, body)| body.len() < 0xffff));
    }

    #[test]
    fn the_parts_of_a_concatenation_are_padded_to_registers() {
        let key = [Field::ADDRESS, Field::PROTOCOL, Field::PORT];
        assert_eq!((type_of(&key), length_of(&key)), (7 << 12 | 12 << 6 | 13, 12));
        assert_eq!((type_of(&[Field::PORT]), length_of(&[Field::PORT])), (13, 2));
    }
}
