//! Health checks: what is asked, and how often.

use std::num::NonZeroU32;

use http::{HeaderValue, Method, Uri};

use crate::cluster::health::{HealthCheck, Question, Schedule, Thresholds};
use crate::config::cluster::Cluster;
use crate::config::health as written;

pub(super) fn check(check: &written::HealthCheck, cluster: &Cluster) -> Result<HealthCheck, String> {
    let number = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
    let jitter_percent = check.jitter_percent.0.round() as u8;
    Ok(HealthCheck {
        question: question(check, cluster)?,
        timeout: check.timeout.0,
        schedule: Schedule { interval: check.interval.0, jitter_percent },
        idle_schedule: Schedule { interval: check.no_traffic_interval.0, jitter_percent },
        thresholds: Thresholds {
            healthy: number(check.healthy_threshold),
            unhealthy: number(check.unhealthy_threshold),
        },
    })
}

fn question(check: &written::HealthCheck, cluster: &Cluster) -> Result<Question, String> {
    if let Some(http) = &check.http {
        return self::http(http, cluster);
    }
    if let Some(grpc) = &check.grpc {
        return Ok(Question::Grpc { service: grpc.service.clone(), host: host(grpc.host.as_deref(), cluster)? });
    }
    let tcp = check.tcp.clone().unwrap_or_default();
    Ok(Question::Tcp { send: tcp.send.into_bytes(), receive: tcp.receive.into_bytes() })
}

fn http(http: &written::HttpQuestion, cluster: &Cluster) -> Result<Question, String> {
    let method = http.method.as_ref().map_or(Ok(Method::GET), |method| Method::from_bytes(method.as_str().as_bytes()));
    let ranges = http.statuses.as_deref().unwrap_or(&[written::StatusRange { from: 200, to: 200 }]);
    Ok(Question::Http {
        method: method.map_err(|error| error.to_string())?,
        path: http.path.parse::<Uri>().map_err(|error| format!("`{}`: {error}", http.path))?,
        host: host(http.host.as_deref(), cluster)?,
        expected: ranges.iter().map(|range| (range.from, range.to)).collect(),
    })
}

/// The cluster's name may hold what an authority must not; then the endpoint is addressed by a neutral name.
fn host(written: Option<&str>, cluster: &Cluster) -> Result<HeaderValue, String> {
    let name = written.unwrap_or(cluster.name.as_str());
    let host = if name.parse::<http::uri::Authority>().is_ok() { name } else { "health" };
    HeaderValue::from_str(host).map_err(|error| error.to_string())
}
