//! What a person sees while Skiff starts: numbered, timed steps.
//!
//! On a terminal, a step that takes time shows its detail on one line that is
//! rewritten; otherwise every step is one plain line when it begins to matter.
//! The same sink is given to components that do long work (unpacking, image
//! import, waiting for a server).

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;

/// Longest detail shown on the rewritten line.
const DETAIL_CHARS_MAX: usize = 100;

/// Prints steps to standard error; cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    started: Instant,
    step: u32,
    terminal: bool,
    /// A rewritten line stands on the terminal and must be cleared first.
    transient: bool,
    json: bool,
}

/// A step under way; say how it ended with [`Step::done`].
pub struct Step {
    progress: Progress,
    title: String,
    begun: Instant,
}

impl Progress {
    /// With `json`, steps become JSON log lines so that the stream stays parseable.
    pub fn new(json: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal() && !json;
        let started = Instant::now();
        Progress(Arc::new(Mutex::new(State { started, step: 0, terminal, transient: false, json })))
    }

    /// Begins a step; it is numbered when it is done.
    pub fn step(&self, title: impl Into<String>) -> Step {
        let title = title.into();
        self.transient(&title);
        Step { progress: self.clone(), title, begun: Instant::now() }
    }

    /// A detail of what is going on now: rewritten on a terminal, dropped elsewhere.
    pub fn transient(&self, detail: &str) {
        let mut state = self.0.lock();
        if state.terminal {
            let detail: String = detail.chars().take(DETAIL_CHARS_MAX).collect();
            write_error(&format!("\r\x1b[2K  … {detail}"));
            state.transient = true;
        }
    }

    /// A whole line that stays.
    pub fn line(&self, text: &str) {
        let mut state = self.0.lock();
        if state.json {
            let line = serde_json::json!({
                "timestamp": jiff::Timestamp::now().to_string(), "level": "INFO", "component": "start", "message": text});
            write_error(&format!("{line}\n"));
            return;
        }
        let clear = if std::mem::take(&mut state.transient) { "\r\x1b[2K" } else { "" };
        write_error(&format!("{clear}{text}\n"));
    }

    /// Time since the program started.
    pub fn elapsed_seconds(&self) -> f64 {
        self.0.lock().started.elapsed().as_secs_f64()
    }

    fn finish(&self, title: &str, detail: &str, begun: Instant) {
        let (number, total) = {
            let mut state = self.0.lock();
            state.step += 1;
            (state.step, state.started.elapsed().as_secs_f64())
        };
        let took = begun.elapsed().as_secs_f64();
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        self.line(&format!("[{total:6.2}s] {number:2}. {title}{detail} ({took:.2}s)"));
    }
}

impl Step {
    /// Shows what the step is at.
    pub fn detail(&self, detail: &str) {
        self.progress.transient(&format!("{}: {detail}", self.title));
    }

    pub fn done(self, detail: &str) {
        self.progress.finish(&self.title, detail, self.begun);
    }
}

/// A closed standard error must not end the cluster.
fn write_error(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
