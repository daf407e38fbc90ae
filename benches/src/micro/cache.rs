//! A check answered from the cache: at a thousand, a hundred thousand and a million answers, and by two threads that
//! ask for the same one. Moka is given the same facts, joined into one text, and a time to live.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use mesh_core::access::cache::{Answer, Lookup, Reuse};
use mesh_core::access::{CacheConfig, CheckCache, Fact, Verdict};

use super::{Run, Subject};
use crate::trace::attributes;

/// Hits.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for size in [1_000, 100_000, 1_000_000] {
        let moka = format!("cache moka hit {size}");
        all.push(Subject { is_large: size > 1_000, ..Subject::theirs(moka.clone(), move || mokas(size, 1)) });
        let ours = Subject::ours(format!("cache hit {size}"), Some(moka), move || hits(size, 1));
        all.push(Subject { is_large: size > 1_000, ..ours });
    }
    for (name, run) in [("cache moka hit one answer", mokas as fn(usize, u32) -> Run), ("cache hit one answer", hits)] {
        let alone = format!("{name}, 1 thread");
        all.push(Subject::theirs(alone.clone(), move || run(1, 1)));
        let both = Subject::theirs(format!("{name}, 2 threads"), move || run(1, 2));
        all.push(Subject { base: Some(alone), is_large: true, ..both });
    }
    all
}

const CALLER: &str = "spiffe://cluster.local/ns/default/sa/productpage";

fn path(index: usize) -> String {
    format!("/reviews/{index}/stars")
}

fn hits(size: usize, threads: u32) -> Run {
    let facts = vec![Fact::Method, Fact::Path];
    let hour = Duration::from_secs(3600);
    let config =
        CacheConfig { max_entries: 2 * size + 10, max_bytes: 1 << 32, ..CacheConfig::keyed(facts, hour, hour) };
    let (cache, now, headers) = (Arc::new(CheckCache::new(config)), Instant::now(), HeaderMap::new());
    let paths: Vec<String> = (0..size).map(path).collect();
    for path in &paths {
        let answer = Answer { verdict: Arc::new(Verdict::allow()), reuse: Reuse::Configured, epoch: None };
        let kept = cache.lead_alone(now).complete(&attributes(CALLER, path, &headers), answer, None);
        assert!(kept.is_ok(), "{path} is not kept");
    }
    shared(threads, move |times, mut rng| {
        for _ in 0..times {
            let path = &paths[rng.usize(..paths.len())];
            let found = cache.lookup(&attributes(CALLER, path, &headers), now);
            assert!(matches!(std::hint::black_box(found), Lookup::Hit(_)));
        }
    })
}

fn mokas(size: usize, threads: u32) -> Run {
    let hour = Duration::from_secs(3600);
    let cache = moka::sync::Cache::builder().max_capacity(2 * size as u64 + 10).time_to_live(hour).build();
    let paths: Vec<String> = (0..size).map(path).collect();
    let key = |text: &mut String, path: &str| {
        text.clear();
        let _ = write!(text, "{CALLER}\0details\0inbound\0GET\0{path}");
    };
    let mut text = String::new();
    for path in &paths {
        key(&mut text, path);
        cache.insert(text.clone(), Arc::new(Verdict::allow()));
    }
    cache.run_pending_tasks();
    shared(threads, move |times, mut rng| {
        let mut text = String::with_capacity(256);
        for _ in 0..times {
            key(&mut text, &paths[rng.usize(..paths.len())]);
            assert!(std::hint::black_box(cache.get(&text)).is_some());
        }
    })
}

/// The work of `times`, by so many threads at once.
fn shared(threads: u32, work: impl Fn(u32, fastrand::Rng) + Send + Sync + 'static) -> Run {
    Box::new(move |times| {
        if threads == 1 {
            return work(times, fastrand::Rng::with_seed(1));
        }
        std::thread::scope(|scope| {
            for seed in 0..threads {
                let work = &work;
                scope.spawn(move || work(times / threads, fastrand::Rng::with_seed(u64::from(seed))));
            }
        });
    })
}
