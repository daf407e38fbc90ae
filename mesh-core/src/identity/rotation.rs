//! When our certificate is renewed, and by whom.
//!
//! Decides: the instant of the next renewal and of the next retry. Never: drops a certificate that
//! is still valid because a renewal failed, and never runs two renewals of one source at a time.
//! Invariant: while the certificate is valid, the next try comes no later than its expiry.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::time::{Clock, after};

use super::error::IdentityError;
use super::source::{Identity, IdentitySource};

/// Issues identities. Called on a thread where blocking is allowed, one call at a time.
pub trait Issuer: Send + Sync + 'static {
    /// A new identity, or the newest one there is.
    fn issue(&self) -> Result<Identity, IdentityError>;

    /// Whether to issue again ahead of time, because something it reads has changed (a root, a
    /// file). Called on a blocking thread.
    fn changed(&self) -> bool {
        false
    }

    /// How often to ask `changed`, and to look at the calendar.
    fn look_every(&self) -> Duration {
        SLICE
    }
}

/// When to renew: at the age of (0.5 + `jitter`) of the whole life, and `now` if that is past.
/// `jitter` is a share of the lifetime, clamped to +-10 %, so that a fleet started together does
/// not renew together.
pub fn rotation_due(issued_at: SystemTime, not_after: SystemTime, now: SystemTime, jitter: f64) -> SystemTime {
    let jitter = if jitter.is_finite() { jitter.clamp(-MAX_JITTER, MAX_JITTER) } else { 0.0 };
    let lifetime = not_after.duration_since(issued_at).unwrap_or_default();
    let age = lifetime.mul_f64(RATIO + jitter);
    issued_at.checked_add(age).unwrap_or(now).max(now)
}

/// Keeps `source` supplied, for ever. Cancel it by dropping it.
///
/// Of several loops on one source only the first works; the others wait to take over.
pub async fn rotate(source: IdentitySource, issuer: Arc<dyn Issuer>, clock: Arc<dyn Clock>, seed: u64) {
    let rotating = source.rotating();
    let _only_one = rotating.lock().await;
    let mut schedule = Schedule { rng: fastrand::Rng::with_seed(seed), failed: 0 };
    let mut due = first_due(&source, &mut schedule, clock.wall());
    loop {
        wait(&issuer, &*clock, due).await;
        let issued = issue(issuer.clone(), &*clock).await;
        let wall = clock.wall();
        due = match issued {
            Ok(identity) => {
                let due = schedule.after_success(&identity, wall);
                let (id, serial) = (identity.svid.id().clone(), identity.svid.serial().to_owned());
                if source.publish(identity) {
                    tracing::info!(%id, %serial, "identity published");
                }
                due
            }
            Err(error) => {
                source.note_failure(&error);
                tracing::warn!(%error, failed = schedule.failed + 1, "identity not renewed; keeping the old one");
                schedule.after_failure(source.current().as_deref(), wall)
            }
        };
    }
}

struct Schedule {
    rng: fastrand::Rng,
    failed: u32,
}

impl Schedule {
    fn due(&mut self, identity: &Identity, wall: SystemTime) -> SystemTime {
        // Early rather than late: more than half of the life is left to sit out an outage.
        let jitter = -(MIN_JITTER + self.rng.f64() * (MAX_JITTER - MIN_JITTER));
        rotation_due(identity.svid.issued_at(), identity.svid.not_after(), wall, jitter)
    }

    fn after_success(&mut self, identity: &Identity, wall: SystemTime) -> SystemTime {
        self.failed = 0;
        let due = self.due(identity, wall);
        if due > wall {
            return due;
        }
        // Already past half-life: the issuer hands out what somebody else renews. Look again, but
        // in no hurry.
        let remaining = identity.svid.not_after().duration_since(wall).unwrap_or_default();
        wall + (remaining / 10).clamp(RELOOK_MIN, RELOOK_MAX)
    }

    fn after_failure(&mut self, current: Option<&Identity>, wall: SystemTime) -> SystemTime {
        let doubled = BACKOFF_BASE.saturating_mul(1 << self.failed.min(16));
        self.failed = self.failed.saturating_add(1);
        let mut delay = doubled.min(BACKOFF_CAP).mul_f64(0.9 + 0.2 * self.rng.f64());
        if let Some(identity) = current {
            let svid = &identity.svid;
            let lifetime = svid.not_after().duration_since(svid.issued_at()).unwrap_or_default();
            // After a long outage a short-lived certificate must not wait for many of its lifetimes.
            delay = delay.min((lifetime / 2).max(Duration::from_secs(1)));
            if let Ok(remaining) = svid.not_after().duration_since(wall) {
                // Half of what remains, again and again, always tries before the end.
                delay = delay.min((remaining / 2).max(BACKOFF_MIN));
            }
        }
        wall + delay
    }
}

