//! What a container wants done after its start and before its end.

use std::time::Duration;

use super::ask::{Answer, Whom};
use crate::pod::{Container, LifecycleHandler, Pod};

/// Longest that a hook without a bound of its own may take.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Longest that a hook waits for an HTTP answer.
const HTTP: Duration = Duration::from_secs(60);

/// Runs a hook.
///
/// # Errors
/// The message of the container's status.
pub(super) async fn run(
    whom: Whom<'_>,
    pod: &Pod,
    container: &Container,
    hook: &LifecycleHandler,
    within: Duration,
) -> Result<(), String> {
    let m = &pod.metadata;
    let whose = format!(
        "for Container {:?} in Pod \"{}_{}({})\"",
        container.name, m.name, m.namespace, m.uid
    );
    if let Some(exec) = &hook.exec {
        let failed = |error: String, output: String| {
            let command = exec.command.join(" ");
            Err(format!(
                "Exec lifecycle hook ([{command}]) {whose} failed - error: {error}, message: {output:?}"
            ))
        };
        return match whom.exec(exec, within.as_secs()).await {
            Answer::Yes => Ok(()),
            Answer::No(output) => failed(
                format!("command '{}' exited with non-zero code", exec.command.join(" ")),
                output,
            ),
            Answer::Unknown(error) => failed(error, String::new()),
        };
    }
    if let Some(get) = &hook.http_get {
        // Any answer will do.
        return match whom.http(get, within.min(HTTP)).await {
            Answer::Yes => Ok(()),
            Answer::No(why) if why.contains("statuscode") => Ok(()),
            Answer::No(why) | Answer::Unknown(why) => Err(format!(
                "HTTP lifecycle hook ({}) {whose} failed - error: {why}",
                get.path
            )),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds).min(within)).await;
    }
    Ok(())
}
