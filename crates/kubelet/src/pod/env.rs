//! The environment of a container: services, ConfigMaps, Secrets, fields of the pod, and references
//! between variables. Pure, given the objects that it refers to.
//!
//! Follows "Define Environment Variables for a Container", "Accessing the Service" (environment
//! variables) and the kubelet's `makeEnvironmentVariables`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::fields::{self, FieldError, NodeFacts};

/// The objects that a pod's containers refer to, by name; what is not there is missing.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub(crate) services: Vec<Arc<Service>>,
}

/// Why an environment cannot be made; shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The ConfigMaps and Secrets that a container's environment needs, by name.
pub(crate) fn references(container: &Container) -> (Vec<&str>, Vec<&str>) {
    let mut config_maps = Vec::new();
    let mut secrets = Vec::new();
    for from in container.env_from.iter().flatten() {
        config_maps.extend(
            from.config_map_ref
                .iter()
                .map(|reference| reference.name.as_str()),
        );
        secrets.extend(from.secret_ref.iter().map(|reference| reference.name.as_str()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|env| env.value_from.as_ref())
    {
        config_maps.extend(
            source
                .config_map_key_ref
                .iter()
                .map(|reference| reference.name.as_str()),
        );
        secrets.extend(
            source
                .secret_key_ref
                .iter()
                .map(|reference| reference.name.as_str()),
        );
    }
    (config_maps, secrets)
}

/// A container's variables; a later one of the same name has won.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    node: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut services: BTreeMap<String, String> = BTreeMap::new();
    for service in &sources.services {
        let is_master = service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes");
        let is_own = links && service.metadata.namespace.as_deref() == Some(namespace);
        // A service of the pod's own namespace wins over the cluster's.
        if is_own || (is_master && !services.contains_key("KUBERNETES_SERVICE_HOST")) {
            services.extend(service_variables(service));
        }
    }
    let mut own: Vec<(String, String)> = Vec::new();
    let set = |own: &mut Vec<(String, String)>, name: String, value: String| {
        own.retain(|(other, _)| *other != name);
        own.push((name, value));
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in env_from(from, sources)? {
            set(&mut own, format!("{prefix}{key}"), value);
        }
    }
    for env in container.env.iter().flatten() {
        let value = match (&env.value_from, &env.value) {
            (Some(source), _) => match value_from(pod, container, source, sources, node)? {
                Some(value) => value,
                // An optional reference that leads nowhere leaves the variable out.
                None => continue,
            },
            (None, value) => {
                let text = value.as_deref().unwrap_or_default();
                expand(text, |name| {
                    let found = own
                        .iter()
                        .rev()
                        .find(|(other, _)| other == name)
                        .map(|(_, value)| value);
                    found.or_else(|| services.get(name)).cloned()
                })
            }
        };
        set(&mut own, env.name.clone(), value);
    }
    let overridden = |name: &String| own.iter().any(|(other, _)| other == name);
    let mut result: Vec<_> = services
        .into_iter()
        .filter(|(name, _)| !overridden(name))
        .collect();
    result.extend(own);
    Ok(result)
}

fn env_from(
    from: &k8s_openapi::api::core::v1::EnvFromSource,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let missing = |kind, name: &str| EnvError::Missing {
        kind,
        name: name.to_owned(),
    };
    if let Some(reference) = &from.config_map_ref {
        return match sources.config_maps.get(&reference.name) {
            Some(map) => Ok(map.data.clone().unwrap_or_default().into_iter().collect()),
            None if reference.optional == Some(true) => Ok(Vec::new()),
            None => Err(missing("configmap", &reference.name)),
        };
    }
    if let Some(reference) = &from.secret_ref {
        return match sources.secrets.get(&reference.name) {
            Some(secret) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let data = secret.data.iter().flatten();
                Ok(data.map(|(key, value)| (key.clone(), text(&value.0))).collect())
            }
            None if reference.optional == Some(true) => Ok(Vec::new()),
            None => Err(missing("secret", &reference.name)),
        };
    }
    Ok(Vec::new())
}

