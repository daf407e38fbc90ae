//! MT19937: the random sequence that Envoy draws overflow endpoints from.
//!
//! Decides: nothing; the same seed gives the same numbers as C++'s `std::mt19937`. Never: a source of
//! randomness for anything else.
//! Invariant: only what bounded load needs to pick what Envoy picks.

/// The generator of one sequence.
pub(super) struct MersenneTwister {
    state: [u32; SIZE],
    next: usize,
}

impl MersenneTwister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for index in 1..SIZE {
            let previous = state[index - 1];
            state[index] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Self { state, next: SIZE }
    }

    /// The next 32 bits.
    pub(super) fn draw(&mut self) -> u32 {
        if self.next == SIZE {
            self.twist();
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }

    /// A number below `bound`, which is not 0, as evenly as 32 bits allow [Envoy].
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let width = (1_u64 << 32) / u64::from(bound);
        loop {
            let drawn = u64::from(self.draw()) / width;
            if drawn < u64::from(bound) {
                return drawn as u32;
            }
        }
    }

    fn twist(&mut self) {
        for index in 0..SIZE {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % SIZE] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// Words of state, and the distance of those that are mixed: the parameters of MT19937.
const SIZE: usize = 624;
const MIDDLE: usize = 397;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_number_is_that_of_the_cpp_standard() {
        let mut twister = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| twister.draw()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_bounded_draw_is_below_its_bound_and_reaches_all() {
        let mut twister = MersenneTwister::new(1);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| twister.below(7)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(twister.below(1), 0);
    }
}
