//! What an endpoint says about its own load (ORCA, Open Request Cost Aggregation).
//!
//! Decides: which texts and bytes are a report. Never: measures, and never guesses: a report that is
//! malformed in one place is no report. Invariant: every number in a report is finite, and the fields
//! with a name of their own are not negative.
//!
//! # On the wire
//! | where | name | value |
//! |---|---|---|
//! | response header, HTTP | `endpoint-load-metrics` | `TEXT cpu_utilization=0.3, named_metrics.queue=4` |
//! | | | `JSON {"cpu_utilization": 0.3, "named_metrics": {"queue": 4}}` |
//! | | | `BIN ` and the base64 of a `xds.data.orca.v3.OrcaLoadReport` |
//! | trailer or header, gRPC | `endpoint-load-metrics-bin` | the base64 alone (gRFC A51) |
//!
//! The binary name wins where both are present (Envoy). `TEXT` takes `:` for `=` (Envoy, its older form).
//! A metric with a name we do not know is skipped: newer servers may say more.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use serde::{Deserialize, Serialize};

/// One endpoint's load, as it reports it. A zero means: not said.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Share of the CPU in use, 1.0 = all of it; above 1 = over the endpoint's own soft limit.
    pub cpu_utilization: f64,
    /// What the application says of itself; preferred over `cpu_utilization` (gRFC A58).
    pub application_utilization: f64,
    /// Share of the memory in use.
    pub mem_utilization: f64,
    /// Requests per second the endpoint serves, to all callers.
    pub rps_fractional: f64,
    /// Errors per second among them.
    pub eps: f64,
    /// Anything else, by name; for example the depth of a queue.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub named_metrics: BTreeMap<String, f64>,
}

/// How a report is written in an HTTP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `TEXT name=value, ..`
    Text,
    /// `JSON {..}`
    Json,
    /// `BIN ` and base64.
    Binary,
}

impl Form {
    /// By its word on the wire, in any case.
    pub fn named(word: &str) -> Option<Self> {
        match word.trim() {
            word if word.eq_ignore_ascii_case("TEXT") => Some(Self::Text),
            word if word.eq_ignore_ascii_case("JSON") => Some(Self::Json),
            word if word.eq_ignore_ascii_case("BIN") => Some(Self::Binary),
            _ => None,
        }
    }
}

