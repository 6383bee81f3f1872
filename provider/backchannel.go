package provider

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// backchannelSlots is how many clients are being told at once, backchannelPerClient how
	// often the same one: a slow client holds up nobody but itself.
	backchannelSlots     = 32
	backchannelPerClient = 2
	// backchannelTimeout bounds one try; backchannelBody and backchannelHeader the answer.
	backchannelTimeout = 5 * time.Second
	backchannelBody    = 4 << 10
	backchannelHeader  = 16 << 10
	// backchannelLease is how long a notice is its process's own: longer than a try takes.
	backchannelLease = time.Minute
	// backchannelPatience is how long close waits for the tries under way.
	backchannelPatience = 3 * time.Second
	// backchannelRefusals is how often a client may answer 400, which means that the logout
	// failed there or that it did not understand (Back-Channel Logout §2.8).
	backchannelRefusals = 3
	// backchannelEnd is how long after the end of a sign-in a try that failed is the last.
	backchannelEnd = 24 * time.Hour
	// logoutTokenLifetime is what Back-Channel Logout §2.4 recommends at most.
	logoutTokenLifetime = 2 * time.Minute
	logoutEvent         = "http://schemas.openid.net/event/backchannel-logout"
)

// backchannelWait is the pause after the n-th try.
func backchannelWait(n int) time.Duration {
	waits := []time.Duration{
		time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour,
	}
	return waits[min(max(n, 1), len(waits))-1]
}

// backchannel tells clients that a sign-in has ended (OpenID Connect Back-Channel Logout 1.0),
// beside the requests that end it. What is to be told stands in the store, written with the end
// itself: a process that stops takes nothing with it, and another goes on.
type backchannel struct {
	config *Config
	keys   *keyRing
	http   *http.Client

	// alive is the context of the tries; cut ends it.
	alive context.Context //nolint:containedctx // Tries belong to no request; they end with the provider.
	cut   context.CancelFunc
	wake  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	// busy are the notices of the tries under way, telling how many each client has.
	busy    map[storage.LogoutNotice]bool
	telling map[string]int
	turn    int
}

var (
	// errRejected: trying again would not help.
	errRejected = errors.New("provider: the client did not take the logout token")
	// errFailedThere: the client says that the logout failed, or that it did not understand.
	errFailedThere = errors.New("provider: the client answered 400")
)

func newBackchannel(c *Config, keys *keyRing) *backchannel {
	b := &backchannel{
		config: c, keys: keys, closing: make(chan struct{}), wake: make(chan struct{}, 1),
		busy: make(map[storage.LogoutNotice]bool), telling: make(map[string]int),
	}
	b.alive, b.cut = context.WithCancel(context.Background())
	dialer := &net.Dialer{Timeout: backchannelTimeout, Control: fetch.Guard(c.BackchannelNetworks)}
	b.http = &http.Client{
		Timeout: backchannelTimeout,
		// An answer that leads elsewhere is no answer of the address that was registered.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: c.BackchannelRoots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    backchannelTimeout,
			ResponseHeaderTimeout:  backchannelTimeout,
			MaxResponseHeaderBytes: backchannelHeader,
			DisableKeepAlives:      true,
		},
	}
	return b
}

// CheckBackchannelLogoutURI returns an error when a back-channel logout URI could never be
// called: it is an absolute URL without user and fragment, and http only on a loopback host
// (Back-Channel Logout §2.2).
func CheckBackchannelLogoutURI(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || strings.Contains(raw, "#"):
		return errors.New("provider: a back-channel logout URI is an absolute URL without user and fragment")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return errors.New("provider: a back-channel logout URI must be https, or http on a loopback host")
	}
	return nil
}

// TellClients begins to tell clients of the sign-ins that were ended in the store by others
// than this Provider. It does not wait; Sweep does the same.
func (p *Provider) TellClients() { p.backchannel.look() }

// start begins to tell what is due, also what an earlier process left.
func (b *backchannel) start() { b.done.Go(b.run) }

// look says that there may be something new to tell. It does not wait.
func (b *backchannel) look() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *backchannel) run() {
	var timer <-chan time.Time
	var rings time.Time
	for {
		if next := b.dispatch(); !next.IsZero() && (timer == nil || next.Before(rings)) {
			timer, rings = b.config.After(next.Sub(b.config.Now())), next
		}
		select {
		case <-b.closing:
			// What came in the last moment gets its first try.
			b.dispatch()
			return
		case <-b.wake:
		case <-timer:
			timer = nil
		}
	}
}

