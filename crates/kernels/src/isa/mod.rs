//! Instruction sets: one leaf file each, and which of them this CPU has, found once.
//!
//! Loops are written elsewhere, over two traits, and compiled for every instruction set: products
//! over [`Registers`](crate::tiles::Registers), sixteen columns wide, and everything between them
//! over [`Lanes`](crate::lanes::Lanes), eight floats wide. A leaf implements both and proves that
//! the CPU has the instructions; nothing else knows them.
//!
//! # To add an instruction set
//!
//! [`portable`] is the pattern, [`avx2`] one with instructions to enable. For NEON, say:
//!
//! 1. In `neon.rs` write a token, `struct Neon(())`, and its [`InstructionSet`]: `new` asks the CPU
//!    and alone makes tokens, `run` and `tile_rows` enable the instructions around the loops.
//! 2. Implement `Lanes` for the token, and `Registers` for a type that stands for sixteen lanes: of
//!    its operations only `sums` and `scaled_sums` are more than an instruction or two, and those
//!    decide the speed.
//! 3. Declare the module and add a line to `instruction_sets!` below, each behind
//!    `#[cfg(target_arch = "aarch64")]`. The last line that the CPU supports is the one in use.
//!
//! Tests run over [`Isa::available`] and compare bit by bit, so that they need no change.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod portable;

use std::sync::OnceLock;

use crate::activations::Activations;
use crate::lanes::Kernel;
use crate::layout::COLUMNS;
use crate::packed::Tile;

/// An instruction set that this CPU supports: holding a value is the proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Level);

/// Instructions that a CPU may have, by the proof that this one has them: `new` makes the only
/// values.
pub(crate) trait InstructionSet: Copy {
    /// Name for logs and `inspect`.
    const NAME: &'static str;

    /// The proof, if this CPU can give it.
    fn new() -> Option<Self>;

    /// Runs `kernel` compiled for the instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// Outputs of one tile for `out.len()` rows from `row` on:
    /// [`tile_rows`](crate::tiles::tile_rows) compiled for the instruction set.
    fn tile_rows(
        self,
        tile: Tile<'_>,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    );
}

/// Declares [`Level`], with one variant for each line.
macro_rules! instruction_sets {
    ($($(#[$condition:meta])* $file:ident::$name:ident;)*) => {
        /// The instruction sets, by their proofs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        enum Level {
            $($(#[$condition])* $name($file::$name),)*
        }

        impl Level {
            /// All this CPU has, in the order of the lines.
            fn available() -> impl Iterator<Item = Self> {
                [$($(#[$condition])* $file::$name::new().map(Self::$name),)*].into_iter().flatten()
            }

            fn name(self) -> &'static str {
                match self {
                    $($(#[$condition])* Self::$name(_) => $file::$name::NAME,)*
                }
            }

            #[inline]
            fn run<K: Kernel>(self, kernel: K) -> K::Output {
                match self {
                    $($(#[$condition])* Self::$name(token) => token.run(kernel),)*
                }
            }

            #[inline]
            fn tile_rows(
                self,
                tile: Tile<'_>,
                inputs: &Activations,
                row: usize,
                out: &mut [[f32; COLUMNS]],
            ) {
                match self {
                    $($(#[$condition])* Self::$name(token) => {
                        token.tile_rows(tile, inputs, row, out)
                    })*
                }
            }
        }
    };
}

// The best last.
instruction_sets! {
    portable::Portable;
    #[cfg(target_arch = "x86_64")]
    avx2::Avx2;
    #[cfg(target_arch = "x86_64")]
    avx512::Avx512Vnni;
}

// === impl Isa ===

impl Isa {
    /// The best this CPU has; found once.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Level::available().last().map_or(Self::portable(), Self))
    }

    /// Plain Rust, for any CPU.
    pub fn portable() -> Self {
        Self(Level::Portable(portable::Portable))
    }

    /// All this CPU has, the best last. Every one gives the same bits.
    pub fn available() -> Vec<Self> {
        Level::available().map(Self).collect()
    }

    /// Name for logs and `inspect`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.run(kernel)
    }

    /// Outputs of one tile for `out.len()` rows from `row` on.
    pub(crate) fn tile_rows(
        self,
        tile: Tile<'_>,
        inputs: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]],
    ) {
        self.0.tile_rows(tile, inputs, row, out);
    }
}
