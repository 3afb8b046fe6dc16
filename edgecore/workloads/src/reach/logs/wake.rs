//! Waits until a log may have more: the kernel says so (inotify). Where it cannot, one looks again now and then.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// How often one looks where the kernel does not tell.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of notices that are taken at a time; what they say does not matter.
const NOTICES: usize = 4096;

/// Somebody who is woken when a folder's files change.
#[derive(Debug)]
pub(crate) struct Wake(Option<Receiver>);

impl Wake {
    /// Watches a folder from now on.
    pub(crate) fn new(folder: &Path) -> Self {
        let watch = || -> std::io::Result<Receiver> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
            inotify::add_watch(&fd, folder, what)?;
            // Notices are read as from a pipe.
            Receiver::from_file_unchecked(File::from(fd))
        };
        match watch() {
            Ok(notices) => Self(Some(notices)),
            Err(e) => {
                tracing::debug!(error = %e, "The kernel does not watch a log's folder; it is looked at each second.");
                Self(None)
            }
        }
    }

    /// Until something changed since the last time. Safe to drop half-way.
    pub(crate) async fn changed(&self) {
        let ready = match &self.0 {
            Some(notices) => notices.readable().await.map(|()| notices),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let Ok(notices) = ready else {
            return tokio::time::sleep(LOOK).await;
        };
        let mut taken = [0; NOTICES];
        while notices.try_read(&mut taken).is_ok_and(|read| read > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_wakes_once_and_silence_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let wake = Wake::new(folder.path());
        std::fs::write(folder.path().join("0.log"), "x").unwrap();
        wake.changed().await;
        assert!(futures_util::FutureExt::now_or_never(wake.changed()).is_none());
        std::fs::write(folder.path().join("0.log"), "xy").unwrap();
        wake.changed().await;
    }
}
