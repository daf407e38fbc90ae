//! Overload, as a caller meets it: its own class, a full limit here, a refusal there.
//!
//! Decides: the class a request goes out with, and whether a response is a peer's proof that it did not act
//! on the request. Never: believes that proof without a verified identity: a forged header would make a
//! request that was acted on be sent again.

use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue};

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::outbound::CallOptions;
use crate::outbound::attempt::{self, Answer, Outgoing};
use crate::policy::criticality::Criticality;
use crate::policy::retry_after::retry_after;
use crate::telemetry::names::header::{CRITICALITY, REFUSED};

/// What a server of the mesh says when it turned a request away for lack of room.
pub(crate) const OVERLOADED: &str = "overloaded";

/// The class of a request, written into its headers unless it is the one everybody assumes.
pub(crate) fn classify(headers: &mut HeaderMap, options: &CallOptions, context: Option<&CallContext>) -> Criticality {
    let written = headers.remove(CRITICALITY);
    let written = written.as_ref().and_then(|value| value.to_str().ok()).and_then(Criticality::named);
    let cause = context.and_then(|context| context.criticality);
    let class = Criticality::capped(options.criticality.or(written), cause, Criticality::CriticalPlus);
    if class != Criticality::default() {
        headers.insert(CRITICALITY, HeaderValue::from_static(class.as_str()));
    }
    class
}

/// Sends; a verified peer's word that it did not act on the request is a failure that may be repeated elsewhere.
pub(super) async fn send(
    way: &attempt::Way<'_>,
    outgoing: &Outgoing<'_>,
    until: Option<Instant>,
) -> Result<Answer, Error> {
    let answer = attempt::send(way, outgoing, until).await?;
    let is_verified = answer.held.connection.facts.peer.is_some();
    match turned_away(answer.response.headers(), way.wall()).filter(|_| is_verified) {
        Some(error) => Err(error),
        None => Ok(answer),
    }
}

/// What the head of a response says, if it says that there was no room for the request.
fn turned_away(headers: &HeaderMap, wall: SystemTime) -> Option<Error> {
    let is_refusal = headers.get(REFUSED).is_some_and(|why| why == OVERLOADED);
    is_refusal.then(|| {
        let place = Place { retry_after: retry_after(headers, wall), ..Place::default() };
        Error::new(ErrorKind::Overloaded, "the server has no room for the request")
            .with_sent(Sent::Unprocessed)
            .with_place(place)
    })
}

/// The cluster's own limit is full.
pub(super) fn overloaded(limit: u32, class: Criticality) -> Error {
    Error::new(ErrorKind::Overloaded, format!("the cluster has {limit} requests in flight, its limit for {class}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_that_names_a_date_is_read_by_the_calendar() {
        // Thu, 15 Jan 2026 12:00:00 GMT.
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_478_400);
        for (refused, retry_after, expected) in [
            (Some(OVERLOADED), "Thu, 15 Jan 2026 12:00:30 GMT", Some(Some(30))),
            (Some(OVERLOADED), "7", Some(Some(7))),
            (Some(OVERLOADED), "soon", Some(None)),
            (None, "7", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(refused.map(|why| (REFUSED, HeaderValue::from_static(why))));
            headers.insert("retry-after", HeaderValue::from_static(retry_after));
            let read = turned_away(&headers, wall).map(|error| error.place().retry_after.map(|wait| wait.as_secs()));
            assert_eq!(read, expected, "{refused:?} {retry_after}");
        }
    }
}
