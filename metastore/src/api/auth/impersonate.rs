//! Acting as somebody else: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-…`.
//!
//! Each thing that is claimed is a permission of its own (verb `impersonate`), so that nobody becomes more than they may.

use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, Attributes, Authority, UNAUTHENTICATED, User};
use super::{service_account_groups, service_account_name};
use crate::api::request::decode;
use crate::api::status::Status;

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// What the headers claim.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claimed {
    user: String,
    groups: Vec<String>,
    /// Keys in lower case, as headers have them.
    extra: Vec<(String, String)>,
    uid: String,
}

impl Claimed {
    fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let mut out = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with(PREFIX) {
                continue;
            }
            let value = value
                .to_str()
                .map_err(|_| Status::bad_request(format!("the header {name} is not text")))?;
            match &name[PREFIX.len()..] {
                "user" if out.user.is_empty() => out.user = value.to_owned(),
                "group" => out.groups.push(value.to_owned()),
                "uid" if out.uid.is_empty() => out.uid = value.to_owned(),
                _ => {
                    if let Some(key) = name.strip_prefix(EXTRA) {
                        let key = decode(key, false)
                            .ok_or_else(|| Status::bad_request(format!("the header {name} is not UTF-8")))?;
                        out.extra.push((key.to_lowercase(), value.to_owned()));
                    }
                }
            }
        }
        Ok(out)
    }
}

impl Authority {
    /// Whom a request acts for: `None` for the asker, or whom its headers name.
    ///
    /// # Errors
    /// 403 when the asker may not be one of what is claimed, 400 when the headers make no sense.
    pub(crate) fn acting(&self, asker: &User, headers: &HeaderMap) -> Result<Option<User>, Status> {
        // Most requests have none, and should not pay.
        if !headers.keys().any(|k| k.as_str().starts_with(PREFIX)) {
            return Ok(None);
        }
        let claimed = Claimed::read(headers)?;
        if claimed.user.is_empty() {
            if claimed.groups.is_empty() && claimed.extra.is_empty() && claimed.uid.is_empty() {
                return Ok(None);
            }
            return Err(Status::bad_request(
                "groups, extra values or a uid were requested without impersonating a user",
            ));
        }
        let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            self.check(
                asker,
                &Attributes {
                    verb: "impersonate",
                    group,
                    resource,
                    subresource,
                    namespace,
                    name,
                    path: "",
                },
            )
        };
        let account = service_account_name(&claimed.user);
        match account {
            Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
            None => check("", "users", "", "", &claimed.user)?,
        }
        for group in &claimed.groups {
            check("", "groups", "", "", group)?;
        }
        for (key, value) in &claimed.extra {
            check(AUTHENTICATION, "userextras", key, "", value)?;
        }
        if !claimed.uid.is_empty() {
            check(AUTHENTICATION, "uids", "", "", &claimed.uid)?;
        }
        let mut groups = claimed.groups;
        if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
            groups.extend(service_account_groups(namespace));
        }
        let has = |group: &str| groups.iter().any(|g| g == group);
        if claimed.user == ANONYMOUS {
            if !has(UNAUTHENTICATED) {
                groups.push(UNAUTHENTICATED.to_owned());
            }
        } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let mut user = User {
            name: claimed.user,
            uid: claimed.uid,
            groups,
            ..User::default()
        };
        for (key, value) in claimed.extra {
            user.extra.entry(key).or_default().push(value);
        }
        Ok(Some(user))
    }
}

#[cfg(test)]
mod tests {
    use super::super::MASTERS;
    use super::*;
    use crate::api::rbac::testing::authority;
    use serde_json::json;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (k, v) in list {
            h.append(*k, v.parse().unwrap());
        }
        h
    }

    #[tokio::test]
    async fn masters_act_as_whom_they_like() {
        let (authority, _dir) = authority(&[]).await;
        let root = User::new("root", [MASTERS]);
        assert_eq!(authority.acting(&root, &headers(&[("accept", "x")])).unwrap(), None);
        let h = headers(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-foo%2fbar", "x"),
            ("impersonate-extra-foo%2fbar", "y"),
        ]);
        let bob = authority.acting(&root, &h).unwrap().unwrap();
        assert_eq!((bob.name.as_str(), bob.uid.as_str()), ("bob", "7"));
        assert_eq!(bob.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!(bob.extra["foo/bar"], ["x", "y"]);
        let of = |name: &str| {
            authority
                .acting(&root, &headers(&[("impersonate-user", name)]))
                .unwrap()
                .unwrap()
        };
        assert_eq!(
            of("system:serviceaccount:ns:app").groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
        );
        assert_eq!(of(ANONYMOUS), User::anonymous());
        assert_eq!(
            authority.acting(&root, &headers(&[("impersonate-user", "")])).unwrap(),
            None
        );
        for stray in ["impersonate-group", "impersonate-uid", "impersonate-extra-x"] {
            assert_eq!(
                authority.acting(&root, &headers(&[(stray, "v")])).unwrap_err().code,
                400
            );
        }
    }

    #[tokio::test]
    async fn others_act_as_far_as_they_may() {
        let (authority, _dir) = authority(&[
            json!({"kind": "ClusterRole", "metadata": {"name": "imp"}, "rules": [
                {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"], "resourceNames": ["zed"]},
                {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scope"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "imp"}, "roleRef": {"kind": "ClusterRole", "name": "imp"},
                "subjects": [{"kind": "User", "name": "eve"}]}),
        ])
        .await;
        let eve = User::new("eve", ["dev"]);
        let as_zed = |more: &[(&'static str, &str)]| {
            let mut h = headers(&[("impersonate-user", "zed")]);
            h.extend(headers(more));
            authority.acting(&eve, &h)
        };
        assert_eq!(as_zed(&[]).unwrap().unwrap().name, "zed");
        assert!(as_zed(&[("impersonate-group", "zed"), ("impersonate-extra-Scope", "a")]).is_ok());
        let refused = as_zed(&[("impersonate-group", MASTERS)]).unwrap_err();
        assert_eq!((refused.code, refused.reason), (403, "Forbidden"));
        assert_eq!(
            refused.message,
            "groups \"system:masters\" is forbidden: User \"eve\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
        for (header, kind) in [("impersonate-uid", "uids"), ("impersonate-extra-other", "userextras")] {
            let details = as_zed(&[(header, "7")]).unwrap_err().details.unwrap();
            assert_eq!(
                (details.kind.as_str(), details.group.as_str(), details.name.as_str()),
                (kind, AUTHENTICATION, "7")
            );
        }
        let nobody = authority.acting(&User::anonymous(), &headers(&[("impersonate-user", "zed")]));
        assert_eq!(nobody.unwrap_err().code, 403);
    }
}
