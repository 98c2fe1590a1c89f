//! Which photo stands where: batches run through one seeded permutation of the training split per epoch, without gaps,
//! so position alone says which photo comes next and a resumed run needs to know only its step.

use crate::data::{Augment, Request};
use crate::rng::permutation;

/// Requests from position `from` on, without end. `train` must not be empty.
pub fn requests(train: Vec<usize>, seed: u64, augment: Augment, from: u64) -> impl Iterator<Item = Request> + Send {
    let n = train.len() as u64;
    let mut epoch = from / n;
    let mut order = permutation(seed, epoch, train.len());
    (from..).map(move |position| {
        if position / n != epoch {
            epoch = position / n;
            order = permutation(seed, epoch, train.len());
        }
        Request { item: train[order[(position % n) as usize]], epoch, augment }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_continues_the_same_sequence() {
        let train = vec![3, 5, 8, 13, 21];
        let all: Vec<_> = requests(train.clone(), 7, Augment::None, 0).take(23).map(|r| (r.item, r.epoch)).collect();
        for from in [1, 4, 5, 9, 12] {
            let rest: Vec<_> = requests(train.clone(), 7, Augment::None, from)
                .take(23 - from as usize)
                .map(|r| (r.item, r.epoch))
                .collect();
            assert_eq!(rest, all[from as usize..]);
        }
        let mut first: Vec<_> = all[..5].iter().map(|r| r.0).collect();
        first.sort_unstable();
        assert_eq!(first, train);
        assert!(all.chunks(5).skip(1).any(|epoch| epoch.iter().zip(&all).any(|(a, b)| a.0 != b.0)));
    }
}
