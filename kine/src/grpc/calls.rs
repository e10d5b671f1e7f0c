//! The calls of a connection, run by the connection's own task.
//!
//! The HTTP/2 library wants a task of its own for each call. That costs more than most calls do: an
//! allocation, a wake-up of another thread, and a system call for each answer. Here whoever reads a connection also
//! runs what was asked on it, and answers that are ready together leave together. What takes long, such as
//! a list of many keys, is given a task by who answers it, so that it does not hold up its neighbours.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a connection puts the calls it has read.
#[derive(Clone, Default)]
pub(crate) struct NewCalls(Arc<Mutex<Vec<Call>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for NewCalls {
    fn execute(&self, call: F) {
        self.0.lock().push(Box::pin(call));
    }
}

/// Times a task looks at connection and calls before it lets others have their turn.
const ROUNDS: usize = 3;

/// A connection together with its calls; ends with the connection.
pub(crate) struct WithCalls<C> {
    connection: Pin<Box<C>>,
    new: NewCalls,
    running: FuturesUnordered<Call>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

/// Wakes the task, unless that is awake: a call that answers wakes the connection that runs it, which would
/// cost as much as waking another thread.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    awake: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.awake.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl<C> WithCalls<C> {
    /// `new` is what the connection was given to put its calls.
    pub(crate) fn new(connection: C, new: NewCalls) -> WithCalls<C> {
        let bell = Arc::<Bell>::default();
        let waker = bell.clone().into();
        WithCalls { connection: Box::pin(connection), new, running: FuturesUnordered::new(), bell, waker }
    }

    pub(crate) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(cx) {}
    }

    /// Takes over what the connection has read; false if that is nothing.
    fn take_over(&mut self) -> bool {
        let mut new = self.new.0.lock();
        let any = !new.is_empty();
        self.running.extend(new.drain(..));
        any
    }
}

impl<C: Future> Future for WithCalls<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        this.bell.task.register(cx.waker());
        this.bell.awake.store(true, Ordering::SeqCst);
        let waker = this.waker.clone();
        let inner = &mut Context::from_waker(&waker);
        for _ in 0..ROUNDS {
            this.bell.rung.store(false, Ordering::SeqCst);
            // First the answers, which the connection then sends all at once.
            this.run(inner);
            let ended = this.connection.as_mut().poll(inner);
            if ended.is_ready() {
                return ended;
            }
            if this.take_over() {
                this.run(inner);
            }
            if !this.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        this.bell.awake.store(false, Ordering::SeqCst);
        // Whoever rang in between found the task awake.
        if this.bell.rung.load(Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use hyper::rt::Executor;
    use tokio::sync::oneshot;

    use super::*;

    /// A connection that reads one call each time it is polled, and ends behind the last one.
    struct Script {
        calls: VecDeque<Call>,
        new: NewCalls,
        end: oneshot::Receiver<()>,
    }

    impl Future for Script {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if let Some(call) = self.calls.pop_front() {
                self.new.execute(call);
                cx.waker().wake_by_ref();
            }
            Pin::new(&mut self.end).poll(cx).map(drop)
        }
    }

    #[tokio::test]
    async fn calls_run_side_by_side_until_the_connection_ends() {
        let new = NewCalls::default();
        let (first_may, first_waits) = oneshot::channel::<()>();
        let (end_may, end) = oneshot::channel::<()>();
        let (dropped, never) = oneshot::channel::<()>();
        // The first can end only because the second does, although that came later.
        let first: Call = Box::pin(async move {
            first_waits.await.unwrap();
            end_may.send(()).unwrap();
        });
        let second: Call = Box::pin(async move { first_may.send(()).unwrap() });
        let endless: Call = Box::pin(async move {
            std::future::pending::<()>().await;
            drop(dropped);
        });
        let script = Script { calls: [first, endless, second].into(), new: new.clone(), end };
        tokio::time::timeout(std::time::Duration::from_secs(60), WithCalls::new(script, new)).await.unwrap();
        assert!(never.await.is_err(), "what still runs goes with the connection");
    }
}
