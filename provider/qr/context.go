package qr

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// unknown is what the context says of facts that are not looked up.
const unknown = "unknown"

// Context is what the person sees before deciding (protocol §6). The server builds all of it;
// client text is marked untrusted.
type Context struct {
	Client ContextClient `json:"client"`
	Door   string        `json:"door"`
	Issuer string        `json:"issuer"`
	// RelyingParty is who the browser returns to at the hosted door; nil at the direct one.
	RelyingParty *ContextRelyingParty `json:"relying_party,omitempty"`
	Device       ContextDevice        `json:"device"`
	Network      ContextNetwork       `json:"network"`
	UserCode     string               `json:"user_code,omitempty"`
	Scopes       []ContextScope       `json:"scopes"`
	// Resources are the servers that the tokens will be for (RFC 8707), beside the issuer; empty
	// for none.
	Resources      []string `json:"resources,omitempty"`
	BindingMessage string   `json:"binding_message,omitempty"`
	// AgeSeconds is how long ago the session was opened; the digest leaves it out.
	AgeSeconds  int64    `json:"age_seconds"`
	Consequence string   `json:"consequence"`
	Warnings    []string `json:"warnings"`
}

// ContextClient is the asking client.
type ContextClient struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Verified is redirect, attested or none.
	Verified string `json:"verified"`
}

// ContextRelyingParty is where a sign-in at the hosted door leads: the name the client
// registered and the origin of its registered redirect.
type ContextRelyingParty struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
}

// ContextDevice is the consumption device; NameUntrusted is the client's own text.
type ContextDevice struct {
	Description   string `json:"description"`
	NameUntrusted string `json:"name_untrusted,omitempty"`
	Known         string `json:"known"`
}

// ContextNetwork is where the request comes from. Address is shown only to a phone on the
// same network prefix.
type ContextNetwork struct {
	Name     string `json:"name,omitempty"`
	City     string `json:"city,omitempty"`
	Distance string `json:"distance"`
	Address  string `json:"address,omitempty"`
}

// ContextScope is one scope with its meaning in words.
type ContextScope struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// The warnings of a Context.
const (
	// WarnUnverifiedClient: anybody could use this client's name.
	WarnUnverifiedClient = "client_unverified"
	// WarnTypedCode and WarnLink: the code did not come through the app's camera.
	WarnTypedCode = "entry_typed"
	WarnLink      = "entry_link"
)

// asking returns the client that opened the session, with its policy. The error wraps
// storage.ErrNotFound when it is gone or was switched off since: then nobody approves for it.
func (s *Server) asking(ctx context.Context, q *storage.QRSession) (fosite.Client, Policy, error) {
	client, err := s.config.Client(ctx, q.ClientID)
	if errors.Is(err, fosite.ErrNotFound) {
		err = errors.Join(storage.ErrNotFound, err)
	}
	if err != nil {
		return nil, Policy{}, fmt.Errorf("qr: asking client: %w", err)
	}
	policy := s.config.Policy(ctx, client)
	if !policy.Enabled {
		return nil, Policy{}, fmt.Errorf("qr: asking client is switched off: %w", storage.ErrNotFound)
	}
	return client, policy, nil
}

