//! A small persistent thread pool: fork, share chunks, join, without a system call while it is
//! warm.
//!
//! One decode step forks some two hundred times, so a fork-join must cost about a microsecond.
//! Workers spin on one word for a while after each job and then park. Items are claimed range by
//! range: a worker that the system descheduled delays its own range only, and a worker that has not
//! woken up yet is not waited for. Ranges shrink towards the end, so that all threads finish at
//! about the same time (guided self-scheduling: Polychronopoulos and Kuck, 1987).

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Spins before a worker parks: 20,000 pauses of about 40 cycles are some 300 microseconds, longer
/// than the serial part between two jobs of a step, shorter than a person notices on an idle
/// machine.
const SPINS_BEFORE_PARK: u32 = 20_000;

/// Runs closures over ranges of items on a fixed set of threads, the caller's included.
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Odd while a job is open, even otherwise; every change wakes the spinners.
    generation: Line<AtomicU64>,
    job: UnsafeCell<Option<Job>>,
    /// Next item to claim.
    next: Line<AtomicUsize>,
    /// Workers that look at `job` right now, or run what they have claimed of it.
    inside: Line<AtomicUsize>,
    /// Workers that parked or are about to.
    parked: AtomicUsize,
    /// Workers that have started.
    started: AtomicUsize,
    /// An item panicked on a worker.
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A word with cache lines of its own, two since they are fetched in pairs: a thread that waits for
/// it does not slow down one that changes another.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Job {
    /// Called with the thread's number and a range of items.
    run: *const (dyn Fn(usize, Range<usize>) + Sync),
    share: Share,
}

/// Division of a job's items among the threads.
#[derive(Clone, Copy)]
struct Share {
    items: usize,
    /// Items of a range at least.
    grain: usize,
    threads: usize,
}

// SAFETY: `job` is written only by the thread that holds `&mut ThreadPool` while `generation` is
// even and `inside` is zero, and read only by workers that counted themselves into `inside` and
// then saw an odd generation; the sequentially consistent order of those two words excludes both at
// once (see `run` and `work`).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` refers to a `Sync` closure that outlives the job, so any thread may
// call it.
unsafe impl Send for Shared {}

// === impl Line ===

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

// === impl ThreadPool ===

impl ThreadPool {
    /// Starts `threads - 1` workers; the caller of [`ThreadPool::run`] is the last one. `threads`
    /// is at least 1.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: Line::default(),
            job: UnsafeCell::new(None),
            next: Line::default(),
            inside: Line::default(),
            parked: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut handles: Vec<JoinHandle<()>> = Vec::with_capacity(threads);
        for _ in 1..threads {
            let shared = Arc::clone(&shared);
            // The caller is number 0.
            let number = handles.len() + 1;
            let builder = std::thread::Builder::new().name(format!("kernel-{number}"));
            // A machine that refuses a thread runs with fewer: slower, not wrong.
            handles.extend(builder.spawn(move || work(&shared, number)));
        }
        // What a thread does and allocates as it starts is over before the first job.
        while shared.started.load(Ordering::Acquire) < handles.len() {
            std::thread::yield_now();
        }
        let threads = handles.iter().map(|handle| handle.thread().clone()).collect();
        Self { shared, threads, handles }
    }

    /// Threads that take part in a job.
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Calls `body` once for each item in `0..items`, in no particular order or place, and returns
    /// when all are done.
    ///
    /// # Panics
    /// If a call panicked.
    pub fn run(&mut self, items: usize, body: &(dyn Fn(usize) + Sync)) {
        self.run_ranges(items, 1, &|range| range.for_each(body));
    }

    /// Splits `0..items` into ranges of at least `grain` items, several for each thread, and runs
    /// `body` on each.
    ///
    /// # Panics
    /// If a call panicked.
    pub fn run_ranges(&mut self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        self.run_ranges_numbered(items, grain, &|_, range| body(range));
    }

    /// [`ThreadPool::run_ranges`] whose `body` is also told which thread runs it: a number below
    /// [`ThreadPool::threads`]. No two calls with the same number overlap, so that threads can have
    /// scratch memory of their own.
    #[expect(clippy::panic, reason = "a panic of an item goes on in the caller, which isolates it")]
    pub fn run_ranges_numbered(
        &mut self,
        items: usize,
        grain: usize,
        body: &(dyn Fn(usize, Range<usize>) + Sync),
    ) {
        let share = Share { items, grain: grain.max(1), threads: self.threads() };
        if self.handles.is_empty() || items <= share.grain {
            if items > 0 {
                body(0, 0..items);
            }
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. The pointer is dereferenced by workers inside the
        // job only, and closing it below waits until none is, before `body` can go out of scope,
        // even when an item panics.
        let run: *const (dyn Fn(usize, Range<usize>) + Sync) =
            unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        // SAFETY: `&mut self` excludes another run; the last one left `generation` even and
        // `inside` zero, and a worker that enters late sees the even generation and leaves without
        // looking at the job.
        unsafe { *shared.job.get() = Some(Job { run, share }) };
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        let job = OpenJob { shared };
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            self.threads.iter().for_each(Thread::unpark);
        }
        claim_ranges(shared, share, |range| body(0, range));
        // All is claimed, and who has claimed what is not finished is inside.
        drop(job);
        if shared.panicked.swap(false, Ordering::SeqCst) {
            panic!("a kernel panicked on a worker thread");
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(Thread::unpark);
        for handle in self.handles.drain(..) {
            // A worker's panic was already reported by `run`.
            let _ = handle.join();
        }
    }
}

