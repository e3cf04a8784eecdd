//! Strategic merge patch: a merge that knows, by the type's table, which lists are merged by key.
//!
//! Follows `sig-api-machinery/strategic-merge-patch.md` and the behaviour of `strategicpatch`:
//! the directives `$patch` (replace, delete, merge), `$retainKeys`, `$setElementOrder/FIELD` and
//! `$deleteFromPrimitiveList/FIELD`. Fields the type does not have are merged as plain JSON.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Schema, Type, TypeId};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of a type.
pub fn strategic_merge(
    schema: &Schema,
    ty: TypeId,
    object: &Value,
    patch: Value,
) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (object.clone(), patch) else {
        return Err(PatchError::Malformed(
            "a strategic merge patch must be an object".to_owned(),
        ));
    };
    let merge = Merge { schema };
    Ok(Value::Object(merge.objects(
        original,
        patch,
        Some(&Type::Struct(ty)),
    )?))
}

struct Merge<'s> {
    schema: &'s Schema,
}

/// How a field of an object is merged.
#[derive(Default)]
struct Strategy<'s> {
    /// The type of the field, where it is known.
    ty: Option<&'s Type>,
    merge_list: bool,
    key: Option<&'s str>,
}

impl<'s> Merge<'s> {
    fn strategy(&self, owner: Option<&'s Type>, name: &str) -> Strategy<'s> {
        match owner {
            Some(Type::Struct(id)) => self
                .schema
                .get(*id)
                .field(name)
                .map_or_else(Strategy::default, of_field),
            Some(Type::Map(_, element)) => Strategy {
                ty: Some(element),
                ..Strategy::default()
            },
            _ => Strategy::default(),
        }
    }

    fn objects(
        &self,
        mut original: Object,
        mut patch: Object,
        ty: Option<&'s Type>,
    ) -> Result<Object, PatchError> {
        match patch.remove(PATCH) {
            None => {}
            Some(Value::String(directive)) => match directive.as_str() {
                "replace" => return Ok(without_directives(patch)),
                "delete" => return Ok(Object::new()),
                "merge" => {}
                other => {
                    return Err(PatchError::Malformed(format!(
                        "unknown patch type found: {other}"
                    )));
                }
            },
            Some(other) => {
                return Err(PatchError::Malformed(format!(
                    "unknown patch type found: {other}"
                )));
            }
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, ty)?;
        for (name, value) in patch {
            if let Some(list) = name.strip_prefix(DELETE_FROM_LIST) {
                delete_from_list(&mut original, list, &value)?;
            } else if value.is_null() {
                original.remove(&name);
            } else {
                let merged = match original.remove(&name) {
                    None => strip(value),
                    Some(before) => self.values(before, value, &self.strategy(ty, &name))?,
                };
                original.insert(name, merged);
            }
        }
        Ok(original)
    }

    fn values(&self, original: Value, patch: Value, strategy: &Strategy<'s>) -> Result<Value, PatchError> {
        match (original, patch) {
            (Value::Object(original), Value::Object(patch)) => {
                Ok(Value::Object(self.objects(original, patch, strategy.ty)?))
            }
            (Value::Array(original), Value::Array(patch)) if strategy.merge_list => {
                Ok(Value::Array(self.lists(original, patch, strategy)?))
            }
            (_, patch) => Ok(strip(patch)),
        }
    }

    /// Merges the lists whose order the patch gives, and takes them out of the patch.
    fn ordered_lists(
        &self,
        original: &mut Object,
        patch: &mut Object,
        ty: Option<&'s Type>,
    ) -> Result<(), PatchError> {
        let directives: Vec<String> = patch
            .keys()
            .filter(|name| name.starts_with(SET_ORDER))
            .cloned()
            .collect();
        for directive in directives {
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(PatchError::Malformed(format!("{directive} must be a list")));
            };
            let name = &directive[SET_ORDER.len()..];
            let strategy = self.strategy(ty, name);
            let before = match original.get(name) {
                Some(Value::Array(list)) => list.clone(),
                _ => Vec::new(),
            };
            let patched = match patch.remove(name) {
                Some(Value::Array(list)) => {
                    check_order(&list, &order, strategy.key)?;
                    list
                }
                // Null deletes the list, and what is not there needs no order.
                Some(other) => {
                    patch.insert(name.to_owned(), other);
                    continue;
                }
                None => Vec::new(),
            };
            if before.is_empty() && patched.is_empty() {
                continue;
            }
            let merged = self.lists(before.clone(), patched, &strategy)?;
            let ordered = in_order(merged, &order, &before, strategy.key);
            original.insert(name.to_owned(), Value::Array(ordered));
        }
        Ok(())
    }

