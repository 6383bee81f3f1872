package player

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/net/html"
	"golang.org/x/oauth2"
)

// approverScopes is what the phone asks for. The phone keeps no token, so no offline_access.
const approverScopes = "openid qr:approve"

// maxPages bounds the walk through sign-in and consent, so that a loop of pages ends.
const maxPages = 6

// ErrCredentials says that the sign-in form came back, so the name or the password was wrong.
var ErrCredentials = errors.New("user name or password is wrong")

// SignIn obtains the phone's access token the ordinary way: authorization code with PKCE, and
// the server's own HTML forms filled in as a browser would.
func (p *Approver) SignIn(ctx context.Context) error {
	if _, err := p.discover(ctx); err != nil {
		return err
	}
	provider, err := discoverOIDC(ctx, p.HTTP, p.Issuer)
	if err != nil {
		return err
	}
	verifier, state, nonce := oauth2.GenerateVerifier(), oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	config := oauth2.Config{
		ClientID: p.ClientID, Endpoint: provider.Endpoint(), RedirectURL: p.RedirectURI,
		Scopes: strings.Fields(approverScopes),
	}
	// A public client has no secret: without this x/oauth2 sends every exchange twice.
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce)}
	proved, bound, err := proving(p.HTTP, p.Key, provider)
	if err != nil {
		return err
	}
	if bound {
		// The code too is good for this key alone (RFC 9449 §10).
		options = append(options, oauth2.SetAuthURLParam("dpop_jkt", p.Key.Thumbprint()))
	}
	back, err := p.browse(ctx, config.AuthCodeURL(state, options...))
	if err != nil {
		return err
	}
	code, err := readRedirect(back.Query(), p.Issuer, state)
	if err != nil {
		return err
	}
	token, err := config.Exchange(oidc.ClientContext(ctx, proved), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return exchangeError(ctx, p.Issuer, err)
	}
	if err := checkBound(bound, token.TokenType); err != nil {
		return err
	}
	p.proved, p.scheme, p.token = proved, token.Type(), token.AccessToken
	raw, _ := token.Extra("id_token").(string)
	clientCtx := oidc.ClientContext(ctx, p.HTTP)
	idToken, err := provider.VerifierContext(clientCtx, &oidc.Config{ClientID: p.ClientID}).Verify(clientCtx, raw)
	if err != nil {
		return fmt.Errorf("verify the phone's ID token: %w", err)
	}
	if idToken.Nonce != nonce {
		return errors.New("verify the phone's ID token: its nonce is not the one that was sent")
	}
	return nil
}

func exchangeError(ctx context.Context, issuer string, err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused) && refused.Response != nil:
		return &RefusalError{Status: refused.Response.StatusCode, Code: refused.ErrorCode, Description: refused.ErrorDescription}
	default:
		return &UnreachableError{Origin: issuer, Err: err}
	}
}

// readRedirect takes the code out of the authorization response. State and issuer are
// compared first (RFC 9207): a code of another request or server is never redeemed.
func readRedirect(q url.Values, issuer, state string) (string, error) {
	switch {
	case q.Get("state") != state:
		return "", errors.New("the sign-in came back with another state; start again")
	case q.Has("iss") && q.Get("iss") != issuer:
		return "", fmt.Errorf("the sign-in came back from another server than %s; do not go on", issuer)
	case q.Get("error") == "invalid_scope":
		// The scopes are the phone's own: a client without them is no phone app.
		return "", &RefusalError{Status: http.StatusFound, Code: "insufficient_scope"}
	case q.Get("error") != "":
		return "", &RefusalError{Status: http.StatusFound, Code: q.Get("error"), Description: q.Get("error_description")}
	case q.Get("code") == "":
		return "", errors.New("the sign-in came back without a code")
	}
	return q.Get("code"), nil
}

// Browse signs in at an address of the authorization endpoint that somebody else has made, and
// returns the redirect to the RedirectURI, with the code in it.
func (p *Approver) Browse(ctx context.Context, address string) (*url.URL, error) {
	return p.browse(ctx, address)
}

