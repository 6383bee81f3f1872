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
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// backchannelQueue is how many logout tokens may wait; more are logged and dropped.
	backchannelQueue = 1024
	// backchannelSlots is how many are being sent at once.
	backchannelSlots = 16
	// backchannelTimeout bounds one try; backchannelBody and backchannelHeader the answer.
	backchannelTimeout = 5 * time.Second
	backchannelBody    = 4 << 10
	backchannelHeader  = 16 << 10
	// logoutTokenLifetime is what Back-Channel Logout §2.4 recommends at most.
	logoutTokenLifetime = 2 * time.Minute
	logoutEvent         = "http://schemas.openid.net/event/backchannel-logout"
)

// backchannelWaits are the pauses between the tries.
func backchannelWaits() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
}

// backchannel tells clients that a sign-in has ended (OpenID Connect Back-Channel Logout 1.0),
// beside the requests that end it. What waits for a further try is lost when the process ends:
// the sign-in itself has ended on disk, and every token of it with it.
type backchannel struct {
	config *Config
	keys   *keyRing
	http   *http.Client

	room, slots chan struct{}
	mu          sync.Mutex
	closed      bool
	closing     chan struct{}
	done        sync.WaitGroup
}

// ending is what one client is told.
type ending struct {
	client       fositestore.Client
	subject, sid string
}

// errRejected: trying again would not help.
var errRejected = errors.New("provider: the client did not take the logout token")

func newBackchannel(c *Config, keys *keyRing) *backchannel {
	b := &backchannel{
		config: c, keys: keys, closing: make(chan struct{}),
		room: make(chan struct{}, backchannelQueue), slots: make(chan struct{}, backchannelSlots),
	}
	dialer := &net.Dialer{Timeout: backchannelTimeout, Control: b.checkAddress}
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

// checkAddress runs after the name was resolved and before the connection is made, so that no
// name can lead into a network that the operator did not open.
func (b *backchannel) checkAddress(_, address string, _ syscall.RawConn) error {
	peer, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("provider: address: %w", err)
	}
	ip := peer.Addr().Unmap().WithZone("")
	for _, network := range b.config.BackchannelNetworks {
		if network.Contains(ip) {
			return nil
		}
	}
	if !publicAddress(ip) {
		return fmt.Errorf("provider: an address of a private network: %w", errRejected)
	}
	return nil
}

// publicAddress reports whether an address belongs to the internet at large (RFC 6890).
func publicAddress(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, special := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		if netip.MustParsePrefix(special).Contains(ip) {
			return false
		}
	}
	return true
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

// announce tells every client that took part in the sign-in. It does not wait.
func (b *backchannel) announce(ctx context.Context, s *storage.Session) {
	ids, err := b.config.Store.SessionClients(ctx, s.ID)
	if err != nil {
		b.config.Logger.ErrorContext(ctx, "logout tokens were not sent", "error", err)
		return
	}
	for _, id := range ids {
		c, err := b.config.Store.Client(ctx, id)
		switch {
		case errors.Is(err, storage.ErrNotFound):
		case err != nil:
			b.config.Logger.ErrorContext(ctx, "a logout token was not sent", "client_id", id, "error", err)
		case !c.Disabled && c.BackchannelLogoutURI != "":
			b.enqueue(context.WithoutCancel(ctx), ending{client: fositestore.Client{Client: c}, subject: s.Subject, sid: s.ID})
		}
	}
}

func (b *backchannel) enqueue(ctx context.Context, e ending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	select {
	case b.room <- struct{}{}:
		b.done.Go(func() {
			defer func() { <-b.room }()
			if err := b.deliver(ctx, e); err != nil {
				b.config.Logger.WarnContext(ctx, "a logout token was not delivered", "client_id", e.client.ID, "error", err)
			}
		})
	default:
		b.config.Logger.WarnContext(ctx, "a logout token was dropped, too many wait", "client_id", e.client.ID)
	}
}

// deliver tries until the client takes the token, refuses it, or the waits are used up.
func (b *backchannel) deliver(ctx context.Context, e ending) error {
	var err error
	for _, wait := range append(backchannelWaits(), 0) {
		select {
		case b.slots <- struct{}{}:
		case <-b.closing:
			return errors.Join(err, http.ErrServerClosed)
		}
		err = b.send(ctx, e)
		<-b.slots
		if err == nil || errors.Is(err, errRejected) || wait == 0 {
			return err
		}
		select {
		case <-b.config.After(wait):
		case <-b.closing:
			return errors.Join(err, http.ErrServerClosed)
		}
	}
	return err
}

// send makes one try, with a token of its own: the one before may have expired.
func (b *backchannel) send(ctx context.Context, e ending) error {
	if err := CheckBackchannelLogoutURI(e.client.BackchannelLogoutURI); err != nil {
		return errors.Join(err, errRejected)
	}
	ctx, cancel := context.WithTimeout(ctx, backchannelTimeout)
	defer cancel()
	token, err := b.logoutToken(ctx, e)
	if err != nil {
		return err
	}
	body := strings.NewReader(url.Values{"logout_token": {token}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.client.BackchannelLogoutURI, body)
	if err != nil {
		return errors.Join(err, errRejected)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// Only the status counts; what is read is read to be polite to the client.
	_, _ = io.CopyN(io.Discard, answer.Body, backchannelBody)
	switch status := answer.StatusCode; {
	case status == http.StatusOK, status == http.StatusNoContent:
		return nil
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

func (b *backchannel) logoutToken(ctx context.Context, e ending) (string, error) {
	now := b.config.Now()
	payload, err := json.Marshal(logoutTokenClaims{
		Issuer:    b.config.Issuer,
		Subject:   e.subject,
		Audience:  e.client.ID,
		IssuedAt:  now.Unix(),
		Expiry:    now.Add(logoutTokenLifetime).Unix(),
		ID:        rand.Text(),
		Events:    map[string]struct{}{logoutEvent: {}},
		SessionID: e.sid,
	})
	if err != nil {
		return "", fmt.Errorf("provider: encode logout token: %w", err)
	}
	return b.keys.sign(ctx, signingAlg(e.client), typLogout, payload)
}

// close lets the tries under way end and gives up the further ones.
func (b *backchannel) close() {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.closing)
	}
	b.mu.Unlock()
	b.done.Wait()
}
