//! The programs' sizes on disk.

use crate::report::Report;

pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    let size = |name: &str| -> anyhow::Result<f64> { Ok(std::fs::metadata(tests::program(name))?.len() as f64 / 1e6) };
    let how = "edge profile, stripped, linked statically with glibc (hub: release profile, dynamically), as `make bench` builds them";
    report.at_most(
        "agent binary (this machine's architecture)",
        10.0,
        size("edgecore")?,
        "MB",
        how,
    );
    report.note("hub binary", format!("{:.2} MB", size("cloudhub")?), how);
    Ok(())
}
