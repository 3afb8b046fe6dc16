//! The sites: which gateways stand behind one Cluster, what each of them is, and since when it is away. Pure: it is told, and times are
//! arguments.
//!
//! A member is enrolled, not thrown out, and not withdrawn with the site's Cluster. What it gets of the site's Works is decided next door
//! ([`super::works`]); here is what that is decided from, and what the Cluster says of all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use federation::interpret::{Resources, add_resources, written_resources};
use federation::site::{self, common_enablements, lowest_version};
use proto::Hash;
use serde_json::{Map, Value, json};

/// Label, given at the join, and annotation of a Cluster: the site.
pub(crate) const SITE: &str = "kurator.dev/site";
/// Annotation of a site's Cluster: how long a member may be away before what can move runs elsewhere.
pub(crate) const RESCHEDULE_AFTER: &str = "kurator.dev/reschedule-after";
/// How long what all members say together is held back for those that have not spoken yet: a hub that was restarted would halve it.
pub(crate) const GATHER: u64 = 10_000;
/// The least time between two looks at a site's Cluster, except when its readiness changes.
const APART: u64 = 3_000;

/// What is known of a member that does not come from its Node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) site: Arc<str>,
    /// Told at the join and announced.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Value>,
    pub(crate) connected: bool,
    /// Wall clock, ms, of when it left; 0 when this hub did not see that.
    pub(crate) left: u64,
    /// It is on record as standing behind the site's Cluster.
    pub(crate) registered: bool,
}

/// What a Node says that matters to where things run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) allocatable: Resources,
    pub(crate) ready: bool,
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    place: Place,
    node: Arc<NodeFacts>,
    /// All labels of its node.
    labels: BTreeMap<String, String>,
    /// Away too long.
    lapsed: bool,
    /// It was connected to this hub since the start.
    seen: bool,
    /// What its gateway last said of its API and its room.
    report: Option<(Hash, Arc<Value>)>,
}

/// A site.
#[derive(Debug, Default)]
pub(super) struct Site {
    members: BTreeMap<Arc<str>, Member>,
    /// The Cluster that stands for it, when there is one.
    cluster: Option<Arc<str>>,
    after: Option<u64>,
    unregistered: BTreeSet<Arc<str>>,
    /// Why it has no Cluster.
    refused: Option<String>,
    /// Its Cluster is, or was, this hub's: another hub may have sites in the same control plane.
    ours: bool,
    /// When its Cluster was last looked at, and from when on the members' words are waited for.
    looked: u64,
    waiting: Option<u64>,
}

/// What is to be done at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// This gateway may be away too long.
    Lapse(Arc<str>),
    /// This site's Cluster is to be looked at.
    Site(Arc<str>),
    /// The merged status of this Work is.
    Work(Arc<str>),
}

/// The sites.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    sites: HashMap<Arc<str>, Site>,
    of: HashMap<Arc<str>, Arc<str>>,
    nodes: HashMap<Arc<str>, Arc<NodeFacts>>,
    /// Wall clock, ms, when gateways were last seen that were away when the hub was started.
    last_seen: HashMap<Arc<str>, u64>,
    due: BTreeSet<(u64, Due)>,
    /// How long a member may be away where its site's Cluster says nothing.
    default_after: Option<u64>,
    /// Wall clock, ms.
    started: u64,
    /// Every gateway was placed once.
    complete: bool,
}

/// What changed by placing a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// It is a member now and was not, or the other way round.
    pub(super) membership: bool,
    /// What its site's workloads are divided by.
    pub(super) shares: bool,
}

impl Site {
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.members.keys()
    }

    pub(super) fn cluster(&self) -> Option<&Arc<str>> {
        self.cluster.as_ref()
    }

    /// As the scheduler wants them.
    pub(super) fn members(&self) -> Vec<site::Member<'_>> {
        self.members
            .iter()
            .map(|(name, member)| site::Member {
                name,
                labels: &member.labels,
                taints: &member.place.taints,
                allocatable: &member.node.allocatable,
                lapsed: member.lapsed,
            })
            .collect()
    }

    /// (connected, was connected to this hub at some time) of a member.
    pub(super) fn presence(&self, node: &str) -> (bool, bool) {
        self.members
            .get(node)
            .map_or((false, false), |m| (m.place.connected, m.seen))
    }
}

impl Member {
    fn new(place: Place, node: Arc<NodeFacts>) -> Self {
        let mut member = Self {
            seen: place.connected,
            place,
            node,
            labels: BTreeMap::new(),
            lapsed: false,
            report: None,
        };
        member.put_labels();
        member
    }

