//! Which connections of a thread send: all of them, or one of so many.

/// The connections of one thread that send, in the order of their indices. Where it is one of `every`, which one of them
/// is as good as random, and known without being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Senders {
    /// 0 for none.
    every: u32,
    count: u32,
}

impl Senders {
    /// One of `every` of a thread's `connections`; none when that is 0.
    pub fn new(every: u32, connections: u32) -> Self {
        Senders { every, count: connections.checked_div(every).unwrap_or_default() }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Which of them connection `row` is; `None` when it does not send.
    #[inline]
    pub fn index(&self, row: u32) -> Option<u32> {
        match self.every {
            1 => Some(row),
            0 => None,
            every => {
                let index = row / every;
                (index < self.count && row % every == self.pick(index)).then_some(index)
            }
        }
    }

    /// The connection of sender `index`.
    pub fn row(&self, index: u32) -> u32 {
        index * self.every + self.pick(index)
    }

    fn pick(&self, index: u32) -> u32 {
        // Fibonacci hashing: the top bits are well mixed.
        (index.wrapping_mul(0x9E37_79B9) >> 8) % self.every.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_sends() {
        let senders = Senders::new(100, 1_050);
        let rows: Vec<_> = (0..1_050).filter(|row| senders.index(*row).is_some()).collect();
        assert_eq!((rows.len(), senders.count()), (10, 10));
        for (index, row) in rows.iter().enumerate() {
            assert_eq!((senders.index(*row), senders.row(index as u32)), (Some(index as u32), *row));
            assert_eq!(row / 100, index as u32);
        }
    }

    #[test]
    fn all_or_none_send() {
        assert_eq!(Senders::new(1, 7).count(), 7);
        assert!((0..7).all(|row| Senders::new(1, 7).index(row) == Some(row)));
        assert!((0..7).all(|row| Senders::new(0, 7).index(row).is_none()));
        assert_eq!(Senders::new(0, 7).count(), 0);
    }
}
