package provider_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// described is the OpenAPI description, and a transport that holds every exchange against it.
type described struct {
	http.RoundTripper
	t        *testing.T
	issuer   string
	doc      map[string]any
	compiler *jsonschema.Compiler

	mu sync.Mutex
	// seen holds "operation status" and "operation error" of what was answered.
	seen map[string]bool
}

const describedAt = "https://op.example/openapi.json"

// describe gets the description of a server and watches over its clients from then on.
func describe(t *testing.T, s *providertest.Server) *described {
	t.Helper()
	reply := s.Get(t.Context(), s.Client(), "/openapi.json")
	if reply.Status != http.StatusOK || reply.Header.Get("Content-Type") != "application/json" || reply.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Fatalf("%d %v", reply.Status, reply.Header)
	}
	d := &described{t: t, issuer: s.Issuer, seen: make(map[string]bool), RoundTripper: s.HTTP.Client().Transport}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(reply.Body))
	if err != nil {
		t.Fatal(err)
	}
	closeObjects(doc)
	d.doc, _ = doc.(map[string]any)
	d.compiler = jsonschema.NewCompiler()
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(describedAt, doc); err != nil {
		t.Fatal(err)
	}
	s.HTTP.Client().Transport = d
	return d
}

// closeObjects makes the schemas of objects strict: an app must ignore a member that is not
// described, but we may not forget to describe one.
func closeObjects(node any) {
	switch n := node.(type) {
	case map[string]any:
		if n["type"] == "object" && n["properties"] != nil {
			n["additionalProperties"] = false
		}
		for _, child := range n {
			closeObjects(child)
		}
	case []any:
		for _, child := range n {
			closeObjects(child)
		}
	}
}

// at returns the node that the keys lead to; nil when there is none.
func (d *described) at(keys ...string) any {
	var node any = d.doc
	for _, key := range keys {
		object, _ := node.(map[string]any)
		node = object[key]
	}
	return node
}

func (d *described) check(what string, value any, keys ...string) {
	d.t.Helper()
	var pointer strings.Builder
	for _, key := range keys {
		pointer.WriteString("/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(key)))
	}
	schema, err := d.compiler.Compile(describedAt + "#" + pointer.String())
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		d.t.Errorf("%s: %v", what, err)
	}
}

// operation finds what is described for a request; empty when nothing is.
func (d *described) operation(r *http.Request) (at, method string) {
	below, ok := strings.CutPrefix(r.URL.Scheme+"://"+r.URL.Host+r.URL.Path, d.issuer)
	if !ok {
		return "", ""
	}
	if rest, ok := strings.CutPrefix(below, "/sessions/"); ok && rest != "revoke-all" {
		below = "/sessions/{sid}"
	}
	method = strings.ToLower(r.Method)
	if d.at("paths", below, method) == nil {
		return "", ""
	}
	return below, method
}

// RoundTrip checks the answer, and the request of an answer that found no fault with it.
func (d *described) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := d.RoundTripper.RoundTrip(r)
	at, method := d.operation(r)
	if err != nil || at == "" {
		return resp, err
	}
	name := r.Method + " " + at
	status := strconv.Itoa(resp.StatusCode)
	d.note(name + " " + status)
	if d.at("paths", at, method, "responses", status) == nil {
		d.t.Errorf("%s: %s is not described", name, status)
		return resp, nil
	}
	for header := range resp.Header {
		if (header == "Retry-After" || header == "Www-Authenticate") && d.at("paths", at, method, "responses", status, "headers", strings.Replace(header, "Www", "WWW", 1)) == nil {
			d.t.Errorf("%s: the header %s of %s is not described", name, header, status)
		}
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "" && d.at("paths", at, method, "responses", status, "content", media) == nil {
		d.t.Errorf("%s: %s as %s is not described", name, status, media)
	}
	if media == "application/json" || media == "application/problem+json" {
		d.checkAnswer(resp, name, "paths", at, method, "responses", status, "content", media, "schema")
	}
	if resp.StatusCode < http.StatusMultipleChoices && len(sent) > 0 {
		d.checkRequest(r, sent, name, "paths", at, method, "requestBody", "content")
	}
	return resp, nil
}

