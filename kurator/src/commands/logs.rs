//! `kurator logs`: what a container said, as far back as its files go, and what it goes on to say.

use daemon::exit::{FAILED, Failure};
use http_body_util::BodyExt as _;

use crate::cli::{Global, LogsArgs};
use crate::client::Api;
use crate::say;

pub(crate) async fn run(global: &Global, arguments: LogsArgs) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let mut body = api.stream(&path(&global.namespace, &arguments)).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::new(FAILED, format!("the log broke off: {e}")))?;
        if let Some(piece) = frame.data_ref() {
            say::bytes(piece);
        }
    }
    Ok(())
}

fn path(namespace: &str, arguments: &LogsArgs) -> String {
    let mut query = Vec::new();
    if let Some(container) = &arguments.container {
        query.push(format!("container={container}"));
    }
    for (name, wanted) in [
        ("follow", arguments.follow),
        ("previous", arguments.previous),
        ("timestamps", arguments.timestamps),
    ] {
        if wanted {
            query.push(format!("{name}=true"));
        }
    }
    if let Some(lines) = arguments.tail {
        query.push(format!("tailLines={lines}"));
    }
    if let Some(since) = arguments.since {
        query.push(format!("sinceSeconds={}", since.as_secs().max(1)));
    }
    format!(
        "/api/v1/namespaces/{namespace}/pods/{}/log?{}",
        arguments.pod,
        query.join("&")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_asked_for_is_asked_of_the_api() {
        let all = LogsArgs {
            pod: "web-1".to_owned(),
            container: Some("app".to_owned()),
            follow: true,
            previous: false,
            timestamps: true,
            tail: Some(0),
            since: Some(Duration::from_millis(10)),
        };
        assert_eq!(
            path("shop", &all),
            "/api/v1/namespaces/shop/pods/web-1/log?container=app&follow=true&timestamps=true&tailLines=0&sinceSeconds=1"
        );
    }
}
