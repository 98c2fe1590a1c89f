//! From images to tokens, backwards: patches, constant tokens, position embedding.

use super::flow::Flow;
use super::layers::Norm;
use super::moves::is;
use super::node::{axis, int, ints};
use super::source::MOST_AXES;
use super::term::{Base, Term};
use super::view::View;
use crate::Result;
use crate::weights::malformed;

/// Sums and concatenations within one another.
const MOST_DEPTH: usize = 16;

/// Tokens that belong together.
#[derive(Clone)]
pub(super) struct Group {
    pub source: Tokens,
    pub count: usize,
    /// Position embedding, `[count, d]`.
    pub position: Option<Term>,
}

#[derive(Clone)]
pub(super) enum Tokens {
    /// `[count, d]`.
    Constant(Term),
    /// All patches.
    Patches(Patches),
}

/// The convolution that makes patches.
#[derive(Clone)]
pub(super) struct Patches {
    /// `[d, channels, ph, pw]`.
    pub weight: Term,
    pub bias: Option<Term>,
    pub grid: [usize; 2],
}

/// What stands ahead of block 0.
pub(super) struct Embedding {
    pub groups: Vec<Group>,
    pub pre_norm: Option<Norm>,
}

impl Flow<'_> {
    /// What made the tokens `term`. Errors: no embedding did.
    pub fn embedding(&self, term: &Term) -> Result<Embedding> {
        let pre_norm = self.norm(term)?;
        let tokens = pre_norm.as_ref().map_or(term, |norm| &norm.input);
        Ok(Embedding { groups: self.tokens(tokens, MOST_DEPTH)?, pre_norm })
    }

    fn tokens(&self, term: &Term, depth: usize) -> Result<Vec<Group>> {
        let what = "patches, constant tokens, or their sum with a position embedding";
        let shape = term.shape();
        let &[batch, count, width] = shape.as_slice() else { return Err(self.unlike(term, what)) };
        if depth == 0 || term.factor != 1.0 || !self.embeds() {
            return Err(self.unlike(term, what));
        }
        if term.is_constant() {
            return match self.table(term, depth)?.as_slice() {
                [rows] => Ok(vec![Group { source: Tokens::Constant(rows.clone()), count, position: None }]),
                _ => Err(self.unlike(term, what)),
            };
        }
        if let Some(patches) = self.patches(term)? {
            return Ok(vec![Group { source: Tokens::Patches(patches), count, position: None }]);
        }
        let Some(node) = self.made_by(term) else {
            // Some of the tokens that something else made.
            let Some((of, rows)) = self.rows(term)? else { return Err(self.unlike(term, what)) };
            let (Some(&from), Some(&to)) = (rows.first(), rows.last()) else { return Err(self.unlike(term, what)) };
            if of.same(term) || to + 1 - from != rows.len() {
                return Err(self.unlike(term, what));
            }
            return self.cut(term, self.tokens(&of, depth - 1)?, from, to + 1);
        };
        match node.op_type.as_str() {
            "Concat" if axis(int(node, "axis").unwrap_or(0), shape.len()) == Some(1) => {
                let mut groups = Vec::new();
                for at in 0..node.input.len() {
                    groups.extend(self.tokens(self.operand(node, at)?, depth - 1)?);
                }
                Ok(groups)
            }
            "Add" => {
                let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
                for (x, table) in [(a, b), (b, a)] {
                    if self.depends_on_images(table, depth) || x.shape() != [batch, count, width] {
                        continue;
                    }
                    let mut groups = self.tokens(x, depth - 1)?;
                    self.add(term, &mut groups, self.table(table, depth)?)?;
                    return Ok(groups);
                }
                Err(self.unlike(term, what))
            }
            _ => Err(self.unlike(term, what)),
        }
    }

    /// Whether anything but constants went into `term`, as far as position embeddings may be built up.
    fn depends_on_images(&self, term: &Term, depth: usize) -> bool {
        if term.is_constant() {
            return false;
        }
        if !self.embeds() {
            return true;
        }
        match self.maker(term).filter(|node| node.op_type == "Concat" && depth > 0) {
            Some(node) => (0..node.input.len())
                .any(|at| self.operand(node, at).map_or(true, |term| self.depends_on_images(term, depth - 1))),
            None => true,
        }
    }

    /// Rows `[n, d]` of a constant `[1, T, d]` or `[T, d]`, in the pieces it is put together from.
    fn table(&self, term: &Term, depth: usize) -> Result<Vec<Term>> {
        let what = "a table of constant tokens or positions";
        let shape = term.shape();
        let lead = shape.len().saturating_sub(2);
        let unlike = || self.unlike(term, what);
        if depth == 0 || shape.len() < 2 || shape.len() > MOST_AXES || term.factor != 1.0 || !self.embeds() {
            return Err(unlike());
        }
        if term.is_constant() {
            // Images of a batch share them.
            let mut view = term.view.clone();
            for _ in 0..lead {
                let one = view.slice(0, 0, 1).and_then(|first| first.squeeze(0)).ok_or_else(unlike)?;
                let repeated = one.unsqueeze(0).and_then(|one| one.expand(&view.shape()));
                if !repeated.is_some_and(|repeated| repeated.same(&view)) && !self.repeats(term, &view, one.len()) {
                    return Err(unlike());
                }
                view = one;
            }
            return if view.repeats() { Err(unlike()) } else { Ok(vec![term.with(view)]) };
        }
        let node = self.made_by_a(term, &["Concat"]).ok_or_else(unlike)?;
        if axis(int(node, "axis").unwrap_or(0), shape.len()) != Some(lead) {
            return Err(unlike());
        }
        let mut pieces = Vec::new();
        for at in 0..node.input.len() {
            pieces.extend(self.table(self.operand(node, at)?, depth - 1)?);
        }
        Ok(pieces)
    }

    /// Whether a stored tensor holds the same `len` elements again and again.
    fn repeats(&self, term: &Term, view: &View, len: usize) -> bool {
        let Base::Stored(tensor) = &term.base else { return false };
        let bytes = tensor.bytes();
        let (first, rest) = bytes.split_at(bytes.len() / tensor.len() * len);
        view.start == 0
            && view.contiguous()
            && view.len() == tensor.len()
            && rest.chunks(first.len()).all(|other| other == first)
    }

    /// Adds a table, in pieces, to the positions of `groups`.
    fn add(&self, term: &Term, groups: &mut [Group], pieces: Vec<Term>) -> Result<()> {
        let total: usize = groups.iter().map(|group| group.count).sum();
        let rows: usize = pieces.iter().map(|piece| piece.shape()[0]).sum();
        let unlike = |what: &str| self.unlike(term, what);
        if rows != total {
            return Err(unlike("a sum with one position embedding for each token"));
        }
        let mut first = 0;
        for group in groups.iter_mut() {
            // The piece that has all of the group's rows.
            let mut from = 0;
            for piece in &pieces {
                let count = piece.shape()[0];
                if from <= first && first + group.count <= from + count {
                    let view = piece.view.slice(0, first - from, first - from + group.count);
                    let view = view.ok_or_else(|| unlike("a sum with a position embedding"))?;
                    if group.position.replace(piece.with(view)).is_some() {
                        return Err(unlike("the only sum with a position embedding"));
                    }
                    break;
                }
                from += count;
            }
            if group.position.is_none() {
                return Err(unlike("a sum with a position embedding whose parts are those of the tokens"));
            }
            first += group.count;
        }
        Ok(())
    }

    /// Tokens `from..to` of `groups`.
    fn cut(&self, term: &Term, groups: Vec<Group>, from: usize, to: usize) -> Result<Vec<Group>> {
        let mut kept = Vec::new();
        let mut first = 0;
        for group in groups {
            let (start, end) = (from.max(first), to.min(first + group.count));
            if start < end {
                let (start, end) = (start - first, end - first);
                let rows = |rows: &Term| rows.view.slice(0, start, end).map(|view| rows.with(view));
                let whole = end - start == group.count;
                let source = match &group.source {
                    Tokens::Constant(term) => rows(term).map(Tokens::Constant),
                    Tokens::Patches(_) if whole => Some(group.source.clone()),
                    Tokens::Patches(_) => None,
                };
                let source = source.ok_or_else(|| self.unlike(term, "whole images' patches"))?;
                let position = group.position.as_ref().and_then(rows);
                kept.push(Group { source, count: end - start, position });
            }
            first += group.count;
        }
        Ok(kept)
    }

    /// The patches that `term` is, `[B, g, d]`. `None`: it is something else.
    fn patches(&self, term: &Term) -> Result<Option<Patches>> {
        let Some(node) = self.maker(term).filter(|node| node.op_type == "Conv") else { return Ok(None) };
        let Some(whole) = self.whole(term) else { return Ok(None) };
        let [b, d, gh, gw] = whole.shape()[..] else { return Ok(None) };
        let in_rows = View::whole(&[b, d, gh * gw]).transpose(&[0, 2, 1]);
        if !in_rows.is_some_and(|view| view.same(&term.view)) {
            return Err(self.unlike(term, "patches as rows, from left to right and top to bottom,"));
        }
        let (images, weight) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let kernel: Vec<i64> = weight.shape().into_iter().skip(2).map(|n| n as i64).collect();
        let list = |name, default: i64, len| ints(node, name, None).unwrap_or(vec![default; len]);
        let plain = is(node, "auto_pad", "NOTSET") || is(node, "auto_pad", "VALID");
        let apart = list("strides", 1, 2) == kernel
            && list("pads", 0, 4).iter().all(|&pad| pad == 0)
            && list("dilations", 1, 2).iter().all(|&step| step == 1)
            && int(node, "group").unwrap_or(1) == 1;
        if !plain || !apart || !weight.is_constant() {
            return Err(self.odd(
                node,
                "it does not cut images into patches side by side, each multiplied by one constant matrix",
            ));
        }
        if !matches!(images.base, Base::Value(id) if id == self.images) || self.made(images) {
            return Err(self.unlike(images, "the graph's images, as they are,"));
        }
        let bias = if self.has_operand(node, 2) { Some(self.operand(node, 2)?.clone()) } else { None };
        if bias.as_ref().is_some_and(|bias| !bias.is_constant() || bias.shape() != [d]) {
            return Err(self.odd(node, "its bias is not a constant"));
        }
        Ok(Some(Patches { weight: weight.clone(), bias, grid: [gh, gw] }))
    }

    /// Whether `term` is other than all of what it comes from.
    fn made(&self, term: &Term) -> bool {
        term.factor != 1.0 || !self.whole(term).is_some_and(|whole| whole.view.same(&term.view))
    }

    /// Errors: the tokens are not constant ones and then all patches.
    pub fn in_order(&self, groups: &[Group]) -> Result<()> {
        let last = groups.len().saturating_sub(1);
        let fine = |(at, group): (usize, &Group)| matches!(group.source, Tokens::Patches(_)) == (at == last);
        if !groups.is_empty() && groups.iter().enumerate().all(fine) {
            return Ok(());
        }
        Err(malformed(
            &self.source.path,
            "its tokens are not a few constant ones followed by all patches: it is another model, or holds prompts; import the \
             backbone without them",
        ))
    }
}
