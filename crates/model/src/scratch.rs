//! The memory of a pass: its rows and their hidden states, and which of them are active.

use super::Model;
use super::block::Norm;
use super::config::ModelConfig;
use super::pass::{
    GateStep, GatedRow, LogitRows, LogitsWanted, RowGroup, RowInput, Signs, SkippedKeys,
};
use super::rope::Angles;
use skipstone_kernels::{Activations, FormatSet, Isa, ThreadPool};

/// Memory that passes reuse.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) rows: Vec<Row>,
    /// Hidden states, \[rows, hidden\].
    pub(super) hidden: Vec<f32>,
    /// Rows that take part in the current sublayer.
    pub(super) active: Vec<usize>,
    /// Normed hidden states of the active rows; later their attention outputs or MLP products.
    pub(super) inputs: Activations,
    pub(super) inner: Activations,
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    /// Results of a block on their way to the residual, \[active rows, hidden\].
    pub(super) result: Vec<f32>,
    /// One for each rotary embedding of the model.
    pub(super) angles: Vec<Angles>,
    /// As long as the most that a pass wanted.
    pub(super) logits: Vec<f32>,
    /// Logits of drafts over a vocabulary that they share, \[drafts, tokens\].
    pub(super) shared: Vec<f32>,
    pub(super) logit_rows: Vec<LogitRows>,
    pub(super) saved: Vec<f32>,
    pub(super) saved_rows: Vec<(usize, usize)>,
    /// Rows that don't run the current block, but want its keys and values.
    pub(super) filled: Vec<usize>,
    /// Rows that draft by a stand-in.
    pub(super) drafting: Vec<usize>,
    /// States of rows where a stand-in begins whose keys they want, in the order of those rows.
    pub(super) entering: Vec<f32>,
    /// Rows that a gate decides about, ascending.
    pub(super) gated: Vec<GatedRow>,
    /// The states of those that run the current sublayer, before it.
    pub(super) before: Vec<f32>,
    pub(super) first_rows: Vec<usize>,
    /// Groups whose bridge at the current sublayer is applied.
    pub(super) bridged: Vec<bool>,
}

#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) group: usize,
    pub(super) position: usize,
    pub(super) first_sublayer: usize,
}

// === impl Scratch ===

impl Scratch {
    /// Lays out the rows of all groups and their hidden states at entry.
    pub(super) fn enter(&mut self, model: &Model, groups: &[RowGroup<'_>]) {
        let config = model.config();
        self.rows.clear();
        self.saved_rows.clear();
        self.gated.clear();
        self.first_rows.clear();
        let count: usize = groups.iter().map(|group| group.rows.len()).sum();
        self.hidden.resize(count * config.hidden, 0.0);
        let mut saved = 0;
        for (index, group) in groups.iter().enumerate() {
            self.saved_rows.push((saved, group.rows.len()));
            saved += group.save_before.len() * group.rows.len();
            self.first_rows.push(self.rows.len());
            if group.gate.is_some() {
                self.gated.extend((0..group.rows.len()).map(|offset| GatedRow {
                    row: self.rows.len() + offset,
                    signs: Vec::with_capacity(config.sublayers()),
                    has_left: false,
                }));
            }
            for (offset, input) in group.rows.iter().enumerate() {
                let state = &mut self.hidden[self.rows.len() * config.hidden..][..config.hidden];
                let first_sublayer = match *input {
                    RowInput::Token(token) => {
                        model.weights().embed(token, state);
                        0
                    }
                    RowInput::Hidden { first, state: entered } => {
                        state.copy_from_slice(entered);
                        first
                    }
                };
                self.rows.push(Row {
                    group: index,
                    position: group.position + offset,
                    first_sublayer,
                });
            }
        }
        self.saved.resize(saved * config.hidden, 0.0);
        let ropes = &model.weights().ropes;
        self.angles.resize_with(ropes.len(), Angles::default);
        for (angles, rope) in self.angles.iter_mut().zip(ropes) {
            angles.fill(rope, self.rows.iter().map(|row| row.position));
        }
    }

    pub(super) fn save(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>], sublayer: usize) {
        let mut first_row = 0;
        for (group, &(start, rows)) in groups.iter().zip(&self.saved_rows) {
            let length = rows * config.hidden;
            if let Some(place) = group.save_before.iter().position(|&place| place == sublayer) {
                let states = &self.hidden[first_row * config.hidden..][..length];
                self.saved[(start + place * rows) * config.hidden..][..length]
                    .copy_from_slice(states);
            }
            first_row += rows;
        }
    }