fn value_from(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    node: &NodeFacts,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return Ok(Some(fields::field(pod, &field.field_path, node)?));
    }
    if let Some(field) = &source.resource_field_ref {
        return Ok(Some(fields::resource(pod, Some(&container.name), field, node)?));
    }
    let (kind, title, name, key, optional, value) = if let Some(reference) = &source.config_map_key_ref {
        let map = sources.config_maps.get(&reference.name);
        let value = map.map(|map| {
            map.data
                .as_ref()
                .and_then(|data| data.get(&reference.key))
                .cloned()
        });
        (
            "configmap",
            "ConfigMap",
            &reference.name,
            &reference.key,
            reference.optional,
            value,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        let secret = sources.secrets.get(&reference.name);
        let value = secret.map(|secret| {
            let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned())
        });
        (
            "secret",
            "Secret",
            &reference.name,
            &reference.key,
            reference.optional,
            value,
        )
    } else {
        return Ok(Some(String::new()));
    };
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional == Some(true) => Ok(None),
        None => Err(EnvError::Missing {
            kind,
            name: name.clone(),
        }),
        Some(None) => Err(EnvError::NoKey {
            kind: title,
            namespace,
            name: name.clone(),
            key: key.clone(),
        }),
    }
}

/// Replaces `$(NAME)` by what is known of it; `$$` is a dollar sign, and an unknown reference stays
/// as it is.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result + rest
}

/// The variables of a service, as Docker's links had them.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(ip) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return Vec::new();
    };
    let upper = |text: &str| text.replace('-', "_").to_uppercase();
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), ip.to_owned())];
    for (at, port) in spec.ports.iter().flatten().enumerate() {
        if at == 0 {
            variables.push((format!("{name}_SERVICE_PORT"), port.port.to_string()));
        }
        if let Some(port_name) = port.name.as_deref().filter(|port_name| !port_name.is_empty()) {
            variables.push((
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                port.port.to_string(),
            ));
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{ip}:{}", port.port);
        if at == 0 {
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.push((prefix.clone(), url));
        variables.push((format!("{prefix}_PROTO"), lower));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sources() -> Sources {
        let object = |value: Value| Arc::new(serde_json::from_value(value).expect("an object"));
        Sources {
            config_maps: BTreeMap::from([("settings".into(), object(json!({"data": {"colour": "green"}})))]),
            secrets: BTreeMap::from([(
                "keys".into(),
                Arc::new(serde_json::from_value(json!({"data": {"token": "czNjcjN0"}})).expect("a secret")),
            )]),
            services: vec![Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": "my-db", "namespace": "n"},
                    "spec": {"clusterIP": "10.0.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
                }))
                .expect("a service"),
            )],
        }
    }

    fn env(container: Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}},
            "spec": {"containers": [], "enableServiceLinks": false},
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let mut container = container;
        container["name"] = "c".into();
        let container: Container = serde_json::from_value(container).expect("a container");
        environment(&pod, &container, &sources(), &NodeFacts::for_tests())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn values_come_from_everywhere() {
        let found = env(json!({
            "envFrom": [{"prefix": "S_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(S_colour)-$(NOPE)-$$(A)"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "x", "optional": true}}},
                {"name": "A", "value": "2"},
            ],
        }));
        assert_eq!(
            found,
            Ok(pairs(&[
                ("S_colour", "green"),
                ("token", "s3cr3t"),
                ("B", "1-green-$(NOPE)-$(A)"),
                ("NAME", "p"),
                ("COLOUR", "green"),
                ("TOKEN", "s3cr3t"),
                ("A", "2"),
            ]))
        );
    }

    #[test]
    fn missing_references_are_named() {
        let from = |source: Value| {
            env(json!({"env": [{"name": "X", "valueFrom": source}]})).map_err(|e| e.to_string())
        };
        for (source, message) in [
            (
                json!({"configMapKeyRef": {"name": "no", "key": "k"}}),
                "configmap \"no\" not found",
            ),
            (
                json!({"configMapKeyRef": {"name": "settings", "key": "k"}}),
                "couldn't find key k in ConfigMap n/settings",
            ),
            (
                json!({"secretKeyRef": {"name": "keys", "key": "k"}}),
                "couldn't find key k in Secret n/keys",
            ),
        ] {
            assert_eq!(from(source), Err(message.to_owned()));
        }
        let missing = env(json!({"envFrom": [{"secretRef": {"name": "no"}}]}));
        assert_eq!(
            missing.map_err(|e| e.to_string()),
            Err("secret \"no\" not found".to_owned())
        );
    }

    #[test]
    fn services_are_known_by_their_variables() {
        let variables = service_variables(&sources().services[0]);
        for (name, value) in [
            ("MY_DB_SERVICE_HOST", "10.0.0.7"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
            ("MY_DB_PORT", "tcp://10.0.0.7:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.0.0.7"),
        ] {
            assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{name}");
        }
    }
}
