//! Changes as key-value records, and the way back.
//!
//! Keys (client ids and filters hold no NUL, so it separates):
//!
//! | key | value |
//! |---|---|
//! | `s` client | version, expiry u32 |
//! | `f` client NUL filter | version, qos, flags, id u32 (0: none) |
//! | `q` client NUL seq u64 | version, qos, flags, ids, message unless released |
//! | `i` client NUL pid u16 | version |
//! | `r` topic | version, message |
//!
//! Numbers are big-endian, so that key order is queue order. A record that cannot be read is counted and left out: one
//! damaged row must not keep the broker from starting.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, BufMut, Bytes};

use super::{Change, Queued, SessionState, State};
use crate::packet::{Properties, Publish, QoS, RetainHandling, SubscriptionOptions};

const VERSION: u8 = 1;

/// One operation on an ordered key-value table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Insert or replace.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Remove if there.
    Delete { key: Vec<u8> },
    /// Remove all keys from `from` (inclusive) to `to` (exclusive).
    DeleteRange { from: Vec<u8>, to: Vec<u8> },
}

impl Change {
    /// Appends the operations that make this change durable. A list of changes gives its operations in order, to be
    /// applied in order and in one transaction.
    pub fn to_kv(&self, ops: &mut Vec<KvOp>) {
        match self {
            Self::SessionPut { client, expiry_s } => {
                let mut value = vec![VERSION];
                value.put_u32(*expiry_s);
                ops.push(KvOp::Put {
                    key: key(b's', client, None),
                    value,
                });
            }
            Self::SessionDrop { client } => {
                ops.push(KvOp::Delete {
                    key: key(b's', client, None),
                });
                for table in *b"fqi" {
                    let from = key(table, client, Some(&[]));
                    let mut to = from.clone();
                    // The separator NUL becomes 1: just past every key of this client.
                    *to.last_mut().expect("a key is never empty") = 1;
                    ops.push(KvOp::DeleteRange { from, to });
                }
            }
            Self::SubscriptionPut {
                client,
                filter,
                options,
            } => {
                let key = key(b'f', client, Some(filter.as_bytes()));
                ops.push(KvOp::Put {
                    key,
                    value: options_record(options),
                });
            }
            Self::SubscriptionDrop { client, filter } => {
                ops.push(KvOp::Delete {
                    key: key(b'f', client, Some(filter.as_bytes())),
                });
            }
            Self::Enqueue { client, queued } => ops.push(KvOp::Put {
                key: key(b'q', client, Some(&queued.seq.to_be_bytes())),
                value: queued_record(queued),
            }),
            Self::Released { client, seq } => {
                let released = Queued {
                    seq: *seq,
                    qos: QoS::ExactlyOnce,
                    retain: false,
                    ids: vec![],
                    message: None,
                };
                let key = key(b'q', client, Some(&seq.to_be_bytes()));
                ops.push(KvOp::Put {
                    key,
                    value: queued_record(&released),
                });
            }
            Self::Dequeue { client, seq } => {
                ops.push(KvOp::Delete {
                    key: key(b'q', client, Some(&seq.to_be_bytes())),
                });
            }
            Self::InboundPut { client, pid } => {
                ops.push(KvOp::Put {
                    key: key(b'i', client, Some(&pid.to_be_bytes())),
                    value: vec![VERSION],
                });
            }
            Self::InboundDrop { client, pid } => {
                ops.push(KvOp::Delete {
                    key: key(b'i', client, Some(&pid.to_be_bytes())),
                });
            }
            Self::RetainPut { message } => {
                let mut value = vec![VERSION];
                put_message(&mut value, message);
                ops.push(KvOp::Put {
                    key: key(b'r', &message.topic, None),
                    value,
                });
            }
            Self::RetainDrop { topic } => ops.push(KvOp::Delete {
                key: key(b'r', topic, None),
            }),
        }
    }
}

fn key(table: u8, name: &str, rest: Option<&[u8]>) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + name.len() + rest.map_or(0, <[u8]>::len));
    key.push(table);
    key.extend_from_slice(name.as_bytes());
    if let Some(rest) = rest {
        key.push(0);
        key.extend_from_slice(rest);
    }
    key
}