    fn put_labels(&mut self) {
        self.labels = self.node.labels.clone();
        self.labels.extend(self.place.labels.clone());
    }
}

impl Sites {
    /// Begins at this time, with this default for [`RESCHEDULE_AFTER`].
    pub(super) fn begin(&mut self, now: u64, default_after: Option<u64>) {
        (self.started, self.default_after) = (now, default_after);
    }

    /// Every gateway was placed: from now on a site without members is one.
    pub(super) fn completed(&mut self) -> Vec<Arc<str>> {
        self.complete = true;
        self.sites.keys().cloned().collect()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn site_of(&self, node: &str) -> Option<&Arc<str>> {
        self.of.get(node)
    }

    pub(super) fn get(&self, site: &str) -> Option<&Site> {
        self.sites.get(site)
    }

    /// A gateway that is away was last seen at this time.
    pub(super) fn last_seen(&mut self, node: &Arc<str>, at: u64) {
        self.last_seen.insert(Arc::clone(node), at);
    }

    /// The Cluster that stands for a site, and what it says of how long members may be away.
    pub(super) fn set_cluster(
        &mut self,
        site: &Arc<str>,
        cluster: Option<&Arc<str>>,
        after: Option<u64>,
        now: u64,
    ) -> Placed {
        let entry = self.sites.entry(Arc::clone(site)).or_default();
        entry.cluster = cluster.cloned();
        if cluster.is_some() {
            entry.refused = None;
        }
        let mut placed = Placed::default();
        if entry.after != after {
            entry.after = after;
            let members: Vec<Arc<str>> = entry.members.keys().cloned().collect();
            for node in members {
                placed.shares |= self.lapse(&node, now);
            }
        }
        self.forget_if_empty(site);
        placed
    }

    fn forget_if_empty(&mut self, site: &str) {
        if self
            .sites
            .get(site)
            .is_some_and(|s| s.members.is_empty() && s.cluster.is_none())
        {
            self.sites.remove(site);
        }
    }

    /// Takes a gateway out of its site.
    pub(super) fn remove(&mut self, node: &str) {
        if let Some(site) = self.of.remove(node) {
            if let Some(entry) = self.sites.get_mut(&site) {
                entry.members.remove(node);
                entry.unregistered.remove(node);
            }
            self.forget_if_empty(&site);
        }
    }

    /// Puts a gateway into its site, or tells what it is now.
    pub(super) fn put(&mut self, node: &Arc<str>, place: Place, now: u64) -> Placed {
        let site = self.sites.entry(Arc::clone(&place.site)).or_default();
        if place.registered {
            site.unregistered.remove(node);
        } else {
            site.unregistered.insert(Arc::clone(node));
        }
        let mut placed = Placed::default();
        if let Some(member) = site.members.get_mut(node) {
            placed.shares = member.place.labels != place.labels || member.place.taints != place.taints;
            member.seen |= place.connected;
            member.place = place;
            if placed.shares {
                member.put_labels();
            }
        } else {
            site.ours = true;
            (placed.membership, placed.shares) = (true, true);
            self.of.insert(Arc::clone(node), Arc::clone(&place.site));
            let facts = self.nodes.get(node).cloned().unwrap_or_default();
            site.members.insert(Arc::clone(node), Member::new(place, facts));
        }
        placed.shares |= self.lapse(node, now);
        placed
    }

    /// Looks whether a member is away too long; whether that is another answer than before. When it may be so later, it is looked again then.
    pub(super) fn lapse(&mut self, node: &Arc<str>, now: u64) -> bool {
        let (started, default, last_seen) = (self.started, self.default_after, self.last_seen.get(node).copied());
        let Some(site) = self.of.get(node).and_then(|site| self.sites.get_mut(site)) else {
            return false;
        };
        let after = site.after.or(default);
        let Some(member) = site.members.get_mut(node) else {
            return false;
        };
        let left = match member.place.left {
            0 if member.seen => started,
            0 => last_seen.unwrap_or(started),
            left => left,
        };
        let at = after
            .map(|after| left.saturating_add(after))
            .filter(|_| !member.place.connected);
        let lapsed = at.is_some_and(|at| at <= now);
        if let Some(at) = at.filter(|at| !lapsed && *at != u64::MAX) {
            self.due.insert((at, Due::Lapse(Arc::clone(node))));
        }
        std::mem::replace(&mut member.lapsed, lapsed) != lapsed
    }

    /// What a Node says now; what it means for the site its gateway is in.
    pub(super) fn node(&mut self, node: &Arc<str>, facts: Option<NodeFacts>) -> Option<(Arc<str>, Placed)> {
        let facts = Arc::new(facts.unwrap_or_default());
        if self.nodes.get(node).is_some_and(|known| *known == facts) {
            return None;
        }
        self.nodes.insert(Arc::clone(node), Arc::clone(&facts));
        let name = self.of.get(node)?;
        let member = self.sites.get_mut(name)?.members.get_mut(node)?;
        let shares = member.node.labels != facts.labels || member.node.allocatable != facts.allocatable;
        member.node = facts;
        member.put_labels();
        let placed = Placed {
            membership: false,
            shares,
        };
        Some((Arc::clone(name), placed))
    }

    /// A Node is gone.
    pub(super) fn forget_node(&mut self, node: &Arc<str>) -> Option<(Arc<str>, Placed)> {
        let told = self.node(node, None);
        self.nodes.remove(node);
        told
    }

    /// What a member says of its API and its room. The site, or why it has no Cluster; `None` when it is in none.
    pub(super) fn report(&mut self, node: &str, report: Option<(Hash, Value)>) -> Option<Result<Arc<str>, String>> {
        let name = self.of.get(node)?;
        let site = self.sites.get_mut(name)?;
        let member = site.members.get_mut(node)?;
        if let Some(why) = site.refused.as_ref().filter(|_| report.is_some()) {
            return Some(Err(why.clone()));
        }
        member.report = report.map(|(hash, report)| (hash, Arc::new(report)));
        Some(Ok(Arc::clone(name)))
    }

    /// The hash of what a member said last.
    pub(super) fn reported(&self, node: &str) -> Option<Hash> {
        let site = self.sites.get(self.of.get(node)?)?;
        Some(site.members.get(node)?.report.as_ref()?.0)
    }

    /// A site's name is taken.
    pub(super) fn refuse(&mut self, site: &str, why: &str) {
        if let Some(site) = self.sites.get_mut(site) {
            site.refused = Some(why.to_owned());
        }
    }

    /// A gateway of this hub is on record as standing behind this site's Cluster.
    pub(super) fn claim(&mut self, site: &str) {
        if let Some(site) = self.sites.get_mut(site) {
            site.ours = true;
        }
    }

    /// Whether gateways of this hub stand behind this site's Cluster.
    pub(super) fn is_ours(&self, site: &str) -> bool {
        self.sites.get(site).is_some_and(|site| site.ours)
    }

    /// Sites that were refused this name, with their members: they may ask again.
    pub(super) fn freed(&mut self, cluster: &str) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
        let refused = self.sites.iter_mut().filter(|(_, site)| site.refused.is_some());
        let named = refused.filter(|(name, _)| federation::names::cluster_name(name) == cluster);
        named
            .map(|(name, site)| {
                site.refused = None;
                (Arc::clone(name), site.members.keys().cloned().collect())
            })
            .collect()
    }

