//! Works of sites: what each gateway of a site gets of them, what each said of what it got, and when all have.
//!
//! | state | who gets it | when its status is written |
//! |---|---|---|
//! | every object for every member | every member, the same bytes | all connected members said something of theirs, or had ten seconds |
//! | some for some | each member its own list; members with the same share the same bytes | the same of those that got any |
//! | deleted above | every member, whole: any may hold what it got at another time | never; it goes when all members said that nothing is left |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use federation::site::{Holder, Piece, Share, Spread, merge, put_share, spread};
use proto::Hash;
use serde_json::Value;

use super::{Effects, Work, WorkFacts, Works, left};
use crate::upstream::body::{Body, CLUSTERS, ObservedKey, key, observed_key, reported_object};
use crate::upstream::desired::Delta;
use crate::upstream::sites::{Due, GATHER, Place, Placed, Site, Sites};

/// What a member said of a Work.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    hash: Hash,
    bytes: Bytes,
    deleted: bool,
}

/// What a member says, read; nothing where it says it no more.
#[derive(Debug)]
pub(crate) enum Spoken {
    /// Of its API and its room.
    Cluster(Option<(Hash, Value)>),
    /// Of a Work.
    Work(Option<Said>),
}

impl Spoken {
    /// Of its API and its room; the error is for people.
    pub(crate) fn of_cluster(hash: Hash, bytes: &Bytes) -> Result<Self, String> {
        Ok(Self::Cluster(Some((hash, object(bytes)?))))
    }

    /// Of a Work; the error is for people.
    pub(crate) fn of_work(hash: Hash, bytes: &Bytes) -> Result<Self, String> {
        Ok(Self::Work(Some(Said {
            hash,
            deleted: object(bytes)?.get("deleted") == Some(&Value::Bool(true)),
            // It would keep all that came with it.
            bytes: Bytes::copy_from_slice(bytes),
        })))
    }
}

fn object(bytes: &Bytes) -> Result<Value, String> {
    reported_object(bytes).map(Value::Object)
}

/// What the members of a site get of a Work, and what they said of it.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pieces: Vec<Piece>,
    /// Not every member gets everything.
    chosen: bool,
    spread: Spread,
    bodies: HashMap<Arc<str>, Body>,
    reports: BTreeMap<Arc<str>, Said>,
    /// From when on those are waited for that said nothing yet.
    waiting: Option<u64>,
    /// Hash of what was written last, and of what the API has made of it.
    written: Option<(Hash, Option<Hash>)>,
    /// Hash of what those said together, when first asked, who came back to this hub.
    first: Option<Hash>,
}

/// What is to be done about a Work of a site.
#[derive(Debug)]
pub(crate) enum Look {
    Nothing,
    /// Nothing of it is left anywhere.
    Release,
    /// This is what its members said.
    Merge(Box<Gathered>),
}

/// What the members of a site said of a Work.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) facts: WorkFacts,
    body: Bytes,
    spread: Spread,
    holders: Vec<(Arc<str>, Option<Bytes>, bool)>,
    /// A member that is away spoke to an earlier hub, if at all.
    unheard: bool,
    reported: Option<Hash>,
    written: Option<(Hash, Option<Hash>)>,
}

/// What became of a report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is not of a site.
    NotOfSite,
    /// It is held; what is to be looked at.
    Held {
        work: Option<Arc<str>>,
        site: Option<Arc<str>>,
    },
    /// It is refused: the reason, and whether it may be another time.
    Refused(String, bool),
}

