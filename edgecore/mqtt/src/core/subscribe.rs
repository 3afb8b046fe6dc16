//! SUBSCRIBE and UNSUBSCRIBE.

use std::{sync::Arc, time::Duration};

use super::{Core, Effects, Gone, Handle};
use crate::{
    packet::{QoS, Reason, RetainHandling, SubscribeCode, SubscriptionOptions},
    persist::Change,
    router::Subscriber,
    topic,
};

impl Core {
    /// Adds subscriptions, answers each, and queues the retained messages they ask for. With each filter comes whether the
    /// access rules allow it. Returns the answers and the accepted filters.
    pub(crate) fn subscribe(
        &mut self,
        now: Duration,
        handle: Handle,
        filters: Vec<(String, SubscriptionOptions, bool)>,
        fx: &mut Effects,
    ) -> Result<(Vec<SubscribeCode>, Vec<Arc<str>>), Gone> {
        let mut codes = Vec::with_capacity(filters.len());
        let mut accepted = Vec::new();
        for (filter, options, allowed) in filters {
            let code = self.subscribe_one(now, handle, &filter, options, allowed, fx)?;
            if matches!(code, SubscribeCode::Granted(_)) {
                accepted.push(Arc::from(filter));
            }
            codes.push(code);
        }
        Ok((codes, accepted))
    }

    fn subscribe_one(
        &mut self,
        now: Duration,
        handle: Handle,
        filter: &str,
        options: SubscriptionOptions,
        allowed: bool,
        fx: &mut Effects,
    ) -> Result<SubscribeCode, Gone> {
        let (max_bytes, max_count) = (self.limits.topic_bytes, self.limits.subscriptions);
        let session = self.attached(handle)?;
        let Some(parsed) = topic::parse_filter(filter, max_bytes) else {
            return Ok(SubscribeCode::Refused(Reason::FilterInvalid));
        };
        if parsed.group.is_some() && options.no_local {
            return Ok(SubscribeCode::Refused(Reason::ProtocolError));
        }
        if !allowed {
            return Ok(SubscribeCode::Refused(Reason::NotAuthorized));
        }
        let new = !session.subscriptions.contains_key(filter);
        if new && session.subscriptions.len() >= max_count {
            return Ok(SubscribeCode::Refused(Reason::QuotaExceeded));
        }
        let name: Arc<str> = Arc::from(filter);
        session.subscriptions.insert(name.clone(), options);
        if session.durable {
            fx.changes.push(Change::SubscriptionPut {
                client: session.client.clone(),
                filter: name,
                options,
            });
        }
        self.trie.insert(
            parsed.path,
            parsed.group,
            Subscriber {
                session: handle.session,
                options,
            },
        );

        let wants_retained = match options.retain_handling {
            RetainHandling::EverySubscribe => true,
            RetainHandling::NewSubscribe => new,
            RetainHandling::Never => false,
        };
        if wants_retained && parsed.group.is_none() {
            for (message, expires) in self.retained.matching(parsed.path, now) {
                let qos: QoS = options.qos.min(message.qos);
                let ids = options.id.into_iter().collect();
                self.deliver(handle.session, &message, qos, true, ids, expires, fx);
            }
        }
        Ok(SubscribeCode::Granted(options.qos))
    }

    /// Removes subscriptions; what is already queued is still delivered.
    pub(crate) fn unsubscribe(
        &mut self,
        handle: Handle,
        filters: &[String],
        fx: &mut Effects,
    ) -> Result<Vec<Reason>, Gone> {
        let mut reasons = Vec::with_capacity(filters.len());
        for filter in filters {
            let session = self.attached(handle)?;
            let reason = match session.subscriptions.remove_entry(filter.as_str()) {
                None => Reason::NoSubscription,
                Some((name, _)) => {
                    if session.durable {
                        fx.changes.push(Change::SubscriptionDrop {
                            client: session.client.clone(),
                            filter: name,
                        });
                    }
                    if let Some(parsed) = topic::parse_filter(filter, usize::MAX) {
                        self.trie.remove(parsed.path, parsed.group, handle.session);
                    }
                    Reason::Success
                }
            };
            reasons.push(reason);
        }
        Ok(reasons)
    }
}