    /// A member is on record now.
    pub(super) fn registered(&mut self, site: &str, node: &str) {
        if let Some(site) = self.sites.get_mut(site) {
            site.unregistered.remove(node);
        }
    }

    /// Whether a site's Cluster is to be looked at now; if not it will be soon.
    pub(super) fn look(&mut self, site: &Arc<str>, urgent: bool, now: u64) -> bool {
        let at = self.sites.get(site).map_or(0, |s| s.looked.saturating_add(APART));
        if urgent || at <= now {
            if let Some(entry) = self.sites.get_mut(site) {
                entry.looked = now;
            }
            return true;
        }
        self.due.insert((at, Due::Site(Arc::clone(site))));
        false
    }

    /// Later.
    pub(super) fn later(&mut self, at: u64, what: Due) {
        self.due.insert((at, what));
    }

    /// What is due.
    pub(super) fn due(&mut self, now: u64) -> Vec<Due> {
        let later = self.due.split_off(&(now.saturating_add(1), Due::Lapse(Arc::from(""))));
        let due = std::mem::replace(&mut self.due, later);
        due.into_iter().map(|(_, what)| what).collect()
    }

    /// What the Cluster of a site is made from; `None` when nobody knows the site.
    pub(super) fn view(&mut self, name: &str, settled: bool, now: u64) -> Option<SiteView> {
        let site = self.sites.get_mut(name)?;
        let silent = |m: &Member| m.report.is_none() && (m.place.connected || (!settled && !m.seen));
        let gathering = site.members.values().any(silent);
        let mut again = None;
        if gathering {
            let until = site.waiting.get_or_insert(now).saturating_add(GATHER);
            again = (until > now).then_some(until);
        } else {
            site.waiting = None;
        }
        let members: Vec<&Member> = site.members.values().collect();
        let view = SiteView {
            cluster: site.cluster.clone(),
            members: site.members.keys().cloned().collect(),
            unregistered: site.unregistered.iter().cloned().collect(),
            labels: in_common(members.iter().map(|m| &m.place.labels)),
            zones: members
                .iter()
                .filter_map(|m| zone(&m.place.labels))
                .map(str::to_owned)
                .collect::<BTreeSet<_>>(),
            taints: taints_in_common(&members),
            connected: members.iter().any(|m| m.place.connected),
            left: members.iter().map(|m| m.place.left).max().unwrap_or(0),
            ready: members.iter().filter(|m| m.place.connected && m.node.ready).count(),
            reports: members
                .iter()
                .map(|m| m.report.as_ref().map(|(_, report)| Arc::clone(report)))
                .collect(),
            silent: members
                .iter()
                .filter(|m| m.report.is_none())
                .map(|m| Arc::clone(&m.node))
                .collect(),
            gathering: again.is_some(),
            ours: site.ours,
        };
        if let Some(at) = again {
            self.due.insert((at, Due::Site(Arc::from(name))));
        }
        Some(view)
    }
}

