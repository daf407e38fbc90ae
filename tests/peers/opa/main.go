// Command mesh-opa is Open Policy Agent as a policy server for stories: OPA evaluates the policy, grpc-go serves the
// answer over Envoy's ext_authz. What a policy reads and what its decision means is as OPA's Envoy plugin documents
// it; the plugin itself is not here, since its module could not be fetched where this project is built.
//
//	mesh-opa -address 127.0.0.1:9191 -policy policy.rego -query data.mesh.decision
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	httptype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

func main() {
	address := flag.String("address", "127.0.0.1:9191", "where to listen")
	policy := flag.String("policy", "", "the Rego file")
	query := flag.String("query", "data.mesh.decision", "the decision")
	flag.Parse()
	if err := run(*address, *policy, *query); err != nil {
		log.Fatal(err)
	}
}

func run(address, policy, query string) error {
	text, err := os.ReadFile(policy)
	if err != nil {
		return err
	}
	prepared, err := rego.New(rego.Query(query), rego.Module(policy, string(text))).PrepareForEval(context.Background())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &authorizer{query: prepared})
	return server.Serve(listener)
}

// authorizer answers each question with what the policy decides.
type authorizer struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

func (a *authorizer) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	input, err := inputOf(request)
	if err != nil {
		return unreadable(err), nil
	}
	results, err := a.query.Eval(ctx, rego.EvalInput(input))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if len(results) == 0 || len(results[0].Expressions) == 0 {
		return nil, status.Error(codes.Internal, "the policy leaves the decision undefined")
	}
	answer, err := answerOf(results[0].Expressions[0].Value)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return answer, nil
}

// inputOf is the question as JSON, with path, query and body taken apart.
func inputOf(request *auth.CheckRequest) (map[string]any, error) {
	text, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	input := map[string]any{}
	if err := json.Unmarshal(text, &input); err != nil {
		return nil, err
	}
	http := request.GetAttributes().GetRequest().GetHttp()
	target, err := url.Parse(http.GetPath())
	if err != nil {
		return nil, err
	}
	if principal := request.GetAttributes().GetSource().GetPrincipal(); principal != "" {
		input["source_principal"] = principal
	}
	input["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
	input["parsed_path"] = listOf(strings.Split(strings.TrimLeft(target.Path, "/"), "/"))
	values, err := url.ParseQuery(target.RawQuery)
	if err != nil {
		return nil, err
	}
	query := map[string]any{}
	for name, values := range values {
		query[name] = listOf(values)
	}
	input["parsed_query"] = query
	input["parsed_body"], input["truncated_body"], err = parsedBody(http)
	return input, err
}

// parsedBody is a body of JSON, and whether it was cut off.
func parsedBody(http *auth.AttributeContext_HttpRequest) (any, bool, error) {
	headers, body := http.GetHeaders(), http.GetBody()
	if headers["x-envoy-auth-partial-body"] == "true" {
		return nil, true, nil
	}
	if body == "" {
		body = string(http.GetRawBody())
	}
	if !strings.Contains(headers["content-type"], "application/json") || body == "" {
		return nil, false, nil
	}
	if length, err := strconv.Atoi(headers["content-length"]); err == nil && length > len(body) {
		return nil, true, nil
	}
	var parsed any
	err := json.Unmarshal([]byte(body), &parsed)
	return parsed, false, err
}

// unreadable denies a question whose path, query or body cannot be read.
func unreadable(err error) *auth.CheckResponse {
	return &auth.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status: &httptype.HttpStatus{Code: httptype.StatusCode_BadRequest},
			Body:   "request_parse_error: " + err.Error(),
		}},
	}
}

func listOf(texts []string) []any {
	list := make([]any, len(texts))
	for i, text := range texts {
		list[i] = text
	}
	return list
}

// decision is what a policy says; a bare boolean stands for one with `allowed` only.
type decision struct {
	Allowed         *bool                `json:"allowed"`
	Headers         headers              `json:"headers"`
	Body            string               `json:"body"`
	Status          int32                `json:"http_status"`
	ResponseHeaders headers              `json:"response_headers_to_add"`
	RemovedHeaders  []string             `json:"request_headers_to_remove"`
	RemovedQuery    []string             `json:"query_parameters_to_remove"`
	Query           map[string]oneOrMany `json:"query_parameters_to_set"`
	Metadata        map[string]any       `json:"dynamic_metadata"`
}

func answerOf(value any) (*auth.CheckResponse, error) {
	decided, err := read(value)
	if err != nil {
		return nil, err
	}
	answer := &auth.CheckResponse{}
	if decided.Metadata != nil {
		if answer.DynamicMetadata, err = structpb.NewStruct(decided.Metadata); err != nil {
			return nil, err
		}
	}
	if *decided.Allowed {
		answer.Status = &rpcstatus.Status{Code: int32(codes.OK)}
		answer.HttpResponse = &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers:                 decided.Headers,
			HeadersToRemove:         decided.RemovedHeaders,
			ResponseHeadersToAdd:    decided.ResponseHeaders,
			QueryParametersToSet:    parametersOf(decided.Query),
			QueryParametersToRemove: decided.RemovedQuery,
		}}
		return answer, nil
	}
	code := decided.Status
	if code == 0 {
		code = int32(httptype.StatusCode_Forbidden)
	}
	if _, isKnown := httptype.StatusCode_name[code]; !isKnown {
		return nil, fmt.Errorf("invalid HTTP status code %d", code)
	}
	answer.Status = &rpcstatus.Status{Code: int32(codes.PermissionDenied)}
	answer.HttpResponse = &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status:  &httptype.HttpStatus{Code: httptype.StatusCode(code)},
		Headers: decided.Headers,
		Body:    decided.Body,
	}}
	return answer, nil
}

func read(value any) (decision, error) {
	if allowed, ok := value.(bool); ok {
		return decision{Allowed: &allowed}, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return decision{}, err
	}
	var decided decision
	if err := json.Unmarshal(text, &decided); err != nil {
		return decision{}, fmt.Errorf("the decision has another form: %w", err)
	}
	if decided.Allowed == nil {
		return decision{}, errors.New("the decision does not say whether the request is allowed")
	}
	return decided, nil
}

func parametersOf(query map[string]oneOrMany) []*core.QueryParameter {
	var parameters []*core.QueryParameter
	for name, values := range query {
		for _, value := range values {
			parameters = append(parameters, &core.QueryParameter{Key: name, Value: value})
		}
	}
	return parameters
}

// headers are written as an object, or as a list of objects.
type headers []*core.HeaderValueOption

func (h *headers) UnmarshalJSON(text []byte) error {
	var parts []map[string]oneOrMany
	if text[0] == '{' {
		parts = make([]map[string]oneOrMany, 1)
		if err := json.Unmarshal(text, &parts[0]); err != nil {
			return err
		}
	} else if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	for _, part := range parts {
		for name, values := range part {
			for _, value := range values {
				*h = append(*h, &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}})
			}
		}
	}
	return nil
}

// oneOrMany is a text or a list of texts.
type oneOrMany []string

func (o *oneOrMany) UnmarshalJSON(text []byte) error {
	if text[0] == '"' {
		*o = make(oneOrMany, 1)
		return json.Unmarshal(text, &(*o)[0])
	}
	return json.Unmarshal(text, (*[]string)(o))
}
