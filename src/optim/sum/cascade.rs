//! [`Cascade`]: sums in an order that depends on their number alone.

use crate::error::Result;

/// Sums of micro-batches, added as a binary counter counts: two that hold equally many become one, the earlier on the
/// left. So whole subtrees may be summed elsewhere first, and the result has the same bits.
///
/// Of n micro-batches it holds at most log2(n) + 1 sums.
#[derive(Debug)]
pub(super) struct Cascade<T> {
    /// Sums with the number of micro-batches in each, which falls.
    sums: Vec<(usize, T)>,
}

impl<T> Default for Cascade<T> {
    fn default() -> Self {
        Self { sums: Vec::new() }
    }
}

impl<T> Cascade<T> {
    /// Puts the sum of the next `count` micro-batches behind the others; one of none is left out.
    pub(super) fn push(&mut self, mut count: usize, mut sum: T, mut add: impl FnMut(T, T) -> Result<T>) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        while let Some((_, lower)) = self.sums.pop_if(|(lower, _)| *lower == count) {
            sum = add(lower, sum)?;
            count *= 2;
        }
        self.sums.push((count, sum));
        Ok(())
    }

    /// Adds up what is left, from the right; `None` of nothing.
    pub(super) fn finish(mut self, mut add: impl FnMut(T, T) -> Result<T>) -> Result<Option<T>> {
        let Some((_, mut sum)) = self.sums.pop() else { return Ok(None) };
        while let Some((_, lower)) = self.sums.pop() {
            sum = add(lower, sum)?;
        }
        Ok(Some(sum))
    }

    /// Returns the number of micro-batches in all sums.
    pub(super) fn count(&self) -> usize {
        self.sums.iter().map(|(count, _)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(counts: &[usize]) -> String {
        let add = |left: String, right: String| Ok(format!("({left}{right})"));
        let mut cascade = Cascade::default();
        let mut next = 0;
        for &count in counts {
            let mut own = Cascade::default();
            for _ in 0..count {
                own.push(1, next.to_string(), add).unwrap();
                next += 1;
            }
            cascade.push(count, own.finish(add).unwrap().unwrap_or_default(), add).unwrap();
        }
        assert_eq!(cascade.count(), next);
        cascade.finish(add).unwrap().unwrap_or_default()
    }

    #[test]
    fn equal_counts_become_one_and_the_rest_folds_from_the_right() {
        assert_eq!(tree(&[1, 1, 1]), "((01)2)");
        assert_eq!(tree(&[1; 6]), "(((01)(23))(45))");
        assert_eq!(tree(&[1; 7]), "(((01)(23))((45)6))");
        assert_eq!(tree(&[]), "");
    }

    #[test]
    fn subtrees_of_a_power_of_two_make_the_same_tree() {
        for (n, size) in [(1, 1), (2, 2), (4, 2), (4, 4), (6, 3), (6, 6), (8, 2), (12, 3), (12, 6), (16, 4)] {
            assert_eq!(tree(&vec![n / size; size]), tree(&vec![1; n]), "{n} on {size}");
        }
        assert_ne!(tree(&[3, 3]), tree(&[1; 6])); // three each are no power of two
        assert_eq!(tree(&[2, 0, 2]), tree(&[1; 4]), "a rank without any");
    }
}
