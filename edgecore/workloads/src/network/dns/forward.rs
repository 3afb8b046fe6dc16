//! Names that are not the cluster's: the machine's own servers are asked (`/etc/resolv.conf`, read again when it changes), and what they said is
//! remembered for a while.
//!
//! Offline, an answer is wanted quickly: a server that did not answer is left alone for some seconds, and when all are, nothing is asked. Who asks
//! what is being asked already waits for the same answer; a circle of servers that leads back here so ends by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::message::{Query, Said};
use crate::network::resolv;

/// How long all servers together are waited for, the first and the second time.
const ROUNDS: [Duration; 2] = [Duration::from_millis(1400), Duration::from_millis(2800)];
/// How long one is over TCP.
const PATIENCE: Duration = Duration::from_secs(2);
/// All of them together: less than the five seconds after which clients ask again.
const DEADLINE: Duration = Duration::from_millis(4500);
/// For so long a server that did not answer is not asked.
const SICK: Duration = Duration::from_secs(5);
/// Between two looks at the file.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Answers remembered, the largest of them, and how long at most: what is, and what is not.
const MOST: usize = 512;
const LARGEST: usize = 2048;
const LONGEST: [u32; 2] = [600, 30];
/// A datagram from a server that follows what we say we take; a little more is let through.
const DATAGRAM: usize = 4096;

type Bytes = Arc<[u8]>;
type Key = Vec<u8>;

pub(in crate::network) struct Forward {
    file: PathBuf,
    /// Where we answer ourselves.
    own: IpAddr,
    port: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    servers: Vec<Upstream>,
    remembered: BTreeMap<Key, Remembered>,
    asking: BTreeMap<Key, watch::Receiver<Option<Bytes>>>,
}

struct Upstream {
    at: SocketAddr,
    sick_until: Option<Instant>,
}

struct Remembered {
    answer: Bytes,
    since: Instant,
    until: Instant,
}

impl Forward {
    /// The servers in a resolver's file, each at this port; `own`: where we answer ourselves, which is no server to ask.
    pub(in crate::network) fn new(file: PathBuf, own: IpAddr, port: u16) -> Self {
        Self {
            file,
            own,
            port,
            state: Mutex::default(),
        }
    }

    pub(super) const fn own(&self) -> IpAddr {
        self.own
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was said of it a moment ago.
    pub(super) fn remembered(&self, query: &Query, limit: usize) -> Option<Vec<u8>> {
        let state = self.state();
        let now = Instant::now();
        let remembered = state.remembered.get(&query.key()).filter(|r| now < r.until)?;
        let age = u32::try_from(now.duration_since(remembered.since).as_secs()).unwrap_or(u32::MAX);
        Some(query.pass_on(&remembered.answer, age, limit))
    }

    /// What others say. `None` when nobody does.
    pub(super) async fn ask(&self, query: &Query, limit: usize) -> Option<Vec<u8>> {
        let key = query.key();
        let asked = {
            let mut state = self.state();
            match state.asking.get(&key) {
                Some(asked) => Err(asked.clone()),
                None => {
                    let (tell, asked) = watch::channel(None);
                    state.asking.insert(key.clone(), asked);
                    Ok(tell)
                }
            }
        };
        let answer = match asked {
            Ok(tell) => {
                // Also when this is dropped half-way: who waits then hears that nobody tells any more.
                let _end = End(self, &key);
                let answer: Option<Bytes> = timeout(DEADLINE, self.exchange(query)).await.ok().flatten();
                if let Some(answer) = &answer {
                    self.remember(&key, answer);
                }
                tell.send_replace(answer.clone());
                answer
            }
            Err(mut asked) => {
                let told = timeout(DEADLINE, asked.wait_for(Option::is_some)).await;
                told.ok().and_then(Result::ok).and_then(|told| told.clone())
            }
        };
        let answer = answer?;
        // A client that takes more than a datagram gets more.
        if limit > DATAGRAM && Said::of(&answer).truncated {
            let whole = timeout(DEADLINE, self.whole(query)).await.ok().flatten();
            return Some(query.pass_on(&whole?, 0, limit));
        }
        Some(query.pass_on(&answer, 0, limit))
    }

    /// Servers that are worth asking.
    fn servers(&self) -> Vec<SocketAddr> {
        let now = Instant::now();
        let mut state = self.state();
        if state
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= LOOK_AGAIN)
        {
            state.looked = Some(now);
            let stamp = std::fs::metadata(&self.file);
            let stamp = stamp.ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
            if stamp != state.stamp || stamp.is_none() {
                state.stamp = stamp;
                let listed = resolv::read(&self.file).servers;
                // Addresses of one link (`fe80::1%eth0`) cannot be asked without it: others are there for that.
                let ips = listed.iter().filter_map(|s| s.parse::<IpAddr>().ok());
                state.servers = ips
                    .filter(|ip| *ip != self.own)
                    .map(|ip| Upstream {
                        at: SocketAddr::new(ip, self.port),
                        sick_until: None,
                    })
                    .collect();
                state.remembered.clear();
            }
        }
        let well = state
            .servers
            .iter()
            .filter(|s| s.sick_until.is_none_or(|until| until <= now));
        well.map(|s| s.at).collect()
    }

