package provider

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// responseType is what the answer of /authorize holds (OAuth 2.0 Multiple Response Types).
type responseType struct{ code, idToken, token bool }

// parseResponseType reads the words of a response_type, in any order. It is false for what nobody
// can be given here, which includes a token without anything that says whose it is.
func parseResponseType(text string) (t responseType, known bool) {
	for word := range strings.SplitSeq(text, " ") {
		var has *bool
		switch word {
		case "code":
			has = &t.code
		case "id_token":
			has = &t.idToken
		case "token":
			has = &t.token
		}
		if has == nil || *has {
			return responseType{}, false
		}
		*has = true
	}
	return t, t.code || t.idToken
}

// String spells the type as storage.Client.ResponseTypes does.
func (t responseType) String() string {
	var words []string
	for _, word := range []struct {
		has  bool
		text string
	}{{t.code, "code"}, {t.idToken, "id_token"}, {t.token, "token"}} {
		if word.has {
			words = append(words, word.text)
		}
	}
	return strings.Join(words, " ")
}

// front reports whether tokens travel through the browser.
func (t responseType) front() bool { return t.idToken || t.token }

// responseTypes lists those that are switched on, as metadata does.
func (c *Config) responseTypes() []string {
	types := []string{"code"}
	if c.Implicit {
		types = append(types, "id_token", "id_token token")
	}
	if c.Hybrid {
		types = append(types, "code id_token", "code token", "code id_token token")
	}
	return types
}

// grantTypes lists those that are switched on, as metadata does.
func (c *Config) grantTypes() []string {
	types := []string{grantCode, grantRefresh, grantClient, qr.DeviceGrantType, qr.GrantType}
	if c.Implicit {
		types = append(types, grantImplicit)
	}
	return types
}

// frontChannel reports whether tokens may travel through browsers at all.
func (c *Config) frontChannel() bool { return c.Implicit || c.Hybrid }

// responseModes lists those that are switched on, as metadata does.
func (c *Config) responseModes() []string {
	if c.frontChannel() {
		return []string{"query", "fragment", "form_post"}
	}
	return []string{"query", "form_post"}
}

// readResponse comes before every other check, so that an error too is answered in the mode that
// was asked for (Form Post Response Mode §2), and never in a query where a token could have stood
// (Multiple Response Types §5).
func (p *Provider) readResponse(req *authorizeRequest) error {
	req.mode = fosite.ResponseModeQuery
	var known bool
	if req.types, known = parseResponseType(req.values.Get("response_type")); known && req.types.front() && p.config.frontChannel() {
		req.mode = fosite.ResponseModeFragment
	}
	switch asked := fosite.ResponseModeType(req.values.Get("response_mode")); asked {
	case "", req.mode:
	case fosite.ResponseModeFormPost:
		req.mode = asked
	default:
		return invalidRequest("The response_mode is not supported with this response_type.")
	}
	return nil
}

// checkResponseType refuses what is switched off, and what the client did not register.
func (p *Provider) checkResponseType(req *authorizeRequest) error {
	spelt := req.types.String()
	if !slices.Contains(p.config.responseTypes(), spelt) {
		return &oauthError{status: http.StatusBadRequest, code: "unsupported_response_type", description: "The response_type is not supported."}
	}
	registered, grant := req.client.ResponseTypes, grantCode
	if len(registered) == 0 {
		registered = []string{"code"}
	}
	if !req.types.code {
		grant = grantImplicit
	}
	if !slices.Contains(registered, spelt) || !slices.Contains(req.client.GetGrantTypes(), grant) {
		return unauthorizedClient()
	}
	return nil
}

