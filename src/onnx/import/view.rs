//! Where the elements of a value that was only moved about come from: reshapes, transpositions, slices and repetitions of a tensor as
//! arithmetic on strides.

use super::source::elements;

/// `count` elements, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub count: usize,
    pub step: usize,
}

/// The elements of a value by their place in the tensor they come from. An axis is a product of runs, the outermost first; an axis of
/// size 1 has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub start: usize,
    axes: Vec<Vec<Run>>,
}

impl View {
    /// All of a tensor of this shape, in order.
    pub fn whole(shape: &[usize]) -> Self {
        let mut step = 1;
        let mut axes: Vec<Vec<Run>> = Vec::with_capacity(shape.len());
        for &count in shape.iter().rev() {
            axes.push(if count == 1 { Vec::new() } else { vec![Run { count, step }] });
            step *= count;
        }
        axes.reverse();
        View { start: 0, axes }
    }

    /// As [`View::whole`], of a shape that may be none.
    pub fn checked(shape: &[usize]) -> Option<Self> {
        elements(shape).map(|_| View::whole(shape))
    }

    /// No elements: an empty list.
    pub fn none() -> Self {
        View { start: 0, axes: vec![vec![Run { count: 0, step: 1 }]] }
    }

    /// One element.
    pub fn one(start: usize) -> Self {
        View { start, axes: Vec::new() }
    }

    /// One element, again and again.
    pub fn repeated(shape: &[usize]) -> Self {
        let axis = |&count: &usize| if count == 1 { Vec::new() } else { vec![Run { count, step: 0 }] };
        View { start: 0, axes: shape.iter().map(axis).collect() }
    }

    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|runs| runs.iter().map(|run| run.count).product()).collect()
    }

    pub fn len(&self) -> usize {
        self.axes.iter().flatten().map(|run| run.count).product()
    }

    /// The runs in order, as few as there can be.
    pub fn flat(&self) -> Vec<Run> {
        let mut flat: Vec<Run> = Vec::new();
        for &run in self.axes.iter().flatten() {
            match flat.last_mut() {
                Some(last) if last.step == run.count * run.step => {
                    *last = Run { count: last.count * run.count, step: run.step };
                }
                _ => flat.push(run),
            }
        }
        flat
    }

    /// The same elements in the same order, whatever the axes.
    pub fn same(&self, other: &View) -> bool {
        self.start == other.start && self.flat() == other.flat()
    }

    /// Whether the elements lie one after another.
    pub fn contiguous(&self) -> bool {
        match self.flat().as_slice() {
            [] => true,
            [run] => run.step == 1,
            _ => false,
        }
    }

    /// Whether elements occur more than once.
    pub fn repeats(&self) -> bool {
        self.axes.iter().flatten().any(|run| run.step == 0)
    }

    /// Whether it is one element throughout.
    pub fn single(&self) -> bool {
        self.axes.iter().flatten().all(|run| run.step == 0)
    }

    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        if elements(shape)? != self.len() {
            return None;
        }
        let mut runs = self.flat();
        runs.reverse();
        let mut axes = Vec::with_capacity(shape.len());
        for &size in shape {
            let (mut left, mut axis) = (size, Vec::new());
            while left > 1 {
                let run = runs.pop()?;
                if left.is_multiple_of(run.count) {
                    left /= run.count;
                    axis.push(run);
                } else if run.count.is_multiple_of(left) {
                    let inner = run.count / left;
                    axis.push(Run { count: left, step: run.step * inner });
                    runs.push(Run { count: inner, step: run.step });
                    left = 1;
                } else {
                    return None;
                }
            }
            axes.push(axis);
        }
        Some(View { start: self.start, axes })
    }

    pub fn transpose(&self, order: &[usize]) -> Option<Self> {
        let mut seen = vec![false; self.axes.len()];
        let mut axes = Vec::with_capacity(order.len());
        for &axis in order {
            if std::mem::replace(seen.get_mut(axis)?, true) {
                return None;
            }
            axes.push(self.axes[axis].clone());
        }
        (axes.len() == self.axes.len()).then_some(View { start: self.start, axes })
    }

    /// Elements `from..to` along `axis`.
    pub fn slice(&self, axis: usize, from: usize, to: usize) -> Option<Self> {
        let mut view = self.clone();
        let runs = view.axes.get_mut(axis)?;
        let size: usize = runs.iter().map(|run| run.count).product();
        if from >= to || to > size {
            return None;
        }
        let (mut from, mut to, mut at) = (from, to, 0);
        let mut kept = Vec::new();
        while at < runs.len() {
            let inner: usize = runs[at + 1..].iter().map(|run| run.count).product();
            let Run { step, .. } = runs[at];
            if from.is_multiple_of(inner) && to.is_multiple_of(inner) {
                let count = (to - from) / inner;
                view.start += from / inner * step;
                if count > 1 {
                    kept.push(Run { count, step });
                }
                kept.extend(&runs[at + 1..]);
                break;
            }
            if from / inner != (to - 1) / inner {
                return None;
            }
            view.start += from / inner * step;
            (from, to) = (from % inner, (to - 1) % inner + 1);
            at += 1;
        }
        *runs = kept;
        Some(view)
    }

    /// Without `axis`, which has size 1.
    pub fn squeeze(&self, axis: usize) -> Option<Self> {
        let mut view = self.clone();
        if !view.axes.get(axis)?.is_empty() {
            return None;
        }
        view.axes.remove(axis);
        Some(view)
    }

    /// With an axis of size 1 ahead of `axis`.
    pub fn unsqueeze(&self, axis: usize) -> Option<Self> {
        let mut view = self.clone();
        if axis > view.axes.len() {
            return None;
        }
        view.axes.insert(axis, Vec::new());
        Some(view)
    }

    /// Broadcast to `shape`, which it fits.
    pub fn expand(&self, shape: &[usize]) -> Option<Self> {
        elements(shape)?;
        let lead = shape.len().checked_sub(self.axes.len())?;
        let mut axes = View::repeated(&shape[..lead]).axes;
        for (runs, &size) in self.axes.iter().zip(&shape[lead..]) {
            let own: usize = runs.iter().map(|run| run.count).product();
            axes.push(match own {
                n if n == size => runs.clone(),
                1 => vec![Run { count: size, step: 0 }],
                _ => return None,
            });
        }
        Some(View { start: self.start, axes })
    }

    /// Every element's place, in order.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let runs = self.flat();
        let mut at = vec![0usize; runs.len()];
        let mut place = self.start;
        (0..self.len()).map(move |_| {
            let here = place;
            for (run, at) in runs.iter().zip(&mut at).rev() {
                *at += 1;
                place += run.step;
                if *at < run.count {
                    break;
                }
                place -= run.step * run.count;
                *at = 0;
            }
            here
        })
    }
}

