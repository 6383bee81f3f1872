package qr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// Server is the QR grant: the endpoints of the consumption device and of the phone, and the
// token-endpoint handler of both grant types. It keeps no truth of its own: what it holds in
// memory are counters, polling clocks, and polls and streams that wait.
type Server struct {
	config Config
	// origin is that of the issuer.
	origin string
	keys   keySet

	paces   *paces
	streams *streams
	sockets *sockets
	claims  *claims

	opens *window[netip.Prefix]
	open  *openSessions[netip.Prefix]
	// browserOpens and browserOpen count the hosted door's openings per browser.
	browserOpens *window[string]
	browserOpen  *openSessions[string]
	scans        *window[string]
	personTries  *window[string]
	prefixTries  *window[netip.Prefix]
	holds        *window[netip.Prefix]
	reports      *reports
	// noted keeps a refused caller from writing an audit row for every refusal.
	noted *window[string]
	// family is the revocation of fosite's storage, when Config.Revoke is nil.
	family revoker
}

// New returns a Server for a complete Config; otherwise the error names every fault.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.defaults()
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("qr: Config.Issuer: %w", err)
	}
	held := newPlaces(c.Limits)
	s := &Server{
		config:       c,
		origin:       issuer.Scheme + "://" + issuer.Host,
		keys:         keySet{source: c.KeySource, derived: make(map[string]*serverKey)},
		paces:        newPaces(held),
		streams:      newStreams(held),
		sockets:      &sockets{},
		claims:       newClaims(),
		opens:        newWindow[netip.Prefix](c.Limits.OpensPerMinute, openWindow),
		open:         newOpenSessions[netip.Prefix](c.Limits.OpenSessions),
		browserOpens: newWindow[string](c.Limits.BrowserOpensPerMinute, openWindow),
		browserOpen:  newOpenSessions[string](c.Limits.BrowserOpenSessions),
		scans:        newWindow[string](c.Limits.Scans, tryWindow),
		personTries:  newWindow[string](c.Limits.UserCodeTries, tryWindow),
		prefixTries:  newWindow[netip.Prefix](c.Limits.UserCodeTriesPerPrefix, tryWindow),
		holds:        newWindow[netip.Prefix](c.Limits.UserCodeTriesPerPrefix, tryWindow),
		reports:      newReports(c.Limits.CoolDown),
		noted:        newWindow[string](1, tryWindow),
	}
	if _, err := s.keys.making(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends every held poll with its current state and every stream with a reconnect message,
// and holds none from then on, so that a server can drain. It waits for the WebSockets, which
// http.Server.Shutdown does not know of: seconds at most. The Server still answers.
func (s *Server) Close() error {
	s.paces.close()
	s.sockets.close()
	return nil
}

// Configuration answers GET /.well-known/qr-configuration (protocol §4).
func (s *Server) Configuration(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		methodNotAllowed(w, "GET, HEAD")
		return
	}
	// As public as the other metadata: an app of script reads it from any origin.
	w.Header().Set("Access-Control-Allow-Origin", "*")
	reply.JSON(w, http.StatusOK, reply.MediaJSON, struct {
		Issuer        string `json:"issuer"`
		Scan          string `json:"scan_endpoint"`
		Decision      string `json:"decision_endpoint"`
		Cancel        string `json:"cancel_endpoint"`
		Sessions      string `json:"sessions_endpoint,omitempty"`
		Events        string `json:"events_endpoint"`
		WebSocket     string `json:"websocket_endpoint"`
		PayloadPrefix string `json:"payload_prefix"`
		FrameSeconds  int    `json:"frame_seconds"`
	}{
		s.config.Issuer, s.config.Issuer + "/qr/scan", s.config.Issuer + "/qr/decision",
		s.config.Issuer + "/qr/cancel", s.config.SessionsEndpoint, s.config.Issuer + "/qr/events", "ws" + strings.TrimPrefix(s.config.Issuer, "http") + "/qr/ws",
		payloadPrefix(s.config.Issuer), int(FrameLifetime.Seconds()),
	})
}

// key returns the server key of the session; a session whose key is gone cannot go on.
func (s *Server) key(q *storage.QRSession) (*serverKey, error) { return s.keys.named(q.KeyID) }

// byUserCode finds the session of a normalized user code under any of the keys.
func (s *Server) byUserCode(ctx context.Context, code string) (*storage.QRSession, error) {
	keys, err := s.keys.all("")
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		q, err := s.config.Store.QRSessionByUserCode(ctx, k.userCodeHash(code))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		return q, err
	}
	return nil, storage.ErrNotFound
}

// ended frees what the session held in memory.
func (s *Server) ended(q *storage.QRSession) {
	s.claims.drop(q)
	s.freed(q)
}

// freed is ended for a redemption whose transaction still runs: until its commit the end of the
// phone's sign-in must find the claim, and wait for what becomes of it (SignInEnded).
func (s *Server) freed(q *storage.QRSession) {
	s.paces.forget(q.ID)
	if address, err := netip.ParseAddr(q.Address); err == nil {
		s.release(q, prefix(address))
	} else {
		s.release(q, netip.Prefix{})
	}
}

// release frees the places that the session takes under the opening limits.
func (s *Server) release(q *storage.QRSession, from netip.Prefix) {
	s.open.release(from, q.ID)
	if q.Hosted != nil {
		s.browserOpen.release(q.Hosted.Browser, q.ID)
	}
}

// limited adds an audit row for a refusal by a limit: one for each caller and limit in ten
// minutes, because refusing must cost the refused more than us.
func (s *Server) limited(ctx context.Context, a Approver, limit, caller string) {
	if s.noted.take(limit+"|"+caller, s.config.Now()) == 0 {
		s.record(ctx, storage.EventQRRateLimited, nil, a, limit)
	}
}

// record adds an audit row for something that is no move of a session.
func (s *Server) record(ctx context.Context, event string, q *storage.QRSession, a Approver, detail string) {
	e := storage.AuditEvent{
		At: s.config.Now(), Type: event, Subject: a.Subject, ApproverID: a.ClientID,
		SessionID: a.SessionID, Detail: detail,
	}
	if q != nil {
		e.QRSession, e.ClientID = q.ID.Hash(), q.ClientID
	}
	s.config.Record(ctx, e)
}
