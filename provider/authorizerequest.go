package provider

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// longestNonce bounds what a client can make us store with a code.
	longestNonce = 1024
	// longestMaxAge is a hundred years in seconds, which a time.Duration still holds.
	longestMaxAge = 100 * 365 * 24 * 60 * 60
	// challengeLength is that of a SHA-256 hash in base64url.
	challengeLength = 43
	// mostWords is how many words a list in a request may have. No client registers so many
	// scopes, and what is done for each word would add up.
	mostWords       = 64
	base64URLDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// authorizeRequest is an authorization request whose client and redirect URI are good.
type authorizeRequest struct {
	// raw is the request as a query that the pages in between carry: of one that was pushed or
	// signed, no more than what leads back to its parameters.
	raw    string
	values url.Values
	client fositestore.Client
	// pushed is set for a request that was pushed (par.go), signed for one that came as a request
	// object (requestobject.go).
	pushed *storage.TokenSignature
	signed bool
	// redirect is where the answer goes; redirectSent says that the request named it, which
	// the token request must then do too.
	redirect     *url.URL
	redirectSent bool
	// types is what the answer holds, mode how it travels.
	types       responseType
	mode        fosite.ResponseModeType
	state       string
	scopes      []string
	challenge   string
	jkt         string
	audience    []string
	prompt      []string
	maxAge      *int64
	loginHint   string
	hintSubject string
	// hint is the ID token that hintSubject is of; nil when there is none.
	hint   *idTokenClaims
	claims claimsRequest
}

// asked are the scopes the answer would give something of.
func (req *authorizeRequest) asked() []string { return req.claims.scopes(req.scopes) }

// clientOf returns the client of an authorization request. Every way of making one comes by here.
func (p *Provider) clientOf(ctx context.Context, id string) (fositestore.Client, error) {
	client, err := p.tokens.Client(ctx, id)
	switch {
	case errors.Is(err, errDocumentRefused):
		return fositestore.Client{}, invalidRequest("The description of this client cannot be used.")
	case errors.Is(err, fosite.ErrNotFound):
		return fositestore.Client{}, invalidRequest("The client is not known here.")
	case errors.Is(err, errDocumentUnread):
		unread := unavailable(err)
		unread.description = "The description of this client could not be read."
		return fositestore.Client{}, unread
	case err != nil:
		return fositestore.Client{}, unavailable(err)
	}
	return client, nil
}

// parseAuthorize reads an authorization request. Without a request beside the error, the
// error must be shown to the person: there is nowhere safe to send it (RFC 6749 §4.1.2.1).
// arrived says that a page of ours vouches for the request: it was in time when it came, and how
// long the person takes is no fault of it.
func (p *Provider) parseAuthorize(ctx context.Context, raw string, arrived bool) (*authorizeRequest, error) {
	if len(raw) > form.MaxBody {
		return nil, invalidRequest("The request is too long.")
	}
	if id, uri, ok := pushedQuery(raw); ok {
		client, err := p.clientOf(ctx, id)
		if err != nil {
			return nil, err
		}
		return p.pushedRequest(ctx, client, uri, arrived)
	}
	values, repeated, err := parseQuery(raw)
	if err != nil {
		return nil, err
	}
	client, err := p.clientOf(ctx, values.Get("client_id"))
	if err != nil {
		return nil, err
	}
	req := &authorizeRequest{raw: raw, client: client}
	switch {
	case repeated != nil:
		return p.readAuthorize(ctx, req, values, repeated)
	case client.RequirePAR:
		return p.readAuthorize(ctx, req, values, invalidRequest("The client must push its authorization requests."))
	}
	object, err := p.requestObject(ctx, req, values, arrived)
	if err != nil {
		return p.readAuthorize(ctx, req, values, err)
	}
	return p.readAuthorize(ctx, req, object, nil)
}

// readAuthorize reads the parameters that count. fault is what is wrong with the request already;
// the parameters then say only where the client hears of it.
func (p *Provider) readAuthorize(ctx context.Context, req *authorizeRequest, values url.Values, fault error) (*authorizeRequest, error) {
	req.values, req.state, req.loginHint = values, values.Get("state"), values.Get("login_hint")
	scopesRead := false
	req.scopes, scopesRead = uniqueWords(values.Get("scope"))
	req.redirectSent = values.Has("redirect_uri")
	if req.redirect = redirectURI(req.client, values.Get("redirect_uri"), slices.Contains(req.scopes, "openid")); req.redirect == nil {
		if fault != nil {
			return nil, fault
		}
		return nil, invalidRequest("The redirect_uri is not one the client registered.")
	}
	if err := p.readResponse(req); err != nil {
		return req, err
	}
	if fault != nil {
		return req, fault
	}
	if !scopesRead {
		return req, invalidScope()
	}
	return req, p.checkAuthorize(ctx, req)
}

// parseQuery reads the parameters. What was sent more than once is left out, and is a fault for
// the client to hear of (RFC 6749 §4.1.2.1), unless it is what says where the client hears.
func parseQuery(raw string) (values url.Values, repeated, err error) {
	values, err = form.Parse(raw)
	if err == nil {
		return values, nil, nil
	}
	all, malformed := url.ParseQuery(raw)
	if malformed != nil || len(all["client_id"]) > 1 || len(all["redirect_uri"]) > 1 || len(all["request_uri"]) > 1 {
		return nil, nil, err
	}
	for name, sent := range all {
		if len(sent) > 1 && name != "resource" {
			delete(all, name)
		}
	}
	// Whatever else is wrong stays a fault for the person.
	once, other := form.Parse(all.Encode())
	if other != nil {
		return nil, nil, other
	}
	return once, tokenError(err), nil
}

