package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/templates"
)

// pages are the parsed templates by name.
type pages struct {
	// byLanguage holds every page by the language and its name.
	byLanguage map[string]map[string]*template.Template
	texts      map[string]texts
	static     map[string]*staticFile
}

// loadPages parses every page at the start, so that a broken override is a start fault and
// never a broken sign-in.
func loadPages(override fs.FS) (*pages, error) {
	p := &pages{byLanguage: make(map[string]map[string]*template.Template)}
	texts, err := loadTexts(override)
	if err != nil {
		return nil, err
	}
	p.texts = texts
	for language, texts := range texts {
		if p.byLanguage[language], err = loadTemplates(override, texts); err != nil {
			return nil, err
		}
	}
	p.static, err = loadStatic(override)
	return p, err
}

// loadTemplates parses every page with the texts of one language.
func loadTemplates(override fs.FS, texts texts) (map[string]*template.Template, error) {
	layout, err := templateFile(override, "layout.html")
	if err != nil {
		return nil, err
	}
	shared := string(layout)
	for _, name := range []string{"qr.html", "client.html"} {
		part, err := templateFile(override, name)
		if err != nil {
			return nil, err
		}
		shared += string(part)
	}
	byName := make(map[string]*template.Template)
	for _, name := range []string{"signin", "consent", "error", "device", "card", "result", "q", "hold", "formpost", "signout", "qrframe", "home", "account"} {
		body, err := templateFile(override, name+".html")
		if err != nil {
			return nil, err
		}
		t, err := template.New(name).Funcs(template.FuncMap{"t": texts.text}).Parse(shared)
		if err == nil {
			t, err = t.Parse(string(body))
		}
		if err != nil {
			return nil, fmt.Errorf("provider: template %s: %w", name, err)
		}
		byName[name] = t
	}
	return byName, nil
}

func templateFile(override fs.FS, name string) ([]byte, error) {
	if override != nil {
		body, err := fs.ReadFile(override, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return body, err
		}
	}
	return templates.Files.ReadFile(name)
}

// render writes a page. formTargets are the origins a form on it may end up at beside our own:
// browsers apply form-action to the redirect that follows a submission too.
func (p *Provider) render(w http.ResponseWriter, r *http.Request, status int, name string, data any, formTargets ...string) {
	p.renderUnder(w, r, status, name, data, pagePolicy+formPolicy(formTargets))
}

func formPolicy(targets []string) string {
	return "; form-action " + strings.Join(append([]string{"'self'"}, targets...), " ")
}

// renderUnder writes a page under a content security policy of its own.
func (p *Provider) renderUnder(w http.ResponseWriter, r *http.Request, status int, name string, data any, policy string) {
	var body bytes.Buffer
	view := struct {
		Style, Issuer string
		Data          any
	}{p.pathOf(routeStyle), p.config.Issuer, data}
	if err := p.pages.byLanguage[language(r)][name].ExecuteTemplate(&body, "layout", view); err != nil {
		p.config.Logger.ErrorContext(r.Context(), "template failed", "page", name, "error", err)
		http.Error(w, "The page could not be shown.", http.StatusInternalServerError)
		return
	}
	secureHeaders(w, policy)
	if !openedByClients(name) {
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// The content security policy of a page and what a page with a script adds; form-action
// stands apart. Nothing is loaded but our own files and the logo of the client that the page names
// (clientView).
const (
	imageSources = "img-src 'self' data:"
	pagePolicy   = "default-src 'none'; style-src 'self'; " + imageSources + "; base-uri 'none'; frame-ancestors 'none'"
	scriptPolicy = "; script-src 'self'"
	// signInPolicy is that of the page with the QR code, framedPolicy that of the frame on it.
	signInPolicy = pagePolicy + scriptPolicy + "; connect-src 'self'; frame-src 'self'"
	framedPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'self'"
)

// secureHeaders: nobody frames a page that asks for a password or an approval, and no address
// with a code in it leaves as a referrer.
func secureHeaders(w http.ResponseWriter, policy string) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	if strings.HasPrefix(policy, framedPolicy) {
		h.Set("X-Frame-Options", "SAMEORIGIN")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: with it browsers send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	// None of our pages scans: a camera belongs to the app.
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
}

// openedByClients reports whether a client may have opened the page in a window of its own
// (display=popup) and watches over it. A page that cuts itself off from its opener looks to the
// client like a window that was closed.
func openedByClients(page string) bool {
	return slices.Contains([]string{"signin", "qrframe", "consent", "formpost", "error"}, page)
}

// errorView is the page of an error. What a language has no text for is marked as English.
type errorView struct {
	Heading, Sentence string
	English           bool
	// Code and ID are left out when empty.
	Code, ID string
}

// retryAfter is how long to wait before the next try; zero when waiting does not help.
func retryAfter(e *oauthError) time.Duration {
	switch {
	case e.wait > 0:
		return e.wait
	case e.status == http.StatusTooManyRequests:
		return time.Minute
	case e.status == http.StatusServiceUnavailable:
		return 5 * time.Second
	}
	return 0
}

// errorPage shows an error that must not be sent to a client. Its reference is also logged.
func (p *Provider) errorPage(w http.ResponseWriter, r *http.Request, err error) {
	e := tokenError(err)
	id := rand.Text()[:12]
	level := slog.LevelInfo
	if e.status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) && !ofDocuments(err) {
		level = slog.LevelError
	}
	p.config.Logger.Log(r.Context(), level, "error page shown", "error_id", id, "path", r.URL.Path, "error", err)
	_, known := p.pages.texts[language(r)][e.description]
	v := errorView{Heading: "This did not work", Sentence: e.description, English: !known && language(r) != languages()[0], Code: e.code, ID: id}
	if wait := retryAfter(e); wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(wholeSeconds(wait), 10))
	}
	p.render(w, r, e.status, "error", v)
}
