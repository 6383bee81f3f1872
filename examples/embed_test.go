package examples_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// TestEmbed signs a desktop in at somebody else's fosite server, approved with a token of that
// server's phone app.
func TestEmbed(t *testing.T) {
	t.Parallel()
	issuer := startEmbed(t)
	phone := embedToken(t, issuer, "openid "+qr.ApproveScope)
	verifier := oauth2.GenerateVerifier()
	opened := postForm(t, issuer+"/device_authorization", url.Values{
		"client_id": {"desktop"}, "scope": {"openid"}, "code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	})
	code, _ := opened["device_code"].(string)
	poll := url.Values{"grant_type": {qr.GrantType}, "client_id": {"desktop"}, "device_code": {code}, "code_verifier": {verifier}}
	shown, _ := opened["qr"].(map[string]any)

	// A token without the scope approves nothing.
	if refused := postJSON(t, issuer+"/qr/scan", embedToken(t, issuer, "openid"), map[string]any{"payload": shown["payload"], "entry": "scanner"}); refused["error"] != "insufficient_scope" {
		t.Errorf("without the scope: %v", refused)
	}
	scan := postJSON(t, issuer+"/qr/scan", phone, map[string]any{"payload": shown["payload"], "entry": "scanner"})
	pending := postForm(t, issuer+"/token", poll)
	if pending["error"] != "authorization_pending" || pending["qr_status"] != "scanned" {
		t.Fatalf("scan %v, poll %v", scan, pending)
	}
	decided := postJSON(t, issuer+"/qr/decision", phone, map[string]any{
		"confirm_handle": scan["confirm_handle"], "decision": "approve", "context_digest": scan["context_digest"], "check_code": pending["check_code"],
	})
	if decided["state"] != "approved" {
		t.Fatalf("decision %v", decided)
	}
	tokens := postForm(t, issuer+"/token", poll)
	if tokens["access_token"] == nil || tokens["id_token"] == nil || tokens["scope"] != "openid" {
		t.Errorf("tokens %v", tokens)
	}
	// What the approval has made approves nothing in turn.
	born, _ := tokens["access_token"].(string)
	if refused := postJSON(t, issuer+"/qr/scan", born, map[string]any{"payload": shown["payload"], "entry": "scanner"}); refused["error"] != "insufficient_scope" {
		t.Errorf("a token of the approval: %v", refused)
	}
}

// TestEmbedBindsToKeys is the same with a key on either side: neither's token or code is worth
// anything without it.
func TestEmbedBindsToKeys(t *testing.T) {
	t.Parallel()
	issuer := startEmbed(t)
	desktop, app := proving(t), proving(t)
	tokens := embedTokens(t, app, issuer, "openid "+qr.ApproveScope)
	phone, _ := tokens["access_token"].(string)
	if tokens["token_type"] != "DPoP" {
		t.Errorf("the phone's token is of the type %v", tokens["token_type"])
	}
	verifier := oauth2.GenerateVerifier()
	opened := postFormBy(t, desktop, issuer+"/device_authorization", url.Values{
		"client_id": {"desktop"}, "scope": {"openid"}, "code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	})
	code, _ := opened["device_code"].(string)
	poll := url.Values{"grant_type": {qr.GrantType}, "client_id": {"desktop"}, "device_code": {code}, "code_verifier": {verifier}}
	shown, _ := opened["qr"].(map[string]any)
	claim := map[string]any{"payload": shown["payload"], "entry": "scanner"}
	for what, refused := range map[string]map[string]any{
		"as a bearer token": postJSON(t, issuer+"/qr/scan", phone, claim),
		"with another key":  postJSONBy(t, proving(t), issuer+"/qr/scan", "DPoP "+phone, claim),
	} {
		if refused["error"] != "invalid_token" {
			t.Errorf("the phone's token %s: %v", what, refused)
		}
	}
	scan := postJSONBy(t, app, issuer+"/qr/scan", "DPoP "+phone, claim)
	if refused := postFormBy(t, proving(t), issuer+"/token", poll); refused["error"] != "invalid_grant" {
		t.Errorf("a poll with another key: %v", refused)
	}
	pending := postFormBy(t, desktop, issuer+"/token", poll)
	decided := postJSONBy(t, app, issuer+"/qr/decision", "DPoP "+phone, map[string]any{
		"confirm_handle": scan["confirm_handle"], "decision": "approve", "context_digest": scan["context_digest"], "check_code": pending["check_code"],
	})
	if decided["state"] != "approved" {
		t.Fatalf("scan %v, poll %v, decision %v", scan, pending, decided)
	}
	if refused := postForm(t, issuer+"/token", poll); refused["error"] != "invalid_grant" {
		t.Errorf("a redemption without the key: %v", refused)
	}
	tokens = postFormBy(t, desktop, issuer+"/token", poll)
	born, _ := tokens["access_token"].(string)
	if born == "" || tokens["token_type"] != "DPoP" {
		t.Errorf("tokens %v", tokens)
	}
	// Without its key it is not even told that it may not approve.
	if refused := postJSON(t, issuer+"/qr/scan", born, claim); refused["error"] != "invalid_token" {
		t.Errorf("the desktop's token as a bearer token: %v", refused)
	}
}

// proving returns a client with a key of its own.
func proving(t *testing.T) *http.Client {
	t.Helper()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &dpop.Transport{Key: key}}
}

// startEmbed builds and runs the example and returns its address once it answers.
func startEmbed(t *testing.T) string {
	t.Helper()
	dir := build(t, "./embed")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "embed"), "--addr", addr, "--issuer", "http://"+addr)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // the end of the test's context has interrupted it
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("%v is left behind, %v", left, err)
		}
	})
	for over := time.After(20 * time.Second); ; {
		if resp, err := http.Get("http://" + addr + "/.well-known/qr-configuration"); err == nil {
			_ = resp.Body.Close()
			return "http://" + addr
		}
		select {
		case <-over:
			t.Fatal("embed does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// embedToken signs the phone app in with code and PKCE.
func embedToken(t *testing.T, issuer, scope string) string {
	t.Helper()
	token, _ := embedTokens(t, http.DefaultClient, issuer, scope)["access_token"].(string)
	return token
}

// embedTokens is embedToken with the client that asks for the tokens.
func embedTokens(t *testing.T, client *http.Client, issuer, scope string) map[string]any {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	ask := url.Values{
		"client_id": {"phone"}, "response_type": {"code"}, "redirect_uri": {"com.example.app:/callback"}, "scope": {scope}, "state": {"state-of-the-app"},
		"nonce": {"nonce-of-the-app"}, "code_challenge_method": {"S256"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	}
	still := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := still.Get(issuer + "/authorize?" + ask.Encode())
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	at, err := resp.Location()
	if err != nil || at.Query().Get("code") == "" {
		t.Fatalf("authorize: %s, %v, %v", resp.Status, at, err)
	}
	tokens := postFormBy(t, client, issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"phone"}, "code": {at.Query().Get("code")}, "redirect_uri": {"com.example.app:/callback"}, "code_verifier": {verifier},
	})
	if token, _ := tokens["access_token"].(string); token == "" {
		t.Fatalf("tokens %v", tokens)
	}
	return tokens
}

func postForm(t *testing.T, endpoint string, form url.Values) map[string]any {
	t.Helper()
	return postFormBy(t, http.DefaultClient, endpoint, form)
}

func postFormBy(t *testing.T, client *http.Client, endpoint string, form url.Values) map[string]any {
	t.Helper()
	resp, err := client.PostForm(endpoint, form)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, resp)
}

func postJSON(t *testing.T, endpoint, token string, message map[string]any) map[string]any {
	t.Helper()
	return postJSONBy(t, http.DefaultClient, endpoint, "Bearer "+token, message)
}

func postJSONBy(t *testing.T, client *http.Client, endpoint, authorization string, message map[string]any) map[string]any {
	t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", authorization)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, resp)
}

func decoded(t *testing.T, resp *http.Response) map[string]any {
	t.Helper()
	defer func() { _ = resp.Body.Close() }()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return answer
}
