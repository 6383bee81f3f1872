package qr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	openWindow = time.Minute
	// codeAttempts bounds the retries when a user code is taken: with a million live
	// sessions of 20^8 codes one try in 25,000 collides.
	codeAttempts = 8

	maxText  = 64
	maxNonce = 512
	maxHint  = 4096
	maxACR   = 512
	// hashLen is the length of a SHA-256 hash in base64url.
	hashLen = 43
)

// DeviceAuthorization answers POST /device_authorization (RFC 8628 §3.1, protocol §4): it
// opens a session for a consumption device.
func (s *Server) DeviceAuthorization(w http.ResponseWriter, r *http.Request) {
	values, client, fault := s.formRequest(w, r)
	if fault != nil {
		s.refuse(r.Context(), w, fault)
		return
	}
	q, userCode, code, fault := s.openSession(r, client, values)
	if fault != nil {
		s.refuse(r.Context(), w, fault)
		return
	}
	answer, err := s.opened(q, userCode, code)
	if err != nil {
		s.refuse(r.Context(), w, serverError(err))
		return
	}
	reply.JSON(w, http.StatusOK, reply.MediaJSON, answer)
}

// Cancel answers POST /qr/cancel (protocol §4): the consumption device gives up.
func (s *Server) Cancel(w http.ResponseWriter, r *http.Request) {
	values, client, fault := s.formRequest(w, r)
	if fault != nil {
		s.refuse(r.Context(), w, fault)
		return
	}
	q, fault := s.sessionOf(r.Context(), client, values.Get("device_code"))
	if fault == nil {
		fault = s.holdsKey(r, q, values, r.Header.Values(dpop.Header))
	}
	if fault != nil {
		s.refuse(r.Context(), w, fault)
		return
	}
	var outcome storage.QRCancelOutcome
	err := s.config.Store.UpdateQRSession(r.Context(), q.ID, func(q *storage.QRSession) error {
		outcome = q.Cancel(s.config.Now())
		return nil
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		s.refuse(r.Context(), w, invalidGrant())
	case err != nil:
		s.refuse(r.Context(), w, serverError(err))
	case outcome == storage.QRCancelRedeemed:
		s.refuse(r.Context(), w, tokenError(http.StatusConflict, "already_redeemed", "The tokens have been issued. Revoke them instead."))
	default:
		s.ended(q)
		reply.JSON(w, http.StatusOK, reply.MediaJSON, struct{}{})
	}
}

// formRequest does what every form endpoint does first: method, body, authentication.
func (s *Server) formRequest(w http.ResponseWriter, r *http.Request) (url.Values, fosite.Client, *TokenError) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, nil, tokenError(http.StatusMethodNotAllowed, "invalid_request", "This endpoint answers POST only.")
	}
	values, err := form.Read(w, r)
	if err != nil {
		return nil, nil, asTokenError(err)
	}
	if fault := s.unsupported(r, values); fault != nil {
		return nil, nil, fault
	}
	s.offerNonce(w, r)
	client, err := s.config.Authenticate(r.Context(), r, values)
	if err != nil {
		return nil, nil, asTokenError(err)
	}
	return values, client, nil
}

// refuse logs a fault of ours and answers.
func (s *Server) refuse(ctx context.Context, w http.ResponseWriter, e *TokenError) {
	if e.Status >= http.StatusInternalServerError {
		s.config.Logger.ErrorContext(ctx, "qr endpoint failed", "error", e.cause)
	}
	e.write(w)
}

// sessionOf finds the session of a device code, if it is this client's.
func (s *Server) sessionOf(ctx context.Context, client fosite.Client, deviceCode string) (*storage.QRSession, *TokenError) {
	code, ok := parseSecret(deviceCode)
	if !ok {
		return nil, invalidGrant()
	}
	q, err := s.config.Store.QRSession(ctx, code.id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, invalidGrant()
	case err != nil:
		return nil, serverError(err)
	case !code.matches(q.DeviceCodeHash) || q.ClientID != client.GetID():
		return nil, invalidGrant()
	}
	return q, nil
}

// openSession checks the request in full before anything is counted or held.
func (s *Server) openSession(r *http.Request, client fosite.Client, values url.Values) (*storage.QRSession, string, secret, *TokenError) {
	ctx, now := r.Context(), s.config.Now().UTC().Truncate(time.Millisecond)
	policy := s.config.Policy(ctx, client)
	grant, ok := grantOf(client)
	if !ok || !policy.Enabled {
		return nil, "", secret{}, tokenError(http.StatusBadRequest, "unauthorized_client", "The client may not use this grant.")
	}
	q, fault := request(values, client, grant, policy)
	if fault != nil {
		return nil, "", secret{}, fault
	}
	if fault := s.bindAudience(client, values, q); fault != nil {
		return nil, "", secret{}, fault
	}
	if hint, idToken := values.Get("login_hint"), values.Get("id_token_hint"); hint != "" || idToken != "" {
		subject, err := s.config.Hint(ctx, hint, idToken)
		if err != nil {
			return nil, "", secret{}, serverError(err)
		}
		q.Hinted, q.HintSubject = true, subject
	}
	if fault := s.bindKey(r, values, policy, q); fault != nil {
		return nil, "", secret{}, fault
	}
	address := s.config.ClientAddress(r)
	q.Device = describeUserAgent(r.UserAgent())
	q.OpenedAt = now
	if address.IsValid() {
		q.Address = address.String()
	}
	userCode, code, err := s.create(ctx, q, prefix(address), now)
	var limit *TokenError
	switch {
	case errors.As(err, &limit):
		s.limited(ctx, Approver{}, "open", prefix(address).String())
		return nil, "", secret{}, limit
	case errors.Is(err, storage.ErrFull):
		return nil, "", secret{}, limited(openWindow)
	case err != nil:
		return nil, "", secret{}, serverError(err)
	}
	return q, userCode, code, nil
}

