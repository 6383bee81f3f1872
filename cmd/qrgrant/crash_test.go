package main_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider"
)

const (
	crashRounds  = 3
	crashWorkers = 6
	// crashEach is how many approvals with a redemption, and how many without, are
	// acknowledged before the server is killed.
	crashEach = 5
)

// TestKillNineLosesNothingAcknowledged kills a real server in the middle of a load of logins
// and starts it again on the same file: every approval and every token that was acknowledged
// is still there, and none redeems twice.
func TestKillNineLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCrashConfig(t, dir)
	server := launch(t, dir, os.Environ(), "serve", "--addr", "127.0.0.1:0", "--db", "x.db", "--config", "config.yaml")
	issuer, err := server.await(`serves (\S+) on`)
	if err != nil {
		t.Fatal(err)
	}
	for range crashRounds {
		logins := loadUntilKilled(t, issuer, server)
		server = launch(t, dir, os.Environ(), "serve", "--issuer", issuer, "--addr", strings.TrimPrefix(issuer, "http://"), "--db", "x.db", "--config", "config.yaml")
		if _, err := server.await(`serves (\S+) on`); err != nil {
			t.Fatal(err)
		}
		checkSurvivors(t, issuer, logins)
	}
	if err := server.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := server.exit(); err != nil || code != 0 {
		t.Errorf("the drain ended with %d, %v", code, err)
	}
}