    /// Makes the rows that want logits the active ones, those over the whole vocabulary first, and
    /// lays out the logits. Returns how many want the whole vocabulary.
    pub(super) fn choose_logits(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>]) -> usize {
        self.active.clear();
        self.logit_rows.clear();
        let mut first_row = 0;
        for group in groups {
            let (start, width) = (self.active.len() * config.vocabulary, config.vocabulary);
            self.logit_rows.push(LogitRows { start, width });
            let wanted = group.logits.full_rows(group.rows.len());
            self.active.extend(wanted.map(|row| first_row + row));
            first_row += group.rows.len();
        }
        let full_rows = self.active.len();
        let (mut start, mut first_row) = (full_rows * config.vocabulary, 0);
        for (group, place) in groups.iter().zip(&mut self.logit_rows) {
            first_row += group.rows.len();
            if let LogitsWanted::Draft(head) = group.logits {
                *place = LogitRows { start, width: head.width() };
                self.active.push(first_row - 1);
                start += head.width();
            }
        }
        // Passes that want many alternate with passes that want few: what is there is overwritten,
        // not cleared.
        if self.logits.len() < start {
            self.logits.resize(start, 0.0);
        }
        full_rows
    }

    /// Makes the rows that run `sublayer` the active ones. A gate decides about a row that its
    /// group's mask lets run.
    pub(super) fn choose_active(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        let Self { active, rows, gated, .. } = self;
        active.clear();
        let runs = |row: &Row| {
            row.first_sublayer <= sublayer
                && groups[row.group].skip.is_none_or(|skip| !skip.skips(sublayer))
        };
        let mut gated = gated.iter_mut().peekable();
        for (index, row) in rows.iter().enumerate() {
            let mut is_active = runs(row);
            if let Some(gated) = gated.next_if(|gated| gated.row == index) {
                is_active &= !gated.has_left;
                if let Some((gate, first)) = groups[row.group].gate
                    && is_active
                    && sublayer >= first
                {
                    let step = gate.decide(row.position, sublayer, &gated.signs);
                    is_active = step == GateStep::Run;
                    gated.has_left = step == GateStep::Exit;
                }
            }
            if is_active {
                active.push(index);
            }
        }
    }

    /// Finds the rows that don't run `sublayer`, where the active ones are those that do, but want
    /// keys and values of it.
    pub(super) fn choose_filled(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        let Self { active, rows, filled, .. } = self;
        filled.clear();
        if groups.iter().all(|group| group.skipped_keys == SkippedKeys::Unread) {
            return;
        }
        let fills = |(index, row): &(usize, &Row)| {
            groups[row.group].skipped_keys == SkippedKeys::Fill
                && row.first_sublayer <= sublayer
                && active.binary_search(index).is_err()
        };
        filled.extend(rows.iter().enumerate().filter(fills).map(|(index, _)| index));
    }

    /// Keeps the states of the active rows that have a gate.
    pub(super) fn note_before(&mut self, width: usize) {
        let Self { gated, active, hidden, before, .. } = self;
        before.clear();
        for gated in gated.iter().filter(|gated| active.binary_search(&gated.row).is_ok()) {
            before.extend_from_slice(&hidden[gated.row * width..][..width]);
        }
    }

    /// Notes what the sublayer did to them.
    pub(super) fn note_signs(&mut self, width: usize) {
        let Self { gated, active, hidden, before, .. } = self;
        let mut states = before.chunks_exact(width);
        for gated in gated {
            let ran = active.binary_search(&gated.row).is_ok().then(|| states.next()).flatten();
            let after = &hidden[gated.row * width..][..width];
            gated.signs.push(ran.map(|before| Signs::of(before, after)));
        }
    }

    /// Norms the hidden states of the active rows into `inputs` and quantises them.
    pub(super) fn norm_active(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        norm: &Norm,
        formats: FormatSet,
    ) {
        let Self { inputs, hidden, active, .. } = self;
        let width = norm.width();
        inputs.reset(active.len(), width);
        inputs.fill(pool, isa, formats, |index, out| {
            norm.apply(isa, &hidden[active[index] * width..][..width], out);
        });
    }
}
