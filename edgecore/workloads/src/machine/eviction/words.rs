//! Messages of evictions, in the words that Kubernetes uses: dashboards and people look for them.

use crate::machine::limits::Signal;

use super::rank::Candidate;

/// What ran short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) struct Shortage {
    pub(in crate::machine) signal: Signal,
    /// The threshold, and what is left.
    pub(in crate::machine) least: u64,
    pub(in crate::machine) available: u64,
}

impl Shortage {
    /// The resource, as messages call it.
    pub(in crate::machine) const fn resource(&self) -> &'static str {
        match self.signal {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pids => "pids",
        }
    }
}

/// Why a pod was evicted.
pub(in crate::machine) fn evicted(candidate: &Candidate, shortage: &Shortage) -> String {
    let resource = shortage.resource();
    let counted = matches!(resource, "inodes" | "pids");
    let available = if counted {
        decimal(shortage.available)
    } else {
        binary(shortage.available)
    };
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {available}. ",
        binary(shortage.least)
    );
    let spec = &candidate.pod.spec;
    for used in candidate.is.iter().flat_map(|is| &is.containers) {
        let mut all = spec.containers.iter().chain(&spec.init_containers);
        let Some(container) = all.find(|c| c.name == used.name) else {
            continue;
        };
        let usage = match resource {
            "memory" => used.is.working_set,
            "ephemeral-storage" => used.logs.saturating_add(used.files.map_or(0, |files| files[0])),
            _ => continue,
        };
        let request = container.resources.requests.get(resource);
        let bytes = request.and_then(metastore::api::quantity_nanos).unwrap_or(0) / 1_000_000_000;
        if i128::from(usage) > bytes {
            let request = request.and_then(|r| r.as_str()).unwrap_or("0");
            message.push_str(&format!(
                "Container {} was using {}, request is {request}, has larger consumption of {resource}. ",
                used.name,
                binary(usage)
            ));
        }
    }
    message
}

/// `100Mi`: the largest unit that leaves nothing over.
pub(in crate::machine) fn binary(amount: u64) -> String {
    shortest(amount, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
}

/// `100k`.
fn decimal(amount: u64) -> String {
    shortest(amount, 1000, ["", "k", "M", "G", "T", "P", "E"])
}

fn shortest(mut amount: u64, step: u64, units: [&str; 7]) -> String {
    let mut unit = 0;
    while amount != 0 && amount.is_multiple_of(step) && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    format!("{amount}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::machine::usage::{ContainerUse, PodUse, Use};
    use crate::pod::Pod;

    #[test]
    fn amounts_are_spelled_as_quantities() {
        assert_eq!(
            [binary(0), binary(1000), binary(1024), binary(100 << 20)],
            ["0", "1000", "1Ki", "100Mi"]
        );
        assert_eq!(
            [binary(1536), decimal(1500), decimal(2_000_000)],
            ["1536", "1500", "2M"]
        );
    }

    #[test]
    fn a_message_names_what_ran_short_and_who_used_it() {
        let pod = json!({"spec": {"containers": [
            {"name": "app", "resources": {"requests": {"memory": "64Mi"}}},
            {"name": "greedy"},
            {"name": "modest", "resources": {"requests": {"memory": "1Gi"}}},
        ]}});
        let used = |name: &str, mi: u64| ContainerUse {
            name: name.into(),
            is: Use {
                working_set: mi << 20,
                ..Use::default()
            },
            ..ContainerUse::default()
        };
        let is = PodUse {
            containers: vec![used("app", 70), used("greedy", 1), used("modest", 900)],
            ..PodUse::default()
        };
        let candidate = Candidate {
            pod: Arc::new(Pod::read(pod).unwrap()),
            is: Some(is),
            volumes: None,
        };
        let shortage = Shortage {
            signal: Signal::Memory,
            least: 100 << 20,
            available: 50 << 20,
        };
        assert_eq!(
            evicted(&candidate, &shortage),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container app was using 70Mi, request is 64Mi, has larger consumption of memory. \
             Container greedy was using 1Mi, request is 0, has larger consumption of memory. "
        );
        let shortage = Shortage {
            signal: Signal::Pids,
            least: 1000,
            available: 2000,
        };
        assert_eq!(
            evicted(&candidate, &shortage),
            "The node was low on resource: pids. Threshold quantity: 1000, available: 2k. "
        );
    }
}
