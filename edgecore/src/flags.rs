//! The command line. Four flags do not need a parser of half the size of the broker.

use std::ffi::OsString;
use std::path::PathBuf;

/// Name, what its value is, what it does.
const FLAGS: [(&str, &str, &str); 4] = [
    (
        "config",
        "FILE",
        "Configuration file instead of <config-dir>/edgecore.yaml",
    ),
    ("config-dir", "DIR", "Folder of edgecore.yaml, pki/ and edge.kubeconfig"),
    ("data-dir", "DIR", "Folder of the store"),
    ("log", "FILTER", "Log filter, such as \"info\" or \"edgecore=debug\""),
];

/// What was said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) config_dir: PathBuf,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) log: Option<String>,
}

/// What there is to do instead of running.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Instead {
    /// Something was asked: print this.
    Print(String),
    /// What was said makes no sense.
    Refuse(String),
}

impl Flags {
    /// Reads the arguments that follow the program's name.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Instead> {
        let mut values: [Option<OsString>; FLAGS.len()] = [const { None }; FLAGS.len()];
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            match &*text {
                "-h" | "--help" => return Err(Instead::Print(help())),
                "-V" | "--version" => return Err(Instead::Print(version())),
                _ => {}
            }
            // A value that is no Unicode stands alone: `--config FILE`, not `--config=FILE`.
            let said = text.strip_prefix("--").unwrap_or_default();
            let (name, value) = match said.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (said, None),
            };
            let refuse = |what: String| Instead::Refuse(format!("{what}; `edgecore --help` shows what there is"));
            let Some(at) = FLAGS.iter().position(|(flag, ..)| *flag == name) else {
                return Err(refuse(format!("unexpected argument {text:?}")));
            };
            let missing = || refuse(format!("--{name} needs its value, <{}>", FLAGS[at].1));
            let value = value.or_else(|| args.next()).ok_or_else(missing)?;
            if values[at].replace(value).is_some() {
                return Err(refuse(format!("--{name} is given twice")));
            }
        }
        let [config, config_dir, data_dir, log] = values;
        let log = log.map(OsString::into_string).transpose();
        Ok(Self {
            config: config.map(PathBuf::from),
            config_dir: config_dir.map_or_else(|| PathBuf::from(edgecore::CONFIG_DIR), PathBuf::from),
            data_dir: data_dir.map(PathBuf::from),
            log: log.map_err(|log| Instead::Refuse(format!("--log {}: not Unicode", log.display())))?,
        })
    }
}

fn version() -> String {
    format!("edgecore {}\n", env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    let mut page = String::from(
        "The Kurator agent of one gateway: its devices, its local API, its link to the hub\n\nUsage: edgecore [OPTIONS]\n\nOptions:\n",
    );
    let line = |left: String, right: &str| format!("  {left:<26} {right}\n");
    for (name, value, what) in FLAGS {
        page.push_str(&line(format!("    --{name} <{value}>"), what));
    }
    page.push_str(&line("-h, --help".to_owned(), "Print help"));
    page.push_str(&line("-V, --version".to_owned(), "Print version"));
    page.push_str("\nExample: edgecore --config-dir /tmp/gw/etc --data-dir /tmp/gw/data\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, Instead> {
        Flags::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn flags_are_read_in_both_forms() {
        let flags = parse(&["--config-dir", "/etc/x", "--log=warn,link=debug", "--data-dir=/d"]).unwrap();
        let want = Flags {
            config: None,
            config_dir: "/etc/x".into(),
            data_dir: Some("/d".into()),
            log: Some("warn,link=debug".to_owned()),
        };
        assert_eq!(flags, want);
        assert_eq!(parse(&[]).unwrap().config_dir, PathBuf::from(edgecore::CONFIG_DIR));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |args: &[&str]| match parse(args) {
            Err(Instead::Refuse(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(&["--hub", "x"]).contains("--hub"));
        assert!(refused(&["config"]).contains("\"config\""));
        assert!(refused(&["--data-dir"]).contains("<DIR>"));
        assert!(refused(&["--log", "a", "--log", "b"]).contains("twice"));
        assert!(refused(&["--", "x"]).contains("\"--\""));
    }

    #[test]
    fn help_names_every_flag() {
        let Err(Instead::Print(page)) = parse(&["--log", "info", "-h"]) else {
            panic!("help was not printed");
        };
        assert!(
            FLAGS.iter().all(|(name, ..)| page.contains(&format!("--{name} <"))),
            "{page}"
        );
        assert_eq!(parse(&["-V"]), Err(Instead::Print(version())));
    }
}