    fn lists(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        strategy: &Strategy<'s>,
    ) -> Result<Vec<Value>, PatchError> {
        let objects = original.iter().chain(&patch).any(Value::is_object);
        if !objects {
            let mut merged = original.clone();
            for value in &patch {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            return Ok(in_order(merged, &patch, &original, None));
        }
        let Some(key) = strategy.key else {
            return Err(PatchError::Malformed(
                "cannot merge lists of objects without a merge key".to_owned(),
            ));
        };
        self.lists_by_key(original, patch, strategy, key)
    }

    fn lists_by_key(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        strategy: &Strategy<'s>,
        key: &str,
    ) -> Result<Vec<Value>, PatchError> {
        let mut merged = original.clone();
        let mut additions = Vec::new();
        let mut replace = false;
        for element in patch {
            match element.get(PATCH).and_then(Value::as_str) {
                Some("delete") => {
                    let value = key_of(&element, key)?;
                    merged.retain(|candidate| candidate.get(key) != Some(&value));
                }
                Some("replace") => replace = true,
                Some("merge") | None => additions.push(element),
                Some(other) => {
                    return Err(PatchError::Malformed(format!(
                        "unknown patch type found: {other}"
                    )));
                }
            }
        }
        if replace {
            return Ok(additions.into_iter().map(strip).collect());
        }
        let element_type = match strategy.ty {
            Some(Type::List(element)) => Some(&**element),
            _ => None,
        };
        for element in &additions {
            let value = key_of(element, key)?;
            match merged
                .iter_mut()
                .find(|candidate| candidate.get(key) == Some(&value))
            {
                Some(found) => {
                    let before = std::mem::take(found);
                    let strategy = Strategy {
                        ty: element_type,
                        ..Strategy::default()
                    };
                    *found = self.values(before, element.clone(), &strategy)?;
                }
                None => merged.push(strip(element.clone())),
            }
        }
        Ok(in_order(merged, &additions, &original, Some(key)))
    }
}

fn of_field(field: &Field) -> Strategy<'_> {
    Strategy {
        ty: Some(&field.ty),
        merge_list: field.patch_merge,
        key: field.patch_merge_key,
    }
}

fn key_of(element: &Value, key: &str) -> Result<Value, PatchError> {
    element.get(key).cloned().ok_or_else(|| {
        PatchError::Malformed(format!(
            "map: {element} does not contain declared merge key: {key}"
        ))
    })
}

/// `$retainKeys`: fields of the original that are not named go.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = directive else {
        return Err(PatchError::Malformed(format!("{RETAIN_KEYS} must be a list")));
    };
    let named = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    if let Some((name, _)) = patch
        .iter()
        .find(|(name, value)| !name.starts_with('$') && !value.is_null() && !named(name))
    {
        return Err(PatchError::Malformed(format!(
            "{RETAIN_KEYS} list doesn't contain the patched field {name}"
        )));
    }
    original.retain(|name, _| named(name));
    Ok(())
}

fn delete_from_list(original: &mut Object, name: &str, values: &Value) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(PatchError::Malformed(format!(
            "{DELETE_FROM_LIST}{name} must be a list"
        )));
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|value| !values.contains(value));
    }
    Ok(())
}