    fn sick(&self, at: SocketAddr) {
        let until = Instant::now() + SICK;
        for server in self.state().servers.iter_mut().filter(|s| s.at == at) {
            server.sick_until = Some(until);
        }
    }

    async fn exchange(&self, query: &Query) -> Option<Bytes> {
        let mut servers = self.servers();
        for (round, whole) in ROUNDS.into_iter().enumerate() {
            let patience = whole / u32::try_from(servers.len().max(1)).unwrap_or(1);
            let mut silent = Vec::new();
            for at in servers {
                match timeout(patience, datagram(at, query)).await {
                    Ok(Ok(answer)) => {
                        // Another one knew: next time it is the first that is asked.
                        silent.into_iter().for_each(|at| self.sick(at));
                        return Some(answer);
                    }
                    // The machine has no way there, or nobody listens.
                    Ok(Err(_)) => self.sick(at),
                    Err(_) if round == 1 => self.sick(at),
                    Err(_) => silent.push(at),
                }
            }
            servers = silent;
        }
        None
    }

    /// Over TCP.
    async fn whole(&self, query: &Query) -> Option<Bytes> {
        for at in self.servers() {
            if let Ok(Ok(answer)) = timeout(PATIENCE, stream(at, query)).await {
                return Some(answer);
            }
        }
        None
    }

    fn remember(&self, key: &Key, answer: &Bytes) {
        const NO_SUCH_NAME: u16 = 3;
        let said = Said::of(answer);
        let longest = LONGEST[usize::from(!said.answers || said.code != 0)];
        let Some(ttl) = said.ttl.map(|ttl| ttl.min(longest)).filter(|ttl| *ttl > 0) else {
            return;
        };
        if said.truncated || answer.len() > LARGEST || !(said.code == 0 || said.code == NO_SUCH_NAME) {
            return;
        }
        let now = Instant::now();
        let mut state = self.state();
        if state.remembered.len() >= MOST {
            state.remembered.retain(|_, r| now < r.until);
        }
        if state.remembered.len() >= MOST {
            let first = state.remembered.iter().min_by_key(|(_, r)| r.until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                state.remembered.remove(&first);
            }
        }
        let remembered = Remembered {
            answer: Arc::clone(answer),
            since: now,
            until: now + Duration::from_secs(ttl.into()),
        };
        state.remembered.insert(key.clone(), remembered);
    }
}

/// Takes a question out of those being asked.
struct End<'a>(&'a Forward, &'a Key);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().asking.remove(self.1);
    }
}

/// A number that nobody guesses.
fn number() -> u16 {
    let [a, b, ..] = uuid::Uuid::new_v4().into_bytes();
    u16::from_be_bytes([a, b])
}

async fn datagram(at: SocketAddr, query: &Query) -> std::io::Result<Bytes> {
    let any: IpAddr = if at.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // A port of its own for each question.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    let id = number();
    socket.send(&query.forwarded(id)).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..len).unwrap_or_default();
        if query.is_answered_by(id, answer) {
            return Ok(answer.into());
        }
    }
}

async fn stream(at: SocketAddr, query: &Query) -> std::io::Result<Bytes> {
    let id = number();
    let question = query.forwarded(id);
    let len = u16::try_from(question.len()).unwrap_or(u16::MAX);
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(&[&len.to_be_bytes()[..], &question].concat()).await?;
    let len = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).await?;
    if query.is_answered_by(id, &answer) {
        return Ok(answer.into());
    }
    Err(std::io::ErrorKind::InvalidData.into())
}
