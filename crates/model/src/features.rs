//! Features: for each position the hidden state that it had near the model's end. Bridges read that
//! of the position before (the features of EAGLE, Li et al. 2024): it knows of the context what the
//! sublayers that they stand in for would have looked up.

use half::bf16;

use skipstone_kernels::PAGE_POSITIONS;

/// The features of all streams, kept in the pages of their keys and values: \[pages, positions,
/// hidden\].
#[derive(Debug)]
pub(super) struct Features {
    hidden: usize,
    /// Bits of [`bf16`], which holds outliers that half precision doesn't. Untouched pages cost no
    /// memory: the system zeroes an allocation lazily.
    bits: Vec<u16>,
}

// === impl Features ===

impl Features {
    /// Room for `pages` pages.
    pub(super) fn new(hidden: usize, pages: usize) -> Self {
        Self { hidden, bits: vec![0; pages * PAGE_POSITIONS * hidden] }
    }

    /// Keeps the feature of a position of a stream with these pages.
    pub(super) fn write(&mut self, pages: &[u32], position: usize, state: &[f32]) {
        let start = self.start(pages, position);
        let kept = &mut self.bits[start..][..self.hidden];
        kept.iter_mut()
            .zip(state)
            .for_each(|(bits, &value)| *bits = bf16::from_f32(value).to_bits());
    }

    /// The feature of the position before `position`: what was written there last, and zeros before
    /// the first.
    pub(super) fn read_before(&self, pages: &[u32], position: usize, out: &mut [f32]) {
        let Some(before) = position.checked_sub(1) else { return out.fill(0.0) };
        let kept = &self.bits[self.start(pages, before)..][..self.hidden];
        out.iter_mut().zip(kept).for_each(|(value, &bits)| *value = bf16::from_bits(bits).to_f32());
    }

    /// Copies the features of page `from` to page `to`.
    pub(super) fn copy_page(&mut self, from: u32, to: u32) {
        let elements = PAGE_POSITIONS * self.hidden;
        self.bits.copy_within(
            from as usize * elements..(from as usize + 1) * elements,
            to as usize * elements,
        );
    }

    fn start(&self, pages: &[u32], position: usize) -> usize {
        let page = pages[position / PAGE_POSITIONS] as usize;
        (page * PAGE_POSITIONS + position % PAGE_POSITIONS) * self.hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_finds_the_feature_of_the_one_before() {
        let mut features = Features::new(2, 3);
        let pages = [2, 0];
        let read = |features: &Features, pages: &[u32], position| {
            let mut out = [9.0; 2];
            features.read_before(pages, position, &mut out);
            out
        };
        features.write(&pages, PAGE_POSITIONS - 1, &[1.5, -70_000.0]);
        features.write(&pages, PAGE_POSITIONS, &[0.25, 3.0]);
        let rounded = bf16::from_f32(-70_000.0).to_f32();
        assert_eq!(read(&features, &pages, PAGE_POSITIONS), [1.5, rounded], "across pages");
        assert_eq!(read(&features, &pages, PAGE_POSITIONS + 1), [0.25, 3.0]);
        assert_eq!(read(&features, &pages, 0), [0.0; 2]);
        features.copy_page(2, 1);
        assert_eq!(read(&features, &[1, 0], PAGE_POSITIONS), [1.5, rounded]);
    }
}