// create makes the secrets and stores the session, under the opening limits.
func (s *Server) create(ctx context.Context, q *storage.QRSession, from netip.Prefix, now time.Time) (string, secret, error) {
	if wait := s.reports.barred(asker{q.ClientID, q.Address}, now); wait > 0 {
		return "", secret{}, limited(wait)
	}
	if wait := s.countOpening(q, from, now); wait > 0 {
		return "", secret{}, limited(wait)
	}
	k, err := s.keys.making()
	if err != nil {
		return "", secret{}, err
	}
	q.KeyID = k.id
	for range codeAttempts {
		var id storage.QRID
		if _, err := io.ReadFull(s.config.Rand, id[:]); err != nil {
			return "", secret{}, err
		}
		code, codeErr := newSecret(s.config.Rand, id)
		userCode, userErr := newUserCode(s.config.Rand)
		if err := errors.Join(codeErr, userErr); err != nil {
			return "", secret{}, err
		}
		q.ID = id
		if q.Hosted != nil {
			q.Hosted.CookieHash = code.hash()
		} else {
			q.DeviceCodeHash = code.hash()
		}
		q.UserCodeHash, q.UserCodeSealed = k.userCodeHash(userCode), k.sealUserCode(id, userCode)
		if wait := s.reserve(q, from, now); wait > 0 {
			return "", secret{}, limited(wait)
		}
		if err = s.config.Store.CreateQRSession(ctx, q); err == nil {
			return userCode, code, nil
		}
		s.release(q, from)
		if !errors.Is(err, storage.ErrConflict) {
			break
		}
	}
	return "", secret{}, err
}

// countOpening counts one opening of the browser and of its network; over a limit it counts
// nothing more and returns how long to wait.
func (s *Server) countOpening(q *storage.QRSession, from netip.Prefix, now time.Time) time.Duration {
	if q.Hosted != nil {
		if wait := s.browserOpens.take(q.Hosted.Browser, now); wait > 0 {
			return wait
		}
	}
	return s.opens.take(from, now)
}

// reserve takes the session's places until it expires, or returns how long until one is free.
func (s *Server) reserve(q *storage.QRSession, from netip.Prefix, now time.Time) time.Duration {
	if q.Hosted != nil {
		if wait := s.browserOpen.take(q.Hosted.Browser, q.ID, now, q.ExpiresAt()); wait > 0 {
			return wait
		}
	}
	wait := s.open.take(from, q.ID, now, q.ExpiresAt())
	if wait > 0 {
		s.release(q, from)
	}
	return wait
}

// opening is the answer of RFC 8628 §3.2, and the first frame for the QR grant.
type opening struct {
	DeviceCode              string `json:"device_code"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete,omitempty"`
	ExpiresIn               int64  `json:"expires_in"`
	Interval                int64  `json:"interval"`
	Frame                   *Frame `json:"qr,omitempty"`
}

func (s *Server) opened(q *storage.QRSession, userCode string, code secret) (*opening, error) {
	answer := &opening{
		DeviceCode:      code.String(),
		UserCode:        showUserCode(userCode),
		VerificationURI: s.config.Issuer + "/device",
		ExpiresIn:       int64(q.Lifetime / time.Second),
		Interval:        int64(q.Interval / time.Second),
	}
	if q.Grant == storage.QRGrantDevice {
		answer.VerificationURIComplete = answer.VerificationURI + "?user_code=" + answer.UserCode
		return answer, nil
	}
	var err error
	answer.Frame, err = s.frame(q, q.OpenedAt)
	return answer, err
}

// Frame is a QR code to show: the member qr of an answer.
type Frame struct {
	Payload string `json:"payload"`
	// RotateIn is when the next frame is due, in whole seconds.
	RotateIn int64 `json:"rotate_in"`
	// Image is a data: URI in the format asked for at the opening; empty without one.
	Image string `json:"image,omitempty"`
}

