//! Health checks that cannot work.

use super::Report;
use crate::config::cluster::Cluster;
use crate::config::diagnostic::Path;
use crate::config::health::HealthCheck;

pub(super) fn check(cluster: &Cluster, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(check) = &cluster.health_check else { return };
    let path = path.field("health_check");
    let asked = [check.http.is_some(), check.grpc.is_some(), check.tcp.is_some()];
    match asked.iter().filter(|is_asked| **is_asked).count() {
        0 => report.error_with(&path, "the health check asks nothing", "give it one of `http`, `grpc` and `tcp`"),
        1 => {}
        _ => report.error(&path, "the health check asks more than one of `http`, `grpc` and `tcp`"),
    }
    check_times(check, &path, report);
    if let Some(http) = &check.http {
        let http_path = path.field("http");
        if http.path.parse::<http::Uri>().is_err() {
            report.error(&http_path.field("path"), format!("`{}` is not a path", http.path));
        }
        check_host(http.host.as_deref(), &http_path, report);
        let statuses = http_path.field("statuses");
        for (index, range) in http.statuses.iter().flatten().enumerate() {
            if range.from > range.to {
                let message = format!("no status is from {} to {}", range.from, range.to);
                report.error(&statuses.index(index), message);
            }
        }
    }
    if let Some(grpc) = &check.grpc {
        check_host(grpc.host.as_deref(), &path.field("grpc"), report);
    }
}

fn check_times(check: &HealthCheck, path: &Path<'_>, report: &mut Report<'_>) {
    for (field, span) in
        [("interval", check.interval), ("timeout", check.timeout), ("no_traffic_interval", check.no_traffic_interval)]
    {
        if span.is_zero() {
            report.error(&path.field(field), "the time is zero");
        }
    }
}

fn check_host(host: Option<&str>, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(host) = host.filter(|host| host.parse::<http::uri::Authority>().is_err()) {
        report.error(&path.field("host"), format!("`{host}` is not a host"));
    }
}
