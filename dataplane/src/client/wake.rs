//! Wakes that stay where they belong.
//!
//! The halves of an HTTP connection wake each other through the waker that both were polled
//! with: who takes a chunk wakes who may now read the next. Where one task polls both, such a
//! wake only makes it poll everything once more, in vain, for each request and each token. A
//! filter stands between: wakes that come while its owner polls are only noted.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

#[derive(Debug)]
pub(crate) struct WakeFilter {
    shared: Arc<Shared>,
    /// Goes through it.
    waker: Waker,
}

#[derive(Debug, Default)]
struct Shared {
    /// The task that polls.
    task: AtomicWaker,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl WakeFilter {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        Self {
            waker: shared.clone().into(),
            shared,
        }
    }

    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// From now on the task of `cx` is woken.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.shared.task.register(cx.waker());
    }

    /// Polls with this filter's waker. The task is woken by wakes that come afterwards, and by those
    /// that came meanwhile if the result is still to come.
    pub(crate) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.shared.polling.store(true, Ordering::Relaxed);
        // A swap, so that what was done before a wake that this takes back is seen by the poll.
        self.shared.woken.swap(false, Ordering::SeqCst);
        let result = poll(&mut Context::from_waker(&self.waker));
        // In this order, and the other way round in `wake_by_ref`: one of the two sees the other.
        self.shared.polling.store(false, Ordering::SeqCst);
        if result.is_pending() && self.shared.woken.load(Ordering::SeqCst) {
            self.shared.task.wake();
        }
        result
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if QUIET.get() != Quiet::No {
            QUIET.set(Quiet::Woken);
            return;
        }
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    No,
    Yes,
    Woken,
}

thread_local! {
    static QUIET: Cell<Quiet> = const { Cell::new(Quiet::No) };
}

/// What `act` gives, and whether it woke a filter's task. That wake is not passed on: whoever cannot
/// tell that nobody needs it has to [`WakeFilter::wake`].
pub(crate) fn quietly<T>(act: impl FnOnce() -> T) -> (T, bool) {
    QUIET.set(Quiet::Yes);
    let result = act();
    (result, QUIET.replace(Quiet::No) == Quiet::Woken)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Scene {
        filter: WakeFilter,
        task: Arc<Task>,
    }

    impl Scene {
        fn new() -> Self {
            let scene = Self {
                filter: WakeFilter::new(),
                task: Arc::default(),
            };
            scene
                .filter
                .listen(&Context::from_waker(&scene.task.clone().into()));
            scene
        }

        fn woken(&self) -> usize {
            self.task.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_wake_while_polled_to_a_result_wakes_nobody() {
        let scene = Scene::new();
        let result = scene.filter.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(1)
        });
        assert_eq!(result, Poll::Ready(1));
        assert_eq!(scene.woken(), 0);
    }

    #[test]
    fn a_wake_while_polled_in_vain_wakes_the_task() {
        let scene = Scene::new();
        let result: Poll<()> = scene.filter.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(result, Poll::Pending);
        assert_eq!(scene.woken(), 1);
    }

    #[test]
    fn a_wake_afterwards_wakes_the_task() {
        let scene = Scene::new();
        assert_eq!(scene.filter.poll(|_| Poll::<()>::Pending), Poll::Pending);
        scene.filter.wake();
        assert_eq!(scene.woken(), 1);
    }

    #[test]
    fn only_a_wake_of_this_thread_is_quietly() {
        let scene = Scene::new();
        let ((), was_woken) = quietly(|| scene.filter.wake());
        assert!(was_woken);
        assert_eq!(scene.woken(), 0);
        let ((), was_woken) = quietly(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| scene.filter.wake());
            });
        });
        assert!(!was_woken);
        assert_eq!(scene.woken(), 1);
        let ((), was_woken) = quietly(|| {});
        assert!(!was_woken);
    }
}
