//! Questions about rights and tokens, which are answered and not stored, and the request for a token.

use super::row;
use crate::api::kinds::{KindSpec, Review};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![
        review(AUTHORIZATION, "SelfSubjectAccessReview", Review::SelfAccess),
        review(AUTHORIZATION, "SubjectAccessReview", Review::Access),
        KindSpec {
            namespaced: true,
            ..review(AUTHORIZATION, "LocalSubjectAccessReview", Review::LocalAccess)
        },
        review(AUTHORIZATION, "SelfSubjectRulesReview", Review::SelfRules),
        review(AUTHENTICATION, "SelfSubjectReview", Review::SelfSubject),
        review(AUTHENTICATION, "TokenReview", Review::Token),
    ]
}

fn review(group: &str, kind: &str, question: Review) -> KindSpec {
    let package = group.split('.').next().unwrap_or(group);
    KindSpec {
        namespaced: false,
        review: Some(question),
        ..row(group, package, kind, &[])
    }
}

/// The kind of what is posted to `serviceaccounts/NAME/token`: no resource of its own.
pub(crate) fn token_request() -> KindSpec {
    row(AUTHENTICATION, "authentication", "TokenRequest", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_named_as_clients_ask_them() {
        let names: Vec<String> = kinds().iter().map(|k| k.plural.to_string()).collect();
        assert!(names.contains(&"selfsubjectaccessreviews".to_owned()));
        assert!(names.contains(&"tokenreviews".to_owned()));
        assert_eq!(token_request().api_version(), "authentication.k8s.io/v1");
    }
}