/// Every element of the patch must stand in the order given, in that order.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut at = 0;
    let elements = patch.iter().filter(|element| element.get(PATCH).is_none());
    for element in elements {
        match order[at..].iter().position(|other| same(element, other, key)) {
            Some(found) => at += found + 1,
            None => {
                return Err(PatchError::Malformed(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    Value::from(patch.to_vec()),
                    Value::from(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Elements that the patch names in its order; the others stay, as far as they can, where the
/// original has them among those.
fn in_order(merged: Vec<Value>, patch_order: &[Value], original: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], element: &Value| list.iter().position(|other| same(element, other, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|element| place(patch_order, element).is_some());
    named.sort_by_key(|element| place(patch_order, element));
    others.sort_by_key(|element| place(original, element));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for element in named {
        let here = place(original, &element);
        while let (Some(here), Some(other)) = (here, others.peek())
            && place(original, other).is_some_and(|there| there < here)
        {
            result.extend(others.next());
        }
        result.push(element);
    }
    result.extend(others);
    result
}

/// The value of a patch as it is stored: without directives, and without the nulls of objects.
fn strip(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(without_directives(object)),
        Value::Array(list) => Value::Array(
            list.into_iter()
                .filter(|element| {
                    !matches!(
                        element.get(PATCH).and_then(Value::as_str),
                        Some("delete" | "replace")
                    )
                })
                .map(strip)
                .collect(),
        ),
        other => other,
    }
}

fn without_directives(object: Object) -> Object {
    object
        .into_iter()
        .filter(|(name, value)| {
            let directive = name == PATCH
                || name == RETAIN_KEYS
                || name.starts_with(SET_ORDER)
                || name.starts_with(DELETE_FROM_LIST);
            !directive && !value.is_null()
        })
        .map(|(name, value)| (name, strip(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    fn check(original: Value, patch: Value, expected: Value) {
        let schema = builtin();
        let ty = schema
            .find("io.k8s.api.core.v1.PodSpec")
            .expect("PodSpec is in the table");
        let merged = strategic_merge(schema, ty, &original, patch.clone());
        assert_eq!(merged.expect("the patch applies"), expected, "{patch}");
    }

    fn containers(names: &[&str]) -> Value {
        let list: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "image": "i"}))
            .collect();
        json!({"containers": list})
    }

    #[test]
    fn elements_of_the_same_key_are_merged_and_others_added_in_patch_order() {
        check(
            containers(&["a", "b"]),
            json!({"containers": [{"name": "c", "image": "x"}, {"name": "a", "image": "y"}]}),
            json!({"containers": [
                {"name": "c", "image": "x"}, {"name": "a", "image": "y"}, {"name": "b", "image": "i"}
            ]}),
        );
    }

    #[test]
    fn directives_delete_replace_and_order() {
        check(
            containers(&["a", "b"]),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            containers(&["b"]),
        );
        check(
            containers(&["a", "b"]),
            json!({"containers": [{"$patch": "replace"}, {"name": "z", "image": "i"}]}),
            containers(&["z"]),
        );
        check(
            containers(&["a", "b", "c"]),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}),
            containers(&["b", "c", "a"]),
        );
        check(
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
            json!({"nodeSelector": {"c": "3"}}),
        );
    }

    #[test]
    fn lists_without_a_key_are_replaced_and_sets_are_merged() {
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
    }

    #[test]
    fn retained_keys_switch_a_volumes_source() {
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
        );
    }

    #[test]
    fn nulls_delete_and_are_dropped_from_what_is_new() {
        check(
            json!({"hostname": "h"}),
            json!({"hostname": null, "securityContext": {"runAsUser": null, "runAsGroup": 1}}),
            json!({"securityContext": {"runAsGroup": 1}}),
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let schema = builtin();
        let ty = schema
            .find("io.k8s.api.core.v1.PodSpec")
            .expect("PodSpec is in the table");
        let patch = json!({"containers": [{"image": "x"}]});
        assert!(strategic_merge(schema, ty, &containers(&["a"]), patch).is_err());
    }
}
