//! `kurator why`: the chain of hops of one thing, and the hop it waits at, as the hub sees it.

use daemon::exit::Failure;
use serde_json::Value;

use crate::cli::{Global, Output, WhyTarget};
use crate::client::Api;
use crate::{output, say};

pub(crate) async fn run(global: &Global, target: WhyTarget) -> Result<(), Failure> {
    let api = Api::find(global).await?.hub();
    let path = match target {
        WhyTarget::Device { name } => {
            let (device, property) = match name.split_once('.') {
                Some((device, property)) => (device, Some(property)),
                None => (name.as_str(), None),
            };
            device_path(&global.namespace, device, property)
        }
        WhyTarget::Node { name } => format!("/kurator/v1/why/node/{name}"),
    };
    let answer = api.get(&path).await?;
    match global.output {
        Output::Json => say::text(&output::json(&answer)),
        Output::Yaml => say::text(&output::yaml(&answer)?),
        Output::Name => say::line(answer["waitingAt"].as_str().unwrap_or("")),
        Output::Table | Output::Wide => say::text(&render(&answer)),
    }
    Ok(())
}

/// The hub's explanation for a device or a property.
pub(crate) fn device_path(namespace: &str, device: &str, property: Option<&str>) -> String {
    let query = property.map(|p| format!("?property={p}")).unwrap_or_default();
    format!("/kurator/v1/why/device/{namespace}/{device}{query}")
}

/// One line per hop.
pub(crate) fn render(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = answer["hops"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|hop| {
            let text = |field: &str| hop[field].as_str().unwrap_or("").to_owned();
            vec![text("hop"), text("state"), text("at"), text("detail")]
        })
        .collect();
    output::columns(&["HOP", "STATE", "AT", "DETAIL"], &rows)
}
