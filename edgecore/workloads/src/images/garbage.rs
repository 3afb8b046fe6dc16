//! Which images go when the disk fills: those that nobody used for longest, never one that a pod of this gateway names; one that only a template
//! names goes last, and only when the machine runs short.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cri::CriError;
use cri::v1::{ContainerFilter, Image, ImageSpec, RemoveImageRequest, StatusRequest};
use serde_json::Value;
use tokio::time::Instant;

use super::Images;
use super::reference::spoken;
use crate::cluster::{CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, JOBS, Kind, PODS, REPLICA_SETS, STATEFUL_SETS};
use crate::pod::Pod;

/// An image that only just came may be for a container that is about to be made.
const MIN_AGE: Duration = Duration::from_secs(120);
/// What may make pods again whose images cannot be had again while the line is cut.
const TEMPLATES: [Kind; 6] = [DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS, JOBS, CRON_JOBS];

/// When an image was seen and used. `None`: before this process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) first: Option<Instant>,
    pub(super) used: Option<Instant>,
}

/// What is known of images, by id.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) images: BTreeMap<String, Seen>,
    /// Whether they were looked at before: those that are there at first came at any time.
    pub(super) looked: bool,
}

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    /// Bytes, as the runtime counts them.
    pub(crate) bytes: u64,
    pub(crate) images: u32,
}

impl Images {
    /// Looks at what is used, and removes unused images, longest unused first, until so many bytes are free. With 0 it only looks, which should
    /// be done every few minutes so that it is known when an image was used last. `spare`: what templates name stays.
    ///
    /// # Errors
    /// When the runtime cannot be asked. An image that cannot be removed is passed over.
    pub(crate) async fn collect_garbage(&self, target: u64, spare: bool) -> Result<Freed, CriError> {
        let now = Instant::now();
        let all = self.runtime.list_images().await?;
        let mut used = BTreeSet::new();
        for container in self.runtime.list_containers(ContainerFilter::default()).await? {
            used.extend([container.image_id, container.image_ref]);
            used.extend(container.image.map(|spec| spec.image));
        }
        let wanted = self.wanted();
        used.extend(wanted.by_pods);
        used.extend(self.sandbox_image().await.iter().flat_map(|name| names(name)));

        let is = |image: &Image, names: &BTreeSet<String>| names_of(image).any(|n| names.contains(n));
        let order = {
            let mut record = self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let first = record.looked.then_some(now);
            record.looked = true;
            let known: BTreeSet<&str> = all.iter().map(|i| i.id.as_str()).collect();
            record.images.retain(|id, _| known.contains(id.as_str()));
            let mut order = Vec::new();
            for image in &all {
                let seen = record
                    .images
                    .entry(image.id.clone())
                    .or_insert(Seen { first, used: None });
                if is(image, &used) {
                    seen.used = Some(now);
                    continue;
                }
                let young = seen.first.is_some_and(|first| now < first + MIN_AGE);
                let just_used = seen.used.is_some_and(|used| now < used + MIN_AGE);
                if !image.pinned && !young && !just_used {
                    let needed = is(image, &wanted.by_templates);
                    if needed && spare {
                        continue;
                    }
                    order.push((needed, seen.used, seen.first, image.id.clone(), image.size));
                }
            }
            order
        };
        self.remove(order, target).await
    }

    async fn remove(&self, mut order: Vec<Candidate>, target: u64) -> Result<Freed, CriError> {
        order.sort();
        let mut freed = Freed::default();
        for (_, _, _, id, size) in order {
            if freed.bytes >= target {
                break;
            }
            let spec = ImageSpec {
                image: id.clone(),
                ..ImageSpec::default()
            };
            match self
                .runtime
                .remove_image(RemoveImageRequest { image: Some(spec) })
                .await
            {
                Ok(_) => {
                    tracing::info!(
                        image = id,
                        bytes = size,
                        "An unused image was removed to free the disk."
                    );
                    freed.bytes += size;
                    freed.images += 1;
                }
                Err(error) => tracing::warn!(image = id, %error, "An unused image cannot be removed."),
            }
        }
        Ok(freed)
    }

    /// The image of sandboxes, where the runtime says; newer ones mark it as pinned.
    async fn sandbox_image(&self) -> Option<String> {
        let status = self.runtime.status(StatusRequest { verbose: true }).await.ok()?;
        let config: Value = serde_json::from_str(status.info.get("config")?).ok()?;
        Some(config["sandboxImage"].as_str()?.to_owned())
    }

    /// The images that objects of this gateway name, in full.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for pod in self.cluster.list(PODS, None).unwrap_or_default() {
            if let Ok(pod) = Pod::read(pod)
                && !pod.is_finished()
            {
                wanted
                    .by_pods
                    .extend(pod.all_containers().flat_map(|c| names(&c.image)));
            }
        }
        for kind in TEMPLATES {
            for object in self.cluster.list(kind, None).unwrap_or_default() {
                let spec = &object["spec"];
                let spec = if kind == CRON_JOBS {
                    &spec["jobTemplate"]["spec"]
                } else {
                    spec
                };
                let template = &spec["template"]["spec"];
                for list in ["containers", "initContainers"] {
                    let images = template[list].as_array().into_iter().flatten();
                    let images = images.filter_map(|c| c["image"].as_str());
                    wanted.by_templates.extend(images.flat_map(names));
                }
            }
        }
        wanted
    }
}

/// Whether a template names it; used last, seen first (those before this process come first); id and size.
type Candidate = (bool, Option<Instant>, Option<Instant>, String, u64);

#[derive(Default)]
struct Wanted {
    by_pods: BTreeSet<String>,
    by_templates: BTreeSet<String>,
}

/// What the runtime may call an image of this name.
fn names(said: &str) -> Vec<String> {
    let Ok((spoken, reference)) = spoken(said) else {
        return vec![said.to_owned()];
    };
    // A tag beside a digest says nothing: the image is stored by its digest alone.
    let digest = reference
        .digest
        .as_ref()
        .map(|d| format!("{}/{}@{d}", reference.host, reference.path));
    [Some(spoken), Some(reference.to_string()), digest]
        .into_iter()
        .flatten()
        .collect()
}

fn names_of(image: &Image) -> impl Iterator<Item = &String> {
    std::iter::once(&image.id)
        .chain(&image.repo_tags)
        .chain(&image.repo_digests)
}
