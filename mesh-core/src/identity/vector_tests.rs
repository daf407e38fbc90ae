//! The shared vectors for SPIFFE IDs, X.509-SVIDs, bundles and rotation.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde_json::Value;

use super::bundle::{TrustBundle, TrustBundles};
use super::error::SvidError;
use super::leaf::verify_signing_certificate;
use super::mint::{self, Authority, Spec, day};
use super::rotation::rotation_due;
use super::source::IdentitySource;
use super::spiffe_id::{SpiffeId, TrustDomain};
use super::svid::Svid;
use super::verifier::{PeerRole, verify_chain};

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/spiffe_id.json"));

const HOUR: Duration = Duration::from_secs(3600);

/// Kinds that other code will answer: the Workload API client is not part of these modules yet.
const OUT_OF_SCOPE: &[&str] = &["workload_api"];

#[test]
fn every_vector_about_identity_holds() {
    let document: Value = serde_json::from_str(VECTORS).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in document["cases"].as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        *counts.entry(kind).or_default() += 1;
        match kind {
            "parse_id" => parse_id(case),
            "sweep" => sweep(case),
            "verify_leaf" => verify_leaf(case),
            "verify_signing_certificate" => signing_certificate(case),
            "parse_bundle" => parse_bundle(case),
            "load_pem" => load_pem(case),
            "rotation" => rotation(case),
            other => assert!(OUT_OF_SCOPE.contains(&other), "no test for kind {other}"),
        }
    }
    let expected = [
        ("load_pem", 3),
        ("parse_bundle", 5),
        ("parse_id", 66),
        ("rotation", 4),
        ("sweep", 2),
        ("verify_leaf", 33),
        ("verify_signing_certificate", 3),
        ("workload_api", 7),
    ];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
}

fn input(case: &Value) -> String {
    if let Some(input) = case["input"].as_str() {
        return input.to_owned();
    }
    let repeat = &case["input_repeat"];
    let count = usize::try_from(repeat["count"].as_u64().unwrap()).unwrap();
    let text = |key: &str| repeat[key].as_str().unwrap();
    format!("{}{}{}", text("prefix"), text("repeated").repeat(count), text("suffix"))
}

fn parse_id(case: &Value) {
    let (input, expected) = (input(case), &case["expected"]);
    match SpiffeId::parse(&input) {
        Ok(id) => {
            assert_eq!(expected["valid"], true, "{case}");
            assert_eq!(id.to_string(), input);
            assert_eq!(id.trust_domain(), expected["trust_domain"].as_str().unwrap_or(id.trust_domain()), "{case}");
            assert_eq!(id.path(), expected["path"].as_str().unwrap_or(id.path()), "{case}");
        }
        Err(error) => {
            assert_eq!(expected["valid"], false, "{case}");
            let also = case["also_acceptable_reasons"].as_array().cloned().unwrap_or_default();
            let reason = Value::from(error.as_str());
            assert!(expected["reason"] == reason || also.contains(&reason), "{error:?}: {case}");
        }
    }
}

fn sweep(case: &Value) {
    let template = case["template"].as_str().unwrap();
    let in_path = case["id"] == "sweep-path-code-points";
    let accepted: Vec<u64> = (0..=255u8)
        .filter(|code| !(in_path && *code == b'/'))
        .filter(|code| SpiffeId::parse(&template.replace("<code point>", &char::from(*code).to_string())).is_ok())
        .map(u64::from)
        .collect();
    assert_eq!(Value::from(accepted), case["expected"]["accepted_code_points"], "{}", case["id"]);
}

fn strings(value: &Value) -> Vec<String> {
    let text = |item: &Value| item.as_str().unwrap().to_owned();
    value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
}

fn key_usage(name: &str) -> KeyUsagePurpose {
    match name {
        "digitalSignature" => KeyUsagePurpose::DigitalSignature,
        "keyEncipherment" => KeyUsagePurpose::KeyEncipherment,
        "keyAgreement" => KeyUsagePurpose::KeyAgreement,
        "keyCertSign" => KeyUsagePurpose::KeyCertSign,
        "cRLSign" => KeyUsagePurpose::CrlSign,
        other => panic!("key usage {other}"),
    }
}

