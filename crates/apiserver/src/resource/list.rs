//! Lists: consistent snapshots, page by page ("Retrieving large results sets in chunks").

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::registry::Kind;
use stead_api::table::{partial_metadata, table};
use stead_store::{PastError, Revision, Snapshot};

use super::read::{go_package, view};
use crate::options::{ListOptions, Version};
use crate::protobuf;
use crate::respond::{self, Encoding, Form, PROTOBUF};
use crate::server::{Call, Inner};
use crate::stored::{Stored, key};

/// What a continue token holds.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// A page of a list.
pub(super) struct Page {
    pub(super) revision: Revision,
    pub(super) items: Vec<Stored>,
    next: Option<String>,
    remaining: Option<usize>,
}

/// GET of a collection.
pub(crate) async fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let options = ListOptions::parse(call.query, call.kind, false)?;
    let page = page(call.server, call.kind, &call.path.namespace, &options).await?;
    answer(call, &page)
}

/// Shows a page in the form the client asked for.
pub(super) fn answer(call: &Call<'_>, page: &Page) -> Result<Response, ApiError> {
    let encoding = call.accepted.encoding;
    let views = || page.items.iter().map(|object| view(call.kind, object));
    let whole = |api_version: String, kind: String, items: Vec<Value>| json!({"kind": kind, "apiVersion": api_version, "metadata": page.metadata(), "items": items});
    match call.accepted.form {
        Form::Whole if encoding == Encoding::Json && call.kind.stored_as.is_none() => {
            Ok(respond::json_bytes(200, page.encode(call.kind)))
        }
        Form::Whole if encoding == Encoding::Protobuf => {
            let (api_version, kind) = (call.kind.api_version(), call.kind.kind);
            let list_kind = format!("{kind}List");
            let (list, item) = ((&*api_version, &*list_kind), (&*api_version, kind));
            let list = protobuf::seal_list(list, &page.metadata(), item, views())?;
            Ok(respond::bytes(200, PROTOBUF, list))
        }
        Form::Whole => {
            let items = views()
                .map(|mut item| {
                    if let Some(item) = item.as_object_mut() {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                    item
                })
                .collect();
            let list = whole(call.kind.api_version(), format!("{}List", call.kind.kind), items);
            Ok(respond::value(200, encoding, &list))
        }
        Form::PartialMetadataList if encoding == Encoding::Protobuf => {
            let items = views().map(|item| partial_metadata(&item));
            let of = |kind| ("meta.k8s.io/v1", kind);
            let (list, item) = (of("PartialObjectMetadataList"), of("PartialObjectMetadata"));
            let list = protobuf::seal_list(list, &page.metadata(), item, items)?;
            Ok(respond::bytes(200, PROTOBUF, list))
        }
        Form::PartialMetadataList => {
            let items = views().map(|item| partial_metadata(&item)).collect();
            let list = whole(
                "meta.k8s.io/v1".to_owned(),
                "PartialObjectMetadataList".to_owned(),
                items,
            );
            Ok(respond::value(200, encoding, &list))
        }
        Form::PartialMetadata => Err(ApiError::new(
            406,
            "NotAcceptable",
            format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{}.{}List)",
                go_package(call.kind),
                call.kind.kind
            ),
        )),
        Form::Table(include) => {
            let objects: Vec<Value> = views().collect();
            let table = table(call.kind, &objects, page.metadata(), include, Timestamp::now())
                .map_err(ApiError::internal)?;
            Ok(respond::value(200, encoding, &table))
        }
    }
}

