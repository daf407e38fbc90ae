//! When answers cease to hold before their time: a token that ends.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tonic::Code;

use crate::World;
use crate::policy::{Policy, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_does_not_outlive_a_token_that_only_the_policy_server_verifies() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let world = World::start("cache: { key: [path], ttl: 60s }", &[policy.address]).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ask = async |exp: Duration| {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"sub": "alice", "exp": {}}}"#, exp.as_secs()));
        let authorization = format!("Bearer e30.{payload}.c2ln");
        for _ in 0..2 {
            assert_eq!(world.get("/a", &[("authorization", &authorization)]).await.0, 200);
        }
        policy.asked().len()
    };
    assert_eq!(ask(now + Duration::from_secs(3600)).await, 1, "kept");
    assert_eq!(ask(now - Duration::from_secs(1)).await, 3, "over");
}
