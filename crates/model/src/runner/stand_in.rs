//! The run of a stand-in: for drafts where the layers begin that it takes the place of, for the
//! keys and values of other rows at the end of the pass.

use super::{Compute, Runner};
use crate::pass::{RowGroup, StandInPart};
use crate::scratch::{Row, Scratch};
use crate::stand_in::StandIn;

/// First sublayer of a row that is done: beyond all that there are.
const DONE: usize = usize::MAX;

// === impl Runner ===

impl Runner {
    /// Runs the stand-ins that take over at `sublayer` for the groups that draft by them; keeps the
    /// states there of those that want keys and values.
    pub(super) fn begin_stand_in(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        let begins = |stand_in: &StandIn| stand_in.span().start == sublayer;
        for (index, group) in groups.iter().enumerate() {
            let Some(stand_in) = group.stand_in.draft().filter(|it| begins(it)) else { continue };
            let is_it = |group: &RowGroup<'_>| {
                group.stand_in.draft().is_some_and(|other| std::ptr::eq(other, stand_in))
            };
            if groups[..index].iter().any(is_it) {
                continue;
            }
            let Scratch { rows, drafting, filled, .. } = &mut self.scratch;
            drafting.clear();
            filled.clear();
            for (index, row) in rows.iter().enumerate().filter(|(_, row)| is_it(&groups[row.group]))
            {
                let is_last = rows.get(index + 1).is_none_or(|next| next.group != row.group);
                if is_last { &mut *drafting } else { &mut *filled }.push(index);
            }
            self.run_stand_in(stand_in, groups);
            let Scratch { rows, filled, .. } = &mut self.scratch;
            filled.iter().for_each(|&row| rows[row].first_sublayer = DONE);
        }
        let width = self.model.config().hidden;
        let Scratch { rows, hidden, entering, .. } = &mut self.scratch;
        let wants = |row: &Row| groups[row.group].stand_in.keys().is_some_and(begins);
        if rows.iter().any(wants) {
            let wanted = rows.iter().zip(hidden.chunks_exact(width)).filter(|(row, _)| wants(row));
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
        filled.extend(
            (0..rows.len())
                .filter(|&row| matches!(groups[rows[row].group].stand_in, StandInPart::Keys(_))),
        );
        for (&row, state) in filled.iter().zip(entering.chunks_exact(width)) {
            hidden[row * width..][..width].copy_from_slice(state);
        }
        self.run_stand_in(stand_in, groups);
    }

    /// Runs `stand_in` over the drafting rows; the filled ones get keys and values of its last
    /// layer. Without room for any in the pages nothing happens.
    fn run_stand_in(&mut self, stand_in: &StandIn, groups: &[RowGroup<'_>]) {
        let width = self.model.config().hidden;
        let Self { last_states, compute: Compute { pool, isa }, scratch, .. } = self;
        let Some(last_states) = last_states else { return };
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
