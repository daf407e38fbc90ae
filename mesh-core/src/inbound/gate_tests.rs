use std::time::Duration;

use super::*;
use crate::policy::concurrency::Terms;
use crate::policy::criticality::{Criticality, Shares};
use crate::time::SystemClock;

fn intake(places: u32, waiting: usize, max_wait: Duration) -> Intake {
    Intake { limit: Terms { max: places, adaptive: None, shares: Shares::default() }, waiting, max_wait }
}

fn gate(places: u32, waiting: usize) -> Gate {
    let gate = Gate::new(Arc::new(SystemClock));
    gate.retune(Some(intake(places, waiting, Duration::from_secs(1))));
    gate
}

fn arrival(class: Criticality) -> Arrival {
    Arrival { class, deadline: None }
}

const CRITICAL: Criticality = Criticality::Critical;

#[tokio::test(start_paused = true)]
async fn a_free_place_goes_to_who_waits() {
    let gate = gate(1, 1);
    let inside = gate.enter(arrival(CRITICAL)).await.unwrap().unwrap();
    let waiting = gate.enter(arrival(CRITICAL));
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert!(matches!(gate.enter(arrival(CRITICAL)).await, Err(TurnedAway { waited: false, limit: 1 })));
    drop(inside);
    assert!(waiting.await.unwrap().is_some());
    assert_eq!(gate.counts(), Some((0, 0, 1)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_its_deadline() {
    let gate = gate(1, 8);
    let _inside = gate.enter(arrival(CRITICAL)).await.unwrap();
    let start = tokio::time::Instant::now();
    let deadline = start.into_std() + Duration::from_millis(30);
    let refused = gate.enter(Arrival { deadline: Some(deadline), ..arrival(CRITICAL) }).await;
    assert!(matches!(refused, Err(TurnedAway { waited: true, .. })));
    assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    assert!(gate.enter(arrival(CRITICAL)).await.is_err());
    assert!(start.elapsed() >= Duration::from_secs(1), "without a deadline it is the longest wait");
}

#[tokio::test(start_paused = true)]
async fn who_matters_more_takes_the_place_of_who_waits_and_goes_first() {
    let gate = gate(1, 1);
    let inside = gate.enter(arrival(CRITICAL)).await.unwrap();
    let batch = gate.enter(arrival(Criticality::Sheddable));
    tokio::pin!(batch);
    assert!(futures_util::poll!(&mut batch).is_pending());
    let user = gate.enter(arrival(CRITICAL));
    tokio::pin!(user);
    assert!(futures_util::poll!(&mut user).is_pending());
    assert!(matches!(batch.await, Err(TurnedAway { waited: true, .. })));
    drop(inside);
    assert!(user.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn who_left_while_waiting_keeps_no_place() {
    let gate = gate(1, 4);
    let inside = gate.enter(arrival(CRITICAL)).await.unwrap();
    {
        let leaving = gate.enter(arrival(CRITICAL));
        tokio::pin!(leaving);
        assert!(futures_util::poll!(&mut leaving).is_pending());
    }
    let staying = gate.enter(arrival(CRITICAL));
    tokio::pin!(staying);
    assert!(futures_util::poll!(&mut staying).is_pending());
    drop(inside);
    assert!(staying.await.unwrap().is_some());
    assert_eq!(gate.counts(), Some((0, 0, 1)));
}

#[tokio::test(start_paused = true)]
async fn other_terms_keep_who_is_inside_and_none_lets_everything_pass() {
    let gate = gate(1, 0);
    let _inside = gate.enter(arrival(CRITICAL)).await.unwrap();
    gate.retune(Some(intake(2, 0, Duration::from_secs(1))));
    assert_eq!(gate.counts(), Some((0, 1, 2)));
    let second = gate.enter(arrival(CRITICAL)).await;
    assert!(second.is_ok() && gate.enter(arrival(CRITICAL)).await.is_err());
    gate.retune(None);
    assert!(gate.enter(arrival(CRITICAL)).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_who_has_just_left_goes_to_the_next() {
    let gate = gate(1, 4);
    let inside = gate.enter(arrival(CRITICAL)).await.unwrap();
    let mut leaving = Box::pin(gate.enter(arrival(CRITICAL)));
    assert!(futures_util::poll!(&mut leaving).is_pending());
    let staying = gate.enter(arrival(CRITICAL));
    tokio::pin!(staying);
    assert!(futures_util::poll!(&mut staying).is_pending());
    // The place is on its way to the first, who goes before he sees it.
    drop(inside);
    drop(leaving);
    assert!(matches!(futures_util::poll!(&mut staying), std::task::Poll::Ready(Ok(Some(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_a_higher_class_waited_for_in_vain_is_not_for_a_lower_one_beyond_its_share() {
    let gate = gate(2, 4);
    let (first, second) = (gate.enter(arrival(CRITICAL)).await.unwrap(), gate.enter(arrival(CRITICAL)).await.unwrap());
    let batch = gate.enter(arrival(Criticality::Sheddable));
    tokio::pin!(batch);
    assert!(futures_util::poll!(&mut batch).is_pending());
    let deadline = tokio::time::Instant::now().into_std() + Duration::from_millis(30);
    let user = gate.enter(Arrival { deadline: Some(deadline), ..arrival(CRITICAL) }).await;
    assert!(matches!(user, Err(TurnedAway { waited: true, .. })));
    drop(first);
    assert!(futures_util::poll!(&mut batch).is_pending(), "half of two places is one, and it is taken");
    assert_eq!(gate.counts(), Some((1, 1, 2)));
    drop(second);
    assert!(matches!(futures_util::poll!(&mut batch), std::task::Poll::Ready(Ok(Some(_)))));
}
