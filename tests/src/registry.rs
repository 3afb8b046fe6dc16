//! A registry of one image, on loopback: what a runtime pulls from, with a password if wanted, and no faster than it is let.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::{checkout, run};

/// Name and password that it wants.
pub const ACCOUNT: &str = "robot:s3same";
/// Parts in which a large answer is sent.
const PART: usize = 64 * 1024;

/// A registry.
#[derive(Debug)]
pub struct Registry {
    address: String,
    shared: Arc<Shared>,
    _folder: TempDir,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    guarded: bool,
    /// Parts of layers that may be sent.
    parts: Semaphore,
    layers: AtomicUsize,
}

impl Registry {
    /// Serves busybox under any name, to those who know [`ACCOUNT`] if it is guarded.
    ///
    /// # Panics
    /// When it cannot listen or the image cannot be unpacked.
    pub async fn start(guarded: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Of a content that no machine has yet.
        let (own, archive) = (folder.path().join("own"), folder.path().join("image.tar"));
        std::fs::write(&own, fastrand::u128(..).to_string()).expect("the folder can be written");
        run(Command::new("python3")
            .arg(checkout().join("tests/mkimg.py"))
            .arg("registry/own:1")
            .arg(&archive)
            .arg(format!("own={}", own.display())))
        .await
        .good();
        run(Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(folder.path()))
        .await
        .good();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            folder: folder.path().to_owned(),
            guarded,
            parts: Semaphore::new(0),
            layers: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                drop(tokio::spawn(async move { shared.serve(stream).await }));
            }
        }));
        Self {
            address,
            shared,
            _folder: folder,
        }
    }

    /// What an image of it is called.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:1", self.address)
    }

    /// Lets this many parts of layers be sent, of 64 KiB each.
    pub fn allow(&self, parts: usize) {
        self.shared.parts.add_permits(parts);
    }

    /// How many layers were asked for.
    pub fn layers(&self) -> usize {
        self.shared.layers.load(Ordering::Relaxed)
    }

    /// A Secret that holds [`ACCOUNT`] for this registry.
    pub fn secret(&self, name: &str) -> Value {
        let auths = json!({"auths": {(self.address.clone()): {"auth": BASE64_STANDARD.encode(ACCOUNT)}}});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": auths.to_string()}})
    }
}

impl Shared {
    /// One request to a connection.
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(&mut stream).lines();
        let first = lines.next_line().await?.unwrap_or_default();
        let mut authorization = String::new();
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                value.clone_into(&mut authorization);
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let known = authorization == format!("Basic {}", BASE64_STANDARD.encode(ACCOUNT));
        if self.guarded && !known {
            let challenge = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"tests\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(challenge.as_bytes()).await;
        }
        let Some((kind, body)) = self.find(path) else {
            let nothing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(nothing.as_bytes()).await;
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        if method == "HEAD" {
            return Ok(());
        }
        if body.len() < PART {
            return stream.write_all(&body).await;
        }
        self.layers.fetch_add(1, Ordering::Relaxed);
        for part in body.chunks(PART) {
            let permit = self.parts.acquire().await.map_err(std::io::Error::other)?;
            permit.forget();
            stream.write_all(part).await?;
        }
        Ok(())
    }

    /// Type and content of what a path names; the kind that a tag leads to is the image's manifest.
    fn find(&self, path: &str) -> Option<(String, Vec<u8>)> {
        if path == "/v2/" {
            return Some(("application/json".to_owned(), b"{}".to_vec()));
        }
        let (rest, last) = path.rsplit_once('/')?;
        if let Some(digest) = last.strip_prefix("sha256:") {
            let body = std::fs::read(self.folder.join("blobs/sha256").join(digest)).ok()?;
            let is_manifest = rest.ends_with("/manifests");
            let kind = if is_manifest {
                MANIFEST
            } else {
                "application/octet-stream"
            };
            return Some((kind.to_owned(), body));
        }
        let index = std::fs::read(self.folder.join("index.json")).ok()?;
        let index: Value = serde_json::from_slice(&index).ok()?;
        let digest = index["manifests"][0]["digest"].as_str()?.strip_prefix("sha256:")?;
        let body = std::fs::read(Path::new(&self.folder).join("blobs/sha256").join(digest)).ok()?;
        Some((MANIFEST.to_owned(), body))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