// browse walks from page to page until the server redirects to the phone's redirect URI.
func (p *Approver) browse(ctx context.Context, start string) (*url.URL, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("make a cookie jar: %w", err)
	}
	browser := *p.HTTP
	browser.Jar = jar
	browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(next.URL.String(), p.RedirectURI+"?") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return nil, fmt.Errorf("read the authorization endpoint: %w", err)
	}
	signedIn := false
	for range maxPages {
		page, err := send(&browser, req)
		if err != nil {
			return nil, err
		}
		if to := page.header.Get("Location"); strings.HasPrefix(to, p.RedirectURI+"?") {
			return url.Parse(to)
		}
		form, found := readForm(page.body)
		switch {
		case !found && page.status >= http.StatusBadRequest:
			return nil, &RefusalError{Status: page.status, Description: complaint(page.body)}
		case !found:
			return nil, errors.New("the server shows a page without a form; sign in with a browser instead")
		case form.password != "" && page.status == http.StatusTooManyRequests:
			return nil, page.refusal().as("rate_limited")
		case form.password != "" && signedIn:
			return nil, ErrCredentials
		case form.password != "":
			form.values.Set(form.login, p.Login)
			form.values.Set(form.password, p.Password)
			signedIn = true
		}
		if req, err = form.request(ctx, page.url); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the sign-in does not come to an end; sign in with a browser instead")
}

// form is an HTML form as far as a sign-in needs it.
type form struct {
	action string
	// login and password name the two fields of a sign-in form; empty on other forms.
	login, password string
	values          url.Values
}

// request is the form's submission from the page it stands on, with the headers of a browser.
func (f *form) request(ctx context.Context, page *url.URL) (*http.Request, error) {
	to, err := page.Parse(f.action)
	if err != nil {
		return nil, fmt.Errorf("read the form's address %q: %w", f.action, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(f.values.Encode()))
	if err != nil {
		return nil, fmt.Errorf("read the form's address %q: %w", f.action, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", page.Scheme+"://"+page.Host)
	return req, nil
}

// readForm finds the form to go on with: the first one with a password field, else the first
// one that posts.
func readForm(page []byte) (*form, bool) {
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return nil, false
	}
	var first *form
	for node := range root.Descendants() {
		if node.Type != html.ElementNode || node.Data != "form" || !strings.EqualFold(attribute(node, "method"), "post") {
			continue
		}
		found := &form{action: attribute(node, "action"), values: url.Values{}}
		found.fill(node)
		if found.password != "" {
			return found, true
		}
		if first == nil {
			first = found
		}
	}
	return first, first != nil
}

// fill collects the fields with the values they have, and presses the first button that does
// not refuse.
func (f *form) fill(root *html.Node) {
	pressed := false
	for node := range root.Descendants() {
		if node.Type != html.ElementNode || attribute(node, "name") == "" {
			continue
		}
		name, kind, value := attribute(node, "name"), attribute(node, "type"), attribute(node, "value")
		switch {
		case node.Data == "input" && kind == "password":
			f.password = name
		case node.Data == "button" || node.Data == "input" && kind == "submit":
			if !pressed && !refuses(value) {
				f.values.Set(name, value)
				pressed = true
			}
		case node.Data == "input" && (kind == "checkbox" || kind == "radio"):
			if has(node, "checked") {
				f.values.Add(name, value)
			}
		case node.Data == "input" && kind == "hidden":
			f.values.Add(name, value)
		case node.Data == "input" && f.login == "":
			f.login = name
		}
	}
}

func refuses(value string) bool {
	switch value {
	case "deny", "cancel", "no", "reject", "refuse":
		return true
	}
	return false
}

func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(node *html.Node, name string) bool {
	for _, a := range node.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}

// complaint is what an error page says: its element with the id error, else its title.
func complaint(page []byte) string {
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return ""
	}
	said := ""
	for node := range root.Descendants() {
		if node.Type != html.ElementNode || node.FirstChild == nil || node.FirstChild.Type != html.TextNode {
			continue
		}
		if attribute(node, "id") == "error" {
			return strings.TrimSpace(node.FirstChild.Data)
		}
		if node.Data == "title" {
			said = strings.TrimSpace(node.FirstChild.Data)
		}
	}
	return said
}