func (d *described) checkAnswer(resp *http.Response, name string, keys ...string) {
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var value any
	if err == nil {
		value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body))
	}
	if err != nil {
		d.t.Errorf("%s: %v", name, err)
		return
	}
	d.check(fmt.Sprintf("%s: %s", name, body), value, keys...)
	if object, _ := value.(map[string]any); object["error"] != nil {
		d.note(fmt.Sprintf("%s %v", name, object["error"]))
	}
}

func (d *described) checkRequest(r *http.Request, sent []byte, name string, keys ...string) {
	media := r.Header.Get("Content-Type")
	var value any
	if media == "application/json" {
		value, _ = jsonschema.UnmarshalJSON(bytes.NewReader(sent))
	} else {
		form, err := url.ParseQuery(string(sent))
		if err != nil {
			d.t.Errorf("%s: %v", name, err)
		}
		fields := make(map[string]any)
		for field := range form {
			fields[field] = form.Get(field)
		}
		value = fields
	}
	d.check(fmt.Sprintf("%s: request %s", name, sent), value, append(keys, media, "schema")...)
}

func (d *described) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[what] = true
}

// missing lists the answers that are described and did not come, but for faults of our own.
func (d *described) missing() []string {
	var missing []string
	paths, _ := d.at("paths").(map[string]any)
	for at, item := range paths {
		methods, _ := item.(map[string]any)
		for method := range methods {
			name := strings.ToUpper(method) + " " + at
			responses, _ := d.at("paths", at, method, "responses").(map[string]any)
			for status := range responses {
				if status < "500" && !d.seen[name+" "+status] {
					missing = append(missing, name+" "+status)
				}
				codes, _ := d.at("paths", at, method, "responses", status, "content", "application/problem+json", "schema", "allOf").([]any)
				for _, code := range enumOf(codes) {
					if code != "server_error" && !d.seen[name+" "+code] {
						missing = append(missing, name+" "+code)
					}
				}
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// enumOf returns the codes of the answer's allOf.
func enumOf(allOf []any) []string {
	if len(allOf) != 2 {
		return nil
	}
	restriction, _ := allOf[1].(map[string]any)
	properties, _ := restriction["properties"].(map[string]any)
	code, _ := properties["error"].(map[string]any)
	values, _ := code["enum"].([]any)
	codes := make([]string, len(values))
	for i, value := range values {
		codes[i], _ = value.(string)
	}
	return codes
}

// TestOpenAPIDescribesEveryAnswer drives the endpoints of both devices through every answer that
// is described, and holds each against its schema.
func TestOpenAPIDescribesEveryAnswer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id", Clients: forResources(), Change: func(c *provider.Config) {
		roomy(c)
		c.QRLimits.OpensPerMinute = 60
		c.QRLimits.Scans = 60
		c.QRLimits.UserCodeTries = 2
		c.QRLimits.HeldPolls = 1
	}})
	d := describe(t, s)
	p := newPhone(t, s)
	s.Get(t.Context(), s.Client(), "/.well-known/qr-configuration")
	for _, step := range []func(*testing.T, *providertest.Server, *described, *phone){
		describedSignIn, describedStreams, describedConflicts, describedEnds, describedRefusals, describedProofs, describedSessions, describedLimits,
	} {
		step(t, s, d, p)
	}
	if diff := cmp.Diff([]string(nil), d.missing()); diff != "" {
		t.Errorf("described, but not met: %s", diff)
	}
}

// describedSignIn is the happy path of both grants, polled and held.
func describedSignIn(t *testing.T, s *providertest.Server, _ *described, p *phone) {
	t.Helper()
	for client, extra := range map[string]url.Values{
		"cli": {"qr_image": {"svg"}, "binding_message": {"Deploy 42"}, "device_name": {"A server"}, "scope": {"openid profile offline_access"}, "resource": {jwtAPI}}, "tv": nil,
	} {
		c := openQR(t, s, client, extra)
		if reply := c.poll(t.Context()); reply.Text("error") != "authorization_pending" {
			t.Fatalf("%d %s", reply.Status, reply.Body)
		}
		c.poll(t.Context())
		c.poll(t.Context()) // slow_down
		s.Clock.Advance(11 * time.Second)
		c.approve(p)
		s.Clock.Advance(11 * time.Second)
		tokens := c.poll(t.Context())
		if tokens.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", client, tokens.Status, tokens.Body)
		}
		if refresh := tokens.Text("refresh_token"); refresh != "" {
			c.post(t.Context(), "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, nil)
		}
	}
}

