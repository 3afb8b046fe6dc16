//! Figures, and how they are written down.

use std::io::Write;
use std::path::PathBuf;

/// One line of the table.
struct Figure {
    name: String,
    target: String,
    measured: String,
    met: Option<bool>,
    method: String,
}

/// All figures of one run.
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) const fn new() -> Self {
        Self { figures: Vec::new() }
    }

    /// A figure that should be at most `limit`.
    pub(crate) fn at_most(&mut self, name: &str, limit: f64, value: f64, unit: &str, method: &str) {
        self.add(
            name,
            format!("<= {} {unit}", plain(limit)),
            format!("{} {unit}", plain(value)),
            Some(value <= limit),
            method,
        );
    }

    /// A figure that should be at least `limit`.
    pub(crate) fn at_least(&mut self, name: &str, limit: f64, value: f64, unit: &str, method: &str) {
        self.add(
            name,
            format!(">= {} {unit}", plain(limit)),
            format!("{} {unit}", plain(value)),
            Some(value >= limit),
            method,
        );
    }

    /// A figure without a target.
    pub(crate) fn note(&mut self, name: &str, measured: String, method: &str) {
        self.add(name, String::from("-"), measured, None, method);
    }

    fn add(&mut self, name: &str, target: String, measured: String, met: Option<bool>, method: &str) {
        let word = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        print(&format!("{name}: {measured} (target {target}) {word}\n"));
        self.figures.push(Figure {
            name: name.to_owned(),
            target,
            measured,
            met,
            method: method.to_owned(),
        });
    }

    /// The table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("| figure | target | measured | | method |\n|---|---|---|---|---|\n");
        for f in &self.figures {
            let word = match f.met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "",
            };
            out.push_str(&format!(
                "| {} | {} | {} | {word} | {} |\n",
                f.name, f.target, f.measured, f.method
            ));
        }
        out
    }

    /// Puts this run at the head of the results file; earlier runs stay below it.
    pub(crate) fn store(&self, table: &str) -> anyhow::Result<()> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md"));
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let (head, runs) = old
            .split_once("\n## ")
            .map_or((HEAD, String::new()), |(_, rest)| (HEAD, format!("\n## {rest}")));
        std::fs::write(
            &path,
            format!("{head}\n## {}\n\n{}\n\n{table}{runs}", date(), machine()),
        )?;
        Ok(())
    }
}

const HEAD: &str = "# Results\n\nWritten by `make bench`, newest first. A figure that misses its target says so; notes below a run say where the time or memory goes.\n";

fn plain(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes to standard output; the bench is a program for people.
#[allow(clippy::print_stdout)]
pub(crate) fn print(text: &str) {
    print!("{text}");
    drop(std::io::stdout().flush());
}

fn date() -> String {
    let ms = i64::try_from(daemon::clock::wall_ms()).unwrap_or(0);
    let stamp = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    stamp.to_string().split('T').next().unwrap_or_default().to_owned()
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split_once(':'))
            .map(|(_, v)| v.trim().to_owned())
            .unwrap_or_default()
    };
    let cpu = read("/proc/cpuinfo");
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "Machine: {} x {}, {} of memory, Linux {}, {}. Everything on loopback, hub, gateways and load on the same cores; load average before: {}.",
        cores,
        field(&cpu, "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        kernel.trim(),
        std::env::consts::ARCH,
        read("/proc/loadavg").split(' ').next().unwrap_or_default()
    )
}
