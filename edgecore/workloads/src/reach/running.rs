//! What is asked of the others of the house: what runs, by which runtime, and what it uses.

use std::sync::Arc;

use cri::Runtime;

use crate::machine::{Later, Machine, Resident, Room, Usage};
use crate::pods::{Pods, Running, State};

/// Who knows what runs.
pub(crate) trait Runs: Send + Sync {
    /// What runs of the pod with this uid.
    fn running(&self, uid: &str) -> Option<Running>;

    /// The container runtime, where there is one.
    fn runtime(&self) -> Option<Runtime>;

    /// What all that runs uses. `files`: how large containers' own files are, too.
    fn usage(&self, files: bool) -> Later<'_, Usage>;
}

/// Pods and the machine that they share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) pods: Pods,
    pub(crate) machine: Arc<Machine>,
}

impl Runs for House {
    fn running(&self, uid: &str) -> Option<Running> {
        self.pods.running(uid)
    }

    fn runtime(&self) -> Option<Runtime> {
        self.machine.runtime().borrow().clone()
    }

    fn usage(&self, files: bool) -> Later<'_, Usage> {
        let residents: Vec<Resident> = self.pods.all().into_iter().map(resident).collect();
        Box::pin(async move { self.machine.usage(&residents, files).await })
    }
}

fn resident(running: Running) -> Resident {
    let room = |container: crate::pods::RunningContainer| Room {
        name: container.name,
        id: container.id,
        runs: container.state == State::Running,
        log_path: container.log_path,
    };
    Resident {
        pod: running.pod,
        uid: running.uid,
        containers: running.containers.into_iter().map(room).collect(),
    }
}
