//! Bodies of requests, their fields in the order they were sent in: the server tells of unknown fields
//! in that order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A body.
#[derive(Clone)]
pub(crate) enum Sent {
    /// At the top a text that is sent as it is, within a body a string.
    Text(String),
    Scalar(Value),
    List(Vec<Sent>),
    Object(Vec<(String, Sent)>),
}

impl Sent {
    /// What goes over the wire.
    pub(crate) fn text(&self) -> String {
        match self {
            Sent::Text(text) => text.clone(),
            other => other.json(),
        }
    }

    /// With other texts, names of fields among them.
    pub(crate) fn map_texts(self, text_of: &dyn Fn(&str) -> String) -> Sent {
        match self {
            Sent::Text(text) => Sent::Text(text_of(&text)),
            Sent::Scalar(value) => Sent::Scalar(value),
            Sent::List(items) => Sent::List(items.into_iter().map(|item| item.map_texts(text_of)).collect()),
            Sent::Object(fields) => Sent::Object(
                fields
                    .into_iter()
                    .map(|(name, value)| (text_of(&name), value.map_texts(text_of)))
                    .collect(),
            ),
        }
    }

    fn json(&self) -> String {
        match self {
            Sent::Text(text) => Value::from(text.as_str()).to_string(),
            Sent::Scalar(value) => value.to_string(),
            Sent::List(items) => format!("[{}]", items.iter().map(Sent::json).collect::<Vec<_>>().join(",")),
            Sent::Object(fields) => {
                let field = |(name, value): &(String, Sent)| {
                    format!("{}:{}", Value::from(name.as_str()), value.json())
                };
                format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sent, D::Error> {
        deserializer.deserialize_any(AnyBody)
    }
}

struct AnyBody;

impl<'de> Visitor<'de> for AnyBody {
    type Value = Sent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a body")
    }

    fn visit_str<E>(self, text: &str) -> Result<Sent, E> {
        Ok(Sent::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Sent, E> {
        Ok(Sent::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Sent, E> {
        Ok(Sent::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Sent, E> {
        Ok(Sent::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Sent, E> {
        Ok(Sent::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Sent, E> {
        Ok(Sent::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Sent, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Sent::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Sent, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = entries.next_entry()? {
            fields.push(field);
        }
        Ok(Sent::Object(fields))
    }
}