// context builds what the claimer sees. It depends on the record and the client's
// registration only, never on the caller, so that the digest can be made again.
func (s *Server) context(k *serverKey, q *storage.QRSession, client fosite.Client, policy Policy, now time.Time) (Context, error) {
	c := Context{
		Client:         ContextClient{ID: q.ClientID, Name: policy.Name, Verified: policy.Verified},
		Door:           "direct",
		Issuer:         s.config.Issuer,
		Device:         ContextDevice{Description: q.Device, NameUntrusted: q.DeviceName, Known: unknown},
		Network:        ContextNetwork{Distance: unknown},
		Scopes:         []ContextScope{},
		BindingMessage: q.BindingMessage,
		AgeSeconds:     int64(now.Sub(q.OpenedAt) / time.Second),
		Warnings:       []string{},
	}
	if c.Client.Name == "" {
		c.Client.Name = q.ClientID
	}
	if c.Client.Verified == "" {
		c.Client.Verified = "none"
	}
	c.Consequence = "Another device will be signed in to " + c.Client.Name + " as you."
	if q.Hosted != nil {
		c.hosted(q.Hosted)
	}
	if q.Grant == storage.QRGrantDevice {
		code, err := k.openUserCode(q)
		if err != nil {
			return Context{}, err
		}
		// Where it has to be typed, showing it would defeat the comparison.
		if !q.TypeUserCode {
			c.UserCode = showUserCode(code)
		}
	}
	for _, name := range grantable(q.Scopes, client.GetScopes(), policy) {
		text := s.config.ScopeText(name)
		if text == "" {
			text = name
		}
		c.Scopes = append(c.Scopes, ContextScope{Name: name, Text: text})
	}
	for _, resource := range q.Audience {
		if resource != s.config.Issuer {
			c.Resources = append(c.Resources, resource)
		}
	}
	c.claimFacts(q)
	return c, nil
}

// hosted adds what tells our own sign-in page from a copy of it. Nobody authenticated for the
// client at the opening: what vouches for its name is the registered redirect.
func (c *Context) hosted(h *storage.QRHosted) {
	c.Door = "hosted"
	c.RelyingParty = &ContextRelyingParty{Name: h.RelyingParty, Origin: h.Origin}
	c.Client.Verified = "none"
	if strings.HasPrefix(h.Origin, "https://") {
		c.Client.Verified = "redirect"
	}
	c.Consequence += " There the address bar must show " + c.Issuer + "."
}

func (c *Context) claimFacts(q *storage.QRSession) {
	if c.Client.Verified == "none" {
		c.Warnings = append(c.Warnings, WarnUnverifiedClient)
	}
	if q.Claim == nil {
		return
	}
	if q.Claim.ShowAddress {
		c.Network.Address = q.Address
	}
	switch q.Claim.Entry {
	case storage.QREntryTyped:
		c.Warnings = append(c.Warnings, WarnTypedCode)
	case storage.QREntryLink:
		c.Warnings = append(c.Warnings, WarnLink)
	case storage.QREntryScanner:
	}
}

func (c *Context) scopeNames() []string {
	names := make([]string, len(c.Scopes))
	for i, scope := range c.Scopes {
		names[i] = scope.Name
	}
	return names
}

// digest256 is the HMAC over everything the person saw and when it runs out, but never over the
// check code: what was seen is what is approved, and nothing about the code leaks.
func (k *serverKey) digest256(q *storage.QRSession, c Context) (string, error) {
	c.AgeSeconds = 0
	seen, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("qr: encode context: %w", err)
	}
	expiry := strconv.FormatInt(q.DecisionDeadline().UnixNano(), 10)
	sum := mac(k.digest, q.ID.String(), "|", expiry, "|", string(seen))
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

func digestsEqual(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }

// scopeOpenID is asked for when an opening names no scope.
const scopeOpenID = "openid"

// DefaultScopes is what a QR approval can grant when the client's policy names nothing.
func DefaultScopes() []string { return []string{scopeOpenID, "profile"} }

// grantable is requested ∩ client ∩ QR-allowed, in the order requested. A scope of the grant
// itself is never among them: no approval makes an approver (protocol §8).
func grantable(requested, client []string, policy Policy) []string {
	allowed := policy.AllowedScopes
	if len(allowed) == 0 {
		allowed = DefaultScopes()
	}
	var scopes []string
	for _, scope := range requested {
		switch {
		case strings.HasPrefix(scope, "qr:"), slices.Contains(scopes, scope):
		case !slices.Contains(client, scope), !slices.Contains(allowed, scope):
		default:
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// cleanText makes client text harmless to show: one line, no control or formatting
// characters (which could reorder or hide text), at most limit characters.
func cleanText(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > limit {
		text = strings.TrimSpace(string(runes[:limit]))
	}
	return text
}