// checkAuthorize holds the faults that go back to the client.
func (p *Provider) checkAuthorize(ctx context.Context, req *authorizeRequest) error {
	v := req.values
	if v.Has("registration") {
		return &oauthError{status: http.StatusBadRequest, code: "registration_not_supported", description: "Registration by request is not supported."}
	}
	if len(v.Get("nonce")) > longestNonce {
		return invalidRequest("The nonce is too long.")
	}
	if err := p.checkResponseType(req); err != nil {
		return err
	}
	if err := checkScopes(req.client, req.scopes); err != nil {
		return err
	}
	if err := req.readBinding(); err != nil {
		return err
	}
	var err error
	if req.audience, err = p.targets(req.client, req.scopes, v["resource"]); err != nil {
		return err
	}
	if err := req.checkFront(); err != nil {
		return err
	}
	if slices.Contains(req.scopes, "openid") {
		if req.claims, err = parseClaims(v.Get("claims"), req.client); err != nil {
			return err
		}
	}
	return p.readPrompt(ctx, req)
}

// readBinding reads what the code will be bound to: a challenge (RFC 7636), a key (RFC 9449 §10).
func (req *authorizeRequest) readBinding() error {
	req.jkt = req.values.Get("dpop_jkt")
	if req.jkt != "" && !isThumbprint(req.jkt) {
		return invalidRequest("The dpop_jkt is malformed.")
	}
	if !req.types.code {
		return nil
	}
	return req.readChallenge()
}

// isThumbprint reports whether text is a SHA-256 hash in base64url.
func isThumbprint(text string) bool {
	return len(text) == challengeLength && strings.Trim(text, base64URLDigits) == ""
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
	if !isThumbprint(req.challenge) {
		return invalidRequest("The code_challenge is malformed.")
	}
	return nil
}

// readPrompt reads what decides about the sign-in (OpenID Connect Core §3.1.2.1). What the client
// registered stands where the request has no max_age; acr_values, and those it registered, are
// wishes (§3.1.2.1), and every ID token says which acr it was.
func (p *Provider) readPrompt(ctx context.Context, req *authorizeRequest) error {
	var read bool
	if req.prompt, read = uniqueWords(req.values.Get("prompt")); !read {
		return invalidRequest("The prompt is not supported.")
	}
	for _, prompt := range req.prompt {
		if !slices.Contains([]string{"none", "login", "consent", "select_account"}, prompt) {
			return invalidRequest("The prompt is not supported.")
		}
	}
	if slices.Contains(req.prompt, "none") && len(req.prompt) > 1 {
		return invalidRequest("The prompt none cannot be combined.")
	}
	if req.values.Has("max_age") {
		seconds, ok := readMaxAge(req.values.Get("max_age"))
		if !ok {
			return invalidRequest("The max_age is malformed.")
		}
		req.maxAge = &seconds
	} else if asked := req.client.DefaultMaxAge; asked != nil {
		seconds := min(max(*asked, 0), longestMaxAge)
		req.maxAge = &seconds
	}
	if hint := req.values.Get("id_token_hint"); hint != "" {
		if req.hint = p.idTokens.hint(ctx, hint); req.hint == nil {
			return invalidRequest("The id_token_hint is not valid.")
		}
		req.hintSubject = req.hint.Subject
	}
	return nil
}

// readMaxAge reads seconds written in digits. No sign-in is older than longestMaxAge, so that a
// larger number asks for no more than that one.
func readMaxAge(text string) (seconds int64, ok bool) {
	if strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return longestMaxAge, true
	}
	return min(seconds, longestMaxAge), err == nil
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
// registered: it must be absolute and without a fragment (RFC 6749 §3.1.2). One of https or http
// names a plain host and no user, and http only a loopback host, because a code crosses the
// network. Any other scheme is a native app's own and has a dot in it (RFC 8252 §7.1), which no
// scheme has that a browser runs or reads itself.
func CheckRedirectURI(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || strings.Contains(raw, "#"):
		return errors.New("provider: a redirect URI is absolute and has no fragment")
	case u.Scheme != "https" && u.Scheme != "http":
		if !strings.Contains(u.Scheme, ".") {
			return errors.New("provider: a redirect URI of an app's own scheme has a dot in it, such as com.example.app:/callback")
		}
	case u.Hostname() == "" || u.User != nil || strings.Trim(u.Host, hostCharacters+":[]") != "":
		// What else browsers read into an address is left out, and what would end a directive of
		// our content security policy.
		return errors.New("provider: a redirect URI of https or http names a plain host and no user")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("provider: a redirect URI with http leads to a loopback host")
	}
	return nil
}

// formTarget is the redirect as a source of form-action. A host-source cannot be an address of
// IPv6 (CSP Level 3 §2.3.1): browsers would then refuse the redirect, so the scheme has to do.
func formTarget(u *url.URL) string {
	if strings.Contains(u.Hostname(), ":") {
		return u.Scheme + ":"
	}
	return redirectOrigin(u)
}

// redirectOrigin is the redirect's origin as people read it, or its scheme when it has none.
func redirectOrigin(u *url.URL) string {
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}

// uniqueWords splits at spaces and leaves repetitions out, keeping the order. It reads no more
// than mostWords and then says that there are more.
func uniqueWords(s string) (words []string, all bool) {
	read, seen := 0, make(map[string]bool)
	for word := range strings.FieldsSeq(s) {
		if read++; read > mostWords {
			return words, false
		}
		if !seen[word] {
			seen[word] = true
			words = append(words, word)
		}
	}
	return words, true
}