impl Gathered {
    /// All reports as one.
    pub(crate) fn merged(&self) -> Option<Value> {
        let reports: Vec<Option<Value>> = self
            .holders
            .iter()
            .map(|(_, bytes, _)| bytes.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok()))
            .collect();
        let holders: Vec<Holder<'_>> = self
            .holders
            .iter()
            .zip(&reports)
            .map(|((name, _, had_applied), report)| Holder {
                name,
                report: report.as_ref(),
                had_applied: *had_applied,
            })
            .collect();
        merge(&manifests(&self.body), &self.spread, &holders)
    }

    /// Whether what the API says may have more in it than this: the word of one that is away, given to an earlier hub.
    pub(crate) fn may_lack(&self, report: &Value) -> bool {
        let applies = report.pointer("/applied/status").is_some_and(|status| status == "True");
        self.unheard && self.reported.is_some() && self.facts.applied.as_ref().is_some_and(|a| a.holds == applies)
    }

    /// Whether the API says this already.
    pub(crate) fn is_written(&self, hash: Hash) -> bool {
        self.reported == Some(hash) || self.written == Some((hash, self.reported))
    }
}

fn manifests(work: &Bytes) -> Vec<Value> {
    let mut work: Value = serde_json::from_slice(work).unwrap_or_default();
    match work.pointer_mut("/spec/workload/manifests").map(Value::take) {
        Some(Value::Array(manifests)) => manifests,
        _ => Vec::new(),
    }
}

impl Work {
    /// The whole of it is for every member.
    fn is_whole(&self) -> bool {
        self.facts.deleting || self.parts.as_ref().is_none_or(|parts| !parts.chosen)
    }

    fn part<'w>(&'w self, node: &str) -> Option<&'w Body> {
        if !self.is_sent() {
            return None;
        }
        match &self.parts {
            Some(parts) if !self.is_whole() => parts.bodies.get(node),
            Some(_) => Some(&self.body),
            None => None,
        }
    }

    fn held(&self, site: &Site) -> BTreeMap<Arc<str>, Body> {
        let part = |node: &Arc<str>| Some((Arc::clone(node), self.part(node)?.clone()));
        site.names().filter_map(part).collect()
    }

    /// Divides it among the members as they are.
    fn divide(&mut self, site: Option<&Site>, anew: bool) {
        let Some(parts) = self.parts.as_mut().filter(|parts| parts.chosen) else {
            return;
        };
        let members = site.map(Site::members).unwrap_or_default();
        let spread = spread(&self.key, &parts.pieces, &members);
        if spread == parts.spread && !anew {
            return;
        }
        let whole: Value = serde_json::from_slice(&self.body.bytes).unwrap_or_default();
        let mut made: HashMap<&[Option<Share>], Body> = HashMap::new();
        let mut bodies = HashMap::new();
        for (node, shares) in &spread.members {
            let body = made.entry(shares).or_insert_with(|| {
                if shares.iter().all(|share| *share == Some(Share::All)) {
                    self.body.clone()
                } else {
                    part_of(&self.key, whole.clone(), shares)
                }
            });
            bodies.insert(Arc::from(node.as_str()), body.clone());
        }
        (parts.bodies, parts.spread) = (bodies, spread);
    }
}

/// A Work with only what a member gets of it.
fn part_of(key: &str, mut work: Value, shares: &[Option<Share>]) -> Body {
    if let Some(Value::Array(manifests)) = work.pointer_mut("/spec/workload/manifests") {
        let mine = std::mem::take(manifests).into_iter().zip(shares);
        *manifests = mine
            .filter_map(|(mut manifest, share)| {
                put_share(&mut manifest, (*share)?);
                Some(manifest)
            })
            .collect();
    }
    Body::new(key, serde_json::to_vec(&work).expect("a JSON value serialises"))
}

impl Effects {
    /// The differences between what members of a site held and hold.
    fn between(&mut self, key: &Arc<str>, was: &BTreeMap<Arc<str>, Body>, is: &BTreeMap<Arc<str>, Body>) {
        for (node, body) in is {
            let before = was.get(node);
            if before != Some(body) {
                self.deltas.push(Delta {
                    node: Arc::clone(node),
                    key: Arc::clone(key),
                    body: Some(body.clone()),
                    joined: before.is_none(),
                });
            }
        }
        let gone = was.keys().filter(|node| !is.contains_key(*node));
        self.deltas.extend(gone.map(|node| left(node, key)));
    }