/// Closes the job when dropped: after that all that workers claimed is finished, and none holds the
/// closure.
struct OpenJob<'a> {
    shared: &'a Shared,
}

impl Drop for OpenJob<'_> {
    fn drop(&mut self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        // No more claims, should an item have panicked in the caller.
        self.shared.next.store(usize::MAX / 2, Ordering::SeqCst);
        while self.shared.inside.load(Ordering::SeqCst) > 0 {
            std::hint::spin_loop();
        }
    }
}

// === impl Share ===

impl Share {
    /// The range that is claimed when `start` items are: half of a thread's fair share of what is
    /// left.
    fn range(self, start: usize) -> Option<Range<usize>> {
        let left = self.items.checked_sub(start).filter(|&left| left > 0)?;
        let items = left.div_ceil(2 * self.threads).max(self.grain).min(left);
        Some(start..start + items)
    }
}

// === workers ===

fn claim_ranges(shared: &Shared, share: Share, body: impl Fn(Range<usize>)) {
    let claim = |start| share.range(start).map(|range| range.end);
    while let Ok(start) = shared.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
        let Some(range) = share.range(start) else { return };
        body(range);
    }
}

fn work(shared: &Shared, number: usize) {
    shared.started.fetch_add(1, Ordering::Release);
    let mut seen = 0;
    let mut spins = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != seen && generation % 2 == 1 {
            seen = generation;
            spins = 0;
            enter(shared, generation, number);
        } else if spins < SPINS_BEFORE_PARK {
            spins += 1;
            std::hint::spin_loop();
        } else {
            shared.parked.fetch_add(1, Ordering::SeqCst);
            // A job opened before the line above may not have seen us parked: look once more.
            if shared.generation.load(Ordering::SeqCst) == generation
                && !shared.stop.load(Ordering::SeqCst)
            {
                std::thread::park();
            }
            shared.parked.fetch_sub(1, Ordering::SeqCst);
            spins = 0;
        }
    }
}

fn enter(shared: &Shared, generation: u64, number: usize) {
    shared.inside.fetch_add(1, Ordering::SeqCst);
    if shared.generation.load(Ordering::SeqCst) == generation {
        // SAFETY: this thread counted itself in and then saw the job still open, so whoever closes
        // it has yet to pass the wait for `inside`: the job and its closure stay alive and
        // unchanged until we count ourselves out.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            // SAFETY: as above.
            let body = unsafe { &*job.run };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                claim_ranges(shared, job.share, |range| body(number, range));
            }));
            if outcome.is_err() {
                shared.panicked.store(true, Ordering::SeqCst);
            }
        }
    }
    shared.inside.fetch_sub(1, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_exactly_once() {
        for threads in [1, 2, 3, 5] {
            let mut pool = ThreadPool::new(threads);
            for items in [0, 1, 2, 7, 64] {
                for _ in 0..200 {
                    let counts: Vec<AtomicUsize> =
                        (0..items).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(items, &|index| {
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn ranges_cover_all_items() {
        let mut pool = ThreadPool::new(3);
        for items in [0, 1, 5, 97] {
            let sum = AtomicUsize::new(0);
            pool.run_ranges(items, 2, &|range| {
                sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), (0..items).sum::<usize>());
        }
    }

    #[test]
    fn calls_with_the_same_number_never_overlap() {
        for threads in [1, 2, 4] {
            let mut pool = ThreadPool::new(threads);
            let busy: Vec<AtomicBool> = (0..threads).map(|_| AtomicBool::new(false)).collect();
            for _ in 0..200 {
                pool.run_ranges_numbered(64, 1, &|thread, range| {
                    assert!(
                        !busy[thread].swap(true, Ordering::SeqCst),
                        "two calls with number {thread}"
                    );
                    std::hint::black_box(range.sum::<usize>());
                    busy[thread].store(false, Ordering::SeqCst);
                });
            }
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let mut pool = ThreadPool::new(2);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let count = AtomicUsize::new(0);
        pool.run(2, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
            // The caller alone would need both turns; a worker that woke takes one.
            std::thread::sleep(std::time::Duration::from_millis(5));
        });
        assert_eq!(count.into_inner(), 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = ThreadPool::new(2);
        for _ in 0..20 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(8, &|index| assert!(index != 3, "on purpose"));
            }));
            assert!(outcome.is_err());
            let count = AtomicUsize::new(0);
            pool.run(8, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 8);
        }
    }
}
