//! OpenAPI v2 from the documents of v3: one for all groups, in the form that older generators read.

use serde_json::{Map, Value, json};

/// One document of v2 that says what some of v3 say.
pub(super) fn merged(documents: impl Iterator<Item = Value>, info: &Value) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for mut document in documents {
        for (path, item) in taken(&mut document["paths"]) {
            paths.insert(path, path_item(item));
        }
        for (name, schema) in taken(&mut document["components"]["schemas"]) {
            let schema = older_schema(schema);
            match definitions.get_mut(&name) {
                None => {
                    definitions.insert(name, schema);
                }
                // Options and answers are those of every group.
                Some(known) => add_kinds(known, &schema),
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": info,
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey",
            "description": "Bearer Token authentication",
            "name": "authorization",
            "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

const KINDS: &str = "x-kubernetes-group-version-kind";

fn add_kinds(known: &mut Value, other: &Value) {
    let Some(known) = known[KINDS].as_array_mut() else {
        return;
    };
    for kind in other[KINDS].as_array().into_iter().flatten() {
        if !known.contains(kind) {
            known.push(kind.clone());
        }
    }
}

fn taken(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn path_item(item: Value) -> Value {
    let Value::Object(operations) = item else {
        return item;
    };
    let older = operations.into_iter().map(|(method, operation)| {
        let older = if method == "parameters" {
            parameters(operation)
        } else {
            older_operation(operation)
        };
        (method, older)
    });
    older.collect::<Map<_, _>>().into()
}

fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    list.into_iter().map(parameter).collect::<Vec<_>>().into()
}

/// What v3 has in a parameter's schema, v2 has in the parameter.
fn parameter(mut parameter: Value) -> Value {
    let schema = taken(&mut parameter["schema"]);
    if let Some(parameter) = parameter.as_object_mut() {
        parameter.remove("schema");
        parameter.extend(schema);
    }
    parameter
}

fn older_operation(mut operation: Value) -> Value {
    let mut own = match parameters(operation["parameters"].take()) {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let body = taken(&mut operation["requestBody"]);
    if let Some(content) = body.get("content").and_then(Value::as_object) {
        let schema = content.values().next().map(|media| media["schema"].clone());
        own.push(json!({
            "name": "body",
            "in": "body",
            "required": body.get("required").cloned().unwrap_or(false.into()),
            "schema": older_schema(schema.unwrap_or_default()),
        }));
        operation["consumes"] = content.keys().cloned().collect::<Vec<_>>().into();
    }
    let mut produced: Vec<String> = Vec::new();
    let mut responses = Map::new();
    for (code, response) in taken(&mut operation["responses"]) {
        let mut older = json!({"description": response["description"]});
        if let Some(content) = response["content"].as_object() {
            for media in content
                .keys()
                .filter(|media| !produced.contains(media))
                .cloned()
                .collect::<Vec<_>>()
            {
                produced.push(media);
            }
            if let Some(media) = content.values().next() {
                older["schema"] = older_schema(media["schema"].clone());
            }
        }
        responses.insert(code, older);
    }
    operation["responses"] = responses.into();
    if !produced.is_empty() {
        operation["produces"] = produced.into();
    }
    if let Some(operation) = operation.as_object_mut() {
        operation.remove("requestBody");
        operation.remove("parameters");
        if !own.is_empty() {
            operation.insert("parameters".to_owned(), own.into());
        }
    }
    operation
}

/// A schema without what v2 does not know: references with something beside them, and choices.
fn older_schema(schema: Value) -> Value {
    match schema {
        Value::Object(mut members) => {
            if let Some(Value::String(to)) = members.get("$ref") {
                let name = to.rsplit('/').next().unwrap_or_default();
                return json!({"$ref": format!("#/definitions/{name}")});
            }
            if let Some(Value::Array(all)) = members.remove("allOf")
                && let Some(first) = all.into_iter().next()
            {
                return older_schema(first);
            }
            if members.remove("oneOf").is_some() {
                members.insert("type".to_owned(), "string".into());
            }
            let older = members.into_iter().map(|(name, value)| {
                let older = match (name.as_str(), value) {
                    ("properties", Value::Object(properties)) => properties
                        .into_iter()
                        .map(|(name, schema)| (name, older_schema(schema)))
                        .collect::<Map<_, _>>()
                        .into(),
                    ("items" | "additionalProperties", schema) => older_schema(schema),
                    (_, value) => value,
                };
                (name, older)
            });
            older.collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v2_does_not_know_is_told_in_its_way() {
        let document = json!({
            "paths": {"/api/v1/x": {
                "parameters": [{"name": "pretty", "in": "query", "schema": {"type": "string", "uniqueItems": true}}],
                "post": {
                    "operationId": "createX",
                    "requestBody": {"required": true, "content": {"*/*": {"schema": {"$ref": "#/components/schemas/X"}}}},
                    "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/X"}}}}},
                },
            }},
            "components": {"schemas": {"X": {"type": "object", "properties": {
                "y": {"allOf": [{"$ref": "#/components/schemas/Y"}], "default": {}},
                "port": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
                "list": {"type": "array", "items": {"$ref": "#/components/schemas/Y"}},
            }}}},
        });
        let older = merged([document].into_iter(), &json!({}));
        let item = &older["paths"]["/api/v1/x"];
        assert_eq!(
            item["parameters"][0],
            json!({"name": "pretty", "in": "query", "type": "string", "uniqueItems": true})
        );
        assert_eq!(
            item["post"]["parameters"][0]["schema"],
            json!({"$ref": "#/definitions/X"})
        );
        assert_eq!(item["post"]["consumes"], json!(["*/*"]));
        assert_eq!(item["post"]["produces"], json!(["application/json"]));
        assert_eq!(
            item["post"]["responses"]["200"]["schema"],
            json!({"$ref": "#/definitions/X"})
        );
        let properties = &older["definitions"]["X"]["properties"];
        assert_eq!(properties["y"], json!({"$ref": "#/definitions/Y"}));
        assert_eq!(
            properties["port"],
            json!({"type": "string", "format": "int-or-string"})
        );
        assert_eq!(properties["list"]["items"], json!({"$ref": "#/definitions/Y"}));
    }
}
