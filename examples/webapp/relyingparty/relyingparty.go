// Package relyingparty is a whole OpenID Connect relying party: sign-in by code, PKCE and
// nonce, sign-out at the provider, and sign-out by the provider (back-channel logout).
package relyingparty

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// The cookies: of the sign-in under way, and of the session it ends in.
const loginCookie, sessionCookie = "webapp-login", "webapp"

// App is a relying party. All fields are required; URL is the application's own, without a
// slash at the end, and decides whether its cookies are for https only.
type App struct {
	Issuer, ClientID, ClientSecret, URL string

	mu       sync.Mutex
	provider *oidc.Provider
	oauth    oauth2.Config
	sessions map[string]*session
}

// session is a person who is signed in here.
type session struct{ Name, Subject, SID, idToken string }

// Handler serves the application.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("GET /login", a.login)
	mux.HandleFunc("GET /callback", a.callback)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("POST /backchannel-logout", a.backchannel)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.discover(r.Context()) != nil {
			http.Error(w, "The provider cannot be reached.", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// discover asks the provider about itself, once it answers.
func (a *App) discover(ctx context.Context) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.provider != nil {
		return nil
	}
	// The provider's keys are fetched with this context for as long as the application runs.
	if a.provider, err = oidc.NewProvider(context.WithoutCancel(ctx), a.Issuer); err == nil {
		a.sessions = map[string]*session{}
		a.oauth = oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, Endpoint: a.provider.Endpoint(), RedirectURL: a.URL + "/callback"}
		a.oauth.Scopes = []string{oidc.ScopeOpenID, "profile"}
	}
	return err
}

// login sends the browser to the provider. What the answer must match stays in a cookie.
func (a *App) login(w http.ResponseWriter, r *http.Request) {
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	a.setCookie(w, loginCookie, state+"."+nonce+"."+verifier, 600)
	http.Redirect(w, r, a.oauth.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// callback takes the provider's answer.
func (a *App) callback(w http.ResponseWriter, r *http.Request) {
	signedIn, err := a.redeem(r)
	if err != nil {
		http.Error(w, "The sign-in failed: "+err.Error(), http.StatusBadRequest)
		return
	}
	id := rand.Text()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions[id] = signedIn
	a.setCookie(w, loginCookie, "", -1)
	a.setCookie(w, sessionCookie, id, 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// redeem checks that the answer is to this browser's request and turns its code into a person.
func (a *App) redeem(r *http.Request) (*session, error) {
	query, expected := r.URL.Query(), []string{}
	if cookie, err := r.Cookie(loginCookie); err == nil {
		expected = strings.Split(cookie.Value, ".")
	}
	switch {
	case len(expected) != 3 || query.Get("state") != expected[0] || cmp.Or(query.Get("iss"), a.Issuer) != a.Issuer:
		return nil, errors.New("this browser did not ask this provider for it")
	case query.Has("error"):
		return nil, fmt.Errorf("the provider says %q", query.Get("error"))
	}
	token, err := a.oauth.Exchange(r.Context(), query.Get("code"), oauth2.VerifierOption(expected[2]))
	if err != nil {
		return nil, errors.New("the code was not accepted")
	}
	raw, _ := token.Extra("id_token").(string)
	idToken, err := a.provider.Verifier(&oidc.Config{ClientID: a.ClientID}).Verify(r.Context(), raw)
	if err != nil || idToken.Nonce != expected[1] {
		return nil, errors.New("the ID token is not for this request")
	}
	info, err := a.provider.UserInfo(r.Context(), oauth2.StaticTokenSource(token))
	var claims struct{ Name, SID string }
	if err != nil || info.Subject != idToken.Subject || errors.Join(idToken.Claims(&claims), info.Claims(&claims)) != nil {
		return nil, errors.New("the provider does not say who it is")
	}
	return &session{Name: claims.Name, Subject: idToken.Subject, SID: claims.SID, idToken: raw}, nil
}

// logout ends the session here and leads to the provider, which ends its own.
func (a *App) logout(w http.ResponseWriter, r *http.Request) {
	next, metadata := "/", struct {
		End string `json:"end_session_endpoint"`
	}{}
	ended := a.session(r)
	a.drop(func(_ string, s *session) bool { return s == ended })
	if ended != nil && a.provider.Claims(&metadata) == nil && metadata.End != "" {
		next = metadata.End + "?" + url.Values{"id_token_hint": {ended.idToken}, "post_logout_redirect_uri": {a.URL + "/"}}.Encode()
	}
	a.setCookie(w, sessionCookie, "", -1)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// backchannel is where the provider says that a sign-in has ended, whoever ended it.
func (a *App) backchannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	token, err := a.provider.Verifier(&oidc.Config{ClientID: a.ClientID}).VerifyLogout(r.Context(), r.PostFormValue("logout_token"))
	if err != nil {
		http.Error(w, "not a logout token", http.StatusBadRequest)
		return
	}
	a.drop(func(_ string, s *session) bool {
		return s.SID != "" && s.SID == token.SessionID || token.SessionID == "" && s.Subject == token.Subject
	})
}

// home shows who is signed in.
func (a *App) home(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	_ = template.Must(template.New("").Parse(page)).Execute(w, a.session(r)) // a browser that is gone needs no page
}

const page = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Example web app</title>
<h1>Example web app</h1>
{{with .}}<form method="post" action="/logout">You are signed in as <strong>{{or .Name .Subject}}</strong>. <button>Sign out</button></form>
{{else}}<p><a href="/login">Sign in</a></p>{{end}}`

func (a *App) session(r *http.Request) *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		return a.sessions[cookie.Value]
	}
	return nil
}

func (a *App) drop(ends func(key string, s *session) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.sessions, ends)
}

func (a *App) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the app is served over https.
		Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: strings.HasPrefix(a.URL, "https:"),
	})
}
