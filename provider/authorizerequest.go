package provider

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
)

const (
	// longestNonce bounds what a client can make us store with a code.
	longestNonce = 1024
	// challengeLength is that of a SHA-256 hash in base64url.
	challengeLength = 43
	base64URLDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// authorizeRequest is an authorization request whose client and redirect URI are good.
type authorizeRequest struct {
	raw    string
	values url.Values
	client fositestore.Client
	// redirect is where the answer goes; redirectSent says that the request named it, which
	// the token request must then do too.
	redirect     *url.URL
	redirectSent bool
	// formPost says that the answer goes as a form rather than in the query of the redirect.
	formPost    bool
	state       string
	scopes      []string
	challenge   string
	prompt      []string
	maxAge      *int64
	loginHint   string
	hintSubject string
	claims      claimsRequest
}

// asked are the scopes the answer would give something of.
func (req *authorizeRequest) asked() []string { return req.claims.scopes(req.scopes) }

// parseAuthorize reads an authorization request. Without a request beside the error, the
// error must be shown to the person: there is nowhere safe to send it (RFC 6749 §4.1.2.1).
func (p *Provider) parseAuthorize(ctx context.Context, raw string) (*authorizeRequest, error) {
	if len(raw) > form.MaxBody {
		return nil, invalidRequest("The request is too long.")
	}
	values, err := form.Parse(raw)
	if err != nil {
		return nil, err
	}
	client, err := p.tokens.Client(ctx, values.Get("client_id"))
	if errors.Is(err, fosite.ErrNotFound) {
		return nil, invalidRequest("The client is not known here.")
	}
	if err != nil {
		return nil, unavailable(err)
	}
	req := &authorizeRequest{raw: raw, values: values, client: client, state: values.Get("state"), loginHint: values.Get("login_hint")}
	req.scopes = uniqueFields(values.Get("scope"))
	req.redirectSent = values.Has("redirect_uri")
	if req.redirect = redirectURI(client, values.Get("redirect_uri"), slices.Contains(req.scopes, "openid")); req.redirect == nil {
		return nil, invalidRequest("The redirect_uri is not one the client registered.")
	}
	if req.formPost, err = readResponseMode(values); err != nil {
		return req, err
	}
	return req, p.checkAuthorize(req)
}

// readResponseMode comes before every other check, so that an error too is answered in the
// mode that was asked for (Form Post Response Mode §2).
func readResponseMode(v url.Values) (formPost bool, err error) {
	switch v.Get("response_mode") {
	case "", "query":
		return false, nil
	case "form_post":
		return true, nil
	}
	return false, invalidRequest("Only the response_modes query and form_post are supported.")
}

// checkAuthorize holds the faults that go back to the client.
func (p *Provider) checkAuthorize(req *authorizeRequest) error {
	v := req.values
	switch {
	case v.Has("request"):
		return &oauthError{code: "request_not_supported", description: "Request objects are not supported."}
	case v.Has("request_uri"):
		return &oauthError{code: "request_uri_not_supported", description: "Request objects are not supported."}
	case v.Has("registration"):
		return &oauthError{code: "registration_not_supported", description: "Registration by request is not supported."}
	case v.Has("resource"):
		return invalidTarget()
	case v.Has("dpop_jkt"):
		return invalidRequest("DPoP is not supported.")
	case v.Get("response_type") != "code":
		return &oauthError{code: "unsupported_response_type", description: "Only response_type code is supported."}
	case !slices.Contains(req.client.GetGrantTypes(), grantCode):
		return unauthorizedClient()
	case len(v.Get("nonce")) > longestNonce:
		return invalidRequest("The nonce is too long.")
	}
	if err := checkScopes(req.client, req.scopes); err != nil {
		return err
	}
	if err := req.readChallenge(); err != nil {
		return err
	}
	if slices.Contains(req.scopes, "openid") {
		var err error
		if req.claims, err = parseClaims(v.Get("claims"), req.client); err != nil {
			return err
		}
	}
	return p.readPrompt(req)
}

// checkScopes: only what the client registered, and qr:approve only for an approver.
func checkScopes(client fositestore.Client, scopes []string) error {
	for _, s := range scopes {
		if !slices.Contains(client.Scopes, s) || s == qr.ApproveScope && !client.Approver {
			return invalidScope()
		}
	}
	return nil
}

// readChallenge wants S256 (RFC 7636); plain protects against nothing that reads the request.
func (req *authorizeRequest) readChallenge() error {
	v := req.values
	switch {
	case !v.Has("code_challenge") && v.Has("code_challenge_method"):
		return invalidRequest("The code_challenge is missing.")
	case !v.Has("code_challenge"):
		if pkceRequired(req.client) {
			return invalidRequest("The client must send a code_challenge.")
		}
		return nil
	case v.Get("code_challenge_method") != "S256":
		return invalidRequest("The code_challenge_method must be S256.")
	}
	req.challenge = v.Get("code_challenge")
	if len(req.challenge) != challengeLength || strings.Trim(req.challenge, base64URLDigits) != "" {
		return invalidRequest("The code_challenge is malformed.")
	}
	return nil
}

// readPrompt reads what decides about the sign-in (OpenID Connect Core §3.1.2.1).
func (p *Provider) readPrompt(req *authorizeRequest) error {
	req.prompt = uniqueFields(req.values.Get("prompt"))
	for _, prompt := range req.prompt {
		if !slices.Contains([]string{"none", "login", "consent", "select_account"}, prompt) {
			return invalidRequest("The prompt is not supported.")
		}
	}
	if slices.Contains(req.prompt, "none") && len(req.prompt) > 1 {
		return invalidRequest("The prompt none cannot be combined.")
	}
	if req.values.Has("max_age") {
		seconds, err := strconv.ParseInt(req.values.Get("max_age"), 10, 32)
		if err != nil || seconds < 0 {
			return invalidRequest("The max_age is malformed.")
		}
		req.maxAge = &seconds
	}
	if hint := req.values.Get("id_token_hint"); hint != "" {
		if req.hintSubject = p.idTokens.hintSubject(hint); req.hintSubject == "" {
			return invalidRequest("The id_token_hint is not valid.")
		}
	}
	return nil
}

// redirectURI returns where the answer goes, or nil. Registered URIs match character by
// character; only a public client's http URI on a loopback address may name another port,
// because a native app cannot choose one in advance (RFC 8252 §7.3).
func redirectURI(client fositestore.Client, sent string, openid bool) *url.URL {
	if sent == "" {
		// OpenID Connect requires the parameter; OAuth lets a single registration stand for it.
		if openid || len(client.RedirectURIs) != 1 {
			return nil
		}
		return safeRedirect(client.RedirectURIs[0])
	}
	for _, registered := range client.RedirectURIs {
		if sent == registered || client.Public() && sameButPort(registered, sent) {
			return safeRedirect(sent)
		}
	}
	return nil
}

func sameButPort(registered, sent string) bool {
	a, errA := url.Parse(registered)
	b, errB := url.Parse(sent)
	if errA != nil || errB != nil || a.Scheme != "http" || b.User != nil {
		return false
	}
	host := a.Hostname()
	if host != "127.0.0.1" && host != "::1" || b.Hostname() != host {
		return false
	}
	b.Host = a.Host
	return b.String() == a.String()
}

// safeRedirect refuses what must never be redirected to, even when it was registered.
func safeRedirect(raw string) *url.URL {
	if CheckRedirectURI(raw) != nil {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	return u
}

// CheckRedirectURI returns an error when a redirect URI is never redirected to, though it be
// registered: it must be absolute and without a fragment (RFC 6749 §3.1.2), nothing a browser
// runs or reads itself, and http only on a loopback host, because a code crosses the network.
func CheckRedirectURI(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || strings.Contains(raw, "#"):
		return errors.New("provider: a redirect URI is absolute and has no fragment")
	case slices.Contains([]string{"javascript", "data", "vbscript", "blob", "file", "about"}, u.Scheme):
		return errors.New("provider: a redirect URI of a scheme that browsers keep to themselves")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("provider: a redirect URI with http leads to a loopback host")
	}
	return nil
}

// redirectOrigin is the redirect's origin for form-action, or its scheme when it has none.
func redirectOrigin(u *url.URL) string {
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}

// uniqueFields splits at spaces and leaves repetitions out, keeping the order.
func uniqueFields(s string) []string {
	var out []string
	for _, f := range strings.Fields(s) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}
