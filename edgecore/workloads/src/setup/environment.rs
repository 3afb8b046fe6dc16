//! A container's environment: where each variable comes from, and what refers to what.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Host, SetupError, fields};
use crate::cluster::{CONFIG_MAPS, Cluster, Key, Kind, NODES, SECRETS, SERVICES};
use crate::pod::{Container, EnvVarSource, Pod};

/// Variables and their values, which may be no text, and secret: they are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Env(pub(crate) BTreeMap<String, Vec<u8>>);

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Text with `$(NAME)` replaced by the variables; those that are not there stay as they are.
    pub(crate) fn expand(&self, text: &str) -> String {
        let expanded = expand(text, |name| self.get(name).map(<[u8]>::to_vec));
        String::from_utf8_lossy(&expanded).into_owned()
    }
}

/// Replaces `$(NAME)` by what a function says about the name; what it does not know stays. `$$` is a `$` that begins nothing.
pub(crate) fn expand(text: &str, mut value: impl FnMut(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push(b'$');
            rest = escaped;
            continue;
        }
        let reference = after
            .strip_prefix('(')
            .and_then(|inner| inner.find(')').map(|end| (&inner[..end], &inner[end + 1..])));
        if let Some((name, behind)) = reference {
            match value(name) {
                Some(value) => out.extend(value),
                None => out.extend_from_slice(&rest.as_bytes()[at..at + 3 + name.len()]),
            }
            rest = behind;
        } else {
            out.push(b'$');
            rest = after;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// The variables of a container in a pod with these addresses.
///
/// What `envFrom` brings is overridden by `env`, and both go before the variables of Services. References see what stands before them.
///
/// # Errors
/// When something is missing that is not optional, in the words that a waiting container's status has.
pub(crate) fn environment(
    cluster: &Cluster,
    pod: &Pod,
    container: &Container,
    ips: &[IpAddr],
    host: &Host,
) -> Result<Env, SetupError> {
    let sources = Sources {
        cluster,
        namespace: &pod.metadata.namespace,
    };
    let services = services(cluster, pod)?;
    let mut env = Env::default();
    for from in &container.env_from {
        let (kind, reference) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (CONFIG_MAPS, reference),
            (None, Some(reference)) => (SECRETS, reference),
            (None, None) => continue,
        };
        let Some(object) = sources.object(kind, &reference.name, reference.optional)? else {
            continue;
        };
        for (key, value) in object["data"].as_object().into_iter().flatten() {
            let name = format!("{}{key}", from.prefix);
            // The API lets nothing else in; such a name would end up as another variable.
            if name.contains(['=', '\0']) {
                continue;
            }
            env.0.insert(name, content(kind, value)?);
        }
    }
    for variable in &container.env {
        let value = if !variable.value.is_empty() {
            expand(&variable.value, |name| {
                env.get(name).or_else(|| services.get(name)).map(<[u8]>::to_vec)
            })
        } else if let Some(from) = &variable.value_from {
            match sources.value(from, pod, container, ips, host)? {
                Some(value) => value,
                None => continue,
            }
        } else {
            Vec::new()
        };
        env.0.insert(variable.name.clone(), value);
    }
    for (name, value) in services.0 {
        env.0.entry(name).or_insert(value);
    }
    Ok(env)
}

/// The bytes of a value of a ConfigMap or Secret.
fn content(kind: Kind, value: &Value) -> Result<Vec<u8>, SetupError> {
    let text = value.as_str().unwrap_or_default();
    if kind == SECRETS {
        STANDARD
            .decode(text)
            .map_err(|e| SetupError::container(format!("a value of the Secret is not base64: {e}")))
    } else {
        Ok(text.as_bytes().to_vec())
    }
}

/// ConfigMaps and Secrets of a namespace.
struct Sources<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Sources<'_> {
    /// `None` when it is not there and need not be.
    fn object(&self, kind: Kind, name: &str, optional: bool) -> Result<Option<Value>, SetupError> {
        let key = Key::new(self.namespace, name);
        let found = self.cluster.get(kind, &key).map_err(failed)?;
        if found.is_none() && !optional {
            let what = kind.kind.to_lowercase();
            return Err(SetupError::container(format!("{what} {name:?} not found")));
        }
        Ok(found)
    }

    /// `None` when the variable is left out.
    fn value(
        &self,
        from: &EnvVarSource,
        pod: &Pod,
        container: &Container,
        ips: &[IpAddr],
        host: &Host,
    ) -> Result<Option<Vec<u8>>, SetupError> {
        if let Some(reference) = &from.field_ref {
            let text = fields::field(pod, &reference.field_path, ips, host).map_err(SetupError::container)?;
            return Ok(Some(text.into_bytes()));
        }
        if let Some(reference) = &from.resource_field_ref {
            let of = match reference.container_name.as_str() {
                "" => container,
                name => pod
                    .container(name)
                    .ok_or_else(|| SetupError::container(format!("container {name} not found")))?,
            };
            let node = self.cluster.get(NODES, &Key::new("", &*host.node)).map_err(failed)?;
            let allocatable = &node.unwrap_or_default()["status"]["allocatable"];
            let text = fields::resource(pod, of, reference, allocatable).map_err(SetupError::container)?;
            return Ok(Some(text.into_bytes()));
        }
        let (kind, reference) = match (&from.config_map_key_ref, &from.secret_key_ref) {
            (Some(reference), _) => (CONFIG_MAPS, reference),
            (None, Some(reference)) => (SECRETS, reference),
            (None, None) => return Ok(Some(Vec::new())),
        };
        let Some(object) = self.object(kind, &reference.name, reference.optional)? else {
            return Ok(None);
        };
        match object["data"].get(&reference.key) {
            Some(value) => content(kind, value).map(Some),
            None if reference.optional => Ok(None),
            None => Err(SetupError::container(format!(
                "couldn't find key {} in {} {}/{}",
                reference.key, kind.kind, self.namespace, reference.name
            ))),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> SetupError {
    SetupError::container(error.to_string())
}

/// The variables that tell where Services are: the API's own always, those of the namespace unless the pod wants none.
fn services(cluster: &Cluster, pod: &Pod) -> Result<Env, SetupError> {
    let mut env = Env::default();
    let own = cluster
        .get(SERVICES, &Key::new("default", "kubernetes"))
        .map_err(failed)?;
    if let Some(own) = &own {
        describe(own, &mut env);
    }
    if pod.spec.enable_service_links.unwrap_or(true) {
        let namespace = pod.metadata.namespace.as_str();
        for service in cluster.list(SERVICES, Some(namespace)).map_err(failed)? {
            describe(&service, &mut env);
        }
    }
    Ok(env)
}

fn describe(service: &Value, env: &mut Env) {
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let upper = |text: &Value| text.as_str().unwrap_or_default().replace('-', "_").to_uppercase();
    if ip.is_empty() || ip == "None" || ports.is_empty() {
        return;
    }
    let prefix = upper(&service["metadata"]["name"]);
    let mut set = |name: String, value: String| drop(env.0.insert(name, value.into_bytes()));
    set(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (at, port) in ports.iter().enumerate() {
        let number = port["port"].as_i64().unwrap_or_default();
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let address = if ip.contains(':') {
            format!("[{ip}]:{number}")
        } else {
            format!("{ip}:{number}")
        };
        let url = format!("{lower}://{address}");
        if at == 0 {
            set(format!("{prefix}_SERVICE_PORT"), number.to_string());
            set(format!("{prefix}_PORT"), url.clone());
        }
        let name = upper(&port["name"]);
        if !name.is_empty() {
            set(format!("{prefix}_SERVICE_PORT_{name}"), number.to_string());
        }
        let prefix = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        set(format!("{prefix}_PROTO"), lower);
        set(format!("{prefix}_PORT"), number.to_string());
        set(format!("{prefix}_ADDR"), ip.to_owned());
        set(prefix, url);
    }
}
