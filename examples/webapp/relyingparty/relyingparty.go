// Package relyingparty is a whole OpenID Connect relying party: sign-in by code, PKCE and
// nonce, sign-out at the provider, and sign-out by the provider (back-channel logout).
package relyingparty

import (
	"context"
	"crypto/rand"
	_ "embed" // for the page
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

//go:embed page.html
var pageHTML string

// The cookies: of the sign-in under way, and of the session it ends in.
const loginCookie, sessionCookie = "webapp-login", "webapp"

// App is a relying party. All fields are required; URL is its own, without a slash at the end.
type App struct {
	Issuer, ClientID, ClientSecret, URL string

	mu       sync.Mutex
	provider *oidc.Provider
	oauth    oauth2.Config
	metadata struct {
		EndSession string `json:"end_session_endpoint"`
		SendsIss   bool   `json:"authorization_response_iss_parameter_supported"`
	}
	// sessions are *session by the cookie's value; told has the jti of logout tokens that came.
	sessions, told sync.Map
}

// session is a person who is signed in here.
type session struct{ Name, Subject, sid, idToken string }

// Handler serves the application. A form of another site is refused: it could sign people out.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { a.show(w, r, http.StatusOK, "") })
	mux.HandleFunc("GET /login", a.login)
	mux.HandleFunc("GET /callback", a.callback)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("POST /backchannel-logout", a.backchannel)
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.discover(r.Context()) != nil {
			a.show(w, r, http.StatusServiceUnavailable, "The provider cannot be reached.")
			return
		}
		mux.ServeHTTP(w, r)
	}))
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
		a.oauth = oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, Endpoint: a.provider.Endpoint(), RedirectURL: a.URL + "/callback", Scopes: []string{oidc.ScopeOpenID, "profile"}}
		err = a.provider.Claims(&a.metadata)
	}
	return err
}

// login sends the browser to the provider. What the answer must match stays in a cookie.
func (a *App) login(w http.ResponseWriter, r *http.Request) {
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	a.setCookie(w, loginCookie, state+"."+nonce+"."+verifier, 600)
	http.Redirect(w, r, a.oauth.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// callback takes the provider's answer. Every sign-in makes a new session; the old one ends.
func (a *App) callback(w http.ResponseWriter, r *http.Request) {
	signedIn, err := a.redeem(r)
	if err != nil {
		a.show(w, r, http.StatusBadRequest, "The sign-in failed: "+err.Error()+".")
		return
	}
	id := rand.Text()
	a.sessions.Delete(cookie(r, sessionCookie))
	a.sessions.Store(id, signedIn)
	a.setCookie(w, loginCookie, "", -1)
	a.setCookie(w, sessionCookie, id, 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// redeem checks that the answer is to this browser's request and turns its code into a person.
func (a *App) redeem(r *http.Request) (*session, error) {
	query, expected := r.URL.Query(), strings.Split(cookie(r, loginCookie), ".")
	mixedUp := (a.metadata.SendsIss || query.Has("iss")) && query.Get("iss") != a.Issuer // RFC 9207
	if len(expected) != 3 || query.Get("state") != expected[0] || mixedUp {
		return nil, errors.New("this browser did not ask this provider for it")
	} else if query.Has("error") {
		return nil, errors.New("the provider did not allow it")
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
	if err != nil || info.Subject != idToken.Subject || errors.Join(info.Claims(&claims), idToken.Claims(&claims)) != nil {
		return nil, errors.New("the provider does not say who it is")
	}
	return &session{claims.Name, idToken.Subject, claims.SID, raw}, nil
}

// logout ends the session here and leads to the provider, which ends its own.
func (a *App) logout(w http.ResponseWriter, r *http.Request) {
	next := "/"
	ended, _ := a.sessions.LoadAndDelete(cookie(r, sessionCookie))
	if ended, ok := ended.(*session); ok && a.metadata.EndSession != "" {
		next = a.metadata.EndSession + "?" + url.Values{"id_token_hint": {ended.idToken}, "post_logout_redirect_uri": {a.URL + "/"}}.Encode()
	}
	a.setCookie(w, sessionCookie, "", -1)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// backchannel is where the provider says that a sign-in has ended. VerifyLogout checks the
// signature, iss, aud, exp and events, and that there is a jti, a sid or a sub, and no nonce.
func (a *App) backchannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	token, err := a.provider.Verifier(&oidc.Config{ClientID: a.ClientID}).VerifyLogout(r.Context(), r.PostFormValue("logout_token"))
	if err != nil || token.IssuedAt.IsZero() || time.Until(token.IssuedAt) > time.Minute {
		http.Error(w, "not a logout token", http.StatusBadRequest)
	} else if _, before := a.told.LoadOrStore(token.TokenID, true); !before { // a replay has ended what it may
		time.AfterFunc(time.Until(token.Expiry), func() { a.told.Delete(token.TokenID) })
		a.sessions.Range(func(id, value any) bool {
			s := value.(*session)
			if (token.SessionID == "" || s.sid == token.SessionID) && (token.Subject == "" || s.Subject == token.Subject) {
				a.sessions.Delete(id)
			}
			return true
		})
	}
}

// show writes the page, whose only style is its own; its form may lead on to the provider.
func (a *App) show(w http.ResponseWriter, r *http.Request, status int, fault string) {
	nonce := rand.Text()
	person, _ := a.sessions.Load(cookie(r, sessionCookie))
	w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'nonce-"+nonce+"'; form-action 'self' "+a.Issuer)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = template.Must(template.New("").Parse(pageHTML)).Execute(w, map[string]any{"Nonce": nonce, "Session": person, "Fault": fault})
}

func cookie(r *http.Request, name string) string {
	return append(r.CookiesNamed(name), &http.Cookie{})[0].Value // empty without one
}

func (a *App) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: strings.HasPrefix(a.URL, "https:")}) //nolint:gosec // Secure over https.
}