// describedStreams reads the first message of every kind of stream.
func describedStreams(t *testing.T, s *providertest.Server, d *described, _ *phone) {
	t.Helper()
	c := openQR(t, s, "cli", nil)
	form := url.Values{"client_id": {"cli"}, "device_code": {c.deviceCode()}}
	describedSocket(t, s, d, c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL("/qr/events"), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			d.checkMessage("events", []byte(data))
			break
		}
	}
	// One stream is the limit here, and the first one still stands.
	if second := openQR(t, s, "cli", nil); second.post(t.Context(), "/qr/events", url.Values{"device_code": {second.deviceCode()}}, nil).Status != http.StatusTooManyRequests {
		t.Error("a second stream")
	}
	for _, path := range []string{"/qr/events", "/qr/cancel"} {
		c.post(t.Context(), path, url.Values{"device_code": {"x"}}, nil)
		c.post(t.Context(), path, url.Values{"device_code": {c.deviceCode()}, "client_id": {"nobody"}}, nil)
		c.post(t.Context(), path, url.Values{"device_code": {strings.Repeat("x", 70<<10)}}, nil)
	}
	c.cancel(t.Context())
}

// describedSocket opens a WebSocket, reads its first message, and is refused without a handshake.
func describedSocket(t *testing.T, s *providertest.Server, d *described, c *consumption) {
	t.Helper()
	socket, answer, err := websocket.Dial(t.Context(), s.URL("/qr/ws"), &websocket.DialOptions{HTTPClient: &http.Client{Transport: d.RoundTripper}})
	if err != nil {
		t.Fatal(err)
	}
	d.note("GET /qr/ws " + strconv.Itoa(answer.StatusCode))
	first := map[string]string{"client_id": "cli", "device_code": c.deviceCode()}
	encoded, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	d.check("first frame", map[string]any{"client_id": "cli", "device_code": c.deviceCode()}, "components", "schemas", "StreamRequest")
	if err := socket.Write(t.Context(), websocket.MessageText, encoded); err != nil {
		t.Fatal(err)
	}
	_, message, err := socket.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.checkMessage("ws", message)
	// The place is given back before the socket closes.
	if err := socket.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	s.Get(t.Context(), s.Client(), "/qr/ws")
	malformed, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL("/qr/ws"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"} {
		malformed.Header.Set(name, value)
	}
	s.Do(s.Client(), malformed)
}

func (d *described) checkMessage(what string, data []byte) {
	d.t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		d.t.Fatalf("%s: %v: %s", what, err, data)
	}
	d.check(fmt.Sprintf("%s: %s", what, data), value, "components", "schemas", "Message")
}

// describedConflicts are the answers of a second phone, a repeated decision and old frames.
func describedConflicts(t *testing.T, s *providertest.Server, _ *described, p *phone) {
	t.Helper()
	other := newPhoneOf(t, s, "bob")
	c := openQR(t, s, "cli", nil)
	frame := payload(c.opened)
	scan, _ := c.claim(p)
	other.scan(frame, "scanner")                 // already_claimed
	changed := decision(scan, "approve", "10")   // context_changed
	changed["context_digest"] = scan.Text("sid") // none
	p.post(t.Context(), "/qr/decision", changed)
	s.Clock.Advance(5 * time.Second)
	number := c.poll(t.Context()).Text("check_code")
	p.decide(scan, "approve", wrongCode(number)) // check_code_mismatch
	p.decide(scan, "approve", number)
	p.scan(frame, "scanner") // already_decided
	s.Clock.Advance(11 * time.Second)
	c.poll(t.Context())
	c.cancel(t.Context()) // already_redeemed
	p.scan(frame, "scanner")

	old := openQR(t, s, "cli", nil)
	s.Clock.Advance(30 * time.Second)
	p.scan(payload(old.opened), "scanner") // stale_frame
	hinted := openQR(t, s, "cli", url.Values{"login_hint": {"bob"}})
	p.scan(payload(hinted.opened), "scanner") // wrong_account
	fresh := openQR(t, s, "cli", url.Values{"max_age": {"0"}})
	p.scan(payload(fresh.opened), "scanner") // insufficient_user_authentication
}

