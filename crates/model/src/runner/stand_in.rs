//! The run of a stand-in: for drafts where the layers begin that it takes the place of, for the keys
//! and values of other rows at the end of the pass.

use super::{Compute, Runner};
use crate::pass::{RowGroup, StandInPart};
use crate::scratch::{Row, Scratch};
use crate::stand_in::StandIn;

/// First sublayer of a row that is done: beyond all that there are.
const DONE: usize = usize::MAX;

// === impl Runner ===

impl Runner {
    /// Runs the stand-in that takes over at `sublayer` for the groups that draft by it; keeps the
    /// states there of those that want its keys and values.
    pub(super) fn begin_stand_in(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        let begins = |stand_in: &&StandIn| stand_in.span().start == sublayer;
        let drafted_by = groups.iter().find_map(|group| group.stand_in.draft()).filter(begins);
        if let Some(stand_in) = drafted_by {
            let Scratch { rows, drafting, filled, .. } = &mut self.scratch;
            drafting.clear();
            filled.clear();
            for (index, row) in rows.iter().enumerate() {
                let drafts = groups[row.group].stand_in.draft().is_some();
                match rows.get(index + 1).is_some_and(|next| next.group == row.group) {
                    true if drafts => filled.push(index),
                    false if drafts => drafting.push(index),
                    _ => {}
                }
            }
            self.run_stand_in(stand_in, groups);
            let Scratch { rows, filled, .. } = &mut self.scratch;
            filled.iter().for_each(|&row| rows[row].first_sublayer = DONE);
        }
        let width = self.model.config().hidden;
        let Scratch { rows, hidden, entering, .. } = &mut self.scratch;
        if groups.iter().filter_map(|group| group.stand_in.keys()).any(|other| begins(&other)) {
            let states = hidden.chunks_exact(width);
            let wanted = |row: &Row| groups[row.group].stand_in.keys().is_some();
            let wanted = rows.iter().zip(states).filter(|(row, _)| wanted(row));
            entering.clear();
            wanted.for_each(|(_, state)| entering.extend_from_slice(state));
        }
    }

    /// Keeps the states after the last layer.
    pub(super) fn keep_last_states(&mut self, groups: &[RowGroup<'_>]) {
        let width = self.model.config().hidden;
        let Self { last_states: Some(last_states), scratch, .. } = self else { return };
        let Scratch { rows, hidden, .. } = scratch;
        for (row, state) in rows.iter().zip(hidden.chunks_exact(width)) {
            if row.first_sublayer != DONE {
                last_states.write(groups[row.group].pages, row.position, state);
            }
        }
    }

    /// Writes the keys and values of a stand-in for the groups that want no more of it. Uses up
    /// their states.
    pub(super) fn write_stand_in_keys(&mut self, groups: &[RowGroup<'_>]) {
        let Some(stand_in) = groups.iter().find_map(|group| group.stand_in.keys()) else { return };
        let width = self.model.config().hidden;
        let Scratch { rows, drafting, filled, hidden, entering, .. } = &mut self.scratch;
        drafting.clear();
        filled.clear();
        filled.extend((0..rows.len()).filter(|&row| {
            matches!(groups[rows[row].group].stand_in, StandInPart::Keys(_))
        }));
        for (&row, state) in filled.iter().zip(entering.chunks_exact(width)) {
            hidden[row * width..][..width].copy_from_slice(state);
        }
        self.run_stand_in(stand_in, groups);
    }

    /// Runs `stand_in` over the drafting rows; the filled ones get keys and values of its last layer.
    fn run_stand_in(&mut self, stand_in: &StandIn, groups: &[RowGroup<'_>]) {
        let width = self.model.config().hidden;
        let Self { last_states, compute: Compute { pool, isa }, scratch, .. } = self;
        let last_states = last_states.as_ref().expect("pages have room for a stand-in");
        let Scratch { rows, inputs, result, hidden, active, drafting, filled, .. } = scratch;
        active.clear();
        active.extend(drafting.iter().chain(filled.iter()));
        active.sort_unstable();
        result.resize(active.len() * width, 0.0);
        for (&row, feature) in active.iter().zip(result.chunks_exact_mut(width)) {
            let Row { group, position, .. } = rows[row];
            last_states.read_before(groups[group].pages, position, feature);
        }
        inputs.reset(active.len(), 2 * width);
        inputs.fill(pool, *isa, stand_in.mix().formats(), |index, out| {
            let (state, feature) = out.split_at_mut(width);
            state.copy_from_slice(&hidden[active[index] * width..][..width]);
            let before = &result[index * width..][..width];
            stand_in.feature_norm().apply(*isa, before, feature);
        });
        active.iter().for_each(|&row| hidden[row * width..][..width].fill(0.0));
        let mixed = stand_in.mix().product_added(hidden, active);
        skipstone_kernels::multiply(pool, *isa, inputs, [mixed], None);
        let (before, attention, mlp) = stand_in.blocks();
        for block in before {
            self.run_block(block, groups);
        }
        std::mem::swap(&mut self.scratch.active, &mut self.scratch.drafting);
        self.fill_keys(attention, groups);
        if !self.scratch.active.is_empty() {
            self.run_block(attention, groups);
            self.run_block(mlp, groups);
        }
    }
}
