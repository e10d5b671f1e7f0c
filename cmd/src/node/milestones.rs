//! What a person sees while a node comes up: the container runtime, the images,
//! the node being Ready, each as a timed step.

use std::sync::Arc;

use parking_lot::Mutex;
use skiff_agent::{AgentEvent, EventSinkFn, images::ImportReport};
use tokio::sync::watch;

use crate::progress::{Progress, Step};

/// Turns the node agent's events into steps, and says when the node is Ready.
pub struct Milestones {
    progress: Progress,
    current: Mutex<Option<Step>>,
    archives: Mutex<usize>,
    reached: watch::Sender<Reached>,
}

/// What has been reached so far.
#[derive(Clone, Copy, Default)]
struct Reached {
    images: bool,
    ready: bool,
}

impl Milestones {
    pub fn new(progress: &Progress) -> Arc<Milestones> {
        Arc::new(Milestones {
            current: Mutex::new(Some(progress.step("Container runtime"))),
            progress: progress.clone(),
            archives: Mutex::new(0),
            reached: watch::Sender::new(Reached::default()),
        })
    }

    /// Where the node agent reports to.
    pub fn sink(self: &Arc<Self>) -> EventSinkFn {
        let milestones = Arc::clone(self);
        Arc::new(move |event| milestones.on(event))
    }

    /// Waits until the node is Ready and has its images.
    pub async fn wait_ready(&self) {
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = self.reached.subscribe().wait_for(|reached| reached.ready && reached.images).await;
    }

    /// Ends the step under way, whatever it is.
    pub fn end(&self, detail: &str) {
        if let Some(step) = self.current.lock().take() {
            step.done(detail);
        }
    }

    fn on(&self, event: AgentEvent) {
        match event {
            AgentEvent::RuntimeReady { version } => {
                self.end(&format!("containerd {version}"));
                self.begin("Images");
            }
            AgentEvent::ImageArchive(report) => self.on_archive(&report),
            AgentEvent::ImagesImported => {
                self.end(&format!("{} imported or known", *self.archives.lock()));
                self.begin("Node");
                self.reached.send_modify(|reached| reached.images = true);
            }
            AgentEvent::NodeReady(ready) => {
                self.reached.send_modify(|reached| reached.ready = ready);
            }
            AgentEvent::NodeRegistered | AgentEvent::PodRunning { .. } => {}
        }
    }

    /// A broken archive is told at once and stays on the screen: it is the user's to mend.
    fn on_archive(&self, report: &ImportReport) {
        let detail = |text: String| {
            if let Some(step) = self.current.lock().as_ref() {
                step.detail(&text);
            }
        };
        match report {
            ImportReport::Started(path) => detail(format!("importing {}", path.display())),
            ImportReport::Skipped(_) => *self.archives.lock() += 1,
            ImportReport::Imported(path, images) => {
                *self.archives.lock() += 1;
                detail(format!("{} held {}", path.display(), images.join(", ")));
            }
            ImportReport::Failed(path, error) => {
                self.progress.line(&format!("image archive {} cannot be used: {error}", path.display()));
            }
        }
    }

    fn begin(&self, title: &str) {
        *self.current.lock() = Some(self.progress.step(title));
    }
}
