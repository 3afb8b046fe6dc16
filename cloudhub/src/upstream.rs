//! Everything that speaks to the Kubernetes API above the hub, whichever that is: watches in, one writer out.
//!
//! [`watch`] feeds [`index`], the one picture of what each gateway should hold ([`desired`]) and what the hub holds of what it
//! reported ([`observed`]); sessions are served from the index alone and never cause a read. [`writer`] takes what they reported
//! into the API, coalesced per object. Nothing here knows of connections: it is told about them by [`presence`].

mod body;
mod clusters;
mod connect;
mod desired;
mod index;
mod leases;
mod objects;
mod observed;
mod presence;
mod queue;
mod sites;
mod watch;
mod works;
mod writer;

pub(crate) use body::{Body, ObservedKey, observed_key};
pub(crate) use connect::{Karmada, karmada};
pub(crate) use index::Index;
pub(crate) use leases::Leases;
pub(crate) use objects::{ApiError, DEVICE, DEVICE_STATUS, Objects};
pub(crate) use presence::{MAX_SHOWN_REFUSED, Presence, Presences, Recorded, Registration, SetFacts, rfc3339};
pub(crate) use queue::Urgency;
pub(crate) use watch::{ClientRef, Watches};
pub(crate) use writer::{Above, Batch, Job, Observed, Refusal, UNREACHABLE_AFTER, Writer};