/// The objects that options ask for.
pub(super) async fn page(
    server: &Inner,
    kind: &Kind,
    namespace: &str,
    options: &ListOptions,
) -> Result<Page, ApiError> {
    let prefix = key::prefix(kind, namespace);
    let (snapshot, start) = match &options.continue_from {
        Some(token) => {
            let token = decode_token(token)?;
            if matches!(options.version, Version::NotOlderThan(revision) if revision.get() != 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            (
                at(server, Revision::new(token.rv), true)?,
                Some(format!("{prefix}{}", token.start)),
            )
        }
        None => (present(server, options.version).await?, None),
    };
    let after = start.as_deref().unwrap_or_default();
    let mut page = Page {
        revision: snapshot.revision(),
        items: Vec::new(),
        next: None,
        remaining: None,
    };
    for (key, entry) in snapshot.prefix_after(&prefix, after) {
        if options.limit > 0 && page.items.len() == options.limit {
            page.end(&snapshot, &prefix, options);
            break;
        }
        if selects(options, &entry.value) {
            page.items.push(entry.value.clone());
            page.next = Some(key[prefix.len()..].to_owned());
        }
    }
    if page.remaining.is_none() && page.items.len() != options.limit {
        page.next = None;
    }
    Ok(page)
}

/// Whether an object is among those selected.
pub(super) fn selects(options: &ListOptions, object: &Stored) -> bool {
    options.selects_all() || {
        let facts = object.facts();
        options.labels.matches(Some(&facts.labels)) && options.fields.matches(|field| facts.field(field))
    }
}

async fn present(server: &Inner, version: Version) -> Result<Snapshot<Stored>, ApiError> {
    match version {
        Version::Latest => Ok(server.store.snapshot()),
        Version::NotOlderThan(revision) => {
            server.wait_for(revision).await?;
            Ok(server.store.snapshot())
        }
        Version::Exact(revision) => {
            server.wait_for(revision).await?;
            at(server, revision, false)
        }
    }
}

/// The objects as they were at a revision.
fn at(server: &Inner, revision: Revision, continued: bool) -> Result<Snapshot<Stored>, ApiError> {
    server.store.snapshot_at(revision).map_err(|error| match error {
        PastError::Compacted(_) if continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        ),
        PastError::Compacted(_) => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        PastError::Future { .. } => ApiError::bad_request(format!("invalid continue token: {error}")),
    })
}

fn decode_token(token: &str) -> Result<Continue, ApiError> {
    let malformed = |why: String| {
        ApiError::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|_| malformed("illegal base64 data at input byte 0".to_owned()))?;
    let decoded: Continue = serde_json::from_slice(&bytes).map_err(|error| {
        malformed(stead_api::json::syntax_error(&bytes).unwrap_or_else(|| error.to_string()))
    })?;
    if decoded.v != TOKEN_VERSION {
        return Err(malformed(
            "server does not recognize this encoded version".to_owned(),
        ));
    }
    Ok(decoded)
}

impl Page {
    /// The page is full and more objects follow.
    fn end(&mut self, snapshot: &Snapshot<Stored>, prefix: &str, options: &ListOptions) {
        let last = format!("{prefix}{}", self.next.as_deref().unwrap_or_default());
        let mut rest = snapshot.prefix_after(prefix, &last);
        if options.selects_all() {
            self.remaining = Some(rest.count());
        } else if rest.any(|(_, entry)| selects(options, &entry.value)) {
            // How many more are selected is not said, as upstream does not.
            self.remaining = Some(0);
        } else {
            self.next = None;
        }
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.get().to_string()});
        if let (Some(next), Some(remaining)) = (&self.next, self.remaining) {
            let token = Continue {
                v: TOKEN_VERSION.to_owned(),
                rv: self.revision.get(),
                start: next.clone(),
            };
            let token = serde_json::to_vec(&token).unwrap_or_default();
            metadata["continue"] = URL_SAFE_NO_PAD.encode(token).into();
            if remaining > 0 {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        metadata
    }

    /// The list's JSON, made of the items' own.
    fn encode(&self, kind: &Kind) -> Vec<u8> {
        let size: usize = self.items.iter().map(|item| item.item().len() + 2).sum();
        let mut json = Vec::with_capacity(size + 200);
        json.extend_from_slice(
            format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                kind.kind,
                kind.api_version(),
                self.metadata()
            )
            .as_bytes(),
        );
        for (at, item) in self.items.iter().enumerate() {
            json.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            json.extend_from_slice(item.item());
        }
        json.extend_from_slice(b"]}\n");
        json
    }
}
