//! Facts that the machine and this process state about themselves.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::median;
use skipstone_kernels::ThreadPool;

/// The processor, as results name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Its model name.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
}

// === impl Machine ===

impl Machine {
    /// The machine this process runs on.
    pub fn this() -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor =
            field(&information, "model name").unwrap_or(std::env::consts::ARCH).to_owned();
        Self { processor, cores: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {} cores", self.processor, self.cores)
    }
}

/// The most memory that this process has held so far, in bytes; `None` where the system does not
/// say.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes: u64 = field(&status, "VmHWM")?.strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Median seconds to fork a job to `threads` threads, see each of them start on it, and join them;
/// job after job, as in a pass.
pub fn fork_join_seconds(threads: usize) -> f64 {
    /// Enough for a steady median: some milliseconds in total.
    const JOBS: usize = 2001;
    let mut pool = ThreadPool::new(threads);
    let threads = pool.threads();
    let mut times: Vec<f64> = (0..JOBS)
        .map(|_| {
            let started = Instant::now();
            let arrived = AtomicUsize::new(0);
            // Without waiting for the others, the first thread would take all the chunks before a
            // second one notices.
            pool.run(threads, &|_| {
                arrived.fetch_add(1, Ordering::AcqRel);
                while arrived.load(Ordering::Acquire) < threads {
                    std::hint::spin_loop();
                }
            });
            started.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut times)
}

/// The value of the first line `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim_end() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: AMD EPYC\nVmHWM:\t    5 kB\n";
        assert_eq!(field(text, "model name"), Some("AMD EPYC"));
        assert_eq!(field(text, "VmHWM"), Some("5 kB"));
        assert_eq!(field(text, "name"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_grows_with_what_is_held() {
        let before = peak_resident_bytes().unwrap();
        let held = vec![1_u8; 64 << 20];
        std::hint::black_box(&held);
        assert!(peak_resident_bytes().unwrap() > before.max(64 << 20));
    }

    #[test]
    fn a_fork_join_takes_time() {
        for threads in [1, 2] {
            let seconds = fork_join_seconds(threads);
            assert!(seconds > 0.0 && seconds < 0.01, "{threads} threads: {seconds}");
        }
    }
}