// describedEnds are the answers of sessions that are over.
func describedEnds(t *testing.T, s *providertest.Server, _ *described, p *phone) {
	t.Helper()
	denied := openQR(t, s, "cli", nil)
	scan, _ := denied.claim(p)
	p.decide(scan, "deny", "")
	p.decide(scan, "approve", "10") // gone
	s.Clock.Advance(11 * time.Second)
	denied.poll(t.Context()) // access_denied
	expired := openQR(t, s, "cli", nil)
	s.Clock.Advance(5 * time.Minute)
	expired.poll(t.Context()) // expired_token
}

// describedRefusals are the answers to requests that nobody should send.
func describedRefusals(t *testing.T, s *providertest.Server, _ *described, p *phone) {
	t.Helper()
	for _, form := range []url.Values{
		{"code_challenge": {"short"}},
		{"scope": {"nothing"}},
		{"resource": {"https://api.example"}},
		{"client_id": {"web"}},
		{"client_id": {"nobody"}},
		{"binding_message": {strings.Repeat("x", 70<<10)}},
	} {
		tryOpenQR(t, s, "cli", form)
	}
	c := openQR(t, s, "cli", nil)
	for _, form := range []url.Values{
		{"grant_type": {"unknown"}},
		{"grant_type": {qr.GrantType}},
		{"grant_type": {qr.GrantType}, "device_code": {"x"}, "code_verifier": {"x"}},
		{"grant_type": {qr.GrantType}, "client_id": {"nobody"}},
		{"grant_type": {strings.Repeat("x", 70<<10)}},
	} {
		c.post(t.Context(), "/token", form, nil)
	}
	strangers := []*phone{
		{t: t, s: s},
		{t: t, s: s, token: "x"},
		{t: t, s: s, token: s.SignedIn(t.Context(), s.Browser(), "phone", "openid").AccessToken},
		{t: t, s: s, token: bornOfApproval(t, s, p)},
	}
	for _, stranger := range strangers {
		stranger.scan(payload(c.opened), "scanner")
		stranger.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": "x", "decision": "deny"})
		stranger.send(http.MethodGet, "/sessions")
		stranger.send(http.MethodDelete, "/sessions/x")
		stranger.post(t.Context(), "/sessions/revoke-all", map[string]string{"reason": "lost_phone"})
	}
	for _, path := range []string{"/qr/scan", "/qr/decision", "/sessions/revoke-all"} {
		p.post(t.Context(), path, map[string]string{})
		p.postRaw(t.Context(), path, "application/json", bytes.Repeat([]byte(" "), 70<<10))
	}
	p.scan("https://elsewhere.example/", "scanner") // not_found
	p.post(t.Context(), "/qr/decision", map[string]string{"confirm_handle": "x", "decision": "deny"})
}

// describedProofs are the answers to proofs that are missing, malformed or without a nonce.
func describedProofs(t *testing.T, s *providertest.Server, _ *described, _ *phone) {
	t.Helper()
	k := newQRKey(t, s)
	token := k.phoneToken(t, "alice")
	for _, nonce := range []string{"", "foreign"} {
		for path, method := range map[string]string{
			"/qr/scan": http.MethodPost, "/qr/decision": http.MethodPost, "/sessions/revoke-all": http.MethodPost,
			"/sessions": http.MethodGet, "/sessions/x": http.MethodDelete,
		} {
			header := http.Header{"Authorization": {"DPoP " + token}}
			if nonce != "" {
				header.Set("DPoP", k.proof(t, method, path, nonce, token))
			}
			p := &phone{t: t, s: s, header: header}
			if method == http.MethodPost {
				p.post(t.Context(), path, map[string]string{})
			} else {
				p.send(method, path)
			}
		}
	}
	c := openQR(t, s, "cli", nil)
	for _, path := range []string{"/device_authorization", "/token", "/qr/cancel", "/qr/events"} {
		for _, proof := range []string{"x", k.proof(t, http.MethodPost, path, "foreign", "")} {
			form := c.tokenForm()
			form.Set("code_challenge", strings.Repeat("a", 43))
			form.Set("code_challenge_method", "S256")
			c.post(t.Context(), path, form, http.Header{"Dpop": {proof}})
		}
	}
}

// bornOfApproval is an access token that came of an approval.
func bornOfApproval(t *testing.T, s *providertest.Server, p *phone) string {
	t.Helper()
	c := openQR(t, s, "cli", nil)
	c.approve(p)
	s.Clock.Advance(11 * time.Second)
	return tokensOf(t, c.poll(t.Context())).AccessToken
}

