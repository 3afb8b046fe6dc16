//! Whoever makes a request.

use std::collections::BTreeMap;

/// Members may do everything, and may act as others.
pub const MASTERS: &str = "system:masters";
/// Who was not authenticated.
pub const ANONYMOUS: &str = "system:anonymous";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Whoever made a request. Put into the request's extensions by whoever authenticated it; absent means anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:node:gw-1`, a person's name.
    pub name: String,
    /// What tells two users of one name apart in time; empty when nobody said.
    pub uid: String,
    /// Groups, `system:masters` among them for administrators.
    pub groups: Vec<String>,
    /// What else the authenticator knows, for those who decide by it.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user in these groups; `system:authenticated` comes by itself.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            groups,
            ..Self::default()
        }
    }

    /// A ServiceAccount of a namespace.
    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            ..Self::new(
                format!("{SERVICE_ACCOUNT}{namespace}:{name}"),
                service_account_groups(namespace),
            )
        }
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// The program itself, for writes that no request asked for.
    pub fn internal() -> Self {
        Self::new("system:apiserver", [MASTERS])
    }

    /// Whether they may do everything.
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// Whether nobody said who they are.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// Whether they are a ServiceAccount.
    pub fn is_service_account(&self) -> bool {
        service_account_name(&self.name).is_some()
    }

    /// Whether they are in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Namespace and name of the ServiceAccount that a user name stands for.
pub(crate) fn service_account_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The groups that ServiceAccounts of a namespace are in.
pub(crate) fn service_account_groups(namespace: &str) -> [String; 2] {
    [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_have_names_and_groups_of_their_namespace() {
        let sa = User::service_account("ns", "app", "u-1");
        assert_eq!(sa.name, "system:serviceaccount:ns:app");
        assert_eq!(
            sa.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
        );
        assert_eq!(service_account_name(&sa.name), Some(("ns", "app")));
        for other in [
            "bob",
            "system:serviceaccount:ns",
            "system:serviceaccount::x",
            "system:serviceaccount:a:b:c",
        ] {
            assert_eq!(service_account_name(other), None, "{other}");
        }
    }
}
