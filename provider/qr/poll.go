package qr

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/storage"
)

// The bounds of Prefer: wait=N in seconds (protocol §4).
const (
	minWait = 5
	maxWait = 25
)

// approvedKey marks a context whose poll Poll has found approved.
type approvedKey struct{}

// approvedPoll is what Poll has found.
type approvedPoll struct {
	id storage.QRID
	// jkt is the key that the poll has proved; its proof is used up.
	jkt string
}

// ProofKey returns the thumbprint of the DPoP key that the request of a context returned by Poll
// has proved; empty for none. Poll has used the proof up: who verified it again would find it
// replayed.
func ProofKey(ctx context.Context) string {
	poll, _ := ctx.Value(approvedKey{}).(approvedPoll)
	return poll.jkt
}

// Poll answers a poll at the token endpoint without fosite: it costs one read. The client has
// been authenticated and form holds the request. When ready is false the answer is written.
// When it is true the session is approved and the caller goes on with fosite's access request
// under the returned context, where the grant handler redeems.
func (s *Server) Poll(w http.ResponseWriter, r *http.Request, client fosite.Client, form url.Values) (ctx context.Context, ready bool) {
	s.offerNonce(w, r)
	q, jkt, fault := s.poll(r.Context(), r, client, form)
	switch {
	case r.Context().Err() != nil:
		// Tokens would be lost on a connection that is gone. If it is not, and somebody else
		// ended the context, the PC must not read an empty 200.
		tokenError(http.StatusServiceUnavailable, "temporarily_unavailable", "The request was given up. Try again.").write(w)
		return r.Context(), false
	case fault != nil:
		s.refuse(r.Context(), w, fault)
		return r.Context(), false
	}
	return context.WithValue(r.Context(), approvedKey{}, approvedPoll{q.ID, jkt}), true
}

// WriteTokenError writes an error of the token endpoint for one of the two grants.
func (s *Server) WriteTokenError(w http.ResponseWriter, r *http.Request, err error) {
	s.refuse(r.Context(), w, asTokenError(err))
}

// poll returns the approved session and the key that the request has proved, or the error to
// answer with.
func (s *Server) poll(ctx context.Context, r *http.Request, client fosite.Client, form url.Values) (*storage.QRSession, string, *TokenError) {
	q, fault := s.polled(ctx, r, client, form)
	if fault != nil {
		return nil, "", fault
	}
	// Once: a poll that is held has proved its key when it came.
	jkt, fault := s.prove(r, r.Header.Values(dpop.Header))
	if fault != nil {
		return nil, "", fault
	}
	proof := storage.QRProof{Verifier: form.Get("code_verifier"), JKT: jkt}
	outcome, fault := s.outcome(ctx, q, proof)
	if fault == nil && (outcome == storage.QRPollReady || outcome == storage.QRPollPending) {
		_, fault = narrowed(q, form)
	}
	if fault != nil || outcome != storage.QRPollPending {
		q, fault = s.settle(ctx, q, outcome, fault)
	} else {
		q, fault = s.wait(ctx, r, q, proof, form)
	}
	return q, jkt, fault
}

// polled finds the session that an authenticated client polls.
func (s *Server) polled(ctx context.Context, r *http.Request, client fosite.Client, form url.Values) (*storage.QRSession, *TokenError) {
	if _, ok := grantOf(client); !ok {
		return nil, tokenError(http.StatusBadRequest, "unauthorized_client", "The client may not use this grant.")
	}
	if fault := s.unsupported(r, form); fault != nil {
		return nil, fault
	}
	if form.Get("device_code") == "" {
		return nil, invalidRequest("The device_code is missing.")
	}
	q, fault := s.sessionOf(ctx, client, form.Get("device_code"))
	if fault == nil && grantTypeOf(q.Grant) != form.Get("grant_type") {
		fault = invalidGrant()
	}
	return q, fault
}

// outcome evaluates the poll but for its timing. It writes only when the poll changed the
// record, which is when the binding failed.
func (s *Server) outcome(ctx context.Context, q *storage.QRSession, proof storage.QRProof) (storage.QRPollOutcome, *TokenError) {
	version := q.Version
	outcome := q.Poll(s.config.Now(), proof, false)
	if q.Version == version {
		return outcome, nil
	}
	return s.persist(ctx, q, func(stored *storage.QRSession) storage.QRPollOutcome {
		return stored.Poll(s.config.Now(), proof, false)
	})
}

// persist applies a step of the poll to the stored record and takes its outcome.
func (s *Server) persist(ctx context.Context, q *storage.QRSession, step func(*storage.QRSession) storage.QRPollOutcome) (storage.QRPollOutcome, *TokenError) {
	var outcome storage.QRPollOutcome
	err := s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
		outcome = step(stored)
		*q = *stored.Clone()
		return nil
	})
	q.TakeEvents()
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return 0, invalidGrant()
	case err != nil:
		return 0, serverError(err)
	}
	return outcome, nil
}

