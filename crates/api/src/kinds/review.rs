//! Questions to the API server that are answered at once and not stored (authentication.k8s.io/v1
//! and authorization.k8s.io/v1): who a token is, and who may do what. See "Checking API access" and
//! "Webhook Token Authentication".

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
};

use super::text;
use crate::error::{Errors, Path};
use crate::go;
use crate::object::{ApiObject, Logic};
use crate::registry::Kind;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

macro_rules! review {
    ($name:ident, $group:expr, $ty:ident, $plural:literal, $singular:literal, $type_name:literal) => {
        pub(super) static $name: Kind = Kind {
            namespaced: false,
            verbs: &["create"],
            columns: &[],
            ..Kind::new(
                ($group, "v1", stringify!($ty)),
                ($plural, $singular),
                $type_name,
                Logic::of::<$ty>(),
            )
        };
    };
}

review!(
    TOKEN,
    AUTHENTICATION,
    TokenReview,
    "tokenreviews",
    "tokenreview",
    "io.k8s.api.authentication.v1.TokenReview"
);
review!(
    SELF_SUBJECT,
    AUTHENTICATION,
    SelfSubjectReview,
    "selfsubjectreviews",
    "selfsubjectreview",
    "io.k8s.api.authentication.v1.SelfSubjectReview"
);
review!(
    ACCESS,
    AUTHORIZATION,
    SubjectAccessReview,
    "subjectaccessreviews",
    "subjectaccessreview",
    "io.k8s.api.authorization.v1.SubjectAccessReview"
);
review!(
    SELF_ACCESS,
    AUTHORIZATION,
    SelfSubjectAccessReview,
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview"
);
review!(
    SELF_RULES,
    AUTHORIZATION,
    SelfSubjectRulesReview,
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview"
);

pub(super) static LOCAL_ACCESS: Kind = Kind {
    verbs: &["create"],
    columns: &[],
    ..Kind::new(
        (AUTHORIZATION, "v1", "LocalSubjectAccessReview"),
        ("localsubjectaccessreviews", "localsubjectaccessreview"),
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        Logic::of::<LocalSubjectAccessReview>(),
    )
};

impl ApiObject for TokenReview {}
impl ApiObject for SelfSubjectReview {}
impl ApiObject for SelfSubjectRulesReview {}

impl ApiObject for SelfSubjectAccessReview {
    fn validate(&self, errors: &mut Errors) {
        let spec = &self.spec;
        validate_attributes(
            spec.resource_attributes.as_ref(),
            spec.non_resource_attributes.as_ref(),
            errors,
        );
    }
}

impl ApiObject for SubjectAccessReview {
    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, errors);
    }
}

impl ApiObject for LocalSubjectAccessReview {
    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, errors);
        let path = Path::new("spec");
        let attributes = self.spec.resource_attributes.as_ref();
        let own = text(&self.metadata.namespace);
        if let Some(namespace) = attributes
            .map(|attributes| text(&attributes.namespace))
            .filter(|namespace| *namespace != own)
        {
            let path = path.child("resourceAttributes").child("namespace");
            errors.invalid(&path, namespace, "must match metadata.namespace");
        }
        if let Some(attributes) = &self.spec.non_resource_attributes {
            let shown = go::syntax("authorization.NonResourceAttributes", attributes);
            errors.invalid(
                &path.child("nonResourceAttributes"),
                &shown,
                "disallowed on this kind of request",
            );
        }
    }
}

fn validate_spec(spec: &SubjectAccessReviewSpec, errors: &mut Errors) {
    validate_attributes(
        spec.resource_attributes.as_ref(),
        spec.non_resource_attributes.as_ref(),
        errors,
    );
    if text(&spec.user).is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        errors.invalid(
            &Path::new("spec").child("user"),
            text(&spec.user),
            "at least one of user or group must be specified",
        );
    }
}

fn validate_attributes(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
    errors: &mut Errors,
) {
    let path = Path::new("spec");
    match (resource, other) {
        (Some(_), Some(other)) => errors.invalid(
            &path.child("nonResourceAttributes"),
            &go::syntax("authorization.NonResourceAttributes", other),
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => errors.invalid(
            &path.child("resourceAttributes"),
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
}
