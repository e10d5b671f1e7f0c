//! The supervision tree of a process: components by name under one token.
//!
//! A component that ends before it was told to ends the process, because a
//! cluster with a silent hole is worse than a restart. Stopping goes stage by
//! stage, last started first, each with a deadline.

use std::{future::Future, time::Duration};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Components that stop together.
struct Stage {
    name: &'static str,
    token: CancellationToken,
    tasks: JoinSet<(&'static str, Result<()>)>,
    deadline: Duration,
}

/// The stages of a process, in the order they were started.
#[derive(Default)]
pub struct Supervision {
    stages: Vec<Stage>,
}

impl Supervision {
    /// Opens a stage; what is spawned from now on belongs to it.
    pub fn stage(&mut self, name: &'static str, deadline: Duration) -> CancellationToken {
        let token = CancellationToken::new();
        self.stages.push(Stage { name, token: token.clone(), tasks: JoinSet::new(), deadline });
        token
    }

    /// Runs a component in the newest stage.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) {
        let stage = self.stages.last_mut().expect("a stage is opened first");
        stage.tasks.spawn(async move { (name, work.await) });
    }

    /// Waits until a component ends by itself and says which; for ever if none does.
    pub async fn failed(&mut self) -> anyhow::Error {
        let waits = self.stages.iter_mut().filter(|stage| !stage.tasks.is_empty()).map(|stage| {
            Box::pin(async {
                match stage.tasks.join_next().await {
                    Some(Ok((name, Ok(())))) => anyhow!("{name} ended by itself"),
                    Some(Ok((name, Err(error)))) => error.context(name),
                    Some(Err(error)) => anyhow!("a component of stage {} failed: {error}", stage.name),
                    None => std::future::pending().await,
                }
            })
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(waits).await.0
    }

    /// Stops all stages, newest first. What does not end in time is named and left behind.
    pub async fn stop(mut self) {
        while let Some(mut stage) = self.stages.pop() {
            stage.token.cancel();
            let ended = tokio::time::timeout(stage.deadline, async {
                while let Some(ended) = stage.tasks.join_next().await {
                    if let Ok((name, Err(error))) = ended {
                        tracing::warn!(component = name, error = format!("{error:#}"), "ended with an error");
                    }
                }
            });
            if ended.await.is_err() {
                let left = stage.tasks.len();
                tracing::warn!(stage = stage.name, left, "not stopped in time; going on without");
                stage.tasks.abort_all();
            }
        }
    }
}

/// Resolves on SIGINT or SIGTERM.
pub async fn stop_signal() -> Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_early_end_is_reported_with_its_name_and_stopping_waits_for_the_rest() {
        let mut supervision = Supervision::default();
        let token = supervision.stage("first", Duration::from_secs(5));
        supervision.spawn("steady", async move {
            token.cancelled().await;
            Ok(())
        });
        let _second = supervision.stage("second", Duration::from_secs(1));
        supervision.spawn("short", async { Err(anyhow!("no disk")) });
        supervision.spawn("stuck", std::future::pending());
        let error = supervision.failed().await;
        assert_eq!(format!("{error:#}"), "short: no disk");
        supervision.stop().await;
    }
}