/// At once, unless somebody has already published a fresh identity.
fn first_due(source: &IdentitySource, schedule: &mut Schedule, wall: SystemTime) -> SystemTime {
    match source.usable_at(wall) {
        Ok(identity) => schedule.due(&identity, wall),
        Err(_) => wall,
    }
}

/// Until `due`, or until the issuer says that something changed. In slices, because calendar time
/// may jump (a suspended machine, a clock set right) while monotonic time does not.
async fn wait(issuer: &Arc<dyn Issuer>, clock: &dyn Clock, due: SystemTime) {
    let at_most = due.duration_since(clock.wall()).unwrap_or_default();
    while let Ok(left) = due.duration_since(clock.wall()) {
        // Set back: the certificate at hand may now lie in the future.
        if left.is_zero() || left > at_most {
            return;
        }
        clock.sleep_until(after(clock.now(), left.min(issuer.look_every()))).await;
        let asked = issuer.clone();
        if clock.wall() < due && tokio::task::spawn_blocking(move || asked.changed()).await.unwrap_or(false) {
            return;
        }
    }
}

/// One call of the issuer, whose answer must be presentable now.
async fn issue(issuer: Arc<dyn Issuer>, clock: &dyn Clock) -> Result<Identity, IdentityError> {
    let identity = tokio::task::spawn_blocking(move || issuer.issue())
        .await
        .map_err(|panic| IdentityError::Authority(format!("the issuer panicked: {panic}")))??;
    identity.check_valid_at(clock.wall())?;
    Ok(identity)
}