fn options_record(options: &SubscriptionOptions) -> Vec<u8> {
    let handling = match options.retain_handling {
        RetainHandling::EverySubscribe => 0,
        RetainHandling::NewSubscribe => 1,
        RetainHandling::Never => 2u8,
    };
    let flags = u8::from(options.no_local) | u8::from(options.retain_as_published) << 1 | handling << 2;
    let mut value = vec![VERSION, options.qos as u8, flags];
    value.put_u32(options.id.unwrap_or(0));
    value
}

fn queued_record(queued: &Queued) -> Vec<u8> {
    let flags = u8::from(queued.retain) | u8::from(queued.message.is_some()) << 1;
    let mut value = vec![VERSION, queued.qos as u8, flags];
    // One subscription has one id, and subscriptions are bounded far below this.
    let count = queued.ids.len().min(usize::from(u16::MAX));
    value.put_u16(count as u16);
    for id in &queued.ids[..count] {
        value.put_u32(*id);
    }
    if let Some(message) = &queued.message {
        put_message(&mut value, message);
    }
    value
}

fn put_message(out: &mut Vec<u8>, message: &Publish) {
    out.push(message.qos as u8 | u8::from(message.retain) << 2 | u8::from(message.properties.is_some()) << 3);
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, &message.payload);
    let Some(p) = &message.properties else { return };
    out.push(
        u8::from(p.payload_format.is_some())
            | u8::from(p.expiry_s.is_some()) << 1
            | u8::from(p.content_type.is_some()) << 2
            | u8::from(p.response_topic.is_some()) << 3
            | u8::from(p.correlation.is_some()) << 4,
    );
    if let Some(format) = p.payload_format {
        out.push(format);
    }
    if let Some(expiry) = p.expiry_s {
        out.put_u32(expiry);
    }
    for text in [&p.content_type, &p.response_topic].into_iter().flatten() {
        put_bytes(out, text.as_bytes());
    }
    if let Some(data) = &p.correlation {
        put_bytes(out, data);
    }
    out.put_u32(p.user.len() as u32);
    for (name, value) in &p.user {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Packets are capped far below 4 GiB.
    out.put_u32(bytes.len() as u32);
    out.extend_from_slice(bytes);
}

impl State {
    /// Reads all records, given in any order.
    pub fn from_kv<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut sessions: BTreeMap<String, SessionState> = BTreeMap::new();
        let mut parts = Vec::new();
        let mut state = Self::default();
        for (key, value) in rows {
            match row(key, value) {
                Some(Row::Session(client, expiry_s)) => {
                    let session = SessionState {
                        client: Arc::from(client.as_str()),
                        expiry_s,
                        subscriptions: vec![],
                        queue: vec![],
                        inbound: vec![],
                    };
                    sessions.insert(client, session);
                }
                Some(Row::Part(client, part)) => parts.push((client, part)),
                Some(Row::Retained(message)) => state.retained.push(Arc::new(message)),
                None => state.skipped += 1,
            }
        }
        for (client, part) in parts {
            let Some(session) = sessions.get_mut(&client) else {
                state.skipped += 1;
                continue;
            };
            match part {
                Part::Subscription(filter, options) => session.subscriptions.push((Arc::from(filter), options)),
                Part::Queued(queued) => session.queue.push(queued),
                Part::Inbound(pid) => session.inbound.push(pid),
            }
        }
        state.sessions = sessions.into_values().collect();
        for session in &mut state.sessions {
            session.queue.sort_by_key(|q| q.seq);
            session.queue.dedup_by_key(|q| q.seq);
        }
        state
    }
}

enum Row {
    Session(String, u32),
    Part(String, Part),
    Retained(Publish),
}

enum Part {
    Subscription(String, SubscriptionOptions),
    Queued(Queued),
    Inbound(u16),
}

