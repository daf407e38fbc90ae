use serde_json::json;

use super::*;
use crate::access::jwt::tests::tokens::{Signer, examples, set};

fn verdict(keys: &KeySet, (algorithm, id): (&str, Option<&str>), message: &[u8], signature: &[u8]) -> Option<Refusal> {
    keys.verify((Algorithm::named(algorithm).unwrap(), id), message, signature).err()
}

#[test]
fn the_examples_of_the_rfcs_verify_and_no_byte_of_them_may_change() {
    for example in examples()["signed"].as_array().unwrap() {
        let name = &example["id"];
        let keys = KeySet::read(json!({"keys": [example["jwk"]]}).to_string().as_bytes()).unwrap();
        let (signed, signature) = example["token"].as_str().unwrap().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let how = (example["algorithm"].as_str().unwrap(), None);
        assert_eq!(verdict(&keys, how, signed.as_bytes(), &signature), None, "{name}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(verdict(&keys, how, signed.as_bytes(), &changed), Some(Refusal::Signature), "{name} {at}");
        }
        assert_eq!(verdict(&keys, how, &signed.as_bytes()[1..], &signature), Some(Refusal::Signature), "{name}");
    }
}

#[test]
fn a_key_is_used_for_what_it_says_it_is_for() {
    let signer = Signer::rsa("rfc7515_a2", "a");
    let bound = |member: &str, value: Value| {
        let mut jwk = signer.jwk.clone();
        jwk[member] = value;
        KeySet::read(json!({"keys": [jwk]}).to_string().as_bytes())
    };
    let only = bound("alg", "PS256".into()).unwrap();
    let signature = |algorithm| signer.sign(b"x", algorithm);
    assert_eq!(verdict(&only, ("PS256", Some("a")), b"x", &signature("PS256")), None);
    assert_eq!(verdict(&only, ("RS256", Some("a")), b"x", &signature("RS256")), Some(Refusal::UnknownKey));
    for (member, value, reason) in [
        ("use", json!("enc"), "not for signatures"),
        ("use", json!(1), "has to be text"),
        ("key_ops", json!(["sign"]), "not to verify with"),
        ("key_ops", json!("verify"), "not to verify with"),
        ("alg", json!("HS256"), "an `alg`"),
        ("alg", json!("ES256"), "an `alg`"),
        ("alg", json!("RSA-OAEP"), "an `alg`"),
        ("kty", json!("oct"), "a symmetric key"),
        ("kty", json!("EC"), "a type or curve"),
        ("n", json!("AQAB"), "fewer than 2048"),
        ("n", json!("A+/A"), "not base64url"),
        ("e", json!("AQ"), "exponent"),
        ("e", json!(""), "exponent"),
    ] {
        let refused = bound(member, value.clone()).err().unwrap_or_else(|| panic!("{member} {value} is taken"));
        assert!(refused.contains(reason), "{member} {value}: {refused}");
    }
    assert!(bound("use", "sig".into()).is_ok() && bound("key_ops", json!(["verify"])).is_ok());
}

#[test]
fn a_set_is_read_without_what_is_of_no_use_and_never_without_any_key() {
    let good = Signer::new("P-256", "a");
    let set =
        json!({"keys": [{"kty": "oct", "k": "AAAA"}, good.jwk, 7, {"kty": "EC", "crv": "P-521", "x": "", "y": ""}]});
    let read = KeySet::read(set.to_string().as_bytes()).unwrap();
    assert_eq!((read.len(), read.ignored().len()), (1, 3), "{:?}", read.ignored());
    let twice = format!("{{\"keys\": [{}], \"keys\": []}}", good.jwk);
    let many = json!({"keys": vec![good.jwk.clone(); MAX_KEYS + 1]}).to_string();
    let long = format!("{{\"x\": \"{}\", \"keys\": [{}]}}", "x".repeat(MAX_SET_BYTES), good.jwk);
    for (text, reason) in [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        (&twice, "each name once"),
        ("{}", "no list"),
        (r#"{"keys": {}}"#, "no list"),
        (r#"{"keys": []}"#, "the list is empty"),
        (r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#, "keys[0]: a symmetric key"),
        (&many, "more than 100"),
        (&long, "longer than"),
    ] {
        let refused = KeySet::read(text.as_bytes()).err().unwrap();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn keys_are_found_by_name_and_without_one_only_a_few_are_tried() {
    let signers: Vec<Signer> = (0..MAX_TRIES + 1).map(|n| Signer::new("Ed25519", &n.to_string())).collect();
    let keys = KeySet::read(set(&signers.iter().collect::<Vec<_>>()).as_bytes()).unwrap();
    let (last, before) = (signers.last().unwrap(), &signers[MAX_TRIES - 1]);
    assert_eq!(verdict(&keys, ("EdDSA", Some(&last.id)), b"x", &last.sign(b"x", "EdDSA")), None);
    assert_eq!(verdict(&keys, ("EdDSA", None), b"x", &before.sign(b"x", "EdDSA")), None);
    assert_eq!(verdict(&keys, ("EdDSA", None), b"x", &last.sign(b"x", "EdDSA")), Some(Refusal::Signature));
    assert_eq!(verdict(&keys, ("EdDSA", Some("x")), b"x", &last.sign(b"x", "EdDSA")), Some(Refusal::UnknownKey));
    let mut unnamed = last.jwk.clone();
    unnamed.as_object_mut().unwrap().remove("kid");
    let keys = KeySet::read(json!({"keys": [unnamed]}).to_string().as_bytes()).unwrap();
    assert_eq!(verdict(&keys, ("EdDSA", Some("any")), b"x", &last.sign(b"x", "EdDSA")), None, "as Envoy");
}