impl LoadReport {
    /// The report in a response's headers or trailers; `None` if there is none, or a malformed one.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        if let Some(value) = headers.get(TRAILER) {
            return Self::from_bin(value.as_bytes());
        }
        let text = headers.get(HEADER)?.to_str().ok()?;
        let (format, rest) = text.split_once(' ').unwrap_or((text, ""));
        match format {
            "TEXT" => Self::from_text(rest),
            "JSON" => serde_json::from_str::<Self>(rest).ok().and_then(Self::checked),
            "BIN" => Self::from_bin(rest.trim().as_bytes()),
            _ => None,
        }
    }

    /// The value of the HTTP response header [`HEADER`].
    pub fn to_header(&self) -> HeaderValue {
        let mut text = String::from("TEXT ");
        for (name, value) in self.fields().into_iter().filter(|(_, value)| *value != 0.0) {
            let _ = write!(text, "{name}={value}, ");
        }
        for (name, value) in &self.named_metrics {
            let _ = write!(text, "{NAMED}{name}={value}, ");
        }
        let text = text.trim_end_matches([',', ' ']);
        // A name that does not fit into a header, or into this form of it, is told in the binary form.
        let is_plain = self.named_metrics.keys().all(|name| is_plain(name));
        HeaderValue::from_str(text).ok().filter(|_| is_plain).unwrap_or_else(|| self.binary("BIN "))
    }

    /// The value of the HTTP response header [`HEADER`], in the form that was asked for.
    pub fn to_header_as(&self, form: Form) -> HeaderValue {
        match form {
            Form::Text => self.to_header(),
            Form::Binary => self.binary("BIN "),
            Form::Json => {
                let json = serde_json::to_string(self).unwrap_or_default();
                HeaderValue::from_str(&format!("JSON {json}")).unwrap_or_else(|_| self.binary("BIN "))
            }
        }
    }

    /// The value of the gRPC trailer [`TRAILER`].
    pub fn to_trailer(&self) -> HeaderValue {
        self.binary("")
    }

    /// How busy the endpoint is: what its application says, else its CPU (gRFC A58). 0 = not said.
    pub fn utilization(&self) -> f64 {
        if self.application_utilization > 0.0 { self.application_utilization } else { self.cpu_utilization }
    }

    fn fields(&self) -> [(&'static str, f64); 5] {
        [
            ("cpu_utilization", self.cpu_utilization),
            ("application_utilization", self.application_utilization),
            ("mem_utilization", self.mem_utilization),
            ("rps_fractional", self.rps_fractional),
            ("eps", self.eps),
        ]
    }

    fn field(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "cpu_utilization" => &mut self.cpu_utilization,
            "application_utilization" => &mut self.application_utilization,
            "mem_utilization" => &mut self.mem_utilization,
            "rps_fractional" => &mut self.rps_fractional,
            "eps" => &mut self.eps,
            _ => return None,
        })
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut report = Self::default();
        let mut seen = std::collections::HashSet::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, value) = entry.split_once(['=', ':'])?;
            let (name, value) = (name.trim(), value.trim().parse::<f64>().ok()?);
            // Which of two values would count?
            if !seen.insert(name) {
                return None;
            }
            match name.strip_prefix(NAMED) {
                Some("") => return None,
                Some(name) => {
                    report.named_metrics.insert(name.to_owned(), value);
                }
                None => {
                    if let Some(field) = report.field(name) {
                        *field = value;
                    } else if !value.is_finite() {
                        return None;
                    }
                }
            }
        }
        report.checked()
    }

    fn from_bin(encoded: &[u8]) -> Option<Self> {
        let decoded = BASE64.decode(encoded).ok()?;
        let wire = Wire::decode(decoded.as_slice()).ok()?;
        let report = Self {
            cpu_utilization: wire.cpu_utilization,
            application_utilization: wire.application_utilization,
            mem_utilization: wire.mem_utilization,
            rps_fractional: wire.rps_fractional,
            eps: wire.eps,
            named_metrics: wire.named_metrics,
        };
        report.checked()
    }

    fn binary(&self, prefix: &str) -> HeaderValue {
        let wire = Wire {
            cpu_utilization: self.cpu_utilization,
            application_utilization: self.application_utilization,
            mem_utilization: self.mem_utilization,
            rps_fractional: self.rps_fractional,
            eps: self.eps,
            named_metrics: self.named_metrics.clone(),
        };
        let text = format!("{prefix}{}", BASE64.encode(wire.encode_to_vec()));
        // Base64 is always a header value.
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("TEXT"))
    }

    fn checked(self) -> Option<Self> {
        let core = self.fields().iter().all(|(_, value)| value.is_finite() && *value >= 0.0);
        (core && self.named_metrics.values().all(|value| value.is_finite())).then_some(self)
    }
}

/// A name that `TEXT` can carry.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'=' | b':' | b'"'))
}

/// `xds.data.orca.v3.OrcaLoadReport`, the fields we use.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(btree_map = "string, double", tag = "8")]
    named_metrics: BTreeMap<String, f64>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

/// Takes a report off: it was for whoever asked.
pub(crate) fn hide(headers: &mut HeaderMap) {
    headers.remove(HEADER);
    headers.remove(TRAILER);
}

/// The HTTP response header (Envoy).
pub const HEADER: &str = "endpoint-load-metrics";
/// The gRPC trailer (gRFC A51).
pub const TRAILER: &str = "endpoint-load-metrics-bin";
const NAMED: &str = "named_metrics.";

