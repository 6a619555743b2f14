//! Wakes that stay where they belong.
//!
//! The halves of an HTTP connection wake each other through the waker that both were polled
//! with: who takes a chunk wakes who may now read the next. Where one task polls both, such a
//! wake only makes it poll everything once more, in vain, for each request and each token. A
//! bell stands between: while its owner polls, rings are only noted.

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
pub(crate) struct Bell {
    shared: Arc<Shared>,
    /// Rings it.
    waker: Waker,
}

#[derive(Debug, Default)]
struct Shared {
    /// The task that polls what rings.
    task: AtomicWaker,
    muted: AtomicBool,
    rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        Self {
            waker: shared.clone().into(),
            shared,
        }
    }

    pub(crate) fn ring(&self) {
        self.waker.wake_by_ref();
    }

    /// From now on the task of `cx` is woken.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.shared.task.register(cx.waker());
    }

    /// Polls with this bell's waker. The task is woken for what rings afterwards; and for what
    /// rang meanwhile if the result is still to come.
    pub(crate) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.shared.muted.store(true, Ordering::Relaxed);
        // A swap, so that what was done before a ring that this takes back is seen by the poll.
        self.shared.rung.swap(false, Ordering::SeqCst);
        let result = poll(&mut Context::from_waker(&self.waker));
        // In this order, and the other way round in `wake_by_ref`: one of the two sees the other.
        self.shared.muted.store(false, Ordering::SeqCst);
        if result.is_pending() && self.shared.rung.load(Ordering::SeqCst) {
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
        if HUSH.get() != Hush::No {
            HUSH.set(Hush::Rang);
            return;
        }
        self.rung.store(true, Ordering::SeqCst);
        if !self.muted.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hush {
    No,
    Yes,
    Rang,
}

thread_local! {
    static HUSH: Cell<Hush> = const { Cell::new(Hush::No) };
}

/// What `act` gives, and whether it rang a bell. That ring is not passed on: whoever cannot tell
/// that nobody needs it has to [`Bell::ring`].
pub(crate) fn hushed<T>(act: impl FnOnce() -> T) -> (T, bool) {
    HUSH.set(Hush::Yes);
    let result = act();
    (result, HUSH.replace(Hush::No) == Hush::Rang)
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
        bell: Bell,
        task: Arc<Task>,
    }

    impl Scene {
        fn new() -> Self {
            let scene = Self {
                bell: Bell::new(),
                task: Arc::default(),
            };
            scene
                .bell
                .listen(&Context::from_waker(&scene.task.clone().into()));
            scene
        }

        fn woken(&self) -> usize {
            self.task.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_ring_while_polled_to_a_result_wakes_nobody() {
        let scene = Scene::new();
        let result = scene.bell.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(1)
        });
        assert_eq!(result, Poll::Ready(1));
        assert_eq!(scene.woken(), 0);
    }

    #[test]
    fn a_ring_while_polled_in_vain_wakes_the_task() {
        let scene = Scene::new();
        let result: Poll<()> = scene.bell.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(result, Poll::Pending);
        assert_eq!(scene.woken(), 1);
    }

    #[test]
    fn a_ring_afterwards_wakes_the_task() {
        let scene = Scene::new();
        assert_eq!(scene.bell.poll(|_| Poll::<()>::Pending), Poll::Pending);
        scene.bell.ring();
        assert_eq!(scene.woken(), 1);
    }

    #[test]
    fn only_a_ring_of_this_thread_is_hushed() {
        let scene = Scene::new();
        let ((), rang) = hushed(|| scene.bell.ring());
        assert!(rang);
        assert_eq!(scene.woken(), 0);
        let ((), rang) = hushed(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| scene.bell.ring());
            });
        });
        assert!(!rang);
        assert_eq!(scene.woken(), 1);
        let ((), rang) = hushed(|| {});
        assert!(!rang);
    }
}
