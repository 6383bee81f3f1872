package providertest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Reply is an HTTP answer that was read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// JSON returns the body as a JSON object; nil when it is none.
func (r *Reply) JSON() map[string]any {
	var members map[string]any
	if json.Unmarshal([]byte(r.Body), &members) != nil {
		return nil
	}
	return members
}

// Text returns a string member of the body; empty when there is none.
func (r *Reply) Text(name string) string {
	text, _ := r.JSON()[name].(string)
	return text
}

// Location returns where a redirect leads; the zero URL when it is none.
func (r *Reply) Location() *url.URL {
	u, err := url.Parse(r.Header.Get("Location"))
	if err != nil {
		return &url.URL{}
	}
	return u
}

// Hidden returns the value of a form field on a page; empty when there is none.
func (r *Reply) Hidden(name string) string {
	m := regexp.MustCompile(`name="` + regexp.QuoteMeta(name) + `" value="([^"]*)"`).FindStringSubmatch(r.Body)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

// Do sends a request and reads the answer. It may be called from any goroutine but reports
// failures of the transport to the test.
func (s *Server) Do(c *http.Client, req *http.Request) *Reply {
	s.tb.Helper()
	resp, err := c.Do(req)
	if err != nil {
		s.tb.Errorf("providertest: %v", err)
		return &Reply{Header: http.Header{}}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.tb.Errorf("providertest: %v", err)
	}
	return &Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

// URL returns the absolute address of a path below the issuer; an absolute URL and a path
// that begins with the issuer's own are taken as they are.
func (s *Server) URL(path string) string {
	if strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://") {
		return path
	}
	return s.Issuer + path
}

// Get sends a GET.
func (s *Server) Get(ctx context.Context, c *http.Client, path string) *Reply {
	s.tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(path), nil)
	must(s.tb, err)
	return s.Do(c, req)
}

// Post sends a form.
func (s *Server) Post(ctx context.Context, c *http.Client, path string, form url.Values) *Reply {
	s.tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
	must(s.tb, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.Do(c, req)
}

// PostAs sends a form as a confidential client with HTTP Basic.
func (s *Server) PostAs(ctx context.Context, clientID, path string, form url.Values) *Reply {
	s.tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
	must(s.tb, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(ClientSecret))
	return s.Do(s.Client(), req)
}

// Bearer sends a GET with an access token.
func (s *Server) Bearer(ctx context.Context, path, token string) *Reply {
	s.tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(path), nil)
	must(s.tb, err)
	req.Header.Set("Authorization", "Bearer "+token)
	return s.Do(s.Client(), req)
}

// SignIn fills in the sign-in form on page as Alice and sends it.
func (s *Server) SignIn(ctx context.Context, browser *http.Client, page *Reply) *Reply {
	s.tb.Helper()
	return s.Post(ctx, browser, "/login", url.Values{
		"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")},
		"login": {AliceLogin}, "password": {AlicePassword},
	})
}

// Verifier returns a code_verifier and its S256 code_challenge.
func Verifier() (verifier, challenge string) {
	verifier = rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	return verifier, base64.RawURLEncoding.EncodeToString(sum[:])
}

// AuthorizeQuery returns an authorization request of a seeded client.
func AuthorizeQuery(clientID, scope, challenge string) url.Values {
	redirect := RedirectURI
	if clientID == "phone" {
		redirect = AppRedirectURI
	}
	q := url.Values{"client_id": {clientID}, "response_type": {"code"}, "redirect_uri": {redirect}, "scope": {scope}, "state": {"state-of-a-test"}}
	if challenge != "" {
		q.Set("code_challenge", challenge)
		q.Set("code_challenge_method", "S256")
	}
	return q
}

// Code runs the authorization request in the browser, signing in and consenting as asked, and
// returns the redirect to the client.
func (s *Server) Code(ctx context.Context, browser *http.Client, query url.Values) *Reply {
	s.tb.Helper()
	reply := s.Get(ctx, browser, "/authorize?"+query.Encode())
	if reply.Hidden("next") != "" {
		reply = s.SignIn(ctx, browser, reply)
	}
	if request := reply.Hidden("request"); request != "" {
		reply = s.Post(ctx, browser, "/consent", url.Values{"csrf": {reply.Hidden("csrf")}, "request": {request}, "decision": {"allow"}})
	}
	return reply
}

// Tokens is the answer of the token endpoint.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope"`
	ExpiresIn    int    `json:"expires_in"`
}

// Redeem redeems the code of a redirect as a seeded client.
func (s *Server) Redeem(ctx context.Context, clientID string, redirect *Reply, verifier string) *Reply {
	s.tb.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {redirect.Location().Query().Get("code")}, "redirect_uri": {RedirectURI}}
	if verifier != "" {
		form.Set("code_verifier", verifier)
	}
	if clientID == "phone" {
		form.Set("redirect_uri", AppRedirectURI)
		form.Set("client_id", clientID)
		return s.Post(ctx, s.Client(), "/token", form)
	}
	return s.PostAs(ctx, clientID, "/token", form)
}

// SignedIn runs the whole code flow with PKCE for Alice in the browser and returns the tokens.
func (s *Server) SignedIn(ctx context.Context, browser *http.Client, clientID, scope string) Tokens {
	s.tb.Helper()
	verifier, challenge := Verifier()
	redirect := s.Code(ctx, browser, AuthorizeQuery(clientID, scope, challenge))
	reply := s.Redeem(ctx, clientID, redirect, verifier)
	if reply.Status != http.StatusOK {
		s.tb.Fatalf("providertest: %s got %d %s (redirect %q, page %q)", clientID, reply.Status, reply.Body, redirect.Header.Get("Location"), redirect.Body)
	}
	var tokens Tokens
	must(s.tb, json.Unmarshal([]byte(reply.Body), &tokens))
	return tokens
}

// ApproverToken returns an access token of the phone app that may approve sign-ins.
func (s *Server) ApproverToken(ctx context.Context) string {
	s.tb.Helper()
	return s.SignedIn(ctx, s.Browser(), "phone", approverScope()).AccessToken
}