// dispatch begins every try that is due and has a place, and returns when the next one will
// be; zero when none is known. The end of a try looks again.
func (b *backchannel) dispatch() (next time.Time) {
	clients, err := b.config.Store.LogoutNoticeClients(b.alive)
	if err != nil {
		return b.unread(err)
	}
	// Everybody is the first one at some time, and gets a place however many are slow.
	b.turn++
	for i := range clients {
		id := clients[(i+b.turn)%len(clients)]
		// One more than can be under way tells when the next is due.
		notices, err := b.config.Store.LogoutNotices(b.alive, id, backchannelPerClient+1)
		if err != nil {
			return b.unread(err)
		}
		for _, n := range notices {
			switch {
			case n.DueAt.After(b.config.Now()):
				if next.IsZero() || n.DueAt.Before(next) {
					next = n.DueAt
				}
			case b.place(n):
				b.done.Go(func() {
					b.tell(n)
					b.leave(n)
				})
			}
		}
	}
	return next
}

// unread says when to look again after the store has failed.
func (b *backchannel) unread(err error) time.Time {
	if b.alive.Err() != nil {
		return time.Time{}
	}
	b.config.Logger.Error("the logout notices were not read", "error", err)
	return b.config.Now().Add(backchannelLease)
}

func noticeOf(n *storage.LogoutNotice) storage.LogoutNotice {
	return storage.LogoutNotice{SessionID: n.SessionID, ClientID: n.ClientID}
}

// place takes a place for a try, unless there is none or the notice has one.
func (b *backchannel) place(n *storage.LogoutNotice) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy[noticeOf(n)] || len(b.busy) >= backchannelSlots || b.telling[n.ClientID] >= backchannelPerClient {
		return false
	}
	b.busy[noticeOf(n)] = true
	b.telling[n.ClientID]++
	return true
}

func (b *backchannel) leave(n *storage.LogoutNotice) {
	b.mu.Lock()
	delete(b.busy, noticeOf(n))
	if b.telling[n.ClientID]--; b.telling[n.ClientID] == 0 {
		delete(b.telling, n.ClientID)
	}
	b.mu.Unlock()
	b.look()
}

// tell makes one try and notes what became of it. What it notes is written although the
// provider is being closed.
func (b *backchannel) tell(n *storage.LogoutNotice) {
	ctx := context.WithoutCancel(b.alive)
	taken, err := b.take(ctx, n)
	switch {
	case errors.Is(err, storage.ErrConflict), errors.Is(err, storage.ErrNotFound):
		// Another process tells the client.
		return
	case err != nil:
		b.failed(ctx, n, err)
		// The notice is as due as before, and the end of a try looks at once: without a pause
		// a full disk would be tried as fast as it fails.
		select {
		case <-b.config.After(backchannelLease):
		case <-b.closing:
		}
		return
	}
	if err := b.try(ctx, taken); err != nil {
		b.failed(ctx, n, err)
	}
}

func (b *backchannel) failed(ctx context.Context, n *storage.LogoutNotice, err error) {
	b.config.Logger.ErrorContext(ctx, "a logout notice was not read or written", "client_id", n.ClientID, "error", err)
}

// take makes the notice this process's own for the time of a try.
func (b *backchannel) take(ctx context.Context, n *storage.LogoutNotice) (*storage.LogoutNotice, error) {
	taken := *n
	taken.DueAt = b.config.Now().Add(backchannelLease)
	taken.Tries++
	return &taken, b.config.Store.UpdateLogoutNotice(ctx, n.SessionID, n.ClientID, func(stored *storage.LogoutNotice) error {
		if !stored.DueAt.Equal(n.DueAt) || stored.Tries != n.Tries {
			return storage.ErrConflict
		}
		*stored = taken
		return nil
	})
}

// try tells the client and removes the notice, or says when the next try is due.
func (b *backchannel) try(ctx context.Context, n *storage.LogoutNotice) error {
	client, err := b.config.Store.Client(ctx, n.ClientID)
	switch {
	case errors.Is(err, storage.ErrNotFound) || err == nil && !client.ToldOfLogout():
		// It is not to be told any more.
		return b.config.Store.DeleteLogoutNotice(ctx, n.SessionID, n.ClientID)
	case err != nil:
		return err
	}
	failed := b.send(b.alive, fositestore.Client{Client: client}, n) //nolint:contextcheck // Closing cuts the try off, not the note of it.
	log := b.config.Logger.With("client_id", n.ClientID, "tries", n.Tries)
	switch {
	case failed == nil:
		log.DebugContext(ctx, "a client was told of a sign-out")
		return b.config.Store.DeleteLogoutNotice(ctx, n.SessionID, n.ClientID)
	case b.alive.Err() != nil:
		// Closing has cut it off: it was no fault of the client's.
		return b.later(ctx, n, func(stored *storage.LogoutNotice) { stored.DueAt, stored.Tries = b.config.Now(), n.Tries-1 })
	}
	if detail := b.hopeless(n, failed); detail != "" {
		log.WarnContext(ctx, "a client was not told of a sign-out, no more tries are made", "error", failed)
		b.config.Store.RecordEvent(ctx, storage.AuditEvent{
			At: b.config.Now(), Type: storage.EventLogoutGivenUp, ClientID: n.ClientID, Subject: n.Subject, SessionID: n.SessionID, Detail: detail,
		})
		return b.config.Store.DeleteLogoutNotice(ctx, n.SessionID, n.ClientID)
	}
	wait := backchannelWait(n.Tries)
	log.InfoContext(ctx, "a client was not told of a sign-out, it is tried again", "error", failed, "wait", wait)
	return b.later(ctx, n, func(stored *storage.LogoutNotice) { stored.DueAt = b.config.Now().Add(wait) })
}

