//! Happy eyeballs (RFC 8305): which address of a host is tried when.
//!
//! Decides: the order, and when the next attempt starts. Never: connects, or sorts what the resolver sorted (RFC 6724)
//! beyond mixing the two families. Invariant: every address is tried once at most, and every failure is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A race between the addresses of one host.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<SocketAddr>,
    running: usize,
    next_at: Option<Instant>,
    failures: Vec<(SocketAddr, String)>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try this address.
    Start(SocketAddr),
    /// Wait for an attempt to end, and no longer than this.
    WaitUntil(Instant),
    /// Wait for an attempt to end.
    Wait,
    /// All have failed.
    Lost,
}

/// The pause before a further address is tried beside a slow one. Origin: RFC 8305 5 (Connection Attempt Delay).
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

impl Race {
    /// Between `addresses`; the family of the first one leads.
    pub(crate) fn new(addresses: &[SocketAddr]) -> Self {
        Self { waiting: interleaved(addresses).into(), running: 0, next_at: None, failures: Vec::new() }
    }

    /// What to do now.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let is_due = self.running == 0 || self.next_at.is_none_or(|at| at <= now);
        match (self.waiting.front(), self.next_at) {
            (Some(_), _) if is_due => self.start(now),
            (Some(_), Some(at)) => Next::WaitUntil(at),
            _ if self.running > 0 => Next::Wait,
            _ => Next::Lost,
        }
    }

    fn start(&mut self, now: Instant) -> Next {
        let Some(address) = self.waiting.pop_front() else { return Next::Lost };
        self.running += 1;
        self.next_at = Some(crate::time::after(now, STAGGER));
        Next::Start(address)
    }

    /// An attempt failed: the next need not wait.
    pub(crate) fn failed(&mut self, address: SocketAddr, why: String) {
        self.running = self.running.saturating_sub(1);
        self.next_at = None;
        self.failures.push((address, why));
    }

    /// Every failure so far, with its address.
    pub(crate) fn failures(&self) -> String {
        let told: Vec<_> = self.failures.iter().map(|(address, why)| format!("{address}: {why}")).collect();
        told.join("; ")
    }
}

/// One family, then the other, in turn; within a family the resolver's order.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let leads_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == leads_v6);
    let mut order = Vec::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop_front());
        order.extend(second.pop_front());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_the_resolvers_first_leads() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let expected = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(interleaved(&given), expected);
        let given = addresses(&["1.1.1.1:1", "[::1]:1", "1.1.1.2:1"]);
        assert_eq!(interleaved(&given), given);
    }

    #[test]
    fn a_slow_address_gets_company_after_the_stagger_and_a_failed_one_at_once() {
        let given = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1"]);
        let (mut race, now) = (Race::new(&given), Instant::now());
        assert_eq!(race.next(now), Next::Start(given[0]));
        assert_eq!(race.next(now), Next::WaitUntil(now + STAGGER));
        assert_eq!(race.next(now + STAGGER - Duration::from_millis(1)), Next::WaitUntil(now + STAGGER));
        assert_eq!(race.next(now + STAGGER), Next::Start(given[1]));
        race.failed(given[1], "refused".into());
        assert_eq!(race.next(now + STAGGER), Next::Start(given[2]));
        assert_eq!(race.next(now + STAGGER), Next::Wait);
        race.failed(given[0], "unreachable".into());
        race.failed(given[2], "refused".into());
        assert_eq!(race.next(now + STAGGER), Next::Lost);
        assert_eq!(race.failures(), "1.1.1.1:1: refused; [::1]:1: unreachable; [::2]:1: refused");
    }
}
