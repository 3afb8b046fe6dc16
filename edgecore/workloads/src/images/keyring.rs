//! Who the registries know: the credentials in pull secrets, and for which images each is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use serde_json::Value;

use super::Reference;

/// The registry of names without one, as credentials name it.
const HUB: &str = "index.docker.io";
/// Entries of one secret that are read.
const MAX_ENTRIES: usize = 256;

/// Credentials, the ones for the longest names first.
#[derive(Debug, Default)]
pub(super) struct Keyring(Vec<(String, AuthConfig)>);

impl Keyring {
    /// Takes in the credentials of a Secret of one of the two types. False when it is neither, or unreadable.
    pub(super) fn add(&mut self, secret: &Value) -> bool {
        let (key, wrapped) = match secret["type"].as_str() {
            Some("kubernetes.io/dockerconfigjson") => (".dockerconfigjson", true),
            Some("kubernetes.io/dockercfg") => (".dockercfg", false),
            _ => return false,
        };
        let text = secret["data"][key].as_str().unwrap_or_default();
        let read = STANDARD.decode(text).ok();
        let Some(read) = read.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
            return false;
        };
        let entries = if wrapped { &read["auths"] } else { &read };
        let Some(entries) = entries.as_object() else {
            return false;
        };
        for (place, entry) in entries.iter().take(MAX_ENTRIES) {
            if let Some(auth) = credentials(entry) {
                self.0.push((place_of(place), auth));
            }
        }
        self.0.sort_by(|a, b| b.0.cmp(&a.0));
        true
    }

    /// What may open the registry of an image, in the order in which it is tried.
    pub(super) fn for_image(&self, image: &Reference) -> Vec<AuthConfig> {
        let fits = |(place, _): &&(String, AuthConfig)| matches(place, image);
        let found: Vec<_> = self.0.iter().filter(fits).collect();
        let hub = self
            .0
            .iter()
            .filter(|(place, _)| image.host == "docker.io" && place == HUB);
        let all: Vec<_> = if found.is_empty() { hub.collect() } else { found };
        all.into_iter().map(|(_, auth)| auth.clone()).collect()
    }
}

fn credentials(entry: &Value) -> Option<AuthConfig> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if let Some(auth) = entry["auth"].as_str().filter(|a| !a.is_empty()) {
        // Some leave the padding out.
        let bytes = STANDARD.decode(auth).or_else(|_| {
            let lax = base64::engine::general_purpose::STANDARD_NO_PAD;
            lax.decode(auth.trim_end_matches('='))
        });
        let both = String::from_utf8(bytes.ok()?).ok()?;
        let (name, secret) = both.split_once(':')?;
        // Some tools end it with a NUL.
        (username, password) = (name.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Some(AuthConfig {
        username,
        password,
        ..AuthConfig::default()
    })
}

/// `https://registry:5000/v1/` as `registry:5000`.
fn place_of(said: &str) -> String {
    let bare = said.strip_prefix("https://").or_else(|| said.strip_prefix("http://"));
    let bare = bare.unwrap_or(said);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    let path = ["/v1/", "/v2/"]
        .iter()
        .find_map(|p| path.strip_prefix(p))
        .map_or(path.to_owned(), |rest| format!("/{rest}"));
    if path == "/" {
        host.to_owned()
    } else {
        format!("{host}{path}")
    }
}

/// Whether credentials for a place are for an image: the same port, each part of the host's name as its pattern, the path's beginning.
fn matches(place: &str, image: &Reference) -> bool {
    let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let split = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name.to_owned(), port.to_owned()),
        _ => (host.to_owned(), String::new()),
    };
    let ((pattern, port), (name, wanted)) = (split(host), split(&image.host));
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), name.split('.').collect());
    port == wanted
        && patterns.len() == parts.len()
        && patterns
            .iter()
            .zip(&parts)
            .all(|(p, n)| glob(p.as_bytes(), n.as_bytes()))
        && format!("/{}", image.path).starts_with(path)
}

/// `*` stands for any text, `?` for one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how far it reaches.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    (p, t) = (at + 1, reach + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ring(auths: Value) -> Keyring {
        let mut ring = Keyring::default();
        let data = STANDARD.encode(json!({"auths": auths}).to_string());
        assert!(ring.add(&json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}})));
        ring
    }

    fn who(ring: &Keyring, image: &str) -> Vec<String> {
        let found = ring.for_image(&Reference::parse(image).unwrap());
        found
            .into_iter()
            .map(|a| format!("{}:{}", a.username, a.password))
            .collect()
    }

    #[test]
    fn credentials_are_for_the_images_they_name() {
        let user = |name: &str| json!({"username": name, "password": "x"});
        let ring = ring(json!({
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:p:w")},
            "quay.io": user("quay"),
            "https://quay.io/v2/team": user("team"),
            "*.example.com": user("star"),
            "reg-?.example.com:5000": user("port"),
            "broken.io": {"auth": "!"},
        }));
        for (image, wanted) in [
            ("busybox", &["hub:p:w"][..]),
            ("docker.io/a/b:1", &["hub:p:w"]),
            ("quay.io/team/app", &["team:x", "quay:x"]),
            ("quay.io/other/app", &["quay:x"]),
            ("a.example.com/app", &["star:x"]),
            ("a.b.example.com/app", &[]),
            ("example.com/app", &[]),
            ("reg-1.example.com:5000/app", &["port:x"]),
            ("reg-1.example.com:5001/app", &[]),
            ("broken.io/a", &[]),
            ("ghcr.io/a", &[]),
        ] {
            assert_eq!(who(&ring, image), wanted, "{image}");
        }
    }

    #[test]
    fn older_and_broken_secrets() {
        let mut ring = Keyring::default();
        let data = STANDARD.encode(json!({"r.io": {"username": "old", "password": "y"}}).to_string());
        assert!(ring.add(&json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": data}})));
        assert_eq!(who(&ring, "r.io/a"), ["old:y"]);
        assert!(!format!("{ring:?}").contains("\"y\""));
        for bad in [
            json!({"type": "Opaque", "data": {".dockercfg": data}}),
            json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "!"}}),
            json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": STANDARD.encode("[]")}}),
            json!({"type": "kubernetes.io/dockerconfigjson"}),
        ] {
            assert!(!ring.add(&bad), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c*", "abcb", true),
            ("a*c", "abb", false),
            ("?", "", false),
            ("a", "ab", false),
            ("**a", "bba", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