// wait answers a pending poll: at once, or when it may be held and asks for it, later.
func (s *Server) wait(ctx context.Context, r *http.Request, q *storage.QRSession, proof storage.QRProof, form url.Values) (*storage.QRSession, *TokenError) {
	hold := s.holdTime(r, q, form)
	switch s.paces.judge(q, s.config.Now(), hold > 0) {
	case repeatPending:
		return nil, s.pending(q, "authorization_pending")
	case repeatSlowed:
		return nil, s.pending(q, "slow_down")
	case tooEarly:
		outcome, fault := s.persist(ctx, q, func(stored *storage.QRSession) storage.QRPollOutcome {
			return stored.Poll(s.config.Now(), proof, true)
		})
		return s.settle(ctx, q, outcome, fault)
	case onTime:
	}
	switch {
	case hold == 0:
		return nil, s.pending(q, "authorization_pending")
	case form.Get("qr_seq") == "" && s.paces.untold(q):
		// The change of state it would wait for came before it did.
		answer := s.pending(q, "authorization_pending")
		s.applied(q, answer, hold)
		return nil, answer
	}
	return s.holdPoll(ctx, q, proof, hold)
}

// applied says in the answer that the poll was held as it asked; the next one is not early.
func (s *Server) applied(q *storage.QRSession, answer *TokenError, hold time.Duration) {
	answer.Held, answer.wait = true, int(hold/time.Second)
	s.paces.answered(q, s.config.Now(), true)
}

// holdTime is how long the poll asks to be held and may be; zero answers it at once. A poll
// that is behind the record learns what it missed first.
func (s *Server) holdTime(r *http.Request, q *storage.QRSession, form url.Values) time.Duration {
	if q.Grant != storage.QRGrantCode {
		return 0
	}
	if seen := form.Get("qr_seq"); seen != "" && seen != strconv.FormatUint(q.Version, 10) {
		return 0
	}
	return time.Duration(preferredWait(r.Header.Values("Prefer"))) * time.Second
}

// preferredWait reads wait=N from the Prefer header (RFC 7240 §4.3): less than 5 is no
// preference, more than 25 is 25. The first wait counts, as the RFC says.
func preferredWait(headers []string) int {
	for _, header := range headers {
		for preference := range strings.SplitSeq(header, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, value, ok := strings.Cut(strings.TrimSpace(preference), "=")
			if !ok || !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if err != nil && !errors.Is(err, strconv.ErrRange) || n < minWait {
				return 0
			}
			return min(n, maxWait)
		}
	}
	return 0
}

// holdPoll holds the poll until the session's state changes, a new frame is due, or the time
// is over. Wake-ups are hints: the record is read again and decides.
func (s *Server) holdPoll(ctx context.Context, q *storage.QRSession, proof storage.QRProof, hold time.Duration) (*storage.QRSession, *TokenError) {
	holding := s.paces.hold(q)
	if holding == nil {
		return nil, s.pending(q, "authorization_pending")
	}
	held, fault := s.holdWhile(ctx, q, holding, hold)
	if fault != nil {
		return nil, fault
	}
	outcome, fault := s.outcome(ctx, q, proof)
	if fault != nil || outcome != storage.QRPollPending {
		return s.settle(ctx, q, outcome, fault)
	}
	answer := s.pending(q, "authorization_pending")
	if held {
		s.applied(q, answer, hold)
	}
	return nil, answer
}

// holdWhile holds a poll as long as the session keeps its state, and reads it again. It reports
// whether the poll is still the one that is held.
func (s *Server) holdWhile(ctx context.Context, q *storage.QRSession, holding chan struct{}, hold time.Duration) (bool, *TokenError) {
	hint, stop := s.config.Store.WatchQRSession(q.ID)
	defer stop()
	state := q.State
	over := s.config.After(s.holdUntil(q, hold))
	for open := true; open; {
		stored, err := s.config.Store.QRSession(ctx, q.ID)
		if err != nil {
			s.paces.let(q, holding)
			return false, serverError(err)
		}
		if *q = *stored; q.StateAt(s.config.Now()) != state {
			break
		}
		select {
		case <-hint:
		case <-over:
			open = false
		case <-holding:
			open = false
		case <-s.paces.drain:
			open = false
		case <-ctx.Done():
			s.paces.let(q, holding)
			return false, serverError(ctx.Err())
		}
	}
	return s.paces.let(q, holding), nil
}

// holdUntil is the longest a poll may be held: its wish, the next frame, or the deadline.
func (s *Server) holdUntil(q *storage.QRSession, hold time.Duration) time.Duration {
	now := s.config.Now()
	if q.State == storage.QRPending {
		hold = min(hold, rotateIn(q, now))
	}
	return min(hold, deadline(q).Sub(now))
}