/// The shape that `a` and `b` broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    let sizes = (0..rank).map(|axis| match (size(a, axis), size(b, axis)) {
        (m, n) if m == n => Some(n),
        (1, n) | (n, 1) => Some(n),
        _ => None,
    });
    let shape: Vec<usize> = sizes.collect::<Option<_>>()?;
    elements(&shape)?;
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(view: &View) -> Vec<usize> {
        view.places().collect()
    }

    #[test]
    fn moves_are_those_of_arrays() {
        // [2, 3, 4] transposed to [4, 2, 3], then [4, 6], then rows 1..3 of it.
        let view = View::whole(&[2, 3, 4]).transpose(&[2, 0, 1]).unwrap().reshape(&[4, 6]).unwrap();
        let view = view.slice(0, 1, 3).unwrap();
        let expected = |row: usize| (0..6).map(move |i| 4 * i + row);
        assert_eq!(places(&view), expected(1).chain(expected(2)).collect::<Vec<_>>());
        assert_eq!(view.shape(), [2, 6]);
        // Columns within one run, and a slice across runs that is none.
        let view = View::whole(&[2, 3, 4]).transpose(&[0, 2, 1]).unwrap().reshape(&[24]).unwrap();
        assert_eq!(places(&view.slice(0, 13, 15).unwrap()), [16, 20]);
        assert_eq!(view.slice(0, 12, 13).unwrap().shape(), [1]);
        assert!(view.slice(0, 2, 5).is_none());
        assert!(View::whole(&[6]).reshape(&[4]).is_none());
    }

    #[test]
    fn a_way_there_and_back_is_the_same() {
        let whole = View::whole(&[2, 5, 3, 2, 4]);
        let there = whole.transpose(&[2, 0, 3, 1, 4]).unwrap();
        let back = there.transpose(&[1, 3, 0, 2, 4]).unwrap().reshape(&[10, 24]).unwrap();
        assert!(back.same(&whole) && back.contiguous() && !there.contiguous());
        let one = View::whole(&[1, 1, 4]).expand(&[7, 1, 4]).unwrap();
        assert!(one.repeats() && !one.single() && one.shape() == [7, 1, 4]);
    }
}
