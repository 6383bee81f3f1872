package qr

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// ErrLimited is returned by OpenHosted over an opening limit: the page then does without a QR
// code.
var ErrLimited = errors.New("qr: too many openings")

// HostedRequest is what the sign-in page opens a session with (protocol §5).
type HostedRequest struct {
	// Client is the asking client, whose policy decides about the scopes and the lifetime.
	Client fosite.Client
	Scopes []string
	// Audience is what the code's tokens will be for (RFC 8707), which the person is told of; empty
	// for none.
	Audience []string
	// Browser tells this browser from others, signed in or not; limits count under its hash.
	Browser string
	// Request is SHA-256 of the authorization request that waits.
	Request [32]byte
	// RequestedAt is when that request came; zero is now. A renewed code keeps it.
	RequestedAt time.Time
	// MaxAge asks for a phone sign-in at most this old in seconds, or made since RequestedAt;
	// nil asks nothing.
	MaxAge *int64
	// Hinted sessions can only be claimed by HintSubject.
	Hinted      bool
	HintSubject string
	// RelyingParty and Origin are the client's name and the origin of its redirect.
	RelyingParty string
	Origin       string
}

// Flow names a hosted session to the one browser it was opened for. ID may stand in a URL; it
// is worth nothing without Secret, which stands in a cookie and nowhere else.
type Flow struct {
	ID     string
	Secret string
}

// LogValue keeps the secret out of logs.
func (f Flow) LogValue() slog.Value { return slog.StringValue(f.ID) }

// String returns the ID and never the secret.
func (f Flow) String() string { return f.ID }

// Screen is what the browser may show of its session now.
type Screen struct {
	// Status is the state in lower case; an aborted session reads denied.
	Status string
	// Seq is the record's version.
	Seq uint64
	// Payload is the current frame and RotateIn the time until the next; both only while pending.
	Payload  string
	RotateIn time.Duration
	// UserCode is there while pending, CheckCode once scanned.
	UserCode  string
	CheckCode string
	// Subject is the person who approved; empty before the approval.
	Subject string
	// ExpiresIn is how long the present state can last; zero at an end.
	ExpiresIn time.Duration
	// Request and RequestedAt are those of the opening.
	Request     [32]byte
	RequestedAt time.Time
	// Ended says that nothing will change any more.
	Ended bool

	browser string
}

// OpenedIn reports whether browser is the HostedRequest.Browser of the opening.
func (s *Screen) OpenedIn(browser string) bool {
	return subtle.ConstantTimeCompare([]byte(s.browser), []byte(browserHash(browser))) == 1
}

// browserHash is what is kept of a HostedRequest.Browser.
func browserHash(browser string) string {
	sum := sha256.Sum256([]byte(browser))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// OpenHosted opens a session for the browser that sent r. Its error is ErrLimited when a limit
// is reached.
func (s *Server) OpenHosted(r *http.Request, req HostedRequest) (Flow, error) {
	ctx, now := r.Context(), s.config.Now().UTC().Truncate(time.Millisecond)
	policy := s.config.Policy(ctx, req.Client)
	lifetime := policy.Lifetime
	if lifetime == 0 {
		lifetime = storage.QRLifetime
	}
	if !policy.Enabled || lifetime < storage.MinLifetime || lifetime > maxLifetime {
		return Flow{}, fmt.Errorf("qr: client %q has no QR sign-in or a lifetime out of bounds", req.Client.GetID())
	}
	address := s.config.ClientAddress(r)
	q := &storage.QRSession{
		Grant: storage.QRGrantCode, State: storage.QRPending, ClientID: req.Client.GetID(),
		OpenedAt: now, Lifetime: lifetime, Interval: storage.PollInterval, CheckCode: true,
		Scopes: grantable(req.Scopes, req.Client.GetScopes(), policy), Audience: slices.Clone(req.Audience), MaxAge: req.MaxAge,
		Hinted: req.Hinted, HintSubject: req.HintSubject, Device: describeUserAgent(r.UserAgent()),
		Door: storage.QRDoorHosted,
		Hosted: &storage.QRHosted{
			Browser: browserHash(req.Browser), Request: req.Request, RequestedAt: req.RequestedAt,
			RelyingParty: req.RelyingParty, Origin: req.Origin,
		},
	}
	if q.Hosted.RequestedAt.IsZero() {
		q.Hosted.RequestedAt = now
	}
	if address.IsValid() {
		q.Address = address.String()
	}
	_, code, err := s.create(ctx, q, prefix(address), now)
	var limit *TokenError
	switch {
	case errors.As(err, &limit):
		s.limited(ctx, Approver{}, "open", prefix(address).String())
		return Flow{}, ErrLimited
	case errors.Is(err, storage.ErrFull):
		return Flow{}, ErrLimited
	case err != nil:
		return Flow{}, fmt.Errorf("qr: open hosted session: %w", err)
	}
	return Flow{ID: q.ID.String(), Secret: base64.RawURLEncoding.EncodeToString(code.raw[:])}, nil
}

// Screen returns what the browser may show. The error wraps storage.ErrNotFound when there is
// no such session or the secret is not its cookie's; nobody can tell the two apart.
func (s *Server) Screen(ctx context.Context, f Flow) (*Screen, error) {
	q, _, err := s.flow(ctx, f)
	if err != nil {
		return nil, err
	}
	return s.screen(q)
}

// WaitScreen is Screen for a page that waits: with Prefer: wait=N it is held until the state
// changes, a new frame is due or N seconds are over. seen is the Seq the page knows; a page that
// is behind is answered at once. held is the wait that was honoured, zero when none was.
func (s *Server) WaitScreen(ctx context.Context, f Flow, prefer []string, seen string) (screen *Screen, held time.Duration, err error) {
	q, _, err := s.flow(ctx, f)
	if err != nil {
		return nil, 0, err
	}
	hold := time.Duration(preferredWait(prefer)) * time.Second
	now := s.config.Now()
	if !q.Live(now) || seen != "" && seen != strconv.FormatUint(q.Version, 10) {
		hold = 0
	}
	if hold > 0 && s.paces.judge(q, now, true) == onTime {
		if holding := s.paces.hold(q); holding != nil {
			ok, fault := s.holdWhile(ctx, q, holding, hold)
			if fault != nil {
				return nil, 0, fault
			}
			if ok {
				held = hold
			}
			s.paces.answered(q, s.config.Now(), ok)
		}
	}
	screen, err = s.screen(q)
	return screen, held, err
}

// RedeemHosted takes the approval for the browser, once. store runs in the same transaction and
// stores the sign-in; its error undoes both. An error of the session's state is a *TokenError.
func (s *Server) RedeemHosted(ctx context.Context, f Flow, store func(ctx context.Context, r Redemption) error) (Redemption, error) {
	q, proof, err := s.flow(ctx, f)
	if err != nil {
		return Redemption{}, err
	}
	outcome, fault := s.outcome(ctx, q, proof)
	if _, fault = s.settle(ctx, q, outcome, fault); fault != nil {
		return Redemption{}, fault
	}
	result := redemption(q, "", s.config.Now())
	err = s.inUnit(ctx, func(ctx context.Context) error {
		var outcome storage.QRPollOutcome
		err := s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
			outcome = stored.Redeem(s.config.Now(), proof, storage.QRRedeeming{SessionID: result.SessionID})
			return nil
		})
		if err != nil {
			return err
		}
		if outcome != storage.QRPollReady {
			return redeemRefused(outcome)
		}
		return store(ctx, result)
	})
	if errors.Is(err, storage.ErrConflict) {
		return Redemption{}, invalidGrant()
	}
	if err != nil {
		return Redemption{}, err
	}
	s.ended(q)
	return result, nil
}