fn extended(name: &str) -> ExtendedKeyUsagePurpose {
    match name {
        "serverAuth" => ExtendedKeyUsagePurpose::ServerAuth,
        "clientAuth" => ExtendedKeyUsagePurpose::ClientAuth,
        other => panic!("extended key usage {other}"),
    }
}

fn leaf_spec(presented: &Value) -> Spec {
    let list = |key: &str| presented[key].is_array().then(|| strings(&presented[key]));
    Spec {
        uri_sans: strings(&presented["uri_sans"]),
        dns_sans: strings(&presented["dns_sans"]),
        subject: (presented["subject"] != "").then(|| "a workload".to_owned()),
        san_critical: presented["san_critical"] == true,
        ca: presented["basic_constraints_ca"] == true,
        key_usage: list("key_usage").map(|names| names.iter().map(|name| key_usage(name)).collect()),
        key_usage_critical: presented["key_usage_critical"] == true,
        extended: list("extended_key_usage").map(|names| names.iter().map(|name| extended(name)).collect()),
        ..Spec::leaf("", day(), day() + HOUR)
    }
}

/// The issuer of the leaf, and what is sent after the leaf.
fn issuer_of(presented: &Value, root: &Authority) -> (Option<Authority>, bool) {
    let mut spec = Spec::intermediate(day() - HOUR, day() + HOUR * 10);
    match presented["chain"].as_str().unwrap() {
        "leaf" | "empty" => return (None, false),
        "leaf+intermediate" => {}
        "leaf+intermediate without CA flag" => spec.ca = false,
        "leaf+intermediate without keyCertSign" => spec.key_usage = Some(vec![KeyUsagePurpose::DigitalSignature]),
        "leaf (issued by an intermediate that is not sent)" => return (Some(root.sign(&spec)), false),
        other => panic!("chain {other}"),
    }
    (Some(root.sign(&spec)), true)
}

fn bundles(presented: &Value, root: &Authority) -> TrustBundles {
    match presented["bundle_for_trust_domain"].as_str().unwrap() {
        "matches" | "roots of td only" => TrustBundles::from_iter([root.bundle("td")]),
        // The root that did sign is even there, but for another trust domain.
        "absent (bundles exist for other domains only)" => TrustBundles::from_iter([root.bundle("elsewhere")]),
        "present but without roots" => {
            let empty = TrustBundle::from_roots(TrustDomain::parse("td").unwrap(), Vec::new()).unwrap();
            TrustBundles::from_iter([empty, root.bundle("elsewhere")])
        }
        "different root" => TrustBundles::from_iter([Authority::root("td").bundle("td")]),
        other => panic!("bundle {other}"),
    }
}

fn verify_leaf(case: &Value) {
    let presented = &case["presented"];
    let root = mint::authority("td");
    let (intermediate, sent) = issuer_of(presented, &root);
    let leaf = intermediate.as_ref().unwrap_or(&root).sign(&leaf_spec(presented));
    let mut chain = vec![leaf.certificate.clone()];
    if sent {
        chain.push(intermediate.as_ref().unwrap().certificate.clone());
    }
    if presented["chain"] == "empty" {
        chain.clear();
    }
    let wall = match presented["time"].as_str().unwrap() {
        "within validity" => day() + HOUR / 2,
        "after notAfter" => day() + HOUR * 2,
        "before notBefore" => day() - Duration::from_secs(1),
        other => panic!("time {other}"),
    };
    let secret = if presented["key_matches"] == true { leaf.secret() } else { root.secret() };
    let expected = case["expected"]["accepted"] == true;
    let bundles = bundles(presented, &root);
    if presented["key_matches"] != true {
        assert!(!expected);
        assert!(matches!(Svid::from_der(chain, secret), Err(SvidError::KeyMismatch)), "{case}");
        return;
    }
    for role in [PeerRole::Client, PeerRole::Server] {
        let verdict = verify_chain(&bundles, &chain, role, wall);
        assert_eq!(verdict.is_ok(), expected, "{role:?} {verdict:?} {case}");
        if let Ok(id) = verdict {
            assert_eq!(id.as_str(), presented["uri_sans"][0].as_str().unwrap());
            assert!(Svid::from_der(chain.clone(), leaf.secret()).is_ok());
        }
    }
}

