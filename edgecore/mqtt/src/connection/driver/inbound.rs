//! What comes from the client: decoded, put into batches, handed to the core and the local handler.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{Driver, End, Reply, Step, TOPIC_ALIASES};
use crate::{
    codec::DecodeError,
    core::{Gone, Handle},
    hooks::{Accept, LocalPublish, Reject},
    hub::{Hub, Settled, durable},
    link::Kick,
    packet::{AckKind, Incoming, Publish, QoS, Reason, SubscribeCode, SubscriptionOptions},
    session::Received,
    topic::{parse_filter, valid_topic},
};

/// PUBLISHes handed on together, at most.
const BATCH: usize = 1024;

/// Acknowledgements from the client for what was sent to it.
enum ClientAck {
    /// PUBACK
    Done(u16),
    /// PUBREC
    Received { pid: u16, failed: bool },
    /// PUBREL
    Release(u16),
    /// PUBCOMP
    Complete(u16),
}

/// What a PUBLISH of a batch is waiting for.
#[derive(Clone, Copy)]
enum Fate {
    /// Nothing: this is the answer.
    Answer(Reason),
    /// The commit of the routing, if there is one.
    Routed,
    /// The verdict of the local handler.
    Local,
}

struct Place {
    qos: QoS,
    pid: u16,
    fate: Fate,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        // The connection that took over has kicked this one, or is about to.
        Self::Kicked(Kick::TakenOver)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Handles every complete packet in the input.
    pub(super) fn on_input(&mut self) -> Result<(), End> {
        let mut batch = Vec::new();
        let mut acks = Vec::new();
        let mut packets = 0u32;
        let end = loop {
            let packet = match self.codec.decode(&mut self.input) {
                Ok(Some(packet)) => packet,
                Ok(None) => break None,
                Err(error) => {
                    tracing::debug!(client = %self.presence.client.client_id, %error, "MQTT client");
                    break Some(End::Breach(match error {
                        DecodeError::TooLarge { .. } => Reason::PacketTooLarge,
                        _ => Reason::Malformed,
                    }));
                }
            };
            packets += 1;
            let handled = match packet {
                Incoming::Publish { publish, pid, alias } => self
                    .accept_publish(publish, alias)
                    .map(|publish| batch.push((publish, pid))),
                Incoming::PubAck { pid } => {
                    acks.push(ClientAck::Done(pid));
                    Ok(())
                }
                Incoming::PubRec { pid, failed } => {
                    acks.push(ClientAck::Received { pid, failed });
                    Ok(())
                }
                Incoming::PubComp { pid } => {
                    acks.push(ClientAck::Complete(pid));
                    Ok(())
                }
                // From here on what comes has to come after the PUBLISHes before it.
                Incoming::PubRel { pid } => self.dispatch(&mut batch).map(|()| acks.push(ClientAck::Release(pid))),
                Incoming::PingReq => {
                    self.codec.pingresp(&mut self.output);
                    Ok(())
                }
                Incoming::Subscribe { pid, filters } => {
                    self.dispatch(&mut batch).and_then(|()| self.on_subscribe(pid, filters))
                }
                Incoming::Unsubscribe { pid, filters } => self
                    .dispatch(&mut batch)
                    .and_then(|()| self.on_unsubscribe(pid, &filters)),
                Incoming::Disconnect {
                    with_will,
                    session_expiry,
                } => Err(End::Disconnect {
                    with_will,
                    session_expiry,
                }),
            };
            if let Err(end) = handled {
                break Some(end);
            }
            if batch.len() >= BATCH
                && let Err(end) = self.dispatch(&mut batch)
            {
                break Some(end);
            }
        };
        // What came before the packet that ends the connection was sent in good faith.
        self.dispatch(&mut batch)?;
        self.on_acks(acks)?;
        if let Some(end) = end {
            return Err(end);
        }
        if packets > 0 {
            self.last_packet = Instant::now();
            self.partial_since = None;
        }
        if self.input.is_empty() {
            self.partial_since = None;
        } else if self.partial_since.is_none() {
            self.partial_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Gives the message its topic (from an alias if it comes with one) and checks it.
    fn accept_publish(&mut self, mut publish: Publish, alias: Option<u16>) -> Result<Publish, End> {
        if let Some(alias) = alias {
            if alias == 0 || alias > TOPIC_ALIASES {
                return Err(End::Breach(Reason::AliasInvalid));
            }
            let index = usize::from(alias) - 1;
            if self.aliases.len() <= index {
                self.aliases.resize(index + 1, None);
            }
            if publish.topic.is_empty() {
                let known = self.aliases[index].clone();
                publish.topic = known.ok_or(End::Breach(Reason::ProtocolError))?;
                return Ok(publish);
            }
            self.aliases[index] = Some(publish.topic.clone());
        }
        if !valid_topic(&publish.topic, self.hub.config.limits.topic_bytes) {
            return Err(End::Breach(Reason::TopicInvalid));
        }
        Ok(publish)
    }

    /// Hands a batch of consecutive PUBLISHes on: to the core for routing, to the local handler what is local.
    fn dispatch(&mut self, batch: &mut Vec<(Publish, u16)>) -> Result<(), End> {
        if batch.is_empty() {
            return Ok(());
        }
        let messages = batch.len();
        let bytes: usize = batch.iter().map(|(publish, _)| publish.cost()).sum();
        self.hub.counters.received.add(messages as u64);

        let (handle, client) = (self.presence.handle, &self.presence.client);
        let config = &self.hub.config;
        // Asked before the step: the rules are not ours and run outside the lock.
        let access = config.access.as_ref();
        let allowed: Option<Vec<bool>> = access.map(|access| {
            batch
                .iter()
                .map(|(publish, _)| access.may_publish(client, &publish.topic))
                .collect()
        });
        let is_local = |topic: &str| {
            config
                .local_prefixes
                .iter()
                .any(|prefix| topic.starts_with(prefix.as_str()))
        };
        let mut places = Vec::with_capacity(messages);
        let mut local = Vec::new();
        let mut refused = 0;
        let (routed, settled) = self.hub.step(|core, now, fx| {
            for (index, (publish, pid)) in batch.drain(..).enumerate() {
                let qos = publish.qos;
                let mut place = |fate| places.push(Place { qos, pid, fate });
                if allowed.as_ref().is_some_and(|allowed| !allowed[index]) {
                    refused += 1;
                    place(Fate::Answer(Reason::NotAuthorized));
                    continue;
                }
                if qos == QoS::ExactlyOnce {
                    match core.receive_qos2(handle, pid)? {
                        Received::New => {}
                        Received::Again => {
                            place(Fate::Answer(Reason::Success));
                            continue;
                        }
                        Received::TooMany => return Err(End::Breach(Reason::ReceiveMaximumExceeded)),
                    }
                }
                core.route(now, Some(handle.session), &publish, fx);
                if is_local(&publish.topic) {
                    place(Fate::Local);
                    local.push(LocalPublish {
                        message: publish,
                        packet_id: pid,
                    });
                } else {
                    if qos == QoS::ExactlyOnce {
                        // In the same commit as what it was routed to.
                        core.qos2_taken(handle.session, pid, fx);
                    }
                    place(Fate::Routed);
                }
            }
            Ok(())
        });
        if refused > 0 {
            self.hub.counters.denied.add(refused);
        }
        let mut step = Step {
            messages,
            bytes,
            ..Step::default()
        };
        if local.is_empty() && settled.is_none() && self.pipeline.is_empty() {
            // Nothing to wait for, and nobody to overtake.
            let reason = |place: &Place| match place.fate {
                Fate::Answer(reason) => reason,
                Fate::Routed | Fate::Local => Reason::Success,
            };
            step.replies = places.iter().filter_map(|place| reply(place, reason(place))).collect();
            self.write_replies(&step.replies);
            return routed;
        }
        self.unacked_messages += messages;
        self.unacked_bytes += bytes;
        // Called here and now: the order of the calls is the order of the messages.
        let verdicts = (!local.is_empty()).then(|| self.hub.local.publish(client, local));
        let hub = self.hub.clone();
        self.pipeline.push_back(Box::pin(async move {
            let verdicts = match verdicts {
                Some(verdicts) => verdicts.await,
                None => vec![],
            };
            let routed = durable(settled).await;
            settle_batch(&hub, handle, &places, verdicts, routed, step).await
        }));
        routed
    }

    fn on_acks(&mut self, acks: Vec<ClientAck>) -> Result<(), End> {
        if acks.is_empty() {
            return Ok(());
        }
        let handle = self.presence.handle;
        let mut replies = Vec::new();
        let mut released = Vec::new();
        let (done, settled) = self.hub.step(|core, _, fx| {
            for ack in acks {
                match ack {
                    ClientAck::Done(pid) => core.acknowledged(handle, pid, fx)?,
                    ClientAck::Complete(pid) => core.completed(handle, pid, fx)?,
                    ClientAck::Received { pid, failed: true } => drop(core.received(handle, pid, true, fx)?),
                    ClientAck::Received { pid, failed: false } => {
                        let known = core.received(handle, pid, false, fx)?;
                        replies.push(Reply::Ack(AckKind::Rel, pid, known_or_not(known)));
                    }
                    ClientAck::Release(pid) => {
                        let known = core.release_qos2(handle, pid, fx)?;
                        released.push(pid);
                        replies.push(Reply::Ack(AckKind::Comp, pid, known_or_not(known)));
                    }
                }
            }
            Ok::<(), Gone>(())
        });
        done?;
        // A commit without a reply is of entries that are done with: nobody waits for it, and should it fail they are
        // delivered once more after a restart.
        if !replies.is_empty() {
            let step = Step {
                replies,
                ..Step::default()
            };
            if released.is_empty() {
                self.reply_when_durable(settled, step);
            } else {
                let forgotten = self.hub.local.released(&self.presence.client, &released);
                self.reply_when(async move { forgotten.await & durable(settled).await }, step);
            }
        }
        Ok(())
    }

    fn on_subscribe(&mut self, pid: u16, filters: Vec<(String, SubscriptionOptions)>) -> Result<(), End> {
        let (handle, client) = (self.presence.handle, &self.presence.client);
        let max = self.hub.config.limits.topic_bytes;
        // Rules are about topics; a share changes who gets a message, not which.
        let allowed = |filter: &str| {
            let access = self.hub.config.access.as_ref();
            access.is_none_or(|access| parse_filter(filter, max).is_none_or(|f| access.may_subscribe(client, f.path)))
        };
        let filters: Vec<_> = filters
            .into_iter()
            .map(|(filter, options)| {
                let allowed = allowed(&filter);
                (filter, options, allowed)
            })
            .collect();
        let (subscribed, settled) = self.hub.step(|core, now, fx| core.subscribe(now, handle, filters, fx));
        let (codes, accepted) = subscribed?;
        let denied = codes
            .iter()
            .filter(|code| **code == SubscribeCode::Refused(Reason::NotAuthorized))
            .count();
        self.hub.counters.denied.add(denied as u64);
        let step = Step {
            replies: vec![Reply::SubAck(pid, codes)],
            subscribed: accepted,
            ..Step::default()
        };
        self.reply_when_durable(settled, step);
        Ok(())
    }

    fn on_unsubscribe(&mut self, pid: u16, filters: &[String]) -> Result<(), End> {
        let handle = self.presence.handle;
        let (reasons, settled) = self.hub.step(|core, _, fx| core.unsubscribe(handle, filters, fx));
        let step = Step {
            replies: vec![Reply::UnsubAck(pid, reasons?)],
            ..Step::default()
        };
        self.reply_when_durable(settled, step);
        Ok(())
    }

    /// Puts the step in line; it says its replies if the commit succeeds.
    fn reply_when_durable(&mut self, settled: Option<Settled>, step: Step) {
        self.reply_when(durable(settled), step);
    }

    fn reply_when(&mut self, durable: impl Future<Output = bool> + Send + 'static, step: Step) {
        self.pipeline.push_back(Box::pin(async move {
            match durable.await {
                true => step,
                false => Step {
                    replies: vec![],
                    failed: true,
                    subscribed: vec![],
                    ..step
                },
            }
        }));
    }
}

fn known_or_not(known: bool) -> Reason {
    if known { Reason::Success } else { Reason::PidNotFound }
}

/// Decides the answers of a batch when the commit and the verdicts are in.
async fn settle_batch(
    hub: &Arc<Hub>,
    handle: Handle,
    places: &[Place],
    verdicts: Vec<Result<Accept, Reject>>,
    routed: bool,
    mut step: Step,
) -> Step {
    let mut verdicts = verdicts.into_iter();
    let (mut taken, mut forget) = (Vec::new(), Vec::new());
    for place in places {
        // `None`: cannot be answered now, has to come again.
        let verdict = match place.fate {
            Fate::Answer(reason) => Some(reason),
            Fate::Routed => routed.then_some(Reason::Success),
            Fate::Local => match verdicts.next() {
                Some(Ok(Accept)) => routed.then_some(Reason::Success),
                Some(Err(Reject::Unavailable)) | None => None,
                Some(Err(reject)) => Some(reject_reason(reject)),
            },
        };
        if place.qos == QoS::ExactlyOnce {
            match (place.fate, verdict) {
                (Fate::Local, Some(Reason::Success)) => taken.push(place.pid),
                (Fate::Local, _) | (Fate::Routed, None) => forget.push(place.pid),
                (Fate::Routed | Fate::Answer(_), _) => {}
            }
        }
        // Answers are in order: after the first that cannot be given, none is. QoS 0 has none to withhold.
        match verdict {
            Some(reason) if !step.failed => step.replies.extend(reply(place, reason)),
            None if place.qos != QoS::AtMostOnce => step.failed = true,
            _ => {}
        }
    }
    if taken.is_empty() && forget.is_empty() {
        return step;
    }
    let ((), settled) = hub.step(|core, _, fx| {
        forget.iter().for_each(|pid| core.qos2_forget(handle.session, *pid));
        taken.iter().for_each(|pid| core.qos2_taken(handle.session, *pid, fx));
    });
    if !durable(settled).await {
        // The handler took them, the broker cannot remember it: they come again.
        let ((), _) = hub.step(|core, _, _| taken.iter().for_each(|pid| core.qos2_forget(handle.session, *pid)));
        step.replies.clear();
        step.failed = true;
    }
    step
}

fn reply(place: &Place, reason: Reason) -> Option<Reply> {
    match place.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(Reply::Ack(AckKind::Ack, place.pid, reason)),
        QoS::ExactlyOnce => Some(Reply::Ack(AckKind::Rec, place.pid, reason)),
    }
}

fn reject_reason(reject: Reject) -> Reason {
    match reject {
        Reject::NotAuthorized => Reason::NotAuthorized,
        Reject::TopicInvalid => Reason::TopicInvalid,
        Reject::PayloadInvalid => Reason::PayloadInvalid,
        Reject::QuotaExceeded => Reason::QuotaExceeded,
        Reject::Other | Reject::Unavailable => Reason::Unspecified,
    }
}