/// Share of the lifetime. Istio `SECRET_GRACE_PERIOD_RATIO` default; ztunnel's half-life.
const RATIO: f64 = 0.5;
/// Shares of the lifetime. The least still spreads a fleet; the most renews at 40 %.
const MIN_JITTER: f64 = 0.01;
const MAX_JITTER: f64 = 0.1;
/// First retry delay. Istio: 100 ms.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Longest retry delay. ztunnel: 150 s.
const BACKOFF_CAP: Duration = Duration::from_secs(150);
/// Shortest retry delay, in the last moments of a certificate.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// How often a certificate past its half-life is looked at again.
const RELOOK_MIN: Duration = Duration::from_secs(1);
const RELOOK_MAX: Duration = Duration::from_secs(60);
/// How soon a changed file, or a machine that was suspended, is noticed.
const SLICE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::mint::{self, JumpClock};
    use super::*;

    /// Mints at every call, except when `down` says so, and notes `(issued at, valid until)`.
    struct Scripted {
        clock: Arc<JumpClock>,
        ttl: Duration,
        down: fn(Duration) -> bool,
        issued: Mutex<Vec<(SystemTime, SystemTime)>>,
        failed_at: Mutex<Vec<SystemTime>>,
    }

    impl Issuer for Scripted {
        /// Seldom, so that days pass quickly.
        fn look_every(&self) -> Duration {
            Duration::from_secs(60)
        }

        fn issue(&self) -> Result<Identity, IdentityError> {
            let wall = self.clock.wall();
            if (self.down)(self.clock.elapsed()) {
                self.failed_at.lock().unwrap().push(wall);
                return Err(IdentityError::Authority("down".into()));
            }
            let identity = mint::authority("td").identity("spiffe://td/a", wall, self.ttl);
            self.issued.lock().unwrap().push((wall, identity.svid.not_after()));
            Ok(identity)
        }
    }

    /// Runs the loop for `span` of the injected clock.
    fn run(ttl: Duration, span: Duration, down: fn(Duration) -> bool) -> (IdentitySource, Arc<Scripted>) {
        run_with(JumpClock::until(span), ttl, down)
    }

    fn run_with(clock: JumpClock, ttl: Duration, down: fn(Duration) -> bool) -> (IdentitySource, Arc<Scripted>) {
        let clock = Arc::new(clock);
        let source = IdentitySource::new();
        let issuer = Arc::new(Scripted {
            clock: clock.clone(),
            ttl,
            down,
            issued: Mutex::default(),
            failed_at: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = rotate(source.clone(), issuer.clone(), clock.clone(), 7) => {}
                () = clock.finished() => {}
            }
        });
        (source, issuer)
    }

    fn gaps(issuer: &Scripted) -> usize {
        let issued = issuer.issued.lock().unwrap();
        issued.windows(2).filter(|pair| pair[1].0 > pair[0].1).count()
    }

    #[test]
    fn a_four_second_certificate_is_renewed_all_the_time() {
        let (source, issuer) = run(Duration::from_secs(4), Duration::from_secs(120), |_| false);
        let serials: std::collections::HashSet<_> = source.recent_serials().into_iter().collect();
        assert!(serials.len() >= 25, "{}", serials.len());
        assert!(serials.len() <= 90, "{}", serials.len());
        assert_eq!(gaps(&issuer), 0);
        assert_eq!(source.rotations() as usize, issuer.issued.lock().unwrap().len());
    }

    #[test]
    fn a_day_long_certificate_is_renewed_twice_a_day() {
        let (source, issuer) = run(Duration::from_secs(86_400), Duration::from_secs(10 * 86_400), |_| false);
        assert!((18..=26).contains(&source.rotations()), "{}", source.rotations());
        assert_eq!(gaps(&issuer), 0);
    }

    #[test]
    fn an_authority_down_for_4_of_every_15_seconds_never_lets_a_ten_second_certificate_expire() {
        let down = |elapsed: Duration| elapsed.as_secs_f64() % 15.0 >= 11.0;
        let (source, issuer) = run(Duration::from_secs(10), Duration::from_secs(3_000), down);
        assert!(source.failures() > 50, "{}", source.failures());
        assert_eq!(source.failures() as usize, issuer.failed_at.lock().unwrap().len());
        assert_eq!(gaps(&issuer), 0);
        assert!(source.rotations() > 400, "{}", source.rotations());
    }

    #[test]
    fn an_outage_keeps_the_old_certificate_and_is_retried_before_its_expiry() {
        let down = |elapsed: Duration| elapsed > Duration::from_secs(1);
        let (source, issuer) = run(Duration::from_secs(100), Duration::from_secs(3_600), down);
        assert_eq!(source.rotations(), 1);
        assert!(matches!(source.last_error(), Some(IdentityError::Authority(_))));
        let (issued, expiry) = issuer.issued.lock().unwrap()[0];
        let failed = issuer.failed_at.lock().unwrap();
        let last_before = failed.iter().filter(|at| **at <= expiry).max().unwrap();
        assert!(expiry.duration_since(*last_before).unwrap() < Duration::from_millis(100));
        assert!(source.usable_at(expiry - Duration::from_millis(1)).is_ok());
        assert!(matches!(source.usable_at(expiry), Err(IdentityError::Expired { .. })));
        // 100 ms doubling at first, then at most half a lifetime apart: not a storm.
        let per_hour = failed.len();
        assert!((70..200).contains(&per_hour), "{per_hour}");
        let first_retry = failed[1].duration_since(failed[0]).unwrap();
        assert!(first_retry >= Duration::from_millis(90) && first_retry <= Duration::from_millis(110));
        assert!(failed[0] > issued + Duration::from_secs(39));
    }

    #[test]
    fn a_calendar_that_jumps_is_noticed_within_one_look() {
        let (day, hour) = (Duration::from_secs(86_400), 3600);
        for leap in [30 * hour, 13 * hour, -2 * hour, -30 * hour] {
            let at = Duration::from_secs(1_000);
            let clock = JumpClock::until(Duration::from_secs(1_100)).with_leap(at, leap);
            let (source, issuer) = run_with(clock, day, |_| false);
            assert_eq!(source.rotations(), 2, "{leap}");
            let clock = &issuer.clock;
            assert!(source.usable_at(clock.wall()).is_ok());
            let renewed = source.current().unwrap().svid.not_before();
            let noticed = clock.wall().duration_since(renewed).unwrap();
            assert!(noticed >= Duration::from_secs(100 - 61), "{leap}: {noticed:?}");
        }
    }

    #[test]
    fn a_second_loop_on_the_same_source_issues_nothing() {
        let clock = Arc::new(JumpClock::until(Duration::from_secs(60)));
        let issuer = |down| {
            Arc::new(Scripted {
                clock: clock.clone(),
                ttl: Duration::from_secs(4),
                down,
                issued: Mutex::default(),
                failed_at: Mutex::default(),
            })
        };
        let (first, second) = (issuer(|_| false), issuer(|_| false));
        let source = IdentitySource::new();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            tokio::select! {
                biased;
                () = rotate(source.clone(), first.clone(), clock.clone(), 1) => {}
                () = rotate(source.clone(), second.clone(), clock.clone(), 2) => {}
                () = clock.finished() => {}
            }
        });
        assert!(first.issued.lock().unwrap().len() > 10);
        assert!(second.issued.lock().unwrap().is_empty());
    }

    #[test]
    fn a_jitter_that_is_no_number_counts_as_none() {
        let start = SystemTime::UNIX_EPOCH;
        let end = start + Duration::from_secs(100);
        assert_eq!(rotation_due(start, end, start, f64::NAN), start + Duration::from_secs(50));
        assert_eq!(rotation_due(end, start, end, 0.0), end);
        assert_eq!(rotation_due(start, end, start, 5.0), start + Duration::from_secs(60));
    }
}
