//! Faults on purpose: requests that are delayed or refused, to see what a caller makes of it.
//!
//! Decides: which requests, by chance. Never: waits or answers; the client does. Invariant: delay and refusal are drawn
//! independently, each with its own share, so that a request may meet both, the delay first [Envoy].

use std::time::Duration;

/// What may befall the requests of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fault {
    /// A wait, and the share of requests that wait, from 0 to 1.
    pub delay: Option<(Duration, f64)>,
    /// An answer instead of the service's, and the share of requests that get it.
    pub abort: Option<(Abort, f64)>,
}

/// An answer that the service never gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// With this status; a gRPC call gets the code that stands for it.
    Http(u16),
    /// With this code, for gRPC calls; others get the status that stands for it.
    Grpc(u16),
}

/// What befalls one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    /// Wait first.
    pub delay: Option<Duration>,
    /// Then answer so.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Draws for one request.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Injected {
        let mut befalls = |share: f64| rng.f64() < share;
        Injected {
            delay: self.delay.filter(|(_, share)| befalls(*share)).map(|(delay, _)| delay),
            abort: self.abort.filter(|(_, share)| befalls(*share)).map(|(abort, _)| abort),
        }
    }
}

impl Abort {
    /// HTTP status and gRPC code, each standing for the other [gRPC's mapping of HTTP statuses].
    pub fn statuses(self) -> (u16, u16) {
        match self {
            Self::Http(status) => (status, grpc_of(status)),
            Self::Grpc(code) => (http_of(code), code),
        }
    }
}

fn grpc_of(status: u16) -> u16 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// google.rpc.Code's HTTP mapping.
fn http_of(code: u16) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_befalls_its_own_share() {
        let delay = Duration::from_secs(1);
        let fault = Fault { delay: Some((delay, 0.2)), abort: Some((Abort::Http(503), 0.5)) };
        let mut rng = fastrand::Rng::with_seed(7);
        let drawn: Vec<_> = (0..10_000).map(|_| fault.draw(&mut rng)).collect();
        let count = |has: fn(&Injected) -> bool| drawn.iter().filter(|drawn| has(drawn)).count();
        // Five standard deviations: 200 and 250.
        assert!((1800..=2200).contains(&count(|drawn| drawn.delay.is_some())));
        assert!((4750..=5250).contains(&count(|drawn| drawn.abort.is_some())));
        assert!((850..=1150).contains(&count(|drawn| drawn.delay.is_some() && drawn.abort.is_some())));
        let never = Fault { delay: Some((delay, 0.0)), abort: None };
        let always = Fault { delay: Some((delay, 1.0)), abort: None };
        assert!((0..1000).all(|_| never.draw(&mut rng) == Injected::default()));
        assert!((0..1000).all(|_| always.draw(&mut rng).delay == Some(delay)));
    }

    #[test]
    fn a_status_has_a_code_and_a_code_a_status() {
        assert_eq!(Abort::Http(503).statuses(), (503, 14));
        assert_eq!(Abort::Http(418).statuses(), (418, 2));
        assert_eq!(Abort::Grpc(8).statuses(), (429, 8));
    }
}
