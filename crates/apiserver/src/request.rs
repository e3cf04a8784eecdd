//! What a request asks for: its verb and target, read from method, path and query.
//!
//! Follows "Resource URIs" in the API concepts page and `apiserver`'s `RequestInfo`.

use http::Method;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A resource of the API.
    Resource(ResourcePath),
    /// Anything else, e.g. `/version`.
    Other(String),
}

/// A path to a resource, a collection of them, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for a path that ends at the version.
    pub(crate) resource: String,
    /// Empty for all namespaces, and for resources outside them.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the resource itself.
    pub(crate) subresource: String,
    /// What follows the subresource.
    pub(crate) rest: Vec<String>,
}

impl Target {
    /// Reads a path.
    pub(crate) fn parse(path: &str) -> Target {
        let segments: Option<Vec<String>> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(percent_decode)
            .collect();
        let Some(segments) = segments else {
            return Target::Other(path.to_owned());
        };
        let mut segments = segments.into_iter();
        let mut next = || segments.next().unwrap_or_default();
        let (group, version) = match next().as_str() {
            "api" => (String::new(), next()),
            "apis" => (next(), next()),
            _ => return Target::Other(path.to_owned()),
        };
        let mut resource = next();
        if version.is_empty() || resource.is_empty() {
            return Target::Other(path.to_owned());
        }
        let mut namespace = String::new();
        let mut name = next();
        let mut subresource = next();
        // `namespaces/NAME/RESOURCE` leads into the namespace; `namespaces/NAME[/status]` is it.
        let of_namespace = matches!(subresource.as_str(), "" | "status" | "finalize");
        if resource == "namespaces" && !name.is_empty() && !of_namespace {
            namespace = name;
            resource = subresource;
            name = next();
            subresource = next();
        }
        let rest = segments.collect();
        Target::Resource(ResourcePath {
            group,
            version,
            resource,
            namespace,
            name,
            subresource,
            rest,
        })
    }
}

/// What is to be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The verb of a request for a resource; none for a method that the API does not have.
    pub(crate) fn of(method: &Method, path: &ResourcePath, query: &Query) -> Option<Verb> {
        let whole = path.name.is_empty();
        Some(match *method {
            Method::GET | Method::HEAD if whole && query.is_true("watch") => Verb::Watch,
            Method::GET | Method::HEAD if whole => Verb::List,
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if whole => Verb::DeleteCollection,
            Method::DELETE => Verb::Delete,
            _ => return None,
        })
    }

    /// As discovery and authorization write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// The parameters of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URI behind the question mark.
    pub(crate) fn parse(text: Option<&str>) -> Query {
        Query(
            text.unwrap_or_default()
                .split('&')
                .filter(|pair| !pair.is_empty())
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let decode = |part: &str| percent_decode(&part.replace('+', " "));
                    Some((decode(key)?, decode(value)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Its first value, unless that is empty.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, key: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// A flag: given, and neither `0` nor `false`.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }
}

/// Decodes `%XX`; none where that is malformed or no UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (hex, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match Target::parse(path) {
            Target::Resource(path) => path,
            Target::Other(path) => panic!("{path} is no resource"),
        }
    }

    #[test]
    fn paths_lead_to_resources() {
        for (path, [group, version, kind, namespace, name, subresource]) in [
            ("/api/v1/pods", ["", "v1", "pods", "", "", ""]),
            ("/api/v1/namespaces/a/pods/b", ["", "v1", "pods", "a", "b", ""]),
            (
                "/apis/apps/v1/namespaces/a/statefulsets/b/scale",
                ["apps", "v1", "statefulsets", "a", "b", "scale"],
            ),
            ("/api/v1/namespaces", ["", "v1", "namespaces", "", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "namespaces", "", "a", ""]),
            (
                "/api/v1/namespaces/a/finalize",
                ["", "v1", "namespaces", "", "a", "finalize"],
            ),
            (
                "/api/v1/nodes/n%2Fx/proxy/metrics",
                ["", "v1", "nodes", "", "n/x", "proxy"],
            ),
        ] {
            let found = resource(path);
            let expected = ResourcePath {
                group: group.into(),
                version: version.into(),
                resource: kind.into(),
                namespace: namespace.into(),
                name: name.into(),
                subresource: subresource.into(),
                rest: found.rest.clone(),
            };
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(resource("/api/v1/nodes/n/proxy/a/b").rest, ["a", "b"]);
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in [
            "/version",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/",
            "/openapi/v3",
            "/api/v1/pods/%zz",
        ] {
            assert_eq!(Target::parse(path), Target::Other(path.to_owned()));
        }
    }

    #[test]
    fn verbs_follow_from_method_path_and_query() {
        let verb = |method: Method, path: &str, query: &str| {
            Verb::of(&method, &resource(path), &Query::parse(Some(query)))
        };
        assert_eq!(verb(Method::GET, "/api/v1/pods", ""), Some(Verb::List));
        assert_eq!(verb(Method::GET, "/api/v1/pods", "watch=1"), Some(Verb::Watch));
        assert_eq!(verb(Method::GET, "/api/v1/pods", "watch=false"), Some(Verb::List));
        assert_eq!(verb(Method::GET, "/api/v1/nodes/a", "watch=1"), Some(Verb::Get));
        assert_eq!(
            verb(Method::DELETE, "/api/v1/pods", ""),
            Some(Verb::DeleteCollection)
        );
        assert_eq!(verb(Method::OPTIONS, "/api/v1/pods", ""), None);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db,c&x=1&x=2&empty=&a+b=c%20d"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.all("x"), ["1", "2"]);
        assert_eq!((query.get("empty"), query.text("empty")), (Some(""), None));
        assert_eq!(query.get("a b"), Some("c d"));
    }
}
