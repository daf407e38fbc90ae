//! A document whose error is found late, when most of it has been compiled, leaves no trace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use mesh_core::Mesh;

fn document(endpoints: &str, max: u32, policy: &str) -> String {
    format!(
        "clusters: [{{name: a, endpoints: [{endpoints}], concurrency_limit: {{max_requests: {max}}}}}]\n\
         guards: [{{name: g, concurrency_limit: {{max_requests: {max}}}}}]\n\
         policy: {{authorization: {{policies: [{policy}]}}}}\n"
    )
}

#[test]
fn a_document_refused_at_its_end_has_changed_nothing_at_its_beginning() {
    let (one, two) = ("{address: \"127.0.0.1:1\"}", "{address: \"127.0.0.1:2\"}");
    let mesh = Mesh::from_yaml(&document(&format!("{one}, {two}"), 10, ""), "mesh.yaml").unwrap();
    let live = || (mesh.status()["clusters"].clone(), mesh.status()["guards"].clone());
    let before = live();
    assert_eq!(before.0["a"]["endpoints"].as_array().unwrap().len(), 2);
    let nobody = "{metadata: {name: c}, spec: {action: CUSTOM, provider: {name: nobody}, rules: [{}]}}";
    // The endpoints alone differ, then the settings too: two ways through the compilation.
    for (endpoints, max) in [(one, 10), (two, 1)] {
        let refused = mesh.reload(&document(endpoints, max, nobody), "mesh.yaml").unwrap_err();
        assert!(refused.to_string().contains("no check is called \"nobody\""), "{refused}");
        assert_eq!(live(), before, "{endpoints}");
    }
    mesh.reload(&document(two, 1, ""), "mesh.yaml").unwrap();
    let after = live();
    assert_eq!(after.0["a"]["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!((&after.0["a"]["max_requests"], &after.1["g"]["max_in_flight"]), (&1.into(), &1.into()));
}
