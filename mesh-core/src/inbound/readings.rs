//! What rules and policies say of the other ways in which a path may be read.
//!
//! Decides: that each reading has to pass, and that a check demanded for one of them is asked.
//! Never: changes what the application gets. Invariant: a deny may grow here, never shrink.

use super::admission::{Refused, refused};
use crate::access::attributes::Attributes;
use crate::access::authorization::Ruling;
use crate::access::rbac::Decision;
use crate::error::ErrorKind;
use crate::route::readings::Readings;
use crate::snapshot::ListenerPolicy;

/// Asks local rules and Istio's policies about every reading but the path as it stands.
pub(super) fn judge(policy: &ListenerPolicy, attributes: &Attributes<'_>, readings: &Readings) -> Result<(), Refused> {
    for path in readings.structural() {
        super::admission::judge(policy, &Attributes { path, ..*attributes })?;
    }
    for path in readings.decoded() {
        let attributes = Attributes { path, ..*attributes };
        if let Decision::Deny { rule: Some(rule), .. } = policy.rules.decide(&attributes) {
            return Err(refused(ErrorKind::Denied, format!("access rule {rule}: deny_rule, read as {path:?}")));
        }
        if let Ruling::Deny(Some(name)) = policy.authorization.rule(&attributes) {
            return Err(refused(ErrorKind::Denied, format!("authorization: DENY policy {name}, read as {path:?}")));
        }
    }
    Ok(())
}

/// The checks that CUSTOM policies demand, of the path as it stands or of a reading.
pub(super) fn demanded<'a>(
    policy: &'a ListenerPolicy,
    attributes: &Attributes<'_>,
    readings: &Readings,
) -> Result<Vec<&'a str>, Refused> {
    let mut names = super::admission::demanded(policy, attributes)?;
    for path in readings.structural().chain(readings.decoded()) {
        names.extend(super::admission::demanded(policy, &Attributes { path, ..*attributes })?);
    }
    Ok(names)
}