/// gRPC leaves the padding out, Envoy's examples do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    fn full() -> LoadReport {
        LoadReport {
            cpu_utilization: 0.3,
            application_utilization: 0.9,
            mem_utilization: 0.8,
            rps_fractional: 10.5,
            eps: 1.0,
            named_metrics: BTreeMap::from([("queue".to_owned(), 4.0)]),
        }
    }

    #[test]
    fn every_form_of_the_header_is_read() {
        let text = "cpu_utilization=0.3, application_utilization:0.9,mem_utilization = 0.8, rps_fractional=10.5, eps=1,named_metrics.queue=4, tomorrow=2";
        let json = r#"{"cpu_utilization":0.3,"application_utilization":0.9,"mem_utilization":0.8,"rps_fractional":10.5,"eps":1,"named_metrics":{"queue":4},"tomorrow":2}"#;
        let bin = full().to_trailer();
        let bin = bin.to_str().unwrap();
        for (name, value) in [
            (HEADER, format!("TEXT {text}")),
            (HEADER, format!("JSON {json}")),
            (HEADER, format!("BIN {bin}")),
            (TRAILER, bin.to_owned()),
            (TRAILER, format!("{bin}{}", "=".repeat((4 - bin.len() % 4) % 4))),
        ] {
            assert_eq!(LoadReport::parse(&headers(name, &value)), Some(full()), "{name}: {value}");
        }
    }

    #[test]
    fn the_binary_form_is_the_protobuf_of_orca() {
        // Field 1 (double) = 0.5, then field 9 (double) = 0.25, by hand.
        let bytes = [&[0x09][..], &0.5_f64.to_le_bytes(), &[0x49], &0.25_f64.to_le_bytes()].concat();
        let report = LoadReport::parse(&headers(TRAILER, &BASE64.encode(bytes))).unwrap();
        assert_eq!((report.cpu_utilization, report.application_utilization), (0.5, 0.25));
    }

    #[test]
    fn a_malformed_report_is_no_report() {
        for value in [
            "",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=x",
            "TEXT cpu_utilization=NaN",
            "TEXT tomorrow=inf",
            "TEXT eps=-1",
            "TEXT eps=1, eps=2",
            "TEXT named_metrics.=1",
            "JSON {",
            "JSON {\"eps\": -1}",
            "BIN !",
            "BIN AAAA",
            "cpu_utilization=0.3",
            "text cpu_utilization=0.3",
        ] {
            assert_eq!(LoadReport::parse(&headers(HEADER, value)), None, "{value:?}");
        }
        assert_eq!(LoadReport::parse(&HeaderMap::new()), None);
        assert_eq!(LoadReport::parse(&headers(HEADER, "TEXT ")), Some(LoadReport::default()));
    }

    #[test]
    fn what_is_written_is_read_back_whatever_the_names() {
        for name in ["queue", "a,b", "a=b", "größe", "with space"] {
            let report = LoadReport { named_metrics: BTreeMap::from([(name.to_owned(), -1.5)]), ..full() };
            let header = report.to_header();
            let map = HeaderMap::from_iter([(http::HeaderName::from_static(HEADER), header)]);
            assert_eq!(LoadReport::parse(&map), Some(report.clone()), "{name}");
            let map = HeaderMap::from_iter([(http::HeaderName::from_static(TRAILER), report.to_trailer())]);
            assert_eq!(LoadReport::parse(&map), Some(report), "{name}");
        }
        assert_eq!(full().to_header().to_str().unwrap().split(' ').next(), Some("TEXT"));
    }

    #[test]
    fn the_application_knows_better_than_the_cpu() {
        assert_eq!(full().utilization(), 0.9);
        assert_eq!(LoadReport { application_utilization: 0.0, ..full() }.utilization(), 0.3);
        assert_eq!(LoadReport::default().utilization(), 0.0);
    }
}
