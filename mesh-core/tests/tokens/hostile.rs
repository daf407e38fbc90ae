//! What may come as a token, and what has to become of it.
//!
//! Two issuers: `shop` with keys of every kind, for the audience `shop`, and `partner` with one key of its own, for
//! whose tokens the header `x-partner-token` and the cookie `partner` are the places.

use serde_json::{Value, json};

use super::{Signer, base64, set, unbase64, with_secret};

/// A request.
pub struct Case {
    pub name: &'static str,
    pub headers: Vec<(&'static str, String)>,
    /// The claims that are proven, as they were signed; `Ok(None)`: no user, and no refusal.
    pub expected: Result<Option<String>, &'static str>,
}

/// The keys of a test.
pub struct World {
    pub rsa: Signer,
    pub p256: Signer,
    pub p384: Signer,
    pub ed: Signer,
    pub partner: Signer,
    /// Nobody's.
    pub attacker: Signer,
    pub attacker_rsa: Signer,
}

pub const SHOP: &str = "https://login.shop.example";
pub const PARTNER: &str = "https://partner.example";

impl World {
    pub fn new() -> Self {
        Self {
            rsa: Signer::rsa("rfc7515_a2", "rsa"),
            p256: Signer::new("P-256", "p256"),
            p384: Signer::new("P-384", "p384"),
            ed: Signer::new("Ed25519", "ed"),
            partner: Signer::new("P-256", "partner"),
            attacker: Signer::new("P-256", "p256"),
            attacker_rsa: Signer::rsa("rfc7520_3_4", "rsa"),
        }
    }

    /// The keys of `shop`.
    pub fn shop_keys(&self) -> String {
        set(&[&self.rsa, &self.p256, &self.p384, &self.ed])
    }

    /// The keys of `partner`.
    pub fn partner_keys(&self) -> String {
        set(&[&self.partner])
    }

    /// Every case, at a time in seconds since 1970.
    pub fn cases(&self, now: u64) -> Vec<Case> {
        let mut cases = self.good(now);
        cases.extend(self.confused(now));
        cases.extend(self.forged(now));
        cases.extend(self.changed(now));
        cases.extend(self.deformed(now));
        cases.extend(self.misframed(now));
        cases.extend(self.untimely(now));
        cases.extend(self.misplaced(now));
        cases
    }

