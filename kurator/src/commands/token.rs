//! `kurator token create|list|revoke`: the hub's `/kurator/v1/tokens`.

use daemon::exit::{FAILED, Failure};
use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::{Global, Output, TokenAction};
use crate::client::Api;
use crate::{output, say};

const PATH: &str = "/kurator/v1/tokens";

pub(crate) async fn run(global: &Global, action: TokenAction) -> Result<(), Failure> {
    let api = Api::find(global).await?.hub();
    match action {
        TokenAction::Create {
            node,
            ttl,
            uses,
            labels,
        } => {
            let labels: Map<String, Value> = labels.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
            let body = json!({"node": node, "ttlSeconds": ttl.as_secs().max(1), "uses": uses, "labels": labels});
            let made = api.json(Method::POST, PATH, Some(&body)).await?;
            match global.output {
                Output::Json => say::text(&output::json(&made)),
                Output::Yaml => say::text(&output::yaml(&made)?),
                Output::Name => say::line(made["id"].as_str().unwrap_or_default()),
                Output::Table | Output::Wide => {
                    let token = made["token"]
                        .as_str()
                        .ok_or_else(|| Failure::new(FAILED, "the hub's answer has no token"))?;
                    say::line(token);
                }
            }
        }
        TokenAction::List => {
            let list = api.get(PATH).await?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            match global.output {
                Output::Json => say::text(&output::json(&list)),
                Output::Yaml => say::text(&output::yaml(&list)?),
                Output::Name => items.iter().filter_map(|t| t["id"].as_str()).for_each(say::line),
                Output::Table | Output::Wide => {
                    if items.is_empty() {
                        say::remark("No tokens: kurator token create makes one.");
                        return Ok(());
                    }
                    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
                    say::text(&output::columns(
                        &["ID", "STATE", "NODE", "USES LEFT", "EXPIRES", "LABELS"],
                        &rows,
                    ));
                }
            }
        }
        TokenAction::Revoke { id } => {
            api.json(Method::DELETE, &format!("{PATH}/{id}"), None).await?;
            say::line(&format!("token {id} revoked"));
        }
    }
    Ok(())
}

fn row(token: &Value) -> Vec<String> {
    let text = |field: &str| token[field].as_str().unwrap_or("<any>").to_owned();
    let labels = token["labels"].as_object().map(|l| {
        l.iter()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(",")
    });
    vec![
        text("id"),
        text("state"),
        text("node"),
        token["usesLeft"].to_string(),
        text("expires"),
        labels.unwrap_or_default(),
    ]
}
