//! Serves the API over a store in a folder, on loopback, without authentication: everybody is an administrator, or, when a file of tokens is
//! given, whom their token names. For tests and for trying kubectl against it; nothing that is installed contains this.
//!
//!     cargo run -p metastore --example serve -- /tmp/kurator-try 8001 [tokens.csv]
//!     kubectl --server http://127.0.0.1:8001 get namespaces

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use daemon::drain::Drain;
use metastore::api::{ApiServer, MASTERS, TokenOptions, User, serve_stream};
use metastore::store::{SealKey, Store, StoreOptions};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(port)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FOLDER PORT".into());
    };
    let mut tokens = TokenOptions::new(Path::new(&folder).join("sa"), format!("http://127.0.0.1:{port}"));
    tokens.file = arguments.next().map(Into::into);
    let user = match tokens.file {
        Some(_) => User::anonymous(),
        None => User::new("example-admin", [MASTERS]),
    };
    let mut options = StoreOptions::new(Path::new(&folder).join("api.db"));
    // The key stands in the program: what this example stores is no secret.
    options.seal_key = Some(SealKey::new(&[7; 32]));
    let (store, _) = Store::open(options)?;
    let drain = Drain::new();
    let api = ApiServer::builder(store)
        .tokens(tokens)
        .root_ca("no TLS here\n")
        .drain(drain.clone())
        .build()
        .await?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?))).await?;
    loop {
        let (stream, _) = tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            accepted = listener.accept() => accepted?,
        };
        stream.set_nodelay(true)?;
        drop(drain.spawn(serve_stream(stream, user.clone(), api.clone(), drain.clone())));
    }
    drain.finish(std::time::Duration::from_secs(5)).await;
    Ok(())
}
