//! `kurator top`: what nodes and pods use now.

use daemon::exit::Failure;
use serde_json::Value;

use crate::cli::{Global, Output, TopTarget};
use crate::client::Api;
use crate::{output, say};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

pub(crate) async fn run(global: &Global, target: TopTarget) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let (path, name) = match &target {
        TopTarget::Nodes { name } => (format!("{METRICS}/nodes"), name),
        TopTarget::Pods {
            all_namespaces: true,
            name,
        } => (format!("{METRICS}/pods"), name),
        TopTarget::Pods { name, .. } => (format!("{METRICS}/namespaces/{}/pods", global.namespace), name),
    };
    let mut list = api.get(&path).await?;
    if let (Some(name), Some(items)) = (name, list["items"].as_array_mut()) {
        items.retain(|item| item["metadata"]["name"] == **name);
    }
    let text = match global.output {
        Output::Json => output::json(&list),
        Output::Yaml => output::yaml(&list)?,
        Output::Name => names(&list),
        Output::Table | Output::Wide => match target {
            TopTarget::Nodes { .. } => nodes(&list, &api.get("/api/v1/nodes").await?),
            TopTarget::Pods { all_namespaces, .. } => pods(&list, all_namespaces),
        },
    };
    if text.is_empty() {
        say::remark("Nothing runs there, or it has run for less than a second.");
    }
    say::text(&text);
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn names(list: &Value) -> String {
    items(list)
        .map(|item| format!("{}\n", item["metadata"]["name"].as_str().unwrap_or_default()))
        .collect()
}

/// Processors in thousandths, memory in MiB, with their share of what the node has for pods.
fn nodes(list: &Value, all: &Value) -> String {
    let rows: Vec<Vec<String>> = items(list)
        .map(|item| {
            let name = &item["metadata"]["name"];
            let node = items(all).find(|node| node["metadata"]["name"] == *name);
            let share = |resource: &str| {
                let has = node.map_or(0, |node| nanos(&node["status"]["allocatable"][resource]));
                let uses = nanos(&item["usage"][resource]);
                if has > 0 {
                    format!("{}%", uses.saturating_mul(100) / has)
                } else {
                    "-".to_owned()
                }
            };
            vec![
                name.as_str().unwrap_or_default().to_owned(),
                milli(nanos(&item["usage"]["cpu"])),
                share("cpu"),
                mebi(nanos(&item["usage"]["memory"])),
                share("memory"),
            ]
        })
        .collect();
    shown(&["NAME", "CPU", "CPU%", "MEMORY", "MEMORY%"], &rows)
}

fn pods(list: &Value, with_namespace: bool) -> String {
    let rows: Vec<Vec<String>> = items(list)
        .map(|item| {
            let sum = |resource: &str| {
                let containers = item["containers"].as_array().into_iter().flatten();
                containers.map(|c| nanos(&c["usage"][resource])).sum::<i128>()
            };
            let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
            let mut row = vec![text("name"), milli(sum("cpu")), mebi(sum("memory"))];
            if with_namespace {
                row.insert(0, text("namespace"));
            }
            row
        })
        .collect();
    let head: &[&str] = if with_namespace {
        &["NAMESPACE", "NAME", "CPU", "MEMORY"]
    } else {
        &["NAME", "CPU", "MEMORY"]
    };
    shown(head, &rows)
}

fn shown(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    output::columns(head, rows)
}

/// Billionths of a quantity's unit; 0 for what is none.
fn nanos(quantity: &Value) -> i128 {
    let text = quantity.as_str().unwrap_or_default();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let scale: i128 = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => 1_000_000_000,
        "k" => 1_000_000_000_000,
        "M" => 1_000_000_000_000_000,
        "G" => 1_000_000_000_000_000_000,
        "Ki" => 1_000_000_000 << 10,
        "Mi" => 1_000_000_000 << 20,
        "Gi" => 1_000_000_000 << 30,
        "Ti" => 1_000_000_000 << 40,
        _ => return 0,
    };
    let whole = whole.parse::<i128>().unwrap_or(0).saturating_mul(scale);
    let digits: i128 = part.parse().unwrap_or(0);
    let tenth = 10_i128.pow(u32::try_from(part.len().min(18)).unwrap_or(0));
    whole.saturating_add(digits.saturating_mul(scale) / tenth)
}

fn milli(nanos: i128) -> String {
    format!("{}m", (nanos + 999_999) / 1_000_000)
}

fn mebi(nanos: i128) -> String {
    format!("{}Mi", nanos / 1_000_000_000 / (1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_used_is_shown_in_units_that_people_compare() {
        let list = json!({"items": [{"metadata": {"name": "web", "namespace": "shop"}, "containers": [
            {"usage": {"cpu": "1500001n", "memory": "3072Ki"}}, {"usage": {"cpu": "2m", "memory": "1Mi"}}]}]});
        assert_eq!(pods(&list, false), "NAME   CPU   MEMORY\nweb    4m    4Mi\n");
        assert_eq!(
            pods(&list, true),
            "NAMESPACE   NAME   CPU   MEMORY\nshop        web    4m    4Mi\n"
        );
        assert_eq!(pods(&json!({"items": []}), true), "");
    }

    #[test]
    fn nodes_show_the_share_that_is_used() {
        let list =
            json!({"items": [{"metadata": {"name": "gw"}, "usage": {"cpu": "500000000n", "memory": "524288Ki"}}]});
        let all =
            json!({"items": [{"metadata": {"name": "gw"}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}]});
        assert_eq!(
            nodes(&list, &all),
            "NAME   CPU    CPU%   MEMORY   MEMORY%\ngw     500m   25%    512Mi    50%\n"
        );
        assert!(nodes(&list, &json!({})).contains("500m   -"));
    }

    #[test]
    fn quantities() {
        for (text, value) in [
            ("1.5", 1_500_000_000),
            ("250m", 250_000_000),
            ("7n", 7),
            ("1Ki", 1_024_000_000_000),
            ("x", 0),
            ("", 0),
        ] {
            assert_eq!(nanos(&text.into()), value, "{text}");
        }
    }
}
