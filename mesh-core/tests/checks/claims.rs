//! A check is told what the end user's token says, and no answer about one token is taken for another's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::google::protobuf::value::Kind;
use serde_json::Value;
use tonic::Code;

use crate::World;
use crate::policy::{Policy, status};
use crate::tokens::Signer;
use crate::tokens::hostile::{SHOP, claims, with};
use crate::tokens::set;

const TOLD: &str = "metadata_context_namespaces: [envoy.filters.http.jwt_authn]";

/// Approves of the first question, and of no other.
fn first_only() -> Policy {
    let asked = AtomicUsize::new(0);
    Policy::start(move |_| {
        let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        Some(status(if is_first { Code::Ok } else { Code::PermissionDenied }))
    })
}

struct Shop {
    signer: Signer,
    world: World,
    policy: Policy,
    now: u64,
}

impl Shop {
    async fn start(check: &str) -> Self {
        let (signer, policy) = (Signer::new("Ed25519", "shop"), first_only());
        let keys = set(&[&signer]);
        let users = format!("  end_users: [{{name: shop, issuer: \"{SHOP}\", jwks: {{inline: '{keys}'}}}}]\n");
        let world = World::with(check, &[policy.address], &users).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { signer, world, policy, now }
    }

    /// The status of a request of alice's, whose token says this besides; and how many questions were asked so far.
    async fn get(&self, name: &str, value: impl Into<Value>) -> (u16, usize) {
        let token = self.signer.token("EdDSA", &with(&claims(self.now), name, value.into()));
        let status = self.world.get("/a", &[("authorization", &format!("Bearer {token}"))]).await.0;
        (status, self.policy.contexts().len())
    }

    /// The role in the question asked last; `None`: no claims were told.
    fn told(&self) -> Option<Kind> {
        let metadata = self.policy.contexts().pop()?.metadata_context?;
        let payload = metadata.filter_metadata.get("envoy.filters.http.jwt_authn")?.fields["payload"].clone();
        let Some(Kind::StructValue(claims)) = payload.kind else { return None };
        claims.fields["role"].kind.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_reads_claims_and_its_answer_ends_with_any_change_of_them() {
    let shop = Shop::start(&format!("{TOLD}, cache: {{ key: [path] }}")).await;
    assert_eq!(shop.get("role", "buyer").await, (200, 1));
    assert_eq!(shop.told(), Some(Kind::StringValue("buyer".to_owned())));
    assert_eq!(shop.get("role", "buyer").await, (200, 1), "the same token");
    assert_eq!(shop.get("role", "seller").await, (403, 2), "another role of the same user");
    assert_eq!(shop.told(), Some(Kind::StringValue("seller".to_owned())));
    assert_eq!(shop.get("n", 1).await, (403, 3), "whatever claim it is");
    let stranger = shop.world.get("/a", &[]).await.0;
    assert_eq!((stranger, shop.policy.contexts().len(), shop.told()), (403, 4, None));
    let context = shop.policy.contexts().remove(3).metadata_context;
    assert!(context.is_some_and(|metadata| metadata.filter_metadata.is_empty()), "nobody, and that is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_names_claims_says_which_of_them_count() {
    let shop = Shop::start(&format!("{TOLD}, cache: {{ key: [path, \"claim:role\"] }}")).await;
    assert_eq!(shop.get("role", "buyer").await, (200, 1));
    let other = with(&with(&claims(shop.now), "role", "buyer".into()), "jti", "another".into());
    let token = format!("Bearer {}", shop.signer.token("EdDSA", &other));
    assert_eq!(shop.world.get("/a", &[("authorization", &token)]).await.0, 200);
    assert_eq!(shop.policy.contexts().len(), 1, "another token of hers");
    assert_eq!(shop.get("role", "seller").await, (403, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_asked_to_tell_claims_does_not() {
    let shop = Shop::start("cache: { key: [path] }").await;
    assert_eq!(shop.get("role", "buyer").await, (200, 1));
    assert!(shop.policy.contexts()[0].metadata_context.is_none());
    assert_eq!(shop.get("role", "seller").await, (200, 1), "the server has seen no role");
}
