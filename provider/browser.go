package provider

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	sessionCookie = "qrgrant"
	formCookie    = "qrgrant-form"
	// seenCookie says when the browser last used its sign-in. We seal it, so that a sign-in
	// that nobody uses ends without a write for every use.
	seenCookie = "qrgrant-seen"
	// seenStep is how old that may grow before it is written again.
	seenStep = time.Minute
	// formLifetime is how long a page may stay open before it is sent.
	formLifetime = time.Hour
	// acrOneFactor and amrPassword say how a person signed in with a password (RFC 8176).
	acrOneFactor = "urn:qrgrant:acr:password"
	amrPassword  = "pwd"
)

// browser is what a request's cookies say.
type browser struct {
	// formKey binds forms to this browser, signed in or not.
	formKey string
	// device is the user agent in words.
	device string
	// session is the sign-in; nil when there is none that lasts.
	session *storage.Session
}

func (b *browser) sid() string {
	if b.session == nil {
		return ""
	}
	return b.session.ID
}

func (p *Provider) cookieName(name string) string {
	if p.issuer.Scheme == "https" {
		// The prefix keeps a subdomain or a plain http page from planting one.
		return "__Host-" + name
	}
	return name
}

// setCookie sets a cookie for as long as the browser runs; an empty value removes it.
func (p *Provider) setCookie(w http.ResponseWriter, name, value string) {
	c := &http.Cookie{Name: p.cookieName(name), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode} //nolint:gosec // G124: Secure is set below.
	// A browser drops a Secure cookie of a plain loopback page.
	c.Secure = p.issuer.Scheme == "https"
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// browserOf reads the cookies. A browser without a form cookie gets one: it holds nothing but
// a random value and changes nothing here.
func (p *Provider) browserOf(w http.ResponseWriter, r *http.Request) (*browser, error) {
	b := &browser{device: qr.DeviceOf(r)}
	if c, err := r.Cookie(p.cookieName(formCookie)); err == nil && len(c.Value) >= 22 {
		b.formKey = c.Value
	} else {
		key, err := p.secret()
		if err != nil {
			return nil, err
		}
		b.formKey = key
		p.setCookie(w, formCookie, key)
	}
	c, err := r.Cookie(p.cookieName(sessionCookie))
	if err != nil {
		return b, nil
	}
	s, err := p.sessionOf(r.Context(), c.Value)
	if err != nil || s == nil || !p.used(w, r, s) {
		return b, err
	}
	b.session = s
	return b, nil
}

// used reports whether the sign-in was used within the idle time, and notes that it is now. A
// browser that lost the note counts from the sign-in on.
func (p *Provider) used(w http.ResponseWriter, r *http.Request, s *storage.Session) bool {
	seen, own := s.CreatedAt, &browser{session: s}
	if c, err := r.Cookie(p.cookieName(seenCookie)); err == nil {
		if at, err := p.sealedAt(own, seenCookie, "", c.Value); err == nil && at.After(seen) {
			seen = at
		}
	}
	idle := p.config.Now().Sub(seen)
	if idle >= p.config.SessionIdle {
		return false
	}
	if idle >= seenStep {
		if note, err := p.sealForm(own, seenCookie, ""); err == nil {
			p.setCookie(w, seenCookie, note)
		}
	}
	return true
}

// setSession gives the browser a new sign-in's cookie, and takes what it noted of the old one.
func (p *Provider) setSession(w http.ResponseWriter, cookie string) {
	p.setCookie(w, sessionCookie, cookie)
	p.setCookie(w, seenCookie, "")
}

// sessionOf returns the sign-in behind a cookie value; nil when there is none that lasts.
func (p *Provider) sessionOf(ctx context.Context, cookie string) (*storage.Session, error) {
	sid, _, ok := strings.Cut(cookie, ".")
	if !ok || sid == "" || len(cookie) > 256 {
		return nil, nil
	}
	s, err := p.config.Store.Session(ctx, sid)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	sum := sha256.Sum256([]byte(cookie))
	if subtle.ConstantTimeCompare(sum[:], s.CookieHash[:]) != 1 {
		return nil, nil
	}
	// The record outlives the cookie for the sake of refresh tokens, see signIn.
	if !p.config.Now().Before(s.CreatedAt.Add(p.config.SessionLifetime)) {
		return nil, nil
	}
	standing, err := p.standing(ctx, s.Subject, s.ID)
	if err != nil {
		return nil, unavailable(err)
	}
	if !standing {
		return nil, nil
	}
	return s, nil
}

// signIn opens a new sign-in with a new sid and a new cookie, whatever the browser had: an
// identifier from before the password must not survive it. The record lasts as long as the last
// access token of this sign-in can, so that an unknown sid always means an ended one. It returns
// nil when the person has changed since the password was checked.
func (p *Provider) signIn(ctx context.Context, w http.ResponseWriter, user *storage.User, b *browser) (*storage.Session, error) {
	sid, err := p.secret()
	if err != nil {
		return nil, err
	}
	random, err := p.secret()
	if err != nil {
		return nil, err
	}
	sid = sid[:22] // 132 bits
	cookie := sid + "." + random
	now := p.config.Now()
	s := &storage.Session{
		ID:         sid,
		Subject:    user.Subject,
		CookieHash: sha256.Sum256([]byte(cookie)),
		AuthTime:   now.Truncate(time.Second),
		AMR:        []string{amrPassword},
		ACR:        acrOneFactor,
		Device:     b.device,
		CreatedAt:  now,
		ExpiresAt:  now.Add(p.config.SessionLifetime + codeLifetime + p.config.RefreshTokenLifetime + p.config.AccessTokenLifetime),
	}
	p.follow(s, b)
	if err := p.config.Store.PutSession(ctx, s); err != nil {
		return nil, unavailable(err)
	}
	if lasts, err := p.stillSigns(ctx, user, s.ID); err != nil || !lasts {
		return nil, err
	}
	p.setSession(w, cookie)
	return s, p.endOther(ctx, s, b)
}

// stillSigns reports whether the person is as the password was checked against, and ends the new
// sign-in otherwise. Whoever changes the password or disables the person ends the sign-ins that
// are stored by then; this one may have been stored after.
func (p *Provider) stillSigns(ctx context.Context, verified *storage.User, sid string) (bool, error) {
	now, err := p.config.Store.User(ctx, verified.Subject)
	if err == nil && now.PasswordHash == verified.PasswordHash && now.Disabled == verified.Disabled {
		return true, nil
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	if err = errors.Join(err, p.endSignIn(ctx, "", sid)); err != nil {
		return false, unavailable(err)
	}
	return false, nil
}

// qrBornSession is the sign-in that a redemption makes; it keeps that mark (protocol §8).
func qrBornSession(r qr.Redemption) *storage.Session {
	return &storage.Session{
		ID:         r.SessionID,
		Subject:    r.Subject,
		QRBorn:     true,
		ParentID:   r.ParentID,
		ClientID:   r.ClientID,
		ApproverID: r.ApproverID,
		AuthTime:   r.AuthTime,
		AMR:        r.AMR,
		ACR:        r.ACR,
		Device:     r.Device,
		Address:    r.Address,
		CreatedAt:  r.At,
	}
}

// secret returns 256 random bits as text.
func (p *Provider) secret() (string, error) {
	var raw [32]byte
	if _, err := io.ReadFull(p.config.Rand, raw[:]); err != nil {
		return "", serverError(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// sealForm returns the token a form carries: this page, for this browser and this sign-in,
// was made by us with this payload. It is the CSRF token and keeps hidden fields as they were.
func (p *Provider) sealForm(b *browser, purpose, payload string) (string, error) {
	at := strconv.FormatInt(p.config.Now().Unix(), 36)
	keys := p.keys.serverKeys("")
	if len(keys) == 0 {
		return "", serverError(errors.New("provider: no server key"))
	}
	mac, err := formMAC(keys[0].Secret, b, purpose, payload, at)
	if err != nil {
		return "", serverError(err)
	}
	return at + "." + base64.RawURLEncoding.EncodeToString(mac), nil
}

// checkForm refuses a form that sealForm did not seal within the last hour.
func (p *Provider) checkForm(b *browser, purpose, payload, token string) error {
	at, err := p.sealedAt(b, purpose, payload, token)
	if err != nil {
		return err
	}
	if age := p.config.Now().Sub(at); age < -time.Minute || age > formLifetime {
		return staleForm()
	}
	return nil
}

func staleForm() *oauthError {
	return &oauthError{status: http.StatusForbidden, code: "invalid_request", description: "The page was open for too long or belongs to another sign-in. Go back and try again."}
}

// sealedAt returns when sealForm sealed the payload, to the second, or that it did not.
func (p *Provider) sealedAt(b *browser, purpose, payload, token string) (time.Time, error) {
	stale := staleForm()
	at, encoded, _ := strings.Cut(token, ".")
	seconds, err := strconv.ParseInt(at, 36, 64)
	if err != nil {
		return time.Time{}, stale
	}
	got, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return time.Time{}, stale
	}
	keys := p.keys.serverKeys("")
	if purpose == knownCookie {
		keys = p.keys.knownKeys()
	}
	for _, key := range keys {
		mac, err := formMAC(key.Secret, b, purpose, payload, at)
		if err != nil {
			return time.Time{}, serverError(err)
		}
		if hmac.Equal(mac, got) {
			return time.Unix(seconds, 0), nil
		}
	}
	return time.Time{}, stale
}

// formMAC keys the MAC apart from every other use of the server key.
func formMAC(secret []byte, b *browser, parts ...string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "provider|form", sha256.Size)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range append([]string{b.formKey, b.sid()}, parts...) {
		// Lengths keep neighbouring parts from trading bytes.
		_, _ = mac.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	return mac.Sum(nil), nil
}

// page guards the pages: a POST must come from one of our own pages (Sec-Fetch-Site, Origin)
// and be a plain form. The handler still checks its own token.
func (p *Provider) page(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			handler(w, r)
			return
		}
		if err := p.origins.Check(r); err != nil {
			p.errorPage(w, r, &oauthError{status: http.StatusForbidden, code: "invalid_request", description: "The form was sent from another site.", cause: err})
			return
		}
		if _, err := form.Read(w, r); err != nil {
			p.errorPage(w, r, err)
			return
		}
		handler(w, r)
	}
}

// newOrigins trusts our own origin as configured, whatever Host a proxy passes on.
func newOrigins(origin string) (*http.CrossOriginProtection, error) {
	origins := http.NewCrossOriginProtection()
	return origins, origins.AddTrustedOrigin(origin)
}
