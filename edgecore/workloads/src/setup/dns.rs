//! How programs in a pod look up names: `/etc/resolv.conf` by the pod's policy.

use cri::v1::DnsConfig;

use crate::pod::Pod;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN: usize = 253;

/// Where names are looked up: the lines of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl Lookup {
    /// Reads a `resolv.conf`. Servers add up; of searches the last line counts; of options the last of a name.
    pub(crate) fn read(text: &str) -> Self {
        let mut lookup = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => lookup.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let domain = |w: &str| w.strip_suffix('.').unwrap_or(w).to_owned();
                    lookup.searches = words.filter(|w| *w != ".").map(domain).collect();
                }
                Some("options") => words.for_each(|word| set(&mut lookup.options, word.to_owned())),
                _ => {}
            }
        }
        lookup
    }
}

/// Sets an option (`ndots:5`), in the place of one of the same name.
fn set(options: &mut Vec<String>, option: String) {
    let name = |of: &str| of.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(there) => *there = option,
        None => options.push(option),
    }
}

/// A pod's lookups, from those of the cluster (`None`: it has no names) and of the machine. With what had to be left out, each a text for an
/// Event `DNSConfigForming`.
pub(crate) fn dns(pod: &Pod, cluster: Option<&Lookup>, machine: &Lookup) -> (DnsConfig, Vec<String>) {
    let spec = &pod.spec;
    let names = match spec.dns_policy.as_str() {
        "None" => Lookup::default(),
        "Default" => machine.clone(),
        "ClusterFirst" if spec.host_network => machine.clone(),
        _ => match cluster {
            Some(cluster) => {
                let mut names = cluster.clone();
                names.searches.extend(machine.searches.iter().cloned());
                names
            }
            None => machine.clone(),
        },
    };
    let Lookup {
        mut servers,
        mut searches,
        mut options,
    } = names;
    let said = &spec.dns_config;
    servers.extend(said.nameservers.iter().cloned());
    searches.extend(said.searches.iter().cloned());
    for option in &said.options {
        let value = option.value.as_deref().filter(|v| !v.is_empty());
        let text = value.map_or_else(|| option.name.clone(), |v| format!("{}:{v}", option.name));
        set(&mut options, text);
    }
    once(&mut servers);
    once(&mut searches);

    let mut omitted = Vec::new();
    if servers.len() > MAX_SERVERS {
        servers.truncate(MAX_SERVERS);
        omitted.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            servers.join(" ")
        ));
    }
    if fit(&mut searches) {
        omitted.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        ));
    }
    let config = DnsConfig {
        servers,
        searches,
        options,
    };
    (config, omitted)
}

/// Leaves each only once, where it stood first.
fn once(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Leaves out what a resolver does not take. True when something was.
fn fit(searches: &mut Vec<String>) -> bool {
    let before = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|s| s.len() <= MAX_DOMAIN);
    let mut length = 0;
    let fits = searches.iter().take_while(|s| {
        length += s.len() + 1;
        length <= MAX_SEARCH_CHARS + 1
    });
    let fits = fits.count();
    searches.truncate(fits);
    searches.len() < before
}
