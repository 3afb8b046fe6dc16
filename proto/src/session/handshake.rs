//! Hello and Welcome: how a session begins on either side. Decides the version, takes over limits, tells each set's two ends the other's
//! digest. Both sides compare the same two announced digests, so both know without another word whether an inventory follows.

use super::config::{EdgeConfig, HubConfig, JournalCursor, Limits, StoredCursor, clamp_window};
use super::event::{Event, SessionError};
use super::inbox::Inbox;
use super::mirror::{Mirror, digest_bytes};
use super::outbox::{Outbox, stream_is_good};
use super::pulse::Pulse;
use super::source::Source;
use super::{Role, Session, State};
use crate::Now;
use crate::digest::Digest;
use crate::join::{node_is_good, text_is_good};
use crate::limits::{self, Versions};
use crate::set::{Inventory, SourceSet};
use crate::wire::{self, SetKind, frame::Kind};
use core::time::Duration;
use std::collections::VecDeque;

/// What the hub keeps of a Hello until the application has decided.
#[derive(Debug)]
pub(super) struct Greeting {
    version: u32,
    instance: u64,
    desired: Digest,
    observed: Digest,
    window: usize,
}

impl Session {
    /// The gateway's side: says Hello. `observed` is the own set, `desired` what the store holds of the hub's.
    pub fn edge(config: EdgeConfig, observed: SourceSet, desired: Inventory, now: Now) -> Self {
        let mut outbox = Outbox::new(&config.journals);
        let told = [desired.digest(), observed.digest()];
        let window = clamp_window(config.window);
        let hello = wire::Hello {
            version_min: config.versions.min,
            version_max: config.versions.max,
            node: config.node,
            agent_version: config.agent_version,
            boot_id: config.boot_id,
            instance: config.instance,
            capabilities: config.capabilities,
            desired: digest_bytes(told[0]),
            observed: digest_bytes(told[1]),
            journals: outbox.hello(),
            window: window as u32,
        };
        Self {
            role: Role::Edge {
                outbox,
                rotation: None,
                versions: config.versions,
            },
            state: State::Opening,
            now,
            started: now,
            pulse: Pulse::new(limits::HEARTBEAT, Duration::ZERO, now),
            ack_deadline: limits::ACK_DEADLINE,
            source: Source::new(SetKind::Observed, observed),
            mirror: Mirror::new(SetKind::Desired, desired, window),
            told,
            control: VecDeque::from([Kind::Hello(hello)]),
            events: VecDeque::new(),
        }
    }