func (s *Server) frame(q *storage.QRSession, now time.Time) (*Frame, error) {
	k, err := s.key(q)
	if err != nil {
		return nil, err
	}
	payload, err := k.payload(s.config.Issuer, q, now)
	if err != nil {
		return nil, err
	}
	image, err := dataURI(q.Image, payload)
	if err != nil {
		return nil, err
	}
	due := rotateIn(q, now)
	return &Frame{Payload: payload, RotateIn: int64((due + time.Second - 1) / time.Second), Image: image}, nil
}

// grantOf is the one device grant the client is registered for.
func grantOf(client fosite.Client) (storage.QRGrant, bool) {
	grants := client.GetGrantTypes()
	ours, device := slices.Contains(grants, GrantType), slices.Contains(grants, DeviceGrantType)
	switch {
	case ours && !device:
		return storage.QRGrantCode, true
	case device && !ours:
		return storage.QRGrantDevice, true
	}
	return 0, false
}

// request reads the parameters of the opening into a session.
func request(values url.Values, client fosite.Client, grant storage.QRGrant, policy Policy) (*storage.QRSession, *TokenError) {
	q := &storage.QRSession{
		Grant: grant, State: storage.QRPending, ClientID: client.GetID(),
		Interval: storage.PollInterval, Lifetime: policy.Lifetime,
		CheckCode: grant == storage.QRGrantCode, TypeUserCode: grant == storage.QRGrantDevice && policy.TypeUserCode,
		Nonce: values.Get("nonce"), Image: values.Get("qr_image"), ACRValues: strings.Fields(values.Get("acr_values")),
		BindingMessage: cleanText(values.Get("binding_message"), maxText),
		DeviceName:     cleanText(values.Get("device_name"), maxText),
	}
	switch {
	case q.Lifetime == 0 && grant == storage.QRGrantDevice:
		q.Lifetime = storage.DeviceLifetime
	case q.Lifetime == 0:
		q.Lifetime = storage.QRLifetime
	case q.Lifetime < storage.MinLifetime || q.Lifetime > maxLifetime:
		// No time would be left to claim it, or the frames would come round.
		return nil, serverError(fmt.Errorf("qr: client %q has a lifetime not between %s and %s", q.ClientID, storage.MinLifetime, maxLifetime))
	}
	if len(q.Nonce) > 0 && len(q.Nonce) < policy.MinNonce {
		return nil, invalidRequest("The nonce is too short.")
	}
	if fault := bounded(values, q); fault != nil {
		return nil, fault
	}
	if fault := bindChallenge(values, q); fault != nil {
		return nil, fault
	}
	if age := values.Get("max_age"); age != "" {
		seconds, err := strconv.ParseInt(age, 10, 32)
		if err != nil || seconds < 0 {
			return nil, invalidRequest("The max_age is not a number of seconds.")
		}
		q.MaxAge = &seconds
	}
	scopes := strings.Fields(values.Get("scope"))
	if len(scopes) == 0 {
		scopes = []string{scopeOpenID}
	}
	for _, scope := range scopes {
		if !slices.Contains([]string(client.GetScopes()), scope) {
			return nil, tokenError(http.StatusBadRequest, "invalid_scope", "The client may not ask for this scope.")
		}
	}
	q.Scopes = grantable(scopes, client.GetScopes(), policy)
	return q, nil
}

func bounded(values url.Values, q *storage.QRSession) *TokenError {
	switch {
	case len(q.Nonce) > maxNonce:
		return invalidRequest("The nonce is too long.")
	case len(values.Get("acr_values")) > maxACR:
		return invalidRequest("The acr_values are too long.")
	case len(values.Get("login_hint")) > maxHint || len(values.Get("id_token_hint")) > maxHint:
		return invalidRequest("The hint is too long.")
	case len([]rune(values.Get("binding_message"))) > maxText:
		return invalidRequest("The binding_message is too long.")
	case strings.Trim(values.Get("acr_values"), acrCharacters) != "":
		return invalidRequest("The acr_values hold invalid characters.")
	case q.Image != "" && q.Image != ImageSVG && q.Image != ImagePNG:
		return invalidRequest("The qr_image is neither svg nor png.")
	}
	return nil
}

// bindChallenge binds the session to a verifier. The QR grant needs one whatever the client
// asks: policy is the server's (threat T29).
func bindChallenge(values url.Values, q *storage.QRSession) *TokenError {
	challenge, method := values.Get("code_challenge"), values.Get("code_challenge_method")
	switch {
	case challenge == "" && method == "" && q.Grant == storage.QRGrantDevice:
		return nil
	case challenge == "":
		return invalidRequest("A code_challenge is required.")
	case method != "S256":
		return invalidRequest("The code_challenge_method must be S256.")
	case !isHash(challenge):
		return invalidRequest("The code_challenge is not a SHA-256 hash in base64url.")
	}
	q.Challenge = challenge
	return nil
}

// isHash reports whether text has the form of a SHA-256 hash in base64url, as challenges and
// thumbprints do.
func isHash(text string) bool {
	return len(text) == hashLen && strings.Trim(text, base64URLDigits) == ""
}

// acrCharacters can stand in a quoted string of a challenge as they are.
const acrCharacters = base64URLDigits + " .:/~"

const base64URLDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