    fn good(&self, now: u64) -> Vec<Case> {
        let claims = claims(now);
        let text = claims.to_string();
        let all = [
            ("RS256", &self.rsa),
            ("RS384", &self.rsa),
            ("RS512", &self.rsa),
            ("PS256", &self.rsa),
            ("PS384", &self.rsa),
            ("PS512", &self.rsa),
            ("ES256", &self.p256),
            ("ES384", &self.p384),
            ("EdDSA", &self.ed),
        ];
        let mut cases: Vec<Case> =
            all.iter().map(|(name, key)| bearer(name, key.token(name, &claims), Ok(Some(text.clone())))).collect();
        let list = with(&claims, "aud", json!(["other", "shop"]));
        let rich = with(&claims, "org", json!({"name": "Käse & Co", "groups": ["a", "b"], "n": 1.5}));
        let partner = with(&claims, "iss", PARTNER.into());
        cases.extend([
            bearer("an audience among others", self.ed.token("EdDSA", &list), Ok(Some(list.to_string()))),
            bearer("claims in claims", self.ed.token("EdDSA", &rich), Ok(Some(rich.to_string()))),
            bearer("no key named", self.p256.signed(r#"{"alg":"ES256"}"#, &text, "ES256"), Ok(Some(text.clone()))),
            Case { name: "no token", headers: vec![], expected: Ok(None) },
            Case { name: "another scheme", headers: vec![("authorization", "Basic YTpi".into())], expected: Ok(None) },
            Case {
                name: "any case and spaces",
                headers: vec![("authorization", format!("bEARER   {} ", self.ed.token("EdDSA", &claims)))],
                expected: Ok(Some(text)),
            },
            Case {
                name: "a partner in its place",
                headers: vec![("x-partner-token", self.partner.token("ES256", &partner))],
                expected: Ok(Some(partner.to_string())),
            },
            Case {
                name: "a partner in a cookie among others",
                headers: vec![(
                    "cookie",
                    format!("theme=dark; partner={}; lang=en", self.partner.token("ES256", &partner)),
                )],
                expected: Ok(Some(partner.to_string())),
            },
        ]);
        cases
    }

    /// No algorithm of ours, or not one of the key's.
    fn confused(&self, now: u64) -> Vec<Case> {
        let text = claims(now).to_string();
        let unsigned = |alg: &str| format!("{}.{}.", base64(header(alg, "rsa")), base64(&text));
        let refused = |name, token| bearer(name, token, Err("algorithm"));
        let mut cases = vec![
            refused("alg none", unsigned("none")),
            refused("alg None", unsigned("None")),
            refused("alg NONE", unsigned("NONE")),
            refused("alg nOnE with a signature", format!("{}{}", unsigned("nOnE"), base64([7; 256]))),
            refused("alg empty", unsigned("")),
            refused("alg rs256", self.rsa.signed(&header("rs256", "rsa"), &text, "RS256")),
        ];
        let pem = self.rsa.pem();
        for (name, secret) in [
            ("HS256 with the PEM", &*pem),
            ("HS256 with the PEM, trimmed", pem.trim()),
            ("HS256 with the set", &self.shop_keys()),
            ("HS256 with the modulus", self.rsa.jwk["n"].as_str().unwrap()),
        ] {
            cases.push(refused(name, with_secret(secret.as_bytes(), &header("HS256", "rsa"), &text)));
        }
        for (name, (alg, kid), (signer, signed_as), reason) in [
            ("ES256 of an RSA key", ("ES256", "rsa"), (&self.attacker, "ES256"), "unknown_key"),
            ("RS256 of an EC key", ("RS256", "p256"), (&self.attacker_rsa, "RS256"), "unknown_key"),
            ("ES384 of a P-256 key", ("ES384", "p256"), (&self.p384, "ES384"), "unknown_key"),
            ("PS256 under the name of RS256", ("RS256", "rsa"), (&self.rsa, "PS256"), "signature"),
            ("RS512 under the name of RS256", ("RS256", "rsa"), (&self.rsa, "RS512"), "signature"),
        ] {
            cases.push(bearer(name, signer.signed(&header(alg, kid), &text, signed_as), Err(reason)));
        }
        cases
    }

    /// Signed, by somebody else.
    fn forged(&self, now: u64) -> Vec<Case> {
        let claims = claims(now);
        let text = claims.to_string();
        let embedded = json!({"alg": "ES256", "jwk": self.attacker.jwk}).to_string();
        let links = json!({"alg": "ES256", "kid": "p256", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"});
        let by = |signer: &Signer, header: &str| signer.signed(header, &text, "ES256");
        let (unnamed, p256) = (r#"{"alg":"ES256"}"#, header("ES256", "p256"));
        [
            ("another key of the same name", self.attacker.token("ES256", &claims), "signature"),
            ("another RSA key of the same name", self.attacker_rsa.token("RS256", &claims), "signature"),
            ("another key, unnamed", by(&self.attacker, unnamed), "signature"),
            ("an unknown key", by(&self.p256, &header("ES256", "p257")), "unknown_key"),
            ("the key of another issuer", self.partner.token("ES256", &claims), "unknown_key"),
            ("the key of another issuer, renamed", by(&self.partner, &p256), "signature"),
            ("a key in its header", by(&self.attacker, &embedded), "signature"),
            ("links in its header", by(&self.attacker, &links.to_string()), "signature"),
        ]
        .map(|(name, token, reason)| bearer(name, token, Err(reason)))
        .into()
    }

    /// Changed after it was signed.
    fn changed(&self, now: u64) -> Vec<Case> {
        let good = self.p256.token("ES256", &claims(now));
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = signed.split_once('.').unwrap();
        let root = with(&claims(now), "sub", "root".into()).to_string();
        let mut flipped = unbase64(signature);
        flipped[10] ^= 1;
        [
            ("an empty signature", format!("{signed}.")),
            ("half a signature", format!("{signed}.{}", &signature[..40])),
            ("a signature of zeros", format!("{signed}.{}", base64([0; 64]))),
            ("a changed signature", format!("{signed}.{}", base64(flipped))),
            ("changed claims", format!("{head}.{}.{signature}", base64(root))),
        ]
        .map(|(name, token)| bearer(name, token, Err("signature")))
        .into()
    }

    /// It cannot be read, or not in one way only.
    fn deformed(&self, now: u64) -> Vec<Case> {
        let text = claims(now).to_string();
        let sign = |header: &str, payload: &str| self.p256.signed(header, payload, "ES256");
        let plain = r#"{"alg":"ES256","kid":"p256"}"#;
        let twice = format!("{},\"sub\":\"root\"}}", text.trim_end_matches('}'));
        let inner = with(&claims(now), "x", json!({})).to_string().replace("\"x\":{}", r#""x":{"a":1,"a":2}"#);
        let huge = with(&claims(now), "x", "a".repeat(9000).into());
        vec![
            bearer("claims twice", sign(plain, &twice), Err("malformed")),
            bearer("claims twice, within", sign(plain, &inner), Err("malformed")),
            bearer("alg twice", sign(r#"{"alg":"none","alg":"ES256","kid":"p256"}"#, &text), Err("malformed")),
            bearer("no alg", sign(r#"{"kid":"p256"}"#, &text), Err("malformed")),
            bearer("alg a list", sign(r#"{"alg":["ES256"],"kid":"p256"}"#, &text), Err("malformed")),
            bearer("kid a number", sign(r#"{"alg":"ES256","kid":1}"#, &text), Err("malformed")),
            bearer("crit", sign(r#"{"alg":"ES256","kid":"p256","crit":["exp"],"exp":1}"#, &text), Err("critical")),
            bearer("an empty crit", sign(r#"{"alg":"ES256","kid":"p256","crit":[]}"#, &text), Err("critical")),
            bearer("b64", sign(r#"{"alg":"ES256","kid":"p256","b64":false}"#, &text), Err("critical")),
            bearer("zip", sign(r#"{"alg":"ES256","kid":"p256","zip":"DEF"}"#, &text), Err("critical")),
            bearer("not JSON", sign(plain, "hello"), Err("malformed")),
            bearer("a list of claims", sign(plain, "[]"), Err("malformed")),
            bearer("JSON and more", sign(plain, &format!("{text}{text}")), Err("malformed")),
            bearer("huge", self.p256.token("ES256", &huge), Err("too_long")),
        ]
    }

    /// Not of three parts, or not in base64url.
    fn misframed(&self, now: u64) -> Vec<Case> {
        let good = self.p256.token("ES256", &claims(now));
        let [head, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
        vec![
            bearer("two parts", format!("{head}.{payload}"), Err("malformed")),
            bearer("four parts", format!("{good}.x"), Err("malformed")),
            bearer("five parts", format!("{head}...{payload}.{signature}"), Err("malformed")),
            bearer("padding", format!("{good}=="), Err("malformed")),
            bearer("the other alphabet", good.replacen('.', "/.", 1), Err("malformed")),
            bearer("a space within", good.replacen('.', ". ", 1), Err("malformed")),
            bearer("nothing", String::new(), Err("malformed")),
            bearer("dots", "..".to_owned(), Err("malformed")),
            Case {
                name: "a tab for a space",
                headers: vec![("authorization", format!("Bearer\t{good}"))],
                expected: Err("malformed"),
            },
            Case {
                name: "two in one header",
                headers: vec![("authorization", format!("Bearer {good}, Bearer {good}"))],
                expected: Err("malformed"),
            },
        ]
    }

    /// For somebody else, or some other time.
    fn untimely(&self, now: u64) -> Vec<Case> {
        let sign = |name: &'static str, claim: &str, value: Value, reason| {
            bearer(name, self.ed.token("EdDSA", &with(&claims(now), claim, value)), Err(reason))
        };
        let mut endless = claims(now);
        endless.as_object_mut().unwrap().remove("exp");
        vec![
            sign("expired", "exp", (now - 120).into(), "expired"),
            sign("expired in 1970", "exp", 0.into(), "expired"),
            sign("exp as text", "exp", (now + 600).to_string().into(), "malformed"),
            sign("exp null", "exp", Value::Null, "malformed"),
            bearer("no exp", self.ed.token("EdDSA", &endless), Err("no_expiry")),
            sign("not yet valid", "nbf", (now + 300).into(), "not_yet_valid"),
            sign("issued tomorrow", "iat", (now + 86400).into(), "not_yet_valid"),
            sign("another audience", "aud", "other".into(), "audience"),
            sign("an audience that begins alike", "aud", "shopping".into(), "audience"),
            sign("no audience at all", "aud", json!([]), "audience"),
            sign("aud a number", "aud", 7.into(), "malformed"),
            sign("another issuer", "iss", "https://evil.example".into(), "unknown_issuer"),
            sign("an issuer with a slash more", "iss", format!("{SHOP}/").into(), "unknown_issuer"),
            sign("iss a list", "iss", json!([SHOP]), "unknown_issuer"),
            sign("sub a number", "sub", 7.into(), "malformed"),
        ]
    }

    /// More than one, or where it does not belong.
    fn misplaced(&self, now: u64) -> Vec<Case> {
        let good = self.ed.token("EdDSA", &claims(now));
        let partner = self.partner.token("ES256", &with(&claims(now), "iss", PARTNER.into()));
        let case = |name, headers, reason| Case { name, headers, expected: Err(reason) };
        vec![
            case(
                "two headers",
                vec![("authorization", format!("Bearer {good}")), ("authorization", format!("Bearer {good}"))],
                "several_tokens",
            ),
            case(
                "a password and a token",
                vec![("authorization", "Basic YTpi".into()), ("authorization", format!("Bearer {good}"))],
                "several_tokens",
            ),
            case(
                "one in each place",
                vec![("authorization", format!("Bearer {good}")), ("x-partner-token", partner.clone())],
                "several_tokens",
            ),
            case(
                "the partner's in the place of the shop's",
                vec![("authorization", format!("Bearer {partner}"))],
                "unknown_issuer",
            ),
            case("the shop's in the place of the partner's", vec![("x-partner-token", good.clone())], "unknown_issuer"),
            case("the shop's in the partner's cookie", vec![("cookie", format!("partner={good}"))], "unknown_issuer"),
            case(
                "two cookies of one name",
                vec![("cookie", format!("partner={partner}; theme=dark; partner={partner}"))],
                "several_tokens",
            ),
            case("an empty cookie for a token", vec![("cookie", "partner=; theme=dark".into())], "malformed"),
            case(
                "a header and a cookie",
                vec![("x-partner-token", partner.clone()), ("cookie", format!("partner={partner}"))],
                "several_tokens",
            ),
            case("an empty header for a token", vec![("x-partner-token", String::new())], "malformed"),
        ]
    }
}

fn header(alg: &str, kid: &str) -> String {
    json!({"alg": alg, "kid": kid}).to_string()
}

/// Of an ordinary token.
pub fn claims(now: u64) -> Value {
    json!({"iss": SHOP, "sub": "alice", "aud": "shop", "iat": now, "exp": now + 600, "role": "buyer"})
}

pub fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut changed = claims.clone();
    changed[name] = value;
    changed
}

fn bearer(name: &'static str, token: String, expected: Result<Option<String>, &'static str>) -> Case {
    Case { name, headers: vec![("authorization", format!("Bearer {token}"))], expected }
}
