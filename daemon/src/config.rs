//! Configuration: defaults < file < environment, one typed value at the end. Flags are laid over it by each `main`.
//!
//! The environment form of `uplink.heartbeat` under the prefix `EDGECORE` is `EDGECORE__UPLINK__HEARTBEAT`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A configuration file larger than this is refused before it is parsed.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Why a configuration was refused; each message names the file or variable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path} is {size} bytes; a configuration has at most {MAX_FILE}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The file is not YAML.
    #[error("{path} is not valid YAML: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A field is unknown or has the wrong type.
    #[error("{origin}: {reason}")]
    Value {
        /// Where the value stands.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads `file` (if given) and lays the variables of `env` that begin with `PREFIX__` over it. A missing file is an error:
/// callers that have an optional default location check for it first.
///
/// # Errors
/// A file that cannot be read, is too large, is not YAML or does not fit `T`.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    prefix: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut value = match file {
        Some(path) => read_yaml(path)?,
        None => Value::Object(Map::new()),
    };
    let origin = file.map_or_else(|| "configuration".to_owned(), |p| p.display().to_string());
    let lead = format!("{prefix}__");
    for (name, text) in env {
        if let Some(rest) = name.strip_prefix(&lead) {
            let path: Vec<String> = rest.split("__").map(camel).collect();
            overlay(&mut value, &path, scalar(&text));
        }
    }
    serde_json::from_value(value).map_err(|e| ConfigError::Value {
        origin,
        reason: e.to_string(),
    })
}

fn read_yaml(path: &Path) -> Result<Value, ConfigError> {
    let name = path.display().to_string();
    let read = |source| ConfigError::Read {
        path: name.clone(),
        source,
    };
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_FILE {
        return Err(ConfigError::TooLarge { path: name, size });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_saphyr::from_str(&text).map_err(|e| ConfigError::Syntax {
        path: name,
        reason: e.to_string(),
    })
}

/// `NODE_NAME` -> `nodeName`.
fn camel(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for (i, word) in segment.split('_').filter(|w| !w.is_empty()).enumerate() {
        let lower = word.to_ascii_lowercase();
        if i == 0 {
            out.push_str(&lower);
        } else {
            let mut chars = lower.chars();
            out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
            out.push_str(chars.as_str());
        }
    }
    out
}

/// A variable's text as the YAML scalar it would be in the file.
fn scalar(text: &str) -> Value {
    serde_saphyr::from_str(text)
        .ok()
        .filter(|v: &Value| !v.is_object() && !v.is_null())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn overlay(value: &mut Value, path: &[String], leaf: Value) {
    let Some((head, rest)) = path.split_first() else {
        *value = leaf;
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(map) = value {
        overlay(map.entry(head.clone()).or_insert(Value::Null), rest, leaf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
    struct Sample {
        node_name: String,
        uplink: Uplink,
    }
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Uplink {
        heartbeat: u32,
        hubs: Vec<String>,
    }
    impl Default for Sample {
        fn default() -> Self {
            Self {
                node_name: "here".into(),
                uplink: Uplink::default(),
            }
        }
    }
    impl Default for Uplink {
        fn default() -> Self {
            Self {
                heartbeat: 60,
                hubs: vec![],
            }
        }
    }

    fn with_file(text: &str, env: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let dir = std::env::temp_dir().join(format!("kurator-config-{}-{}", std::process::id(), fastrand::u64(..)));
        std::fs::write(&dir, text).unwrap();
        let out = load(
            Some(&dir),
            "T",
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        );
        std::fs::remove_file(&dir).unwrap();
        out
    }

    #[test]
    fn environment_wins_over_file_and_file_over_defaults() {
        let got = with_file(
            "nodeName: from-file\nuplink:\n  hubs: [a, b]\n",
            &[
                ("T__NODE_NAME", "from-env"),
                ("T__UPLINK__HEARTBEAT", "5"),
                ("X__NODE_NAME", "no"),
            ],
        );
        let want = Sample {
            node_name: "from-env".into(),
            uplink: Uplink {
                heartbeat: 5,
                hubs: vec!["a".into(), "b".into()],
            },
        };
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn unknown_field_and_bad_yaml_name_the_file() {
        let e = with_file("nodNam: x\n", &[]).unwrap_err().to_string();
        assert!(e.contains("nodNam") && e.contains("kurator-config"), "{e}");
        let e = with_file("a: [1, 2\n", &[]).unwrap_err().to_string();
        assert!(e.contains("not valid YAML"), "{e}");
        assert!(
            load::<Sample>(Some(Path::new("/nonexistent/x")), "T", [])
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/x")
        );
    }

    #[test]
    fn empty_file_is_all_defaults() {
        assert_eq!(with_file("\n", &[]).unwrap(), Sample::default());
    }
}
