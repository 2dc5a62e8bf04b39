//! The run of one block over the active rows of a pass.

use super::{Compute, Runner};
use crate::block::{Attention, Block, BlockKind, Mlp, Norm};
use crate::blueprint::Activation;
use crate::pass::RowGroup;
use crate::rope::UNTURNED;
use crate::scratch::{Row, Scratch};
use skipstone_kernels::{
    self as kernels, Activations, AttentionRow, FormatSet, Isa, KvSlot, PAGE_POSITIONS, ThreadPool,
};

// === impl Runner ===

impl Runner {
    /// Runs `block` over the active rows.
    pub(super) fn run_block(&mut self, block: &Block, groups: &[RowGroup<'_>]) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        scratch.norm_active(pool, *isa, &block.norm, block.input_formats());
        match &block.kind {
            BlockKind::Attention(attention) => self.attend(attention, groups),
            BlockKind::Mlp(mlp) => self.feed_forward(mlp),
        }
        self.add_result(block);
    }

    /// Writes the keys and values of an attention block for the filled rows, which don't run it.
    /// Leaves the active rows as they were.
    pub(super) fn fill_keys(&mut self, block: &Block, groups: &[RowGroup<'_>]) {
        let BlockKind::Attention(attention) = &block.kind else { return };
        if self.scratch.filled.is_empty() {
            return;
        }
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        std::mem::swap(&mut scratch.active, &mut scratch.filled);
        scratch.norm_active(pool, *isa, &block.norm, block.input_formats());
        let Scratch { inputs, key, value, active, .. } = scratch;
        let count = active.len();
        key.resize(count * attention.key.outputs(), 0.0);
        value.resize(count * attention.value.outputs(), 0.0);
        let products = [attention.key.product(count, key), attention.value.product(count, value)];
        kernels::multiply(pool, *isa, inputs, products, None);
        self.write_keys(attention, groups);
        std::mem::swap(&mut self.scratch.active, &mut self.scratch.filled);
    }

    /// Writes `key` and `value` of the active rows to their pages. Uses up the inputs: heads are
    /// normed into their place.
    fn write_keys(&mut self, weights: &Attention, groups: &[RowGroup<'_>]) {
        let Self { model, store, compute: Compute { pool, isa }, scratch, .. } = self;
        let Scratch { inputs, key, value, active, rows, angles, .. } = scratch;
        let ropes = &model.weights().ropes;
        let slot = |index: usize| {
            let Row { group, position, .. } = rows[active[index]];
            let page = groups[group].pages[position / PAGE_POSITIONS];
            let turned = |rope: usize| ropes[rope].angles(&angles[rope], active[index]);
            let angles = weights.rope.map_or(UNTURNED, turned);
            KvSlot { page, slot: position % PAGE_POSITIONS, angles }
        };
        let key = normed(weights.key_norm.as_ref(), pool, *isa, key, inputs);
        store.write(pool, *isa, weights.kv_layer, slot, key, value);
    }

    /// Leaves what the heads looked up in `inner`, for the output map.
    fn attend(&mut self, weights: &Attention, groups: &[RowGroup<'_>]) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        let Scratch { inputs, query, key, value, active, .. } = scratch;
        let count = active.len();
        let query_width = weights.query.outputs();
        query.resize(count * query_width, 0.0);
        key.resize(count * weights.key.outputs(), 0.0);
        value.resize(count * weights.value.outputs(), 0.0);
        let products = [
            weights.query.product(count, query),
            weights.key.product(count, key),
            weights.value.product(count, value),
        ];
        kernels::multiply(pool, *isa, inputs, products, Some(&weights.output.matrix));
        self.write_keys(weights, groups);
        let Self { model, store, compute: Compute { pool, isa }, scratch, .. } = self;
        let Scratch { inputs, inner, query, active, rows, angles, .. } = scratch;
        let isa = *isa;
        let ropes = &model.weights().ropes;
        let turned = |row: usize| {
            weights.rope.map_or(UNTURNED, |rope| ropes[rope].angles(&angles[rope], row))
        };
        let attending = |index: usize| {
            let Row { group, position, .. } = rows[active[index]];
            AttentionRow {
                pages: groups[group].pages,
                first: weights.window.map_or(0, |window| (position + 1).saturating_sub(window)),
                length: position + 1,
                angles: turned(active[index]),
            }
        };
        let query = normed(weights.query_norm.as_ref(), pool, isa, query, inputs);
        if let Some(scale) = weights.query_scale {
            query.iter_mut().for_each(|value| *value *= scale);
        }
        inner.reset(count, query_width);
        store.attend(pool, isa, weights.kv_layer, attending, query, inner.values_mut());
        inner.quantize(pool, isa, weights.output.formats());
    }

    /// Leaves the gated products in `inner`, for the down map.
    fn feed_forward(&mut self, weights: &Mlp) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        let Scratch { inputs, inner, gate, up, active, .. } = scratch;
        let (isa, count, width) = (*isa, active.len(), weights.gate.outputs());
        gate.resize(count * width, 0.0);
        up.resize(count * width, 0.0);
        let products = [weights.gate.product(count, gate), weights.up.product(count, up)];
        kernels::multiply(pool, isa, inputs, products, Some(&weights.down.matrix));
        inner.reset(count, width);
        inner.fill(pool, isa, weights.down.formats(), |row, out| {
            let part = row * width..(row + 1) * width;
            match weights.activation {
                Activation::Silu => kernels::swiglu(isa, &gate[part.clone()], &up[part], out),
            }
        });
    }

    /// Adds the last map of `inner` to the hidden states of the active rows.
    fn add_result(&mut self, block: &Block) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        let Scratch { inputs, inner, result, active, hidden, .. } = scratch;
        let (isa, last) = (*isa, block.last());
        if block.post_norm.is_none() && block.residual_scale.is_none() {
            kernels::multiply(pool, isa, inner, [last.product_added(hidden, active)], None);
            return;
        }
        let width = last.outputs();
        result.resize(active.len() * width, 0.0);
        kernels::multiply(pool, isa, inner, [last.product(active.len(), result)], None);
        let result = normed(block.post_norm.as_ref(), pool, isa, result, inputs);
        for (&row, result) in active.iter().zip(result.chunks_exact(width)) {
            let pairs = hidden[row * width..][..width].iter_mut().zip(result);
            match block.residual_scale {
                None => pairs.for_each(|(value, result)| *value += result),
                Some(scale) => pairs.for_each(|(value, result)| *value += scale * result),
            }
        }
    }
}

/// Each row of `rows` normed, in the memory of `place`; without a norm `rows` themselves.
fn normed<'a>(
    norm: Option<&Norm>,
    pool: &mut ThreadPool,
    isa: Isa,
    rows: &'a mut [f32],
    place: &'a mut Activations,
) -> &'a mut [f32] {
    let Some(norm) = norm else { return rows };
    let width = norm.width();
    place.reset(rows.len() / width, width);
    place.fill(pool, isa, FormatSet::default(), |row, out| {
        norm.apply(isa, &rows[row * width..][..width], out);
    });
    place.values_mut()
}
