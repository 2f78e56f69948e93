// policy-oracle says what kube-apiserver's own audit policy code says.
//
// It reads one JSON request a line on standard input and answers each with one JSON line:
//
//	{"op": "decide", "policy": Policy, "requests": [Request...]}   -> {"decisions": [Decision...]}
//	{"op": "validate", "policy": Policy}                           -> {"errors": ["rules[0].level: Required value"...]}
//	{"op": "load", "text": "apiVersion: audit.k8s.io/v1..."}       -> {"error": "..."} or {}
//	{"op": "address", "paths": ["/api/v1/..."]}                    -> {"addresses": [Address...]}, of a POST to each
//	{"op": "bench", "policy": Policy, "requests": [...], "seconds": 1} -> {"nanoseconds": a decision, on one core}
//	{"op": "read", "data": base64 of an audit log}                 -> {"ids": [auditID of each line...]} or {"error": "..."}
//	{"op": "valid", "data": base64 of anything}                    -> {"valid": whether Go takes it for JSON}
//
// A line that cannot be read ends the program with code 1 and one line on standard error.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	events "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	requestinfo "k8s.io/apiserver/pkg/endpoints/request"
)

type line struct {
	Op       string          `json:"op"`
	Policy   *auditv1.Policy `json:"policy"`
	Requests []request       `json:"requests"`
	Text     string          `json:"text"`
	Paths    []string        `json:"paths"`
	Seconds  float64         `json:"seconds"`
	Data     []byte          `json:"data"`
}

// request has the fields of our Attributes; no resource is a request for a path, no user is an unauthenticated one.
type request struct {
	User        *string  `json:"user"`
	Groups      []string `json:"groups"`
	Verb        string   `json:"verb"`
	Path        string   `json:"path"`
	Resource    *string  `json:"resource"`
	Subresource string   `json:"subresource"`
	Group       string   `json:"group"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
}

type decision struct {
	Level             audit.Level   `json:"level"`
	OmitStages        []audit.Stage `json:"omitStages"`
	OmitManagedFields bool          `json:"omitManagedFields"`
}

func (r request) attributes() authorizer.Attributes {
	found := authorizer.AttributesRecord{
		Verb: r.Verb, Path: r.Path, Subresource: r.Subresource, APIGroup: r.Group, Namespace: r.Namespace, Name: r.Name,
	}
	if r.User != nil {
		found.User = &user.DefaultInfo{Name: *r.User, Groups: r.Groups}
	}
	if r.Resource != nil {
		found.Resource, found.ResourceRequest = *r.Resource, true
	}
	return found
}

func internal(given *auditv1.Policy) (*audit.Policy, error) {
	if given == nil {
		return nil, fmt.Errorf("a policy is needed")
	}
	found := &audit.Policy{}
	return found, auditv1.Convert_v1_Policy_To_audit_Policy(given, found, nil)
}

func decide(asked line) (any, error) {
	found, err := internal(asked.Policy)
	if err != nil {
		return nil, err
	}
	evaluator := policy.NewPolicyRuleEvaluator(found)
	decisions := make([]decision, 0, len(asked.Requests))
	for _, each := range asked.Requests {
		config := evaluator.EvaluatePolicyRule(each.attributes())
		decisions = append(decisions, decision{config.Level, config.OmitStages, config.OmitManagedFields})
	}
	return map[string]any{"decisions": decisions}, nil
}

func validate(asked line) (any, error) {
	found, err := internal(asked.Policy)
	if err != nil {
		return nil, err
	}
	errors := []string{}
	for _, each := range validation.ValidatePolicy(found) {
		errors = append(errors, each.Error())
	}
	return map[string]any{"errors": errors}, nil
}

// read takes an audit log as Kubernetes' own tests and the tools built on its types do: each line by its kind.
func read(asked line) (any, error) {
	decoder := events.Codecs.UniversalDecoder(auditv1.SchemeGroupVersion)
	ids := []string{}
	for _, text := range bytes.Split(bytes.TrimSuffix(asked.Data, []byte("\n")), []byte("\n")) {
		decoded, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return map[string]any{"error": err.Error()}, nil
		}
		found, ok := decoded.(*auditv1.Event)
		if !ok {
			return map[string]any{"error": fmt.Sprintf("a %T, and not an event", decoded)}, nil
		}
		ids = append(ids, string(found.AuditID))
	}
	return map[string]any{"ids": ids}, nil
}

func valid(asked line) (any, error) {
	return map[string]any{"valid": json.Valid(asked.Data)}, nil
}

func load(asked line) (any, error) {
	if _, err := policy.LoadPolicyFromBytes([]byte(asked.Text)); err != nil {
		return map[string]any{"error": err.Error()}, nil
	}
	return map[string]any{}, nil
}

type address struct {
	Verb      string `json:"verb"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// addresses are what a policy looks at of a POST to each path; the resource is empty where it is no resource's.
func addresses(asked line) (any, error) {
	factory := requestinfo.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	}
	found := make([]address, 0, len(asked.Paths))
	for _, each := range asked.Paths {
		info, err := factory.NewRequestInfo(&http.Request{Method: "POST", URL: &url.URL{Path: each}})
		if err != nil {
			return nil, err
		}
		found = append(found, address{info.Verb, info.Resource, info.Namespace, info.Name})
	}
	return map[string]any{"addresses": found}, nil
}

// bench measures EvaluatePolicyRule alone, on this one goroutine, over all requests again and again.
func bench(asked line) (any, error) {
	found, err := internal(asked.Policy)
	if err != nil || len(asked.Requests) == 0 {
		return nil, fmt.Errorf("bench needs a policy and requests: %v", err)
	}
	evaluator := policy.NewPolicyRuleEvaluator(found)
	requests := make([]authorizer.Attributes, 0, len(asked.Requests))
	for _, each := range asked.Requests {
		requests = append(requests, each.attributes())
	}
	rounds, begun, recorded := 0, time.Now(), 0
	for time.Since(begun).Seconds() < asked.Seconds {
		for _, each := range requests {
			if evaluator.EvaluatePolicyRule(each).Level != audit.LevelNone {
				recorded++
			}
		}
		rounds++
	}
	each := float64(time.Since(begun).Nanoseconds()) / float64(rounds*len(requests))
	return map[string]any{"nanoseconds": each, "recorded": recorded / rounds}, nil
}

func answer(text []byte) (any, error) {
	var asked line
	if err := json.Unmarshal(text, &asked); err != nil {
		return nil, err
	}
	ops := map[string]func(line) (any, error){
		"decide": decide, "validate": validate, "load": load, "address": addresses, "bench": bench,
		"read": read, "valid": valid,
	}
	op, known := ops[asked.Op]
	if !known {
		return nil, fmt.Errorf("unknown op %q", asked.Op)
	}
	return op(asked)
}

func run() error {
	in := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	for {
		text, end := in.ReadBytes('\n')
		if len(text) > 1 {
			found, err := answer(text)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(out).Encode(found); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if end != nil {
			return nil
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "policy-oracle:", err)
		os.Exit(1)
	}
}
