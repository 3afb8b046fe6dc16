//! The cluster's names, answered on this machine: from the table for what is in the cluster, by the machine's own servers for everything else.
//!
//! - `message`: the bytes. A codec of our own: three shapes of message are needed, other servers' answers are passed on in their own bytes with
//!   times and number put right in place, and what crates bring for all there is in DNS is not needed.
//! - `zone`: what is known of a name.
//! - `forward`: other servers, and what they said a moment ago.
//!
//! Answers nobody but this machine's pods and programs. Every message, connection and wait is bounded.

mod forward;
mod message;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

pub(super) use self::forward::Forward;
use self::message::{Answer, CNAME, Code, Name, NoQuery, Query, SOA, Section};
pub(crate) use self::zone::Domain;
use self::zone::{Data, Found, Zone};
use super::cidr::Cidr;
use super::table::Table;

/// Seconds for which an answer about the cluster holds: endpoints change while one watches.
const TTL: u32 = 5;
/// Largest question.
const MAX_QUESTION: usize = 4096;
/// Largest answer over TCP.
const MAX_TCP: usize = u16::MAX as usize;
/// Questions that wait for other servers.
const WAITING: usize = 256;
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// A connection without a question for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Names that are other names, one after another.
const ALIASES: usize = 8;
/// After a failed accept or receive.
const REST: Duration = Duration::from_millis(50);

/// A parser as a function of bytes, for whoever throws bytes at it: its name, and what it does with them.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All of them.
pub const FUZZ_TARGETS: [FuzzTarget; 2] = [("dns_query", message::fuzz), ("dns_answer", message::fuzz_answer)];

/// Says whose questions are answered.
pub(super) type Inside = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server(Arc<Inner>);

struct Inner {
    domain: Domain,
    ranges: [Option<Cidr>; 2],
    table: watch::Receiver<Arc<Table>>,
    inside: Inside,
    forward: Forward,
    waiting: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(
        domain: Domain,
        ranges: [Option<Cidr>; 2],
        table: watch::Receiver<Arc<Table>>,
        inside: Inside,
        forward: Forward,
    ) -> Self {
        Self(Arc::new(Inner {
            domain,
            ranges,
            table,
            inside,
            forward,
            waiting: Arc::new(Semaphore::new(WAITING)),
        }))
    }

