//! TCP between two network namespaces, by way of a socket in the file system, which both see. Each end is carried by whoever is on its side.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections made in a namespace that the calling thread is about to leave end at an address there.
///
/// # Panics
/// When the socket cannot be made.
pub fn lead_out(socket: &Path, to: SocketAddr) {
    let socket = socket.to_owned();
    on_this_side(move |ready| async move {
        let listener = UnixListener::bind(&socket).expect("the folder can be written");
        ready.send(()).expect("somebody waits");
        loop {
            let Ok((mut near, _)) = listener.accept().await else {
                return;
            };
            drop(tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    drop(copy_bidirectional(&mut near, &mut far).await);
                }
            }));
        }
    });
}

/// Takes connections in the namespace that the calling thread is about to leave; where it listens.
///
/// # Panics
/// When no port is free.
pub fn lead_in(socket: &Path) -> SocketAddr {
    let socket = socket.to_owned();
    on_this_side(move |ready| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        ready
            .send(listener.local_addr().expect("it is bound"))
            .expect("somebody waits");
        loop {
            let Ok((mut near, _)) = listener.accept().await else {
                return;
            };
            let socket = socket.clone();
            drop(tokio::spawn(async move {
                if let Ok(mut far) = UnixStream::connect(socket).await {
                    drop(copy_bidirectional(&mut near, &mut far).await);
                }
            }));
        }
    })
}

/// A thread that stays where the calling one is now.
fn on_this_side<T, F>(work: impl FnOnce(std::sync::mpsc::SyncSender<T>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = ()>,
{
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("threads and sockets").block_on(work(ready));
    });
    started.recv().expect("the other thread says when it listens")
}

/// Takes connections at an address on this side and leads them out.
///
/// # Panics
/// When the address is taken.
pub async fn outwards(at: SocketAddr, socket: PathBuf) {
    let listener = TcpListener::bind(at).await.expect("the address is free");
    drop(tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let socket = socket.clone();
            drop(tokio::spawn(async move {
                if let Ok(mut far) = UnixStream::connect(socket).await {
                    drop(copy_bidirectional(&mut near, &mut far).await);
                }
            }));
        }
    }));
}

/// Leads connections from outside to an address on this side.
///
/// # Panics
/// When the socket cannot be made.
pub fn inwards(socket: &Path, to: SocketAddr) {
    let listener = UnixListener::bind(socket).expect("the folder can be written");
    drop(tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            drop(tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    drop(copy_bidirectional(&mut near, &mut far).await);
                }
            }));
        }
    }));
}
