//! The demo from start to end, and what it leaves behind: nothing.

use tests::{program, run};
use tokio::process::Command;

#[tokio::test]
async fn the_demo_plays_to_its_end_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let told = run(Command::new(program("kurator"))
        .args(["demo", "--once"])
        .env("TMPDIR", temporary.path()))
    .await
    .good();
    for step in [
        "A hub is up",
        "joined with a one-use token",
        "press took it",
        "cable is cut",
        "both sides hold setpoint=65 and enabled=false",
        "nothing left behind",
    ] {
        assert!(told.contains(step), "the demo did not tell {step:?}:\n{told}");
    }
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
