//! The checks that policies demand of the other ways in which a path may be read.
//!
//! Decides: that a check demanded for one of them is asked. Never: changes what the application gets.
//! Invariant: what is demanded may grow here, never shrink.

use super::admission::Refused;
use crate::access::attributes::Attributes;
use crate::access::rollout::Draw;
use crate::route::readings::Readings;
use crate::snapshot::ListenerPolicy;

/// The checks that CUSTOM policies demand, of the path as it stands or of a reading.
pub(super) fn demanded<'a>(
    policy: &'a ListenerPolicy,
    (attributes, readings): (&Attributes<'_>, &Readings),
    draw: Draw,
) -> Result<Vec<&'a str>, Refused> {
    let mut names = super::admission::demanded(policy, attributes, draw)?;
    for path in readings.structural().chain(readings.decoded()) {
        names.extend(super::admission::demanded(policy, &Attributes { path, ..*attributes }, draw)?);
    }
    Ok(names)
}