// hopeless says why no further try is made; empty when one is.
func (b *backchannel) hopeless(n *storage.LogoutNotice, failed error) string {
	switch {
	case errors.Is(failed, errRejected), errors.Is(failed, fetch.ErrRefused), errors.Is(failed, errFailedThere) && n.Tries >= backchannelRefusals:
		return "refused"
	case !b.config.Now().Add(backchannelWait(n.Tries)).Before(n.EndedAt.Add(backchannelEnd)):
		return "unreachable"
	}
	return ""
}

// later changes the notice of a try, if it is still this process's own.
func (b *backchannel) later(ctx context.Context, n *storage.LogoutNotice, change func(*storage.LogoutNotice)) error {
	err := b.config.Store.UpdateLogoutNotice(ctx, n.SessionID, n.ClientID, func(stored *storage.LogoutNotice) error {
		if !stored.DueAt.Equal(n.DueAt) {
			return storage.ErrConflict
		}
		change(stored)
		return nil
	})
	if errors.Is(err, storage.ErrConflict) || errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// send makes one try, with a token of its own: the one before may have expired.
func (b *backchannel) send(ctx context.Context, client fositestore.Client, n *storage.LogoutNotice) error {
	if err := CheckBackchannelLogoutURI(client.BackchannelLogoutURI); err != nil {
		return errors.Join(err, errRejected)
	}
	ctx, cancel := context.WithTimeout(ctx, backchannelTimeout)
	defer cancel()
	token, err := b.logoutToken(ctx, client, n)
	if err != nil {
		return err
	}
	body := strings.NewReader(url.Values{"logout_token": {token}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, client.BackchannelLogoutURI, body)
	if err != nil {
		return errors.Join(err, errRejected)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := b.http.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		// It has the whole address in it, which may be a secret between the client and us.
		return failed.Err
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// Only the status counts; what is read is read to be polite to the client.
	_, _ = io.CopyN(io.Discard, answer.Body, backchannelBody)
	switch status := answer.StatusCode; {
	case status/100 == 2:
		return nil
	case status == http.StatusBadRequest:
		return errFailedThere
	case status >= http.StatusInternalServerError, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return fmt.Errorf("provider: the client answered %d", status)
	default:
		return fmt.Errorf("provider: the client answered %d: %w", status, errRejected)
	}
}

// logoutTokenClaims are those of Back-Channel Logout §2.4. A nonce must not be among them.
type logoutTokenClaims struct {
	Issuer    string              `json:"iss"`
	Subject   string              `json:"sub"`
	Audience  string              `json:"aud"`
	IssuedAt  int64               `json:"iat"`
	Expiry    int64               `json:"exp"`
	ID        string              `json:"jti"`
	Events    map[string]struct{} `json:"events"`
	SessionID string              `json:"sid"`
}

func (b *backchannel) logoutToken(ctx context.Context, client fositestore.Client, n *storage.LogoutNotice) (string, error) {
	subject, err := b.keys.subjectFor(client.Client, n.Subject)
	if err != nil {
		return "", err
	}
	now := b.config.Now()
	payload, err := json.Marshal(logoutTokenClaims{
		Issuer:    b.config.Issuer,
		Subject:   subject,
		Audience:  client.ID,
		IssuedAt:  now.Unix(),
		Expiry:    now.Add(logoutTokenLifetime).Unix(),
		ID:        rand.Text(),
		Events:    map[string]struct{}{logoutEvent: {}},
		SessionID: n.SessionID,
	})
	if err != nil {
		return "", fmt.Errorf("provider: encode logout token: %w", err)
	}
	return b.keys.sign(ctx, signingAlg(client), typLogout, payload)
}

// close lets the tries under way end, for backchannelPatience at most; what is left stands in
// the store for the next start.
func (b *backchannel) close() {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.closing)
	}
	b.mu.Unlock()
	patience := time.AfterFunc(backchannelPatience, b.cut)
	defer patience.Stop()
	b.done.Wait()
	b.cut()
}