// writeCrashConfig gives each worker a person of its own: one person scans ten times at most.
func writeCrashConfig(t *testing.T, dir string) {
	t.Helper()
	hash, err := provider.HashPassword("password")
	if err != nil {
		t.Fatal(err)
	}
	var config strings.Builder
	config.WriteString(`clients:
  - id: cli
    grant_types: [qr_code]
    scopes: [openid]
    qr: {enabled: true, allowed_scopes: [openid]}
  - id: phone
    approver: true
    first_party: true
    redirect_uris: [http://127.0.0.1/callback]
    grant_types: [authorization_code, refresh_token]
    scopes: [openid, qr:approve]
users:
`)
	for i := range crashWorkers {
		fmt.Fprintf(&config, "  - {login: user%d, subject: user%d, password_hash: %q}\n", i, i, hash)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// login is one sign-in of the load, with what the server has acknowledged of it.
type login struct {
	attempt *player.Attempt
	subject string
	// polled tells whether the PC was polling when the approval came: its redemption may
	// have been on its way when the server died.
	polled bool
	tokens *player.Tokens
}

// load is what the workers share.
type load struct {
	issuer string
	mu     sync.Mutex
	logins []*login
	// enough is closed when there is something of both kinds to lose.
	enough            chan struct{}
	waiting, redeemed int
}

func (l *load) acknowledged(done *login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logins = append(l.logins, done)
	before := l.isEnough()
	if done.tokens != nil {
		l.redeemed++
	} else {
		l.waiting++
	}
	if !before && l.isEnough() {
		close(l.enough)
	}
}

func (l *load) isEnough() bool { return l.waiting >= crashEach && l.redeemed >= crashEach }

// loadUntilKilled runs the workers, kills the server under them and returns what it had said.
func loadUntilKilled(t *testing.T, issuer string, server *process) []*login {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := &load{issuer: issuer, enough: make(chan struct{})}
	var workers sync.WaitGroup
	idle := make(chan struct{})
	for i := range crashWorkers {
		workers.Go(func() {
			if err := l.work(ctx, i); err != nil && ctx.Err() == nil {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	go func() {
		workers.Wait()
		close(idle)
	}()
	select {
	case <-l.enough:
	case <-idle:
		t.Fatal("the load ended before the kill")
	}
	// What fails from here on fails because the server is gone.
	stop()
	if err := server.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code, err := server.exit(); err != nil || code != -1 {
		t.Fatalf("the kill ended with %d, %v", code, err)
	}
	<-idle
	return l.logins
}

// work plays logins one after the other. Every other worker's PC stops polling before the
// approval, so that approvals without a redemption are there at the kill.
func (l *load) work(ctx context.Context, n int) error {
	subject := fmt.Sprintf("user%d", n)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	phone := &player.Approver{Issuer: l.issuer, ClientID: "phone", RedirectURI: "http://127.0.0.1/callback", Login: subject, Password: "password", HTTP: client}
	if err := phone.SignIn(ctx); err != nil {
		return err
	}
	const scansOfAPerson = 10
	for range scansOfAPerson {
		if err := l.login(ctx, client, phone, subject, n%2 == 0); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) login(ctx context.Context, client *http.Client, phone *player.Approver, subject string, keepPolling bool) error {
	pc := &player.ConsumptionDevice{Issuer: l.issuer, ClientID: "cli", Grant: player.GrantQR, Scopes: []string{"openid"}}
	polls := make(chan struct{}, 1)
	pc.HTTP = &http.Client{Transport: &player.Recorder{Next: client.Transport, Sent: func(x player.Exchange) {
		if x.Path == "/token" {
			select {
			case polls <- struct{}{}:
			default:
			}
		}
	}}}
	attempt, err := pc.Open(ctx)
	if err != nil {
		return err
	}
	polling, stopPolling := context.WithCancel(ctx)
	defer stopPolling()
	code, ended := make(chan string, 1), make(chan error, 1)
	done := &login{attempt: attempt, subject: subject, polled: keepPolling}
	go func() {
		tokens, err := attempt.Await(polling, func(u player.Update) {
			if u.CheckCode == "" {
				return
			}
			code <- u.CheckCode
			if !keepPolling {
				// Not even a poll whose answer nobody reads may be under way.
				<-polling.Done()
			}
		})
		if err == nil {
			done.tokens = tokens
		}
		ended <- err
	}()
	ref, err := player.ReadReference(l.issuer, attempt.Payload)
	if err != nil {
		return err
	}
	// A person scans after the first poll has reached the server. One request later it has,
	// nearly always; when not, the PC hears of the approval five seconds late and no harm is done.
	select {
	case <-polls:
	case err := <-ended:
		return err // killed before it began
	}
	if err := get(ctx, client, l.issuer+"/healthz", ""); err != nil {
		return err
	}
	claim, err := phone.Scan(ctx, ref)
	if err != nil {
		return err
	}
	verdict := player.Verdict{Decision: "approve"}
	select {
	case verdict.CheckCode = <-code:
	case err := <-ended:
		return err
	}
	if _, err = phone.Decide(ctx, claim, verdict); err != nil {
		return err
	}
	if !keepPolling {
		stopPolling()
	}
	err = <-ended
	l.acknowledged(done)
	if !keepPolling {
		// It ended because it was told to.
		return nil
	}
	return err
}

// checkSurvivors looks at everything the dead server had acknowledged.
func checkSurvivors(t *testing.T, issuer string, logins []*login) {
	t.Helper()
	// A lost approval would be waited for until it expires.
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for _, l := range logins {
		if l.tokens == nil {
			tokens, err := l.attempt.Await(ctx, func(player.Update) {})
			// The answer to a poll that was under way may have been lost with its tokens.
			if l.polled && player.RefusedWith(err, "invalid_grant") {
				continue
			}
			if err != nil {
				t.Errorf("an acknowledged approval does not redeem: %v", err)
				continue
			}
			l.tokens = tokens
		}
		if err := get(ctx, http.DefaultClient, issuer+"/userinfo", l.tokens.AccessToken); err != nil {
			t.Errorf("an acknowledged token is lost: %v", err)
		}
		if again, err := l.attempt.Await(ctx, func(player.Update) {}); !player.RefusedWith(err, "invalid_grant") {
			t.Errorf("a second redemption gives %v, %v", again, err)
		}
	}
}

// get expects a 200, with a bearer token when there is one.
func get(ctx context.Context, client *http.Client, from, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}
