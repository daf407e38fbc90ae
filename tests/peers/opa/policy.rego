# The policy of the story in tests/tests/opa.rs. Every decision says how long it holds and what was read to make it.
package mesh

import rego.v1

request := input.attributes.request.http

user := request.headers["x-user"]

default decision := {"allowed": false}

# Admins: who it is and for how long is settled.
decision := {
	"allowed": true,
	"headers": {"x-role": "admin", "x-groups": ["ops", "dev"]},
	"request_headers_to_remove": ["x-token"],
	"response_headers_to_add": {"x-decided-by": "opa"},
	"query_parameters_to_set": {"role": "admin"},
	"query_parameters_to_remove": ["debug"],
	"dynamic_metadata": {"libmesh.check_cache": {
		"valid_duration": "60s",
		"exact": ["request.method", "request.path", "header:x-user"],
		"absent": [],
	}},
} if {
	input.parsed_path[0] == "books"
	user == "ada"
}

# Guests: three requests for each answer; only who has no user at all.
decision := {
	"allowed": true,
	"dynamic_metadata": {"libmesh.check_cache": {
		"valid_duration": "60s",
		"valid_use_count": 2,
		"exact": ["request.path"],
		"absent": ["header:x-user"],
	}},
} if {
	input.parsed_path[0] == "open"
	not user
}

# A refusal with a status, a body and a header of its own, kept as long as it says.
decision := {
	"allowed": false,
	"http_status": 423,
	"body": sprintf("%s may not see %s", [user, request.path]),
	"headers": {"x-reason": "secret"},
	"dynamic_metadata": {"libmesh.check_cache": {
		"valid_duration": "30s",
		"exact": ["request.path", "header:x-user"],
		"absent": [],
	}},
} if {
	input.parsed_path[0] == "books"
	user == "eve"
}

# Who the caller is, TLS has said; here it is a bare boolean.
decision if {
	input.parsed_path[0] == "peer"
	input.attributes.source.principal == "spiffe://shop.test/ns/shop/sa/page"
}

# Orders are read, and never kept.
decision := {"allowed": input.parsed_body.amount < 100, "body": "too much"} if {
	input.parsed_path[0] == "orders"
	not input.truncated_body
}

# Nobody knows: the server reports an error. A status that Envoy does not know is one, too.
decision := {"allowed": "perhaps"} if input.parsed_path[0] == "confused"

decision := {"allowed": false, "http_status": 451} if input.parsed_path[0] == "unheard"
