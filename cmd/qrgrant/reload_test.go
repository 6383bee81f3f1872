package main_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/oauth2"
)

// reloadRounds is how often TestReloadUnderLoad changes the configuration, four times each.
const reloadRounds = 5

const reloadVerifier = "a-verifier-of-this-test-alone-that-is-long-enough"

// TestReloadUnderLoad changes the configuration again and again, by signal and by file, rightly
// and wrongly, while requests come on old and new connections and a poll is held: none of them
// may notice.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	r := &reloaded{t: t, file: filepath.Join(t.TempDir(), "config.yaml"), stop: make(chan struct{})}
	r.configure(r.clients("", 0))
	var held sync.WaitGroup
	end := sync.OnceFunc(func() { close(r.stop) })
	// After the server was ended, when the test gives up: then nothing is waited for in vain.
	t.Cleanup(func() {
		end()
		r.workers.Wait()
		held.Wait()
	})
	r.server = launch(t, filepath.Dir(r.file), os.Environ(), "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "config.yaml")
	var err error
	if r.issuer, err = r.server.await(`serves (\S+) on`); err != nil {
		t.Fatal(err)
	}
	code := r.open("cli")
	held.Go(func() { r.hold(code) })
	pending := r.open("cli")
	for _, fresh := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: fresh}}
		t.Cleanup(client.CloseIdleConnections)
		r.load(client, http.StatusBadRequest, "/token", r.poll(pending))
		r.load(client, http.StatusBadRequest, "/token", url.Values{"client_id": {"web"}, "grant_type": {"authorization_code"}, "code": {"nobody's"}, "redirect_uri": {"https://app.example/callback"}, "code_verifier": {reloadVerifier}})
		r.load(client, http.StatusOK, "/authorize?"+url.Values{
			"client_id": {"web"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {"https://app.example/callback"}, "state": {"a-state-of-this-test"},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(reloadVerifier)}, "code_challenge_method": {"S256"},
		}.Encode(), nil)
	}
	for round := range reloadRounds {
		r.round(round)
	}
	end()
	r.workers.Wait()
	if answer := post(t, r.issuer+"/qr/cancel", url.Values{"client_id": {"cli"}, "device_code": {code}}); answer.status != http.StatusOK {
		t.Errorf("cancel: %+v", answer)
	}
	held.Wait()
	if err := r.server.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := r.server.exit(); err != nil || code != 0 {
		t.Errorf("the server ended with %d, %v", code, err)
	}
}

// reloaded is a server whose configuration changes, and what is asked of it meanwhile.
type reloaded struct {
	t            *testing.T
	file, issuer string
	server       *process
	workers      sync.WaitGroup
	stop         chan struct{}
	asked        []*atomic.Int64
}

// clients is a configuration with the two clients of the load, more, and some that only make
// their number, which the log names, another one.
func (r *reloaded) clients(more string, fillers int) string {
	text := "clients:\n" +
		"  - {id: cli, grant_types: [qr_code], scopes: [openid], qr: {enabled: true, allowed_scopes: [openid]}}\n" +
		"  - {id: web, redirect_uris: [https://app.example/callback], scopes: [openid]}\n" + more
	for i := range fillers {
		text += fmt.Sprintf("  - {id: filler-%d, redirect_uris: [https://app.example/callback], scopes: [openid]}\n", i)
	}
	return text
}

