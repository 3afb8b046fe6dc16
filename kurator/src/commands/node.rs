//! `kurator node revoke`: the hub's `/kurator/v1/nodes`.

use daemon::exit::Failure;
use http::Method;

use crate::cli::{Global, NodeAction};
use crate::client::Api;
use crate::say;

pub(crate) async fn run(global: &Global, action: NodeAction) -> Result<(), Failure> {
    let api = Api::find(global).await?.hub();
    let NodeAction::Revoke { name } = action;
    let done = api
        .json(Method::POST, &format!("/kurator/v1/nodes/{name}/revoke"), None)
        .await?;
    say::line(&format!(
        "node {name} revoked, {} session(s) ended",
        done["sessionsEnded"]
    ));
    Ok(())
}
