package main_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// pollAnswer is what a poll came back with.
type pollAnswer struct {
	status int
	body   map[string]any
	err    error
}

// TestTermDrainsAHeldPoll sends SIGTERM while a poll is held: the poll is answered as pending
// and not cut off, and the server ends at once and well.
func TestTermDrainsAHeldPoll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCrashConfig(t, dir)
	server := launch(t, dir, os.Environ(), "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "config.yaml")
	issuer, err := server.await(`serves (\S+) on`)
	if err != nil {
		t.Fatal(err)
	}
	const verifier = "a-verifier-of-this-test-alone-that-is-long-enough"
	opened := post(t, issuer+"/device_authorization", url.Values{
		"client_id": {"cli"}, "scope": {"openid"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"},
	})
	if opened.err != nil || opened.status != http.StatusOK {
		t.Fatalf("open: %+v", opened)
	}
	poll := func() <-chan pollAnswer {
		answers := make(chan pollAnswer, 1)
		go func() {
			answers <- post(t, issuer+"/token", url.Values{
				"client_id": {"cli"}, "code_verifier": {verifier},
				"grant_type":  {"urn:qrgrant:params:oauth:grant-type:qr_code"},
				"device_code": {opened.body["device_code"].(string)},
			})
		}()
		return answers
	}
	// A newer held poll ends the older: when one of the two is answered, the other is held.
	first, second := poll(), poll()
	held := first
	select {
	case <-first:
		held = second
	case <-second:
	}
	if err := server.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	if got := <-held; got.err != nil || got.status != http.StatusBadRequest || got.body["error"] != "authorization_pending" {
		t.Errorf("the held poll is answered %+v", got)
	}
	if code, err := server.exit(); err != nil || code != 0 {
		t.Errorf("the server ended with %d, %v", code, err)
	}
	// Left alone, the poll would be held until the next frame, up to ten seconds.
	if took := time.Since(asked); took > 8*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

func post(t *testing.T, to string, form url.Values) pollAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return pollAnswer{err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Prefer", "wait=25")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return pollAnswer{err: err}
	}
	defer res.Body.Close()
	got := pollAnswer{status: res.StatusCode}
	got.err = json.NewDecoder(res.Body).Decode(&got.body)
	return got
}