// configure replaces the file as editors do.
func (r *reloaded) configure(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file+".new", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reloaded) round(n int) {
	r.t.Helper()
	name := fmt.Sprint("new-", n)
	added := func(disabled bool) string {
		return fmt.Sprintf("  - {id: %s, grant_types: [qr_code], scopes: [openid], disabled: %t, qr: {enabled: true, allowed_scopes: [openid]}}\n", name, disabled)
	}
	r.takes("before "+name, name, http.StatusUnauthorized)
	r.configure(r.clients(added(false), 3*n+1))
	r.hangUp()
	r.awaits(fmt.Sprintf(`the configuration was taken over" clients=%d `, 3*n+4))
	r.takes(name+" is added", name, http.StatusOK)

	r.configure(r.clients(added(true), 0) + fmt.Sprintf("wrong-%d: true\n", n))
	if n%2 == 0 {
		r.hangUp()
	}
	r.awaits(fmt.Sprintf(`the configuration was not taken over.*wrong-%d`, n))
	r.takes(name+" after a wrong file", name, http.StatusOK)

	r.configure(r.clients(added(true), 3*n+2))
	if n%2 == 1 {
		r.hangUp()
	}
	r.awaits(fmt.Sprintf(`the configuration was taken over" clients=%d `, 3*n+5))
	r.takes(name+" is disabled", name, http.StatusUnauthorized)

	r.configure(r.clients("", 3*n+4))
	r.hangUp()
	r.awaits(fmt.Sprintf(`the configuration was taken over" clients=%d `, 3*n+6))
	r.meanwhile()
}

func (r *reloaded) hangUp() {
	r.t.Helper()
	if err := r.server.signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reloaded) awaits(pattern string) {
	r.t.Helper()
	if _, err := r.server.await(pattern); err != nil {
		r.t.Fatal(err)
	}
}

// takes checks how the server answers a client that wants to open a session.
func (r *reloaded) takes(when, client string, want int) {
	r.t.Helper()
	if got := post(r.t, r.issuer+"/device_authorization", opening(client)); got.err != nil || got.status != want {
		r.t.Errorf("%s: %+v, want %d", when, got, want)
	}
}

func opening(client string) url.Values {
	return url.Values{
		"client_id": {client}, "scope": {"openid"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(reloadVerifier)}, "code_challenge_method": {"S256"},
	}
}

func (r *reloaded) open(client string) (deviceCode string) {
	r.t.Helper()
	opened := post(r.t, r.issuer+"/device_authorization", opening(client))
	deviceCode, _ = opened.body["device_code"].(string)
	if deviceCode == "" {
		r.t.Fatalf("open: %+v", opened)
	}
	return deviceCode
}

func (r *reloaded) poll(deviceCode string) url.Values {
	return url.Values{
		"client_id": {"cli"}, "code_verifier": {reloadVerifier}, "device_code": {deviceCode},
		"grant_type": {"urn:qrgrant:params:oauth:grant-type:qr_code"},
	}
}

// hold keeps one poll held until the session is cancelled at the end. A new frame ends a held
// poll too, and the next one follows.
func (r *reloaded) hold(deviceCode string) {
	for {
		got := post(r.t, r.issuer+"/token", r.poll(deviceCode))
		switch {
		case got.err != nil || got.status != http.StatusBadRequest:
			r.t.Errorf("the held poll: %+v", got)
			return
		case got.body["error"] == "access_denied":
			return
		case got.body["error"] != "authorization_pending":
			r.t.Errorf("the held poll: %+v", got)
			return
		}
	}
}

// load sends the same request until the end, each after the answer to the one before: a form,
// or a GET when there is none.
func (r *reloaded) load(client *http.Client, want int, path string, form url.Values) {
	asked := new(atomic.Int64)
	r.asked = append(r.asked, asked)
	r.workers.Go(func() {
		for {
			select {
			case <-r.stop:
				return
			default:
			}
			status, err := r.send(client, path, form)
			if err != nil || status != want {
				r.t.Errorf("%.20s after %d requests: %d, %v", path, asked.Load(), status, err)
				return
			}
			asked.Add(1)
		}
	})
}

func (r *reloaded) send(client *http.Client, path string, form url.Values) (status int, err error) {
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// meanwhile checks that every worker got answers since the last look; a load that stands still
// proves nothing.
func (r *reloaded) meanwhile() {
	r.t.Helper()
	for i, asked := range r.asked {
		if asked.Swap(0) == 0 {
			r.t.Errorf("worker %d got no answer during four reloads", i)
		}
	}
}
