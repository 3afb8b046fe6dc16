//! The bench: one table, target beside measured, printed and stored in `tests/benches/RESULTS.md` with date, machine and method.
//!
//! `bench [--quick] [NAME …]` runs all groups or those named (`size edge latency rate idle fleet api`). Release programs are expected
//! beside it. Nothing here asserts a time; it writes down what it saw.

mod api;
mod edge;
mod fleet;
mod idle;
mod latency;
mod process;
mod report;
mod size;

use report::Report;

/// What a run was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Smaller numbers, for seeing that the bench itself works.
    quick: bool,
}

fn main() -> anyhow::Result<()> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let quick = names.iter().any(|n| n == "--quick");
    names.retain(|n| n != "--quick");
    daemon::tls::install_provider();
    let plan = Plan { quick };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new();
    runtime.block_on(async {
        let wants = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
        if wants("size") {
            group("size", size::run(&mut report));
        }
        if wants("edge") {
            group("edge", edge::run(&mut report, plan).await);
        }
        if wants("latency") {
            group("latency", latency::run(&mut report, plan).await);
        }
        if wants("rate") {
            group("rate", latency::rate(&mut report, plan).await);
        }
        if wants("idle") {
            group("idle", idle::run(&mut report, plan).await);
        }
        if wants("api") {
            group("api", api::run(&mut report, plan).await);
        }
        if wants("fleet") {
            group("fleet", fleet::run(&mut report, plan).await);
        }
    });
    let table = report.table();
    report::print(&table);
    if names.is_empty() && !quick {
        report.store(&table)?;
    }
    Ok(())
}

/// A group that fails is told and leaves its figures out; the others go on.
fn group(name: &str, outcome: anyhow::Result<()>) {
    if let Err(e) = outcome {
        report::print(&format!("group {name} failed: {e:#}\n"));
    }
}