    /// Answers until the drain begins.
    pub(super) async fn run(self, udp: UdpSocket, tcp: TcpListener, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopping() => {}
            () = self.answer_datagrams(Arc::new(udp), &drain) => {}
            () = self.answer_connections(tcp, &drain) => {}
        }
    }

    async fn answer_datagrams(&self, udp: Arc<UdpSocket>, drain: &Drain) {
        let mut buffer = vec![0; MAX_QUESTION];
        loop {
            let (len, from) = match udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(e) => {
                    // Perhaps what an earlier answer came back with.
                    tracing::debug!(error = %e, "A question could not be received.");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            if !(self.0.inside)(from.ip()) {
                continue;
            }
            let query = match Query::read(buffer.get(..len).unwrap_or_default()) {
                Ok(query) => query,
                Err(NoQuery::Silence) => continue,
                Err(NoQuery::Answer(answer)) => {
                    send(&udp, &answer, from);
                    continue;
                }
            };
            if let Some(answer) = self.at_hand(&query, query.limit()) {
                send(&udp, &answer, from);
                continue;
            }
            let Ok(place) = Arc::clone(&self.0.waiting).try_acquire_owned() else {
                send(
                    &udp,
                    &Answer::new(&query, Code::Failed, false, query.limit()).finish(),
                    from,
                );
                continue;
            };
            let (server, udp) = (self.clone(), Arc::clone(&udp));
            drop(drain.spawn(async move {
                let _place = place;
                send(&udp, &server.answer(&query, query.limit()).await, from);
            }));
        }
    }

    async fn answer_connections(&self, tcp: TcpListener, drain: &Drain) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match tcp.accept().await {
                Ok((stream, from)) if (self.0.inside)(from.ip()) => {
                    let (server, drain_of) = (self.clone(), drain.clone());
                    drop(drain.spawn(async move {
                        let _place = place;
                        tokio::select! {
                            biased;
                            () = drain_of.stopping() => {}
                            ended = server.converse(stream) => drop(ended),
                        }
                    }));
                }
                Ok(_) => {}
                Err(e) => {
                    tracing::debug!(error = %e, "A connection could not be accepted.");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Question after question over one connection.
    async fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        loop {
            let read = async {
                let len = usize::from(stream.read_u16().await?);
                if len > MAX_QUESTION {
                    return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
                }
                let mut question = vec![0; len];
                stream.read_exact(&mut question).await?;
                Ok(question)
            };
            let question = tokio::time::timeout(IDLE, read).await.map_err(late)??;
            let answer = match Query::read(&question) {
                Ok(query) => match self.at_hand(&query, MAX_TCP) {
                    Some(answer) => answer,
                    None => self.answer(&query, MAX_TCP).await,
                },
                Err(NoQuery::Answer(answer)) => answer,
                Err(NoQuery::Silence) => return Ok(()),
            };
            let len = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            let framed = [&len.to_be_bytes()[..], &answer].concat();
            let write = stream.write_all(&framed);
            tokio::time::timeout(IDLE, write).await.map_err(late)??;
        }
    }

    /// An answer for which nobody else need be asked.
    fn at_hand(&self, query: &Query, limit: usize) -> Option<Vec<u8>> {
        match self.find(&query.name, query.ty) {
            Found::Elsewhere => self.0.forward.remembered(query, limit),
            Found::Records(records, _) if matches!(&*records, [Data::Alias(_)]) && query.ty != CNAME => None,
            found => Some(self.write(query, &found, limit)),
        }
    }

    /// An answer for which others are asked: something elsewhere, or what is another name of something.
    async fn answer(&self, query: &Query, limit: usize) -> Vec<u8> {
        let failed = || Answer::new(query, Code::Failed, false, limit).finish();
        let mut chain: Vec<Name> = Vec::new();
        let mut name = query.name.clone();
        loop {
            match self.find(&name, query.ty) {
                Found::Elsewhere if chain.is_empty() => {
                    let asked = self.0.forward.ask(query, limit).await;
                    return asked.unwrap_or_else(failed);
                }
                Found::Elsewhere => {
                    let asked = query.about(&name);
                    let Some(said) = self.0.forward.ask(&asked, MAX_TCP).await else {
                        return failed();
                    };
                    let mut answer = self.aliases(query, &chain, limit);
                    for (owner, ty, ttl, data) in message::addresses(&said) {
                        answer.record(Section::Answer, Some(&owner), ty, ttl, &data);
                    }
                    return answer.finish();
                }
                Found::Records(records, more) => {
                    if let [Data::Alias(to)] = &*records {
                        match Name::new(to).filter(|_| chain.len() < ALIASES) {
                            Some(to) => {
                                chain.push(to.clone());
                                name = to;
                                continue;
                            }
                            None => return failed(),
                        }
                    }
                    let mut answer = self.aliases(query, &chain, limit);
                    self.append(&mut answer, Some(&name), &records, &more);
                    return answer.finish();
                }
                Found::Nothing | Found::NoName => return self.aliases(query, &chain, limit).finish(),
            }
        }
    }

    fn find(&self, name: &Name, ty: u16) -> Found {
        let table = Arc::clone(&self.0.table.borrow());
        let zone = Zone {
            domain: &self.0.domain,
            table: &table,
            ranges: self.0.ranges,
            server: self.0.forward.own(),
        };
        zone.find(name, ty)
    }

    /// An answer that begins with the names that the name in question is another name of.
    fn aliases(&self, query: &Query, chain: &[Name], limit: usize) -> Answer {
        let mut answer = Answer::new(query, Code::Ok, true, limit);
        let owners = std::iter::once(None).chain(chain.iter().map(Some));
        for (owner, to) in owners.zip(chain) {
            answer.record(Section::Answer, owner, CNAME, TTL, to.wire());
        }
        answer
    }

    fn write(&self, query: &Query, found: &Found, limit: usize) -> Vec<u8> {
        let code = match found {
            Found::NoName => Code::NoName,
            _ => Code::Ok,
        };
        let mut answer = Answer::new(query, code, true, limit);
        match found {
            Found::Records(records, more) => self.append(&mut answer, None, records, more),
            _ => {
                // So that it is remembered that there is none, for as long as this says.
                let domain = &self.0.domain;
                if let (Some(zone), Some((_, authority))) = (Name::new(domain.as_str()), Data::Authority.wire(domain)) {
                    answer.record(Section::Authority, Some(&zone), SOA, TTL, &authority);
                }
            }
        }
        answer.finish()
    }

    fn append(&self, answer: &mut Answer, owner: Option<&Name>, records: &[Data], more: &[(String, IpAddr)]) {
        let domain = &self.0.domain;
        for (ty, data) in records.iter().filter_map(|record| record.wire(domain)) {
            answer.record(Section::Answer, owner, ty, TTL, &data);
        }
        for (name, ip) in more {
            if let (Some(name), Some((ty, data))) = (Name::new(name), Data::Address(*ip).wire(domain)) {
                answer.record(Section::Additional, Some(&name), ty, TTL, &data);
            }
        }
    }
}

/// Sends an answer, or not when nothing takes it now: the client asks again.
fn send(udp: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(e) = udp.try_send_to(answer, to) {
        tracing::debug!(error = %e, %to, "An answer could not be sent.");
    }
}

#[cfg(test)]
mod tests;
