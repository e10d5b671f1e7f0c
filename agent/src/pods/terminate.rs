//! Ends a pod: containers, then volumes and control group, then the object.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_api::{GroupVersionResource, Uid};
use skiff_client::DeleteOptions;
use tokio::sync::watch;

use super::{
    spec,
    worker::{PodWorker, Round, Wish},
};
use crate::{container_config::sandbox, limits, observed::ObservedPod};

impl PodWorker {
    /// One round for a pod that should end, or has ended.
    pub(super) async fn terminate(&mut self, wish: &Wish, mailbox: watch::Receiver<Wish>) -> Round {
        let pod = wish.pod();
        let gone = matches!(wish, Wish::Gone(_));
        if !self.cleaned {
            let Ok(observed) = self.stop_all(pod, gone, mailbox).await else { return Round::Retry(None) };
            self.ended = true;
            self.read_messages(&observed);
            let status = self.status(pod, &observed);
            if !gone
                && let Err(error) = self.context.status.write_now(pod, &status).await
                && !error.is_not_found()
                && !error.is_conflict()
            {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "write last status");
                return Round::Retry(None);
            }
            if self.clean_up(pod).await.is_err() {
                return Round::Retry(None);
            }
            self.cleaned = true;
        }
        if !gone && !spec::is_terminal(pod) && !spec::is_deleting(pod) {
            // Somebody wrote another status meanwhile.
            let Ok(observed) = self.observe(pod).await else { return Round::Retry(None) };
            self.publish(pod, &observed);
        }
        if gone || self.is_static {
            if !gone {
                return Round::Wait(None);
            }
            return self.forget(pod).await;
        }
        if !spec::is_deleting(pod) {
            // Ended by itself: the object and the logs stay until somebody deletes it.
            return Round::Wait(None);
        }
        if self.remove_containers(pod).await.is_err() {
            return Round::Retry(None);
        }
        self.delete_object(pod).await
    }

    /// Stops what runs; a shorter grace period that comes in meanwhile is honoured.
    async fn stop_all(
        &mut self,
        pod: &Arc<Pod>,
        gone: bool,
        mut mailbox: watch::Receiver<Wish>,
    ) -> Result<Arc<ObservedPod>, ()> {
        self.context.prober.stop_liveness(&self.uid);
        let mut grace = spec::grace_period_seconds(pod);
        let mut just_stopped = false;
        loop {
            let observed = self.observe(pod).await.map_err(|error| {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "look at pod");
            })?;
            if !observed.has_running() {
                return Ok(observed);
            }
            if std::mem::take(&mut just_stopped) {
                // What was stopped may be shown as running for another moment; the runtime tells when that is over.
                let _ = tokio::time::timeout(limits::END_WAIT, self.context.pleg.wait_ended(&self.uid)).await;
                continue;
            }
            self.read_messages(&observed);
            if !gone {
                self.publish(pod, &observed);
            }
            let shorter = async {
                let less =
                    |wish: &Wish| spec::grace_period_seconds(wish.pod()) < grace && spec::is_deleting(wish.pod());
                let found = mailbox.wait_for(less).await.map(|wish| spec::grace_period_seconds(wish.pod())).ok();
                match found {
                    Some(seconds) => seconds,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                stopped = self.kill_pod(pod, &observed, grace) => {
                    stopped?;
                    just_stopped = true;
                }
                less = shorter => grace = less,
            }
        }
    }

    /// Frees what an ended pod no longer needs.
    async fn clean_up(&mut self, pod: &Pod) -> Result<(), ()> {
        let context = Arc::clone(&self.context);
        context.prober.forget(&self.uid);
        context.puller.forget(&self.uid);
        context.objects.forget(&self.uid);
        context.set_admitted(&self.uid, None);
        if let Err(error) = context.volumes.unmount(&self.uid) {
            self.warn(pod, "FailedUnMount", error.to_string());
            return Err(());
        }
        if let Err(error) = context.cgroups.remove(&self.uid).await {
            self.warn(pod, "FailedRemovePodCgroup", error.to_string());
            return Err(());
        }
        Ok(())
    }

    async fn remove_containers(&self, pod: &Pod) -> Result<(), ()> {
        let failed = |error: crate::cri::CriError| {
            tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "remove pod from the runtime");
        };
        let observed = self.observe(pod).await.map_err(failed)?;
        for container in &observed.containers {
            self.context.cri.remove_container(&container.id).await.map_err(failed)?;
        }
        for sandbox in &observed.sandboxes {
            self.context.cri.remove_pod_sandbox(&sandbox.id).await.map_err(failed)?;
        }
        self.observe(pod).await.map(drop).map_err(failed)?;
        if let Some(mounter) = &self.context.image_mounter {
            // Unmounted when the pod ended; a pod that never ran may not have been.
            let unmounted = self.context.volumes.unmount(&self.uid);
            unmounted.map_err(|error| {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "unmount volumes of pod");
            })?;
            mounter.forget(&self.context.volumes.image_dirs(&self.uid)).await;
        }
        self.context.volumes.tear_down(&self.uid).map_err(|error| {
            tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "remove volumes of pod");
        })
    }

    /// Nothing of the pod is left here, so the object may go. Only exactly this object.
    async fn delete_object(&self, pod: &Pod) -> Round {
        let pods = GroupVersionResource::of::<Pod>();
        let options =
            DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::with_uid(&Uid(self.uid.clone())) };
        let (namespace, name) = (spec::namespace(pod), spec::name(pod));
        match self.context.config.client.delete(&pods, Some(namespace), name, &options).await {
            Ok(()) => Round::Wait(None),
            Err(error) if error.is_not_found() || error.is_conflict() => Round::Wait(None),
            Err(error) => {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "delete pod object");
                Round::Retry(None)
            }
        }
    }

    /// The object is gone: the last traces go too.
    async fn forget(&mut self, pod: &Pod) -> Round {
        if self.remove_containers(pod).await.is_err() {
            return Round::Retry(None);
        }
        let logs = sandbox::log_directory(&self.context.config.pod_log_dir(), pod);
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(component = "pod", path = %logs.display(), %error, "remove logs of pod");
        }
        self.context.status.forget(&self.uid);
        Round::Done
    }
}
