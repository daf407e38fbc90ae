//! What DNS cannot be asked.

use super::Report;
use crate::config::diagnostic::Path;
use crate::config::dns::{Dns, DnsMode};
use crate::config::duration::TimeSpan;

pub(super) fn check(dns: &Dns, path: &Path<'_>, report: &mut Report<'_>) {
    let port = path.field("port");
    match (dns.is_srv(), dns.port) {
        (true, Some(_)) => report.error_with(&port, "SRV records carry their own port", "drop `port`"),
        (false, None) => report.error_with(path, "A and AAAA records carry no port", "add `port`"),
        _ => {}
    }
    if dns.is_srv() && dns.mode == DnsMode::Logical {
        report.error(&path.field("mode"), "SRV records name several endpoints: they are always `strict`");
    }
    let servers = path.field("servers");
    for (index, server) in dns.servers.iter().enumerate() {
        if server.socket_addr().is_none_or(|server| server.port() == 0) {
            let message = "a name server is given by its IP address and port";
            report.error_with(&servers.index(index), message, "write it like 10.0.0.2:53");
        }
    }
    let spans = [("refresh", dns.refresh), ("min_refresh", Some(dns.min_refresh)), ("timeout", Some(dns.timeout))];
    for (field, span) in spans {
        if span.is_some_and(TimeSpan::is_zero) {
            let found =
                report.positions.error(&path.field(field), "the time is zero").expecting("a time longer than 0s");
            report.found.push(found);
        }
    }
    if let Some(refresh) = dns.refresh.filter(|refresh| *refresh < dns.min_refresh) {
        let message = format!("`refresh` ({refresh}) is shorter than `min_refresh` ({})", dns.min_refresh);
        report.error(&path.field("refresh"), message);
    }
}
