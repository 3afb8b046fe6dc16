use super::*;
use serde_json::json;

fn options(query: &str) -> Result<Options, Status> {
    let now = "2026-11-21T03:11:10Z".parse().unwrap();
    Options::read(&Query::parse(Some(query)).unwrap(), "web", now)
}

#[test]
fn options_are_read_and_refused_as_the_api_does() {
    let read = options("follow=true&previous=true&tailLines=5&timestamps=1&limitBytes=9&sinceSeconds=10").unwrap();
    assert!(read.follow && read.previous && read.wanted.timestamps);
    assert_eq!((read.tail, read.wanted.limit), (Some(5), Some(9)));
    assert_eq!(read.wanted.since.unwrap().to_string(), "2026-11-21T03:11:00Z");
    assert_eq!(
        options("sinceTime=2026-11-21T03%3A11%3A05Z")
            .unwrap()
            .wanted
            .since
            .unwrap()
            .to_string(),
        "2026-11-21T03:11:05Z"
    );
    assert_eq!(options("stream=Stderr").unwrap().wanted.stream, Some(Stream::Stderr));
    let refused = |query: &str| {
        let status = options(query).unwrap_err();
        (status.code, status.message)
    };
    assert_eq!(
        refused("tailLines=-1"),
        (
            422,
            "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
                .to_owned()
        )
    );
    assert_eq!(refused("limitBytes=0").0, 422);
    assert_eq!(refused("sinceSeconds=0").0, 422);
    assert_eq!(refused("sinceSeconds=5&sinceTime=2026-11-21T03%3A11%3A05Z").0, 422);
    assert_eq!(refused("stream=Stdout&tailLines=1").0, 422);
    assert_eq!(refused("stream=Both").0, 422);
    assert_eq!(
        refused("tailLines=x"),
        (400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())
    );
    assert_eq!(refused("sinceTime=yesterday").0, 400);
}

fn attempt(status: Value, previous: bool) -> Result<u32, String> {
    let standing = Standing(&status);
    standing
        .attempt("app", "web", previous)
        .map_err(|status| status.message)
}

#[test]
fn the_attempt_that_is_meant_is_read_from_the_status() {
    let ended = json!({"terminated": {"containerID": "containerd://1", "exitCode": 1}});
    let running = json!({"state": {"running": {}}, "lastState": ended, "restartCount": 3});
    assert_eq!(attempt(running.clone(), false), Ok(3));
    assert_eq!(attempt(running, true), Ok(2));
    // It waits to be started again: what ended last is both.
    let looping = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended, "restartCount": 3});
    assert_eq!(
        (attempt(looping.clone(), false), attempt(looping, true)),
        (Ok(3), Ok(3))
    );
    let over = json!({"state": ended, "lastState": {}, "restartCount": 0});
    assert_eq!(attempt(over.clone(), false), Ok(0));
    assert_eq!(
        attempt(over, true),
        Err("previous terminated container \"app\" in pod \"web\" not found".to_owned())
    );
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}, "restartCount": 0});
    for (reason, said) in [
        (
            "ContainerCreating",
            "container \"app\" in pod \"web\" is waiting to start: ContainerCreating",
        ),
        (
            "ErrImagePull",
            "container \"app\" in pod \"web\" is waiting to start: image can't be pulled",
        ),
        (
            "ImagePullBackOff",
            "container \"app\" in pod \"web\" is waiting to start: trying and failing to pull image",
        ),
    ] {
        assert_eq!(attempt(waiting(reason), false), Err(said.to_owned()));
    }
    assert_eq!(
        attempt(json!({"state": {}}), false),
        Err("container \"app\" in pod \"web\" is waiting to start - no logs yet".to_owned())
    );
}

#[test]
fn an_attempt_has_ended_when_the_status_says_so() {
    let ended = |status: Value, attempt| Standing(&status).has_ended(attempt);
    assert!(!ended(json!({"state": {"running": {}}, "restartCount": 1}), 1));
    assert!(ended(json!({"state": {"running": {}}, "restartCount": 2}), 1));
    assert!(ended(json!({"state": {"terminated": {}}, "restartCount": 1}), 1));
    assert!(!ended(json!({"state": {"waiting": {}}, "restartCount": 1}), 1));
    assert!(ended(
        json!({"state": {"waiting": {}}, "lastState": {"terminated": {"containerID": "x"}}, "restartCount": 1}),
        1
    ));
}