// CancelHosted ends the session because the browser wants another one, or none.
func (s *Server) CancelHosted(ctx context.Context, f Flow) error {
	_, err := s.giveUp(ctx, f, func(q *storage.QRSession, now time.Time) error {
		q.Cancel(now)
		return nil
	})
	return err
}

// RefuseHosted ends the session because the person at the browser is not the one who approved
// (threat T13). What was redeemed already is revoked.
func (s *Server) RefuseHosted(ctx context.Context, f Flow) error {
	q, err := s.giveUp(ctx, f, func(q *storage.QRSession, now time.Time) error {
		if !q.Live(now) {
			return nil
		}
		return q.Abort(now, "not_me")
	})
	if err != nil || q.State != storage.QRRedeemed {
		return err
	}
	return s.revoke(context.WithoutCancel(ctx), q.Redemption)
}

func (s *Server) giveUp(ctx context.Context, f Flow, step func(*storage.QRSession, time.Time) error) (*storage.QRSession, error) {
	q, _, err := s.flow(ctx, f)
	if err != nil {
		return nil, err
	}
	err = s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
		err := step(stored, s.config.Now())
		q = stored.Clone()
		return err
	})
	if err != nil {
		return nil, err
	}
	s.ended(q)
	return q, nil
}

// flow finds the session of a flow and the proof that redeems it.
func (s *Server) flow(ctx context.Context, f Flow) (*storage.QRSession, storage.QRProof, error) {
	unknown := fmt.Errorf("qr: no such flow for this browser: %w", storage.ErrNotFound)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(f.Secret)
	if err != nil || len(raw) != secretLength {
		return nil, storage.QRProof{}, unknown
	}
	id, err := storage.ParseQRID(f.ID)
	if err != nil {
		return nil, storage.QRProof{}, unknown
	}
	q, err := s.config.Store.QRSession(ctx, id)
	if err != nil {
		return nil, storage.QRProof{}, fmt.Errorf("qr: flow: %w", err)
	}
	hash := sha256.Sum256(raw)
	if !q.OpenedBy(&hash) {
		return nil, storage.QRProof{}, unknown
	}
	return q, storage.QRProof{CookieHash: &hash}, nil
}

func (s *Server) screen(q *storage.QRSession) (*Screen, error) {
	now := s.config.Now()
	state := q.StateAt(now)
	view := &Screen{
		Status: state.String(), Seq: q.Version, Request: q.Hosted.Request, RequestedAt: q.Hosted.RequestedAt, Ended: !q.Live(now), browser: q.Hosted.Browser,
	}
	k, err := s.key(q)
	if err != nil {
		return nil, err
	}
	switch state {
	case storage.QRPending:
		code, err := k.openUserCode(q)
		if err != nil {
			return nil, err
		}
		view.UserCode, view.RotateIn = showUserCode(code), rotateIn(q, now)
		if view.Payload, err = k.payload(s.config.Issuer, q, now); err != nil {
			return nil, err
		}
	case storage.QRScanned:
		view.CheckCode = k.checkCode(q)
	case storage.QRApproved:
		view.Subject = q.Claim.Subject
	case storage.QRAborted:
		view.Status = storage.QRDenied.String()
	case storage.QRRedeemed, storage.QRDenied, storage.QRCancelled, storage.QRExpired:
	}
	if view.Ended {
		s.ended(q)
		return view, nil
	}
	view.ExpiresIn = deadline(q).Sub(now)
	return view, nil
}