fn signing_certificate(case: &Value) {
    let mut spec = Spec::intermediate(day(), day() + HOUR);
    spec.uri_sans = strings(&case["presented"]["uri_sans"]);
    let certificate = mint::authority("td").sign(&spec).certificate;
    let accepted = verify_signing_certificate(&certificate).is_ok();
    assert_eq!(Value::from(accepted), case["expected"]["accepted"], "{case}");
    let as_root = TrustBundle::from_roots(TrustDomain::parse("td").unwrap(), vec![certificate]);
    assert_eq!(as_root.is_ok(), accepted, "{case}");
}

fn parse_bundle(case: &Value) {
    let root = |letter: &str| mint::authority(&format!("letter-{}", letter.to_lowercase()));
    let body = |letter: &str| root(letter).root_pem().lines().filter(|line| !line.contains("--")).collect::<String>();
    let mut jwks = case["jwks"].clone();
    for key in jwks["keys"].as_array_mut().unwrap() {
        for entry in key.get_mut("x5c").and_then(Value::as_array_mut).into_iter().flatten() {
            *entry = Value::from(body(entry.as_str().unwrap()));
        }
    }
    let bundle = TrustBundle::from_jwks(TrustDomain::parse("td").unwrap(), jwks.to_string().as_bytes()).unwrap();
    let expected: Vec<_> =
        strings(&case["expected"]["roots"]).iter().map(|letter| root(letter).certificate.clone()).collect();
    assert_eq!(bundle.roots(), expected, "{case}");
}

fn load_pem(case: &Value) {
    let root = mint::authority("td");
    let intermediate = root.sign(&Spec::intermediate(day(), day() + HOUR));
    let leaf = intermediate.sign(&Spec::leaf("spiffe://td/a", day(), day() + HOUR));
    let mut certificates = [&leaf, &intermediate].into_iter();
    let text: String = strings(&case["blocks"])
        .iter()
        .map(|block| match block.as_str() {
            "CERTIFICATE" => certificates.next().unwrap().root_pem(),
            "PRIVATE KEY" => leaf.key.serialize_pem(),
            other => panic!("block {other}"),
        })
        .collect();
    let svid = Svid::from_pem(text.as_bytes());
    assert_eq!(Value::from(svid.is_ok()), case["expected"]["accepted"], "{case}");
    let svid = svid.unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://td/a");
    assert_eq!(svid.chain().len(), strings(&case["blocks"]).iter().filter(|block| *block == "CERTIFICATE").count());
}

fn rotation(case: &Value) {
    let parameters = &case["parameters"];
    let at = |seconds: &Value| UNIX_EPOCH + Duration::from_secs(seconds.as_u64().unwrap());
    if parameters["source"] == "down" {
        return source_down(case);
    }
    let (start, end) = (at(&parameters["not_before_s"]), at(&parameters["not_after_s"]));
    assert_eq!(parameters["ratio"], 0.5);
    let jitter = parameters["jitter"].as_f64().unwrap();
    let between = case["expected"]["refresh_between_s"].as_array().unwrap();
    let (least, most) = (at(&between[0]), at(&between[1]));
    let due = |share: f64| rotation_due(start, end, start, jitter * share);
    for step in -10..=10 {
        let due = due(f64::from(step) / 10.0);
        assert!(due >= least && due <= most, "{due:?} {case}");
    }
    assert_eq!((due(-1.0), due(1.0)), (least, most), "{case}");
}

/// `day()` stands for second 0.
fn source_down(case: &Value) {
    let parameters = &case["parameters"];
    let seconds = |key: &str| Duration::from_secs(parameters[key].as_u64().unwrap());
    let source = IdentitySource::new();
    source.publish(mint::authority("td").identity("spiffe://td/a", day(), seconds("not_after_s")));
    source.note_failure(&super::error::IdentityError::Authority("down".into()));
    let now: SystemTime = day() + seconds("now_s");
    let uses_old = case["expected"]["use"] == "old certificate";
    assert_eq!(source.usable_at(now).is_ok(), uses_old, "{case}");
    assert!(source.current().is_some(), "{case}");
}