    /// What members said of a Work is held no more.
    fn drop_reports(&mut self, work: &mut Work) {
        if let Some(parts) = &mut work.parts {
            for (node, _) in std::mem::take(&mut parts.reports) {
                self.lost.push((node, Arc::clone(&work.key)));
            }
        }
    }

    fn look_at(&mut self, work: &Work) {
        if work.needs_attention() {
            self.attend.push(Arc::clone(&work.key));
        }
        self.look.push(Arc::clone(&work.key));
    }
}

impl Works {
    /// A Work of a site appeared, changed or is gone. It is returned as it is now.
    pub(super) fn work_of_site(
        &self,
        site: &Arc<str>,
        mut was: Option<Work>,
        now: Option<Work>,
        effects: &mut Effects,
    ) -> Option<Work> {
        let nobody = Site::default();
        let site = self.sites.get(site).unwrap_or(&nobody);
        let held = was.as_ref().map(|was| was.held(site)).unwrap_or_default();
        let Some(mut work) = now else {
            if let Some(was) = &mut was {
                effects.between(&was.key, &held, &BTreeMap::new());
                effects.drop_reports(was);
                effects.marks.push((Arc::clone(&was.key), None, 0));
            }
            return None;
        };
        // One that was deleted and made again between two looks: what was said of the former counts for nothing.
        if let Some(was) = was.as_mut().filter(|was| was.facts.deleting && !work.facts.deleting) {
            effects.drop_reports(was);
        }
        let same = was
            .as_ref()
            .is_some_and(|was| was.body == work.body && was.facts == work.facts);
        match was.and_then(|was| was.parts.map(|parts| (parts, was.body == work.body))) {
            Some((parts, true)) => work.parts = Some(parts),
            before => {
                let pieces: Vec<Piece> = manifests(&work.body.bytes).iter().map(Piece::of).collect();
                let before = before.map(|(parts, _)| *parts).unwrap_or_default();
                work.parts = Some(Box::new(Parts {
                    chosen: pieces.iter().any(Piece::is_chosen),
                    pieces,
                    reports: before.reports,
                    waiting: before.waiting,
                    written: before.written,
                    first: before.first,
                    ..Parts::default()
                }));
                work.divide(Some(site), true);
            }
        }
        if !same {
            effects.between(&work.key, &held, &work.held(site));
        }
        effects.look_at(&work);
        Some(work)
    }

    /// A site has a Cluster now.
    pub(super) fn site_has(&mut self, namespace: &str, site: &Arc<str>, effects: &mut Effects) {
        let names: Vec<Arc<str>> = self
            .works
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect();
        for name in names {
            let Some(mut work) = self.works.get_mut(namespace).and_then(|works| works.remove(&name)) else {
                continue;
            };
            work.parts = None;
            effects.marks.push((Arc::clone(&work.key), None, 0));
            if let Some(work) = self.work_of_site(site, None, Some(work), effects)
                && let Some(works) = self.works.get_mut(namespace)
            {
                works.insert(name, work);
            }
        }
        effects.sites.push(Arc::clone(site));
    }

    /// It has it no more.
    pub(super) fn site_is_without(&mut self, namespace: &str, site: &Arc<str>, effects: &mut Effects) {
        let Some(of) = self.sites.get(site) else { return };
        for work in self.works.get_mut(namespace).into_iter().flat_map(BTreeMap::values_mut) {
            effects.between(&work.key, &work.held(of), &BTreeMap::new());
            effects.drop_reports(work);
            work.parts = None;
        }
        effects.sites.push(Arc::clone(site));
    }