// describedSessions lists, ends one, and ends all.
func describedSessions(t *testing.T, s *providertest.Server, _ *described, p *phone) {
	t.Helper()
	bornOfApproval(t, s, p)
	list := p.send(http.MethodGet, "/sessions")
	var sessions struct {
		Sessions []struct{ SID, Device string }
	}
	if err := json.Unmarshal([]byte(list.Body), &sessions); err != nil || len(sessions.Sessions) < 2 {
		t.Fatalf("%v: %d %s", err, list.Status, list.Body)
	}
	p.send(http.MethodDelete, "/sessions/"+sessions.Sessions[0].SID)
	p.send(http.MethodDelete, "/sessions/unknown")
	lost := newPhoneOf(t, s, "carol")
	lost.post(t.Context(), "/sessions/revoke-all", map[string]string{"reason": "lost_phone"})
}

// describedLimits runs into every limit, last.
func describedLimits(t *testing.T, s *providertest.Server, _ *described, _ *phone) {
	t.Helper()
	eager := newPhoneOf(t, s, "dave")
	for range 3 {
		eager.scanCode("BCDF-GHJK") // unknown_code, then rate_limited
	}
	reported := openQR(t, s, "tv", nil)
	wary := newPhoneOf(t, s, "erin")
	scan, _ := reported.claim(wary)
	wary.decide(scan, "report", "")
	again := openQR(t, s, "tv", nil)
	if reply := wary.scanCode(again.userCode()); reply.Text("error") != "reported" {
		t.Errorf("after the report: %d %s", reply.Status, reply.Body)
	}
	for range 61 {
		if tryOpenQR(t, s, "cli", nil).opened.Status == http.StatusTooManyRequests {
			break
		}
	}
}

// TestOpenAPIKnowsEveryProblem reads the codes from the source: each one is described, and none
// is described that no code can send.
func TestOpenAPIKnowsEveryProblem(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	d := describe(t, s)
	values, _ := d.at("components", "schemas", "Problem", "properties", "error", "enum").([]any)
	var listed []string
	for _, value := range values {
		code, _ := value.(string)
		listed = append(listed, code)
	}
	slices.Sort(listed)
	table, _ := d.at("x-problems").(map[string]any)
	if diff := cmp.Diff(listed, slices.Sorted(maps.Keys(table))); diff != "" {
		t.Errorf("the enumeration and the table: %s", diff)
	}
	sent := problemCodes(t, "qr", "problem")
	if diff := cmp.Diff(sent, listed); diff != "" {
		t.Errorf("package qr sends (-), the description lists (+): %s", diff)
	}
	used := make(map[string]bool)
	for _, m := range regexp.MustCompile("`([a-z_]+)`:").FindAllStringSubmatch(fmt.Sprint(d.at("paths")), -1) {
		used[m[1]] = true
	}
	for _, code := range listed {
		if !used[code] {
			t.Errorf("no answer is described with %s", code)
		}
	}
}

// problemCodes are the codes that the sources of a directory give to a function as its second
// argument.
func problemCodes(t *testing.T, dir, function string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := make(map[string]bool)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			callee, isName := call.Fun.(*ast.Ident)
			if literal, ok := call.Args[1].(*ast.BasicLit); isName && ok && callee.Name == function {
				code, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				codes[code] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(codes))
}

// TestOpenAPINamesItsIssuer: the description is of this server and of no other.
func TestOpenAPINamesItsIssuer(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id"})
	d := describe(t, s)
	servers, _ := d.at("servers").([]any)
	if diff := cmp.Diff([]any{map[string]any{"url": s.Issuer}}, servers); diff != "" {
		t.Error(diff)
	}
	if raw := s.Get(t.Context(), s.Client(), "/openapi.json").Body; strings.Contains(raw, "issuer.example") || d.at("openapi") != "3.1.0" {
		t.Errorf("openapi %v, or the example's address is left", d.at("openapi"))
	}
	// Every reference leads somewhere, and every schema is one.
	schemas, _ := d.at("components", "schemas").(map[string]any)
	for name := range schemas {
		if _, err := d.compiler.Compile(describedAt + "#/components/schemas/" + name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