// deadline is when a live session expires in the state it is in.
func deadline(q *storage.QRSession) time.Time {
	switch q.State {
	case storage.QRScanned:
		return q.DecisionDeadline()
	case storage.QRApproved:
		return q.RedeemDeadline()
	case storage.QRPending, storage.QRRedeemed, storage.QRDenied, storage.QRCancelled, storage.QRAborted, storage.QRExpired:
	}
	return q.ClaimDeadline()
}

// settle turns an outcome into the approved session or the error to answer with.
func (s *Server) settle(ctx context.Context, q *storage.QRSession, outcome storage.QRPollOutcome, fault *TokenError) (*storage.QRSession, *TokenError) {
	if fault != nil {
		return nil, fault
	}
	switch outcome {
	case storage.QRPollReady:
		return s.stillActive(ctx, q)
	case storage.QRPollPending:
		return nil, s.pending(q, "authorization_pending")
	case storage.QRPollSlowDown:
		return nil, s.pending(q, "slow_down")
	case storage.QRPollDenied:
		s.ended(q)
		return nil, tokenError(http.StatusBadRequest, "access_denied", "The sign-in was denied.")
	case storage.QRPollExpired:
		s.ended(q)
		return nil, tokenError(http.StatusBadRequest, "expired_token", "The code has expired. Start again.")
	case storage.QRPollReplayed:
		return nil, s.replayed(ctx, q)
	case storage.QRPollUnproved:
		if q.State == storage.QRAborted {
			s.ended(q)
		}
	case storage.QRPollUsed:
	}
	return nil, invalidGrant()
}

// replayed ends the family that the session's redemption made: somebody else holds its code.
// It does so although the caller may hang up, and once: the record remembers.
func (s *Server) replayed(ctx context.Context, q *storage.QRSession) *TokenError {
	ctx = context.WithoutCancel(ctx)
	if err := s.revoke(ctx, q.Redemption); err != nil {
		return serverError(err)
	}
	err := s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
		stored.Revoked(s.config.Now())
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return serverError(err)
	}
	return invalidGrant()
}

func (s *Server) revoke(ctx context.Context, r *storage.QRRedeeming) error {
	switch {
	case s.config.Revoke != nil:
		return s.config.Revoke(ctx, r.RequestID, r.SessionID)
	case s.family == nil:
		return errors.New("qr: nothing to revoke a family with: neither Config.Revoke nor Factory was used")
	}
	return errors.Join(s.family.RevokeAccessToken(ctx, r.RequestID), s.family.RevokeRefreshToken(ctx, r.RequestID))
}

// stillActive lets only a living approval be redeemed: the person, both clients and the
// phone's sign-in must still be there (protocol §3).
func (s *Server) stillActive(ctx context.Context, q *storage.QRSession) (*storage.QRSession, *TokenError) {
	if s.config.Active == nil {
		return q, nil
	}
	err := s.config.Active(ctx, q)
	switch {
	case err == nil:
		return q, nil
	case !errors.Is(err, storage.ErrNotFound):
		return nil, serverError(err)
	}
	err = s.config.Store.UpdateQRSession(ctx, q.ID, func(stored *storage.QRSession) error {
		return stored.Abort(s.config.Now(), "inactive")
	})
	var ended *storage.TransitionError
	if err != nil && !errors.As(err, &ended) {
		return nil, serverError(err)
	}
	s.ended(q)
	return nil, tokenError(http.StatusBadRequest, "access_denied", "The sign-in was denied.")
}

// pending is the answer to a poll that has to come again. The QR grant's has extra members;
// the device grant's is that of RFC 8628 and no more.
func (s *Server) pending(q *storage.QRSession, code string) *TokenError {
	now := s.config.Now()
	s.paces.answered(q, now, false)
	sentence := "The person has not decided yet."
	if code == "slow_down" {
		sentence = "The polls come too fast. Wait five seconds longer from now on."
	}
	e := tokenError(http.StatusBadRequest, code, sentence)
	if q.Grant != storage.QRGrantCode {
		return e
	}
	e.Waiting = &Waiting{Status: q.State.String(), Seq: q.Version}
	if q.State == storage.QRPending {
		frame, err := s.frame(q, now)
		if err != nil {
			return serverError(err)
		}
		e.Waiting.Frame = frame
		return e
	}
	k, err := s.key(q)
	if err != nil {
		return serverError(err)
	}
	if q.CheckCode {
		e.Waiting.CheckCode = k.checkCode(q)
	}
	return e
}

func grantTypeOf(grant storage.QRGrant) string {
	if grant == storage.QRGrantDevice {
		return DeviceGrantType
	}
	return GrantType
}