    /// The hub's side: waits for Hello. `node` is the name in the peer's certificate; a Hello of another name ends the session.
    pub fn hub(config: HubConfig, node: &str, now: Now) -> Self {
        let announced = config.limits.clamped();
        Self {
            role: Role::Hub {
                inbox: Inbox::default(),
                config: HubConfig {
                    limits: announced,
                    ..config
                },
                node: node.into(),
                hello: None,
                accepted: false,
                rotating: false,
            },
            state: State::Opening,
            now,
            started: now,
            pulse: Pulse::new(announced.heartbeat, announced.heartbeat / 2, now),
            ack_deadline: announced.ack_deadline,
            source: Source::new(SetKind::Desired, SourceSet::new()),
            mirror: Mirror::new(SetKind::Observed, Inventory::new(), announced.window),
            told: [Digest::EMPTY; 2],
            control: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Hub: yes, after [`Event::Hello`]: says Welcome. `desired` is the gateway's desired set, `observed` what the hub holds of its
    /// observed set, `journals` what the sink has. Without a Hello it does nothing.
    pub fn accept(&mut self, now: Now, desired: SourceSet, observed: Inventory, journals: Vec<StoredCursor>) {
        self.tick(now);
        let Role::Hub {
            inbox,
            config,
            hello,
            accepted,
            ..
        } = &mut self.role
        else {
            return;
        };
        if self.state != State::Greeted {
            return;
        }
        let Some(greeting) = hello.take() else { return };
        *accepted = true;
        self.told = [desired.digest(), observed.digest()];
        let welcome = wire::Welcome {
            version: greeting.version,
            epoch: config.epoch,
            hub_id: config.hub_id.to_string(),
            limits: Some(config.limits.to_wire()),
            desired: digest_bytes(self.told[0]),
            observed: digest_bytes(self.told[1]),
            journals: inbox.begin(journals, greeting.instance, config.limits.journal_window),
            capabilities: Vec::new(),
        };
        self.source = Source::new(SetKind::Desired, desired);
        self.source.begin(greeting.desired, greeting.window);
        self.mirror = Mirror::new(SetKind::Observed, observed, config.limits.window);
        self.mirror.begin(greeting.observed);
        self.state = State::Live;
        self.pulse.heard(self.now);
        self.control.push_back(Kind::Welcome(welcome));
    }

    pub(super) fn on_hello(&mut self, hello: wire::Hello) -> Result<(), SessionError> {
        let Role::Hub {
            config,
            node,
            hello: greeting,
            ..
        } = &mut self.role
        else {
            return Err(SessionError::Unexpected("a Hello"));
        };
        let peer = Versions {
            min: hello.version_min,
            max: hello.version_max,
        };
        let version = config.versions.agree(peer).ok_or(SessionError::Version {
            peer,
            here: config.versions,
        })?;
        need("node name", node_is_good(&hello.node))?;
        if hello.node != *node {
            return Err(SessionError::WrongNode {
                said: hello.node,
                is: node.clone(),
            });
        }
        need("agent version", text_is_good(&hello.agent_version, limits::MAX_TEXT))?;
        capabilities_are_good(&hello.capabilities)?;
        need("journal list", hello.journals.len() <= limits::MAX_STREAMS)?;
        need(
            "stream",
            hello.journals.iter().all(|journal| stream_is_good(&journal.stream)),
        )?;
        let desired = digest(&hello.desired)?;
        let observed = digest(&hello.observed)?;
        let cursor = |state: wire::JournalState| JournalCursor {
            stream: state.stream.into(),
            accepted_to: state.accepted_to,
            trimmed_to: state.trimmed_to,
            ..Default::default()
        };
        let window = clamp_window(hello.window as usize);
        *greeting = Some(Greeting {
            version,
            instance: hello.instance,
            desired,
            observed,
            window,
        });
        self.state = State::Greeted;
        self.events.push_back(Event::Hello {
            agent_version: hello.agent_version,
            boot_id: hello.boot_id,
            instance: hello.instance,
            capabilities: hello.capabilities,
            version,
            desired,
            observed,
            journals: hello.journals.into_iter().map(cursor).collect(),
        });
        Ok(())
    }

    pub(super) fn on_welcome(&mut self, welcome: &wire::Welcome) -> Result<(), SessionError> {
        let Role::Edge { outbox, versions, .. } = &mut self.role else {
            return Err(SessionError::Unexpected("a Welcome"));
        };
        let version = welcome.version;
        if version < versions.min || version > versions.max {
            return Err(SessionError::Version {
                peer: Versions {
                    min: version,
                    max: version,
                },
                here: *versions,
            });
        }
        need("hub id", text_is_good(&welcome.hub_id, limits::MAX_TEXT))?;
        need("journal list", welcome.journals.len() <= limits::MAX_STREAMS)?;
        capabilities_are_good(&welcome.capabilities)?;
        let desired = digest(&welcome.desired)?;
        let observed = digest(&welcome.observed)?;
        let limits = Limits::from_wire(&welcome.limits.unwrap_or_default());
        self.state = State::Live;
        self.pulse = Pulse::new(limits.heartbeat, Duration::ZERO, self.now);
        self.ack_deadline = limits.ack_deadline;
        self.events.push_back(Event::Welcome {
            epoch: welcome.epoch,
            hub_id: welcome.hub_id.clone(),
            version,
            limits,
            capabilities: welcome.capabilities.clone(),
        });
        outbox.begin(&welcome.journals, limits.journal_window, &mut self.events);
        self.source.begin(observed, limits.window);
        self.mirror.begin(desired);
        Ok(())
    }
}

fn need(what: &'static str, good: bool) -> Result<(), SessionError> {
    if good { Ok(()) } else { Err(SessionError::Field(what)) }
}

fn digest(bytes: &[u8]) -> Result<Digest, SessionError> {
    Digest::from_slice(bytes).ok_or(SessionError::Field("digest"))
}

fn capabilities_are_good(all: &[String]) -> Result<(), SessionError> {
    let good = all.len() <= limits::MAX_CAPABILITIES && all.iter().all(|one| text_is_good(one, limits::MAX_TEXT));
    need("list of capabilities", good)
}
