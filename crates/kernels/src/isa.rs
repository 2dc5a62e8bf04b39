//! Which instruction set the kernels use, found once when the model is loaded.

use std::sync::OnceLock;

use super::lanes::{Kernel, PortableLanes};

/// An instruction set that this CPU supports: holding a value is the proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(super::x86::avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(super::x86::avx512::Avx512Vnni),
}

// === impl Isa ===

impl Isa {
    /// The best this CPU has; found once.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| *Self::available().last().unwrap_or(&Self::portable()))
    }

    /// Plain Rust, for any CPU; slow.
    pub fn portable() -> Self {
        Self(Level::Portable)
    }

    /// All this CPU has, the best last. Every one gives the same bits.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::portable()];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(super::x86::avx2::Avx2::new().map(|token| Self(Level::Avx2(token))));
            found.extend(
                super::x86::avx512::Avx512Vnni::new().map(|token| Self(Level::Avx512Vnni(token))),
            );
        }
        found
    }

    /// Name for logs and `inspect`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(_) => "avx512-vnni",
        }
    }

    pub(super) fn level(self) -> Level {
        self.0
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => kernel.run(PortableLanes),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(token) => token.run(kernel),
        }
    }
}