fn row(key: &[u8], value: &[u8]) -> Option<Row> {
    let (table, name) = key.split_first()?;
    let mut value = Reader(value);
    if value.u8()? != VERSION {
        return None;
    }
    let row = match table {
        b's' => Row::Session(text(name)?, value.u32()?),
        b'r' => {
            let message = value.message()?;
            (message.topic.as_bytes() == name).then_some(())?;
            Row::Retained(message)
        }
        b'f' | b'q' | b'i' => {
            let nul = name.iter().position(|b| *b == 0)?;
            let (client, rest) = (text(&name[..nul])?, &name[nul + 1..]);
            let part = match table {
                b'f' => Part::Subscription(text(rest)?, value.options()?),
                b'q' => Part::Queued(value.queued(u64::from_be_bytes(rest.try_into().ok()?))?),
                _ => Part::Inbound(u16::from_be_bytes(rest.try_into().ok()?)),
            };
            Row::Part(client, part)
        }
        _ => return None,
    };
    value.0.is_empty().then_some(row)
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn string(&mut self) -> Option<String> {
        text(self.bytes()?)
    }

    fn options(&mut self) -> Option<SubscriptionOptions> {
        let (qos, flags, id) = (QoS::from_u8(self.u8()?)?, self.u8()?, self.u32()?);
        Some(SubscriptionOptions {
            qos,
            no_local: flags & 1 != 0,
            retain_as_published: flags & 2 != 0,
            retain_handling: match flags >> 2 {
                0 => RetainHandling::EverySubscribe,
                1 => RetainHandling::NewSubscribe,
                2 => RetainHandling::Never,
                _ => return None,
            },
            id: (id != 0).then_some(id),
        })
    }

    fn queued(&mut self, seq: u64) -> Option<Queued> {
        let (qos, flags, count) = (QoS::from_u8(self.u8()?)?, self.u8()?, self.u16()?);
        let ids = (0..count).map(|_| self.u32()).collect::<Option<Vec<_>>>()?;
        let message = if flags & 2 != 0 {
            Some(Arc::new(self.message()?))
        } else {
            None
        };
        // QoS 0 is never queued, and only QoS 2 has a life after its message.
        let sound = qos != QoS::AtMostOnce && (message.is_some() || qos == QoS::ExactlyOnce);
        sound.then_some(Queued {
            seq,
            qos,
            retain: flags & 1 != 0,
            ids,
            message,
        })
    }

    fn message(&mut self) -> Option<Publish> {
        let flags = self.u8()?;
        let topic = self.string()?;
        let payload = Bytes::copy_from_slice(self.bytes()?);
        let properties = if flags & 8 != 0 {
            Some(Arc::new(self.properties()?))
        } else {
            None
        };
        Some(Publish {
            topic: Arc::from(topic),
            payload,
            qos: QoS::from_u8(flags & 3)?,
            retain: flags & 4 != 0,
            dup: false,
            properties,
        })
    }

    fn properties(&mut self) -> Option<Properties> {
        let flags = self.u8()?;
        let mut p = Properties::default();
        if flags & 1 != 0 {
            p.payload_format = Some(self.u8()?);
        }
        if flags & 2 != 0 {
            p.expiry_s = Some(self.u32()?);
        }
        if flags & 4 != 0 {
            p.content_type = Some(self.string()?);
        }
        if flags & 8 != 0 {
            p.response_topic = Some(self.string()?);
        }
        if flags & 16 != 0 {
            p.correlation = Some(Bytes::copy_from_slice(self.bytes()?));
        }
        for _ in 0..self.u32()? {
            p.user.push((self.string()?, self.string()?));
        }
        Some(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::{MemoryPersist, Persist};

    fn rich() -> Arc<Publish> {
        Arc::new(Publish {
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Some(Arc::new(Properties {
                payload_format: Some(1),
                expiry_s: Some(60),
                content_type: Some("text/plain".into()),
                response_topic: Some("answer".into()),
                correlation: Some(Bytes::from_static(b"\0c")),
                user: vec![("k".into(), "v".into()), ("k".into(), String::new())],
            })),
            ..Publish::new("a/b", &b"body\0"[..])
        })
    }

    fn changes() -> Vec<Change> {
        let (c, d): (Arc<str>, Arc<str>) = ("c1".into(), "c10".into());
        let options = SubscriptionOptions {
            no_local: true,
            retain_handling: RetainHandling::Never,
            id: Some(7),
            ..SubscriptionOptions::plain(QoS::ExactlyOnce)
        };
        let queued = |seq| Queued {
            seq,
            qos: QoS::ExactlyOnce,
            retain: true,
            ids: vec![1, 9],
            message: Some(rich()),
        };
        vec![
            Change::SessionPut {
                client: c.clone(),
                expiry_s: u32::MAX,
            },
            Change::SessionPut {
                client: d.clone(),
                expiry_s: 60,
            },
            Change::SubscriptionPut {
                client: c.clone(),
                filter: "a/#".into(),
                options,
            },
            Change::SubscriptionPut {
                client: c.clone(),
                filter: "b".into(),
                options,
            },
            Change::SubscriptionDrop {
                client: c.clone(),
                filter: "b".into(),
            },
            Change::Enqueue {
                client: c.clone(),
                queued: queued(255),
            },
            Change::Enqueue {
                client: c.clone(),
                queued: queued(256),
            },
            Change::Enqueue {
                client: c.clone(),
                queued: queued(70_000),
            },
            Change::Released {
                client: c.clone(),
                seq: 256,
            },
            Change::Dequeue {
                client: c.clone(),
                seq: 255,
            },
            Change::InboundPut {
                client: c.clone(),
                pid: 1,
            },
            Change::InboundPut {
                client: c.clone(),
                pid: 500,
            },
            Change::InboundDrop { client: c, pid: 1 },
            Change::Enqueue {
                client: d,
                queued: queued(1),
            },
            Change::RetainPut { message: rich() },
            Change::RetainPut {
                message: Arc::new(Publish::new("gone", "x")),
            },
            Change::RetainDrop { topic: "gone".into() },
        ]
    }

    fn load(memory: &MemoryPersist) -> State {
        futures_util::FutureExt::now_or_never(memory.load()).unwrap().unwrap()
    }

    #[test]
    fn state_comes_back_as_it_was_left() {
        let memory = MemoryPersist::default();
        drop(memory.commit(changes()));
        let state = load(&memory);
        assert_eq!(state.skipped, 0);
        assert_eq!(state.retained, vec![rich()]);
        let [c, d] = &state.sessions[..] else {
            panic!("{state:?}")
        };
        assert_eq!(
            (&*c.client, c.expiry_s, &*d.client, d.expiry_s),
            ("c1", u32::MAX, "c10", 60)
        );
        assert_eq!(c.subscriptions.len(), 1);
        assert_eq!((&*c.subscriptions[0].0, c.subscriptions[0].1.id), ("a/#", Some(7)));
        let queue: Vec<_> = c.queue.iter().map(|q| (q.seq, q.message.is_some())).collect();
        assert_eq!(queue, [(256, false), (70_000, true)]);
        assert_eq!(c.queue[1].message, Some(rich()));
        assert_eq!(c.inbound, [500]);

        // Dropping c1 takes nothing of c10 with it.
        drop(memory.commit(vec![Change::SessionDrop { client: "c1".into() }]));
        let state = load(&memory);
        assert_eq!(
            (state.sessions.len(), state.sessions[0].queue.len(), state.skipped),
            (1, 1, 0)
        );
    }

    #[test]
    fn damaged_records_are_skipped_and_counted() {
        let mut ops = Vec::new();
        changes().iter().for_each(|c| c.to_kv(&mut ops));
        let rows: Vec<_> = ops
            .into_iter()
            .filter_map(|op| match op {
                KvOp::Put { key, value } => Some((key, value)),
                _ => None,
            })
            .collect();
        for (key, value) in &rows {
            for cut in 0..value.len() {
                let state = State::from_kv([(key.as_slice(), &value[..cut])]);
                assert_eq!((state.skipped, state.retained.len()), (1, 0), "{key:?} cut at {cut}");
            }
            for cut in 0..key.len() {
                // Must not panic; a shorter session key is a valid one.
                drop(State::from_kv([(&key[..cut], value.as_slice())]));
            }
        }
    }
}