// checkFront holds what is asked of a request whose tokens travel through the browser. Whoever
// sees such an access token can use it: it is bound to no key and never approves a sign-in.
func (req *authorizeRequest) checkFront() error {
	switch {
	case req.types.idToken && !slices.Contains(req.scopes, "openid"):
		return invalidRequest("An ID token needs the scope openid.")
	case req.types.idToken && req.values.Get("nonce") == "":
		// It says which request the token answers (OpenID Connect Core §3.2.2.1).
		return invalidRequest("The nonce is missing.")
	case req.types.token && (req.client.RequireDPoP || req.jkt != ""):
		return invalidRequest("A token from this endpoint cannot be bound to a key.")
	case req.types.token && slices.Contains(req.scopes, qr.ApproveScope):
		return invalidScope()
	}
	return nil
}

// answer makes what the request asked for, in the caller's unit of work. What comes of it is one
// family: a code that is used twice takes the token of the front channel with it.
func (p *Provider) answer(ctx context.Context, req *authorizeRequest, s *storage.Session) (url.Values, error) {
	ar, facts := p.fositeRequest(req, s)
	answer := make(url.Values)
	if req.types.code {
		made, err := p.oauth.NewAuthorizeResponse(ctx, ar, &session{facts: facts})
		if err != nil {
			return nil, err
		}
		answer.Set("code", made.GetCode())
	}
	if req.types.token {
		if err := p.answerToken(ctx, ar, facts, answer); err != nil {
			return nil, err
		}
	}
	if req.types.idToken {
		if err := p.answerIDToken(ctx, req, ar, facts, answer); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// answerToken adds an access token (OpenID Connect Core §3.2.2.5). There is no refresh token to
// come with it, so nothing is granted for one.
func (p *Provider) answerToken(ctx context.Context, ar *fosite.AuthorizeRequest, facts fositestore.Facts, answer url.Values) error {
	granted := slices.DeleteFunc(slices.Clone(ar.GrantedScope), func(scope string) bool { return scope == "offline_access" })
	req := &fosite.Request{
		ID: ar.GetID(), RequestedAt: p.config.Now(), Client: ar.Client, RequestedScope: ar.RequestedScope, GrantedScope: granted,
		GrantedAudience: ar.GrantedAudience, Form: make(url.Values), Session: &session{facts: facts},
	}
	token, signature, err := (&tokenStrategy{config: &p.config, keys: p.keys}).GenerateAccessToken(ctx, req)
	if err != nil {
		return err
	}
	if err := p.tokens.CreateAccessTokenSession(ctx, signature, req); err != nil {
		return err
	}
	answer.Set("access_token", token)
	answer.Set("token_type", "Bearer")
	answer.Set("expires_in", strconv.FormatInt(int64(p.config.accessLifetime(ar.Client, &facts)/time.Second), 10))
	if len(granted) != len(ar.RequestedScope) {
		answer.Set("scope", strings.Join(granted, " "))
	}
	return nil
}

// answerIDToken adds an ID token that vouches for what it comes with (§3.2.2.9, §3.3.2.11). Where
// there is never an access token to ask userinfo with, it says what the scopes ask for (§5.4).
func (p *Provider) answerIDToken(ctx context.Context, req *authorizeRequest, ar *fosite.AuthorizeRequest, facts fositestore.Facts, answer url.Values) error {
	if !req.types.code && !req.types.token {
		facts.IDTokenClaims = slices.Clone(facts.IDTokenClaims)
		for _, scope := range ar.GrantedScope {
			facts.IDTokenClaims = append(facts.IDTokenClaims, scopeClaims(scope)...)
		}
	}
	made, alg := &session{facts: facts}, signingAlg(req.client)
	if req.types.token {
		made.accessHash = tokenHash(alg, answer.Get("access_token"))
	}
	if req.types.code {
		made.codeHash = tokenHash(alg, answer.Get("code"))
	}
	token, err := p.idTokens.GenerateIDToken(ctx, p.config.IDTokenLifetime, &fosite.Request{
		ID: ar.GetID(), Client: ar.Client, GrantedScope: ar.GrantedScope, Form: make(url.Values), Session: made,
	})
	if err != nil {
		return err
	}
	answer.Set("id_token", token)
	return nil
}