/// All that the Cluster of a site is made from.
#[derive(Debug)]
pub(crate) struct SiteView {
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) members: Vec<Arc<str>>,
    pub(crate) unregistered: Vec<Arc<str>>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) zones: BTreeSet<String>,
    pub(crate) taints: Vec<Value>,
    pub(crate) connected: bool,
    /// Wall clock, ms, of when the last one left, as far as this hub saw.
    pub(crate) left: u64,
    ready: usize,
    reports: Vec<Option<Arc<Value>>>,
    silent: Vec<Arc<NodeFacts>>,
    /// Some have not said yet what they are.
    gathering: bool,
    /// Its Cluster may be removed.
    pub(crate) ours: bool,
}

impl SiteView {
    /// What the site's Cluster says of its members, in the form in which a gateway reports; `before` is what it says now.
    pub(crate) fn report(&self, before: &Value) -> Map<String, Value> {
        let mut report = Map::new();
        let known: Vec<&Value> = self.reports.iter().flatten().map(|report| &**report).collect();
        let had = before.get("kubernetesVersion").is_some();
        if known.is_empty() || (self.gathering && had) {
            // What was said of them by an earlier hub stands until they have spoken.
            for field in ["kubernetesVersion", "apiEnablements", "resourceSummary"] {
                report.extend(before.get(field).map(|value| (field.to_owned(), value.clone())));
            }
        } else {
            let versions = known
                .iter()
                .filter_map(|report| report.get("kubernetesVersion")?.as_str());
            report.extend(lowest_version(versions).map(|version| ("kubernetesVersion".to_owned(), version.into())));
            let enablements = known
                .iter()
                .map(|report| report.get("apiEnablements").unwrap_or(&Value::Null));
            report.insert("apiEnablements".to_owned(), common_enablements(enablements));
            let mut summary = Map::new();
            for part in ["allocatable", "allocating", "allocated"] {
                let mut sums = Resources::new();
                let lists = known
                    .iter()
                    .filter_map(|report| report.get("resourceSummary")?.get(part)?.as_object());
                lists.for_each(|list| add_resources(&mut sums, list));
                if part == "allocatable" {
                    for (name, count) in self.silent.iter().flat_map(|node| &node.allocatable) {
                        let sum = sums.entry(name.clone()).or_default();
                        *sum = sum.saturating_add(*count);
                    }
                }
                if !sums.is_empty() {
                    summary.insert(part.to_owned(), written_resources(&sums).into());
                }
            }
            report.insert("resourceSummary".to_owned(), summary.into());
        }
        let nodes = json!({"totalNum": self.members.len(), "readyNum": self.ready});
        report.insert("nodeSummary".to_owned(), nodes);
        report
    }
}

fn in_common<'a>(mut all: impl Iterator<Item = &'a BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut common = all.next().cloned().unwrap_or_default();
    for labels in all {
        common.retain(|key, value| labels.get(key) == Some(value));
    }
    common
}

fn taints_in_common(members: &[&Member]) -> Vec<Value> {
    let mut common = members.first().map(|m| m.place.taints.clone()).unwrap_or_default();
    for member in members {
        common.retain(|taint| member.place.taints.contains(taint));
    }
    common
}

fn zone(labels: &BTreeMap<String, String>) -> Option<&str> {
    ["topology.kubernetes.io/zone", "zone"]
        .iter()
        .find_map(|name| labels.get(*name).map(String::as_str))
}