    /// The Works of a site, to be changed while the site is looked at.
    fn of_site<'s>(
        works: &'s mut HashMap<Arc<str>, BTreeMap<Arc<str>, Work>>,
        sites: &'s Sites,
        site: &str,
    ) -> Option<(&'s Site, impl Iterator<Item = &'s mut Work> + use<'s>)> {
        let site = sites.get(site)?;
        let namespace = federation::names::execution_namespace(site.cluster()?);
        Some((
            site,
            works.get_mut(&*namespace).into_iter().flat_map(BTreeMap::values_mut),
        ))
    }

    /// What the site's workloads are divided by is not what it was.
    pub(super) fn divided_anew(&mut self, site: &Arc<str>, placed: Placed, effects: &mut Effects) {
        if !placed.shares || !self.sites.is_complete() {
            return;
        }
        let Some((of, works)) = Self::of_site(&mut self.works, &self.sites, site) else {
            return;
        };
        for work in works.filter(|work| !work.is_whole()) {
            let before = work.held(of);
            work.divide(Some(of), false);
            let after = work.held(of);
            if before != after {
                effects.between(&work.key, &before, &after);
                effects.look.push(Arc::clone(&work.key));
            }
        }
    }

    /// A gateway is this now; `None`: in no site.
    pub(crate) fn place(&mut self, node: &Arc<str>, place: Option<Place>, now: u64) -> Effects {
        let mut effects = Effects::default();
        let before = self.sites.site_of(node).cloned();
        let after = place.as_ref().map(|place| Arc::clone(&place.site));
        if let Some(site) = before.as_ref().filter(|_| before != after) {
            self.leave(node, site, &mut effects);
        }
        if let Some(place) = place {
            let site = Arc::clone(&place.site);
            let placed = self.sites.put(node, place, now);
            if placed.membership {
                self.enter(node, &site, &mut effects);
            }
            self.divided_anew(&site, placed, &mut effects);
            if self.sites.is_complete() {
                effects.sites.push(site);
            }
        }
        if before != after {
            // Where what it says of itself is held is another place now.
            effects
                .lost
                .push((Arc::clone(node), key(CLUSTERS, "clusters", "", node)));
        }
        effects
    }

    fn enter(&mut self, node: &Arc<str>, site: &Arc<str>, effects: &mut Effects) {
        if !self.sites.is_complete() {
            return;
        }
        let Some((_, works)) = Self::of_site(&mut self.works, &self.sites, site) else {
            return;
        };
        for work in works.filter(|work| work.is_whole()) {
            if let Some(body) = work.part(node) {
                effects.deltas.push(Delta {
                    node: Arc::clone(node),
                    key: Arc::clone(&work.key),
                    body: Some(body.clone()),
                    joined: true,
                });
            }
            effects.look.push(Arc::clone(&work.key));
        }
    }

    fn leave(&mut self, node: &Arc<str>, site: &Arc<str>, effects: &mut Effects) {
        if let Some((_, works)) = Self::of_site(&mut self.works, &self.sites, site) {
            for work in works {
                if work.part(node).is_some() {
                    effects.deltas.push(left(node, &work.key));
                }
                if let Some(parts) = &mut work.parts {
                    parts.bodies.remove(node);
                    parts.spread.members.remove(&**node);
                    if parts.reports.remove(node).is_some() {
                        effects.lost.push((Arc::clone(node), Arc::clone(&work.key)));
                    }
                }
                effects.look.push(Arc::clone(&work.key));
            }
        }
        self.sites.remove(node);
        let placed = Placed {
            membership: true,
            shares: true,
        };
        self.divided_anew(site, placed, effects);
        effects.sites.push(Arc::clone(site));
    }

    /// A member may be away too long by now.
    pub(crate) fn lapse(&mut self, node: &Arc<str>, now: u64) -> Effects {
        let mut effects = Effects::default();
        let shares = self.sites.lapse(node, now);
        if let Some(site) = self.sites.site_of(node).cloned() {
            let placed = Placed {
                membership: false,
                shares,
            };
            self.divided_anew(&site, placed, &mut effects);
        }
        effects
    }

    /// A Node says something else: where it is a member's, that may be divided by.
    pub(crate) fn node_told(&mut self, told: Option<(Arc<str>, Placed)>) -> Effects {
        let mut effects = Effects::default();
        if let Some((site, placed)) = told {
            self.divided_anew(&site, placed, &mut effects);
            effects.sites.push(site);
        }
        effects
    }

    /// Every gateway was placed: what was not looked at until then is.
    pub(crate) fn placed(&mut self) -> Effects {
        let mut effects = Effects::default();
        let sites = self.sites.completed();
        let placed = Placed {
            membership: true,
            shares: true,
        };
        for site in &sites {
            self.divided_anew(site, placed, &mut effects);
            if let Some((_, works)) = Self::of_site(&mut self.works, &self.sites, site) {
                effects.look.extend(works.map(|work| Arc::clone(&work.key)));
            }
        }
        effects.sites = sites;
        effects
    }

    fn site_works(&self, node: &str) -> impl Iterator<Item = &Work> {
        let site = self.sites.site_of(node).and_then(|site| self.sites.get(site));
        let namespace = site
            .and_then(Site::cluster)
            .map(|c| federation::names::execution_namespace(c));
        let works = namespace.and_then(|namespace| self.works.get(&*namespace));
        works.into_iter().flat_map(BTreeMap::values)
    }

    /// What of its site's Works is for a gateway.
    pub(super) fn parts(&self, node: &str) -> Vec<(Arc<str>, Body)> {
        let part = |work: &Work| Some((Arc::clone(&work.key), work.part(node)?.clone()));
        self.site_works(node).filter_map(part).collect()
    }

    /// What the hub holds of what a member said: keys and hashes.
    pub(crate) fn held_of(&self, node: &str) -> Vec<(Arc<str>, Hash)> {
        let said = |work: &Work| Some((Arc::clone(&work.key), work.parts.as_ref()?.reports.get(node)?.hash));
        let cluster = self
            .sites
            .reported(node)
            .map(|hash| (key(CLUSTERS, "clusters", "", node), hash));
        self.site_works(node).filter_map(said).chain(cluster).collect()
    }

    /// A member says something.
    pub(crate) fn said(&mut self, node: &Arc<str>, key: &str, spoken: Spoken) -> Taken {
        match (observed_key(key), spoken) {
            (Some(ObservedKey::Cluster { node: of }), Spoken::Cluster(report)) if of == &**node => {
                match self.sites.report(node, report) {
                    None => Taken::NotOfSite,
                    Some(Err(why)) => Taken::Refused(why, false),
                    Some(Ok(site)) => Taken::Held {
                        work: None,
                        site: Some(site),
                    },
                }
            }
            (Some(ObservedKey::Work { namespace, name }), Spoken::Work(said)) => {
                let site = self.sites.site_of(node).and_then(|site| self.sites.get(site));
                let cluster = site.and_then(Site::cluster).map(|cluster| &**cluster);
                if cluster.is_none() || federation::names::cluster_of(namespace) != cluster {
                    return Taken::NotOfSite;
                }
                let work = self.works.get_mut(namespace).and_then(|works| works.get_mut(name));
                let Some(work) = work else {
                    return match said {
                        None => Taken::Held { work: None, site: None },
                        Some(_) => Taken::Refused("there is no such Work".to_owned(), true),
                    };
                };
                let Some(parts) = &mut work.parts else {
                    return Taken::NotOfSite;
                };
                match said {
                    Some(said) => drop(parts.reports.insert(Arc::clone(node), said)),
                    None => drop(parts.reports.remove(node)),
                }
                Taken::Held {
                    work: Some(Arc::clone(&work.key)),
                    site: None,
                }
            }
            _ => Taken::NotOfSite,
        }
    }

    /// A Cluster of this name is gone, or stands for nothing here: a site that waits for the name may have it.
    pub(super) fn name_is_free(&mut self, cluster: &str, effects: &mut Effects) {
        for (site, members) in self.sites.freed(cluster) {
            let lost = members.into_iter().map(|node| {
                let key = key(CLUSTERS, "clusters", "", &node);
                (node, key)
            });
            effects.lost.extend(lost);
            effects.sites.push(site);
        }
    }

    /// What is to be done about a Work of a site. When it is not time yet, it is looked at again then.
    pub(crate) fn look(&mut self, namespace: &str, name: &str, settled: bool, now: u64) -> Look {
        let Some(super::Stands::Site(site)) = self.stands(namespace).cloned() else {
            return Look::Nothing;
        };
        let nobody = Site::default();
        let Some(work) = self.works.get_mut(namespace).and_then(|works| works.get_mut(name)) else {
            return Look::Nothing;
        };
        let site = match self.sites.get(&site) {
            // Who is a member is not known yet.
            _ if !self.sites.is_complete() => return Look::Nothing,
            Some(site) => site,
            None => &nobody,
        };
        if !work.is_sent() {
            return Look::Nothing;
        }
        let whole = work.is_whole();
        let Some(parts) = &mut work.parts else {
            return Look::Nothing;
        };
        if work.facts.deleting {
            let gone = |node: &Arc<str>| parts.reports.get(node).is_some_and(|said| said.deleted);
            return if site.names().all(gone) {
                Look::Release
            } else {
                Look::Nothing
            };
        }
        let spread = if whole {
            let all = vec![Some(Share::All); parts.pieces.len()];
            Spread {
                members: site.names().map(|node| (node.to_string(), all.clone())).collect(),
                ..Spread::default()
            }
        } else {
            parts.spread.clone()
        };
        let (mut waits, mut unheard) = (false, false);
        let mut holders = Vec::with_capacity(spread.members.len());
        for node in site.names().filter(|node| spread.members.contains_key(&***node)) {
            let said = parts.reports.get(node).map(|said| said.bytes.clone());
            let (connected, seen) = site.presence(node);
            waits |= said.is_none() && (connected || (!settled && !seen));
            unheard |= said.is_none() && !seen;
            let had_applied = !seen && work.facts.applied.as_ref().is_some_and(|applied| applied.holds);
            holders.push((Arc::clone(node), said, had_applied));
        }
        if parts.reports.is_empty() && spread.unplaced.is_empty() {
            return Look::Nothing;
        }
        if waits {
            let until = parts.waiting.get_or_insert(now).saturating_add(GATHER);
            if until > now {
                self.sites.later(until, Due::Work(Arc::clone(&work.key)));
                return Look::Nothing;
            }
        } else {
            parts.waiting = None;
        }
        Look::Merge(Box::new(Gathered {
            facts: work.facts.clone(),
            body: work.body.bytes.clone(),
            spread,
            holders,
            unheard,
            reported: work.reported,
            written: parts.written,
        }))
    }

    /// Whether this is what was said when it was first asked: nothing new then, whatever an earlier hub knew beside it.
    pub(crate) fn is_first(&mut self, namespace: &str, name: &str, hash: Hash) -> bool {
        let work = self.works.get_mut(namespace).and_then(|works| works.get_mut(name));
        let parts = work.and_then(|work| work.parts.as_mut());
        parts.is_some_and(|parts| parts.written.is_none() && *parts.first.get_or_insert(hash) == hash)
    }

    /// The merged status of a Work was written, and this is what the API has made of it.
    pub(crate) fn wrote(&mut self, namespace: &str, name: &str, hash: Hash, reported: Option<Hash>, revision: u64) {
        let work = self.works.get_mut(namespace).and_then(|works| works.get_mut(name));
        if let Some(work) = work
            && work.revision <= revision
            && let Some(parts) = &mut work.parts
        {
            parts.written = Some((hash, reported));
            (work.reported, work.revision) = (reported, revision);
        }
    }
}

#[cfg(test)]
mod tests;