impl NodeFacts {
    /// Reads a Node.
    pub(crate) fn of(node: &Value) -> Self {
        let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let mut allocatable = Resources::new();
        if let Some(list) = node.pointer("/status/allocatable").and_then(Value::as_object) {
            add_resources(&mut allocatable, list);
        }
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        Self {
            labels: labels.into_iter().flatten().filter_map(text).collect(),
            allocatable,
            ready: conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    fn place(labels: &[(&str, &str)], connected: bool, left: u64) -> Place {
        Place {
            site: s("hall"),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            taints: vec![json!({"key": "line", "effect": "NoSchedule"})],
            connected,
            left,
            registered: false,
        }
    }

    fn report(cpu: &str, version: &str) -> Value {
        json!({"kubernetesVersion": version, "apiEnablements": [{"groupVersion": "v1", "resources": [{"name": "pods", "kind": "Pod"}]}],
            "resourceSummary": {"allocatable": {"cpu": cpu}, "allocated": {"cpu": "250m"}}})
    }

    #[test]
    fn a_site_is_what_its_members_have_in_common_and_in_sum() {
        let mut sites = Sites::default();
        sites.put(
            &s("a"),
            place(&[("region", "east"), ("zone", "1"), ("x", "y")], true, 0),
            0,
        );
        sites.put(&s("b"), place(&[("region", "east"), ("zone", "2")], true, 0), 0);
        assert_eq!(
            sites.report("a", Some((1, report("1500m", "v1.33.1")))),
            Some(Ok(s("hall")))
        );
        let view = sites.view("hall", true, 1000).unwrap();
        assert!(view.gathering);
        let before = json!({"kubernetesVersion": "v0"});
        assert_eq!(view.report(&before)["kubernetesVersion"], "v0");
        assert_eq!(
            view.report(&Value::Null)["kubernetesVersion"],
            "v1.33.1",
            "something is better than nothing"
        );
        assert_eq!(sites.due(1000 + GATHER), [Due::Site(s("hall"))]);
        sites.report("b", Some((2, report("2", "v1.9.0"))));
        let view = sites.view("hall", true, 1000).unwrap();
        assert_eq!(view.labels, BTreeMap::from([("region".to_owned(), "east".to_owned())]));
        assert_eq!(
            (view.zones.len(), view.taints.len(), view.unregistered.len()),
            (2, 1, 2)
        );
        let said = view.report(&before);
        assert_eq!(said["kubernetesVersion"], "v1.9.0");
        assert_eq!(
            said["resourceSummary"],
            json!({"allocatable": {"cpu": "3500m"}, "allocated": {"cpu": "500m"}})
        );
        assert_eq!(said["nodeSummary"], json!({"totalNum": 2, "readyNum": 0}));
        sites.remove("a");
        sites.remove("b");
        assert!(sites.get("hall").is_none());
    }

    #[test]
    fn a_member_lapses_when_it_is_away_too_long_and_comes_back() {
        let mut sites = Sites::default();
        sites.begin(50_000, Some(10_000));
        sites.put(&s("a"), place(&[], true, 0), 50_000);
        let lapsed = |sites: &Sites| sites.get("hall").unwrap().members().iter().any(|m| m.lapsed);
        assert!(!sites.put(&s("a"), place(&[], false, 60_000), 60_000).shares);
        assert!(sites.due(69_999).is_empty());
        assert_eq!(sites.due(70_000), [Due::Lapse(s("a"))]);
        assert!(sites.lapse(&s("a"), 70_000) && lapsed(&sites));
        assert!(sites.put(&s("a"), place(&[], true, 0), 71_000).shares && !lapsed(&sites));
        sites.put(&s("a"), place(&[], false, 72_000), 72_000);
        let cluster = s("hall");
        assert!(sites.set_cluster(&s("hall"), Some(&cluster), Some(1000), 74_000).shares && lapsed(&sites));
        assert!(
            sites
                .set_cluster(&s("hall"), Some(&cluster), Some(u64::MAX), 74_000)
                .shares
                && !lapsed(&sites)
        );
        // One that was away before the hub was started, and one that nobody knows that of.
        sites.last_seen(&s("b"), 20_000);
        sites.set_cluster(&s("hall"), Some(&cluster), None, 74_000);
        sites.put(&s("b"), place(&[], false, 0), 50_001);
        sites.put(&s("c"), place(&[], false, 0), 50_001);
        let away: Vec<bool> = sites.get("hall").unwrap().members().iter().map(|m| m.lapsed).collect();
        assert_eq!(away[1..], [true, false]);
    }
}
